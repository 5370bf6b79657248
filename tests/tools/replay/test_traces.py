"""Recorded traffic is read as it is, lazily, the same each time."""

import itertools
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from api.tools.replay.traces import GENERATED, InvalidTrace, PrefixCache, open_trace

SHARED = Path(os.environ.get("KEYLEDGER_SHARED", Path(__file__).parents[3].parent / "shared"))
needs_shared = pytest.mark.skipif(
    not (SHARED / "data").is_dir(), reason=f"no reference data at {SHARED / 'data'}"
)
AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805909,374,44
2023-11-16 18:15:50.9951690,396,0
"""


def test_azures_rows_keep_their_time_and_tokens(tmp_path: Path) -> None:
    """The seventh fractional digit is cut; what is zero is left out."""
    file = tmp_path / "conv.csv"
    file.write_text(AZURE)
    trace = open_trace(str(file), seed=1)
    assert (trace.name, trace.expected) == ("conv", 2)
    assert str(trace.begins_at) == "2023-11-16 18:15:46.680590+00:00"
    assert [(row.identity, row.offset, row.usage) for row in trace.rows()] == [
        ("1", 0, {"input": 374, "output": 44}),
        ("2", 4_314_579, {"input": 396}),
    ]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "a,b,c\n", "line 1: the columns are not TIMESTAMP"),
        ("a.csv", AZURE + "yesterday,1,2\n", "line 4: is no row"),
        ("a.csv", AZURE + "2023-11-16 18:15:51,1\n", "line 4: is no row"),
        ("a.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\n", "has no requests"),
        ("a.jsonl", '{"timestamp": 0}\n', "line 1: Object missing required field"),
        ("a.parquet", "", "is neither .csv"),
        ("missing.csv", None, "there is no such file"),
    ],
)
def test_what_is_no_trace_is_named_with_its_line(
    tmp_path: Path, name: str, text: str | None, said: str
) -> None:
    """Nothing is skipped in silence."""
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InvalidTrace, match=said):
        list(open_trace(str(tmp_path / name), seed=1).rows())


def test_a_folder_without_clients_is_no_trace(tmp_path: Path) -> None:
    """The message says what was looked for."""
    with pytest.raises(InvalidTrace, match="chunk-N-trace"):
        open_trace(str(tmp_path), seed=1)


def test_a_prefix_seen_before_is_read_from_the_cache(tmp_path: Path) -> None:
    """Leading known blocks of 512 tokens up to the first unknown one; the last is partial."""
    prompts = [
        ([1, 2, 3], 1_300),  # nothing known yet
        ([1, 2, 9], 1_200),  # two blocks known
        ([1, 2, 3], 1_300),  # all known: the last block holds 276
        ([7, 2, 3], 1_500),  # known blocks behind an unknown one do not count
    ]
    file = tmp_path / "moon.jsonl"
    file.write_text(
        "".join(
            json.dumps(
                {
                    "timestamp": 3_000 + number,
                    "input_length": tokens,
                    "output_length": 5,
                    "hash_ids": blocks,
                }
            )
            + "\n"
            for number, (blocks, tokens) in enumerate(prompts)
        )
    )
    rows = list(open_trace(str(file), seed=1).rows())
    assert [dict(row.usage) for row in rows] == [
        {"input": 1_300, "output": 5},
        {"input": 176, "cache_read": 1_024, "output": 5},
        {"cache_read": 1_300, "output": 5},
        {"input": 1_500, "output": 5},
    ]
    assert [row.offset for row in rows] == [0, 1_000, 2_000, 3_000]


def test_the_cache_forgets_what_was_longest_unused() -> None:
    """Its memory is bounded."""
    cache = PrefixCache(most=3)
    cache.read([1, 2], 1_024)
    cache.read([1, 3], 1_024)
    cache.read([4], 512)
    assert cache.read([1], 512) == 512
    assert cache.read([2], 512) == 0


def test_a_generated_trace_says_so_and_is_the_same_each_time() -> None:
    """Made up, with the seed."""
    trace = open_trace(GENERATED, seed=7)
    assert "made up" in trace.says
    rows = list(trace.rows())
    assert len(rows) == trace.expected
    assert rows == list(open_trace(GENERATED, seed=7).rows())
    assert rows != list(open_trace(GENERATED, seed=8).rows())
    assert [row.offset for row in rows] == sorted(row.offset for row in rows)


def servegen(folder: Path) -> Path:
    """Write two measured clients: one steady, one bursty and silent at first."""
    lengths = {
        "0": {
            "input_tokens": "{10: 0.5, 20: 0.5, 30: 0.0}",
            "output_tokens": "{100: 1.0}",
            "reason_ratio": "{0.75: 1.0}",
        }
    }
    windows = {
        3: "0,0.5,1.0,Gamma,1.0,2.0\n600,0.5,1.0,Gamma,1.0,2.0\n",
        5: "0,0,0,,0,0\n600,1.0,2.0,Weibull,0.55,0.6\n",
    }
    for number, text in windows.items():
        (folder / f"chunk-{number}-trace.csv").write_text(text)
        (folder / f"chunk-{number}-dataset.json").write_text(json.dumps(lengths))
    return folder


def test_arrivals_are_drawn_from_measured_rates(tmp_path: Path) -> None:
    """As many as the rates say, in order, with the lengths of the distributions."""
    trace = open_trace(str(servegen(tmp_path)), seed=1)
    rows = list(trace.rows())
    assert trace.expected == 1_200
    assert 1_000 < len(rows) < 1_400
    assert [row.offset for row in rows] == sorted(row.offset for row in rows)
    assert {row.usage["input"] for row in rows} == {10, 20}
    assert {(row.usage["output"], row.usage["reasoning"]) for row in rows} == {(25, 75)}
    bursty = [row for row in rows if row.session == "client 5"]
    assert min(row.offset for row in bursty) >= 600_000_000


def test_a_client_draws_the_same_whoever_else_there_is(tmp_path: Path) -> None:
    """--clients changes nobody's requests, nor their ids."""
    folder = str(servegen(tmp_path))
    everyone = [row for row in open_trace(folder, seed=1).rows() if row.session == "client 3"]
    assert everyone == [
        row for row in open_trace(folder, seed=1, clients=1).rows() if row.session == "client 3"
    ]


@pytest.mark.needs_shared
@needs_shared
def test_the_reference_traces_are_read_whole() -> None:
    """Rows and tokens as counted by hand, and repeated prefixes in Mooncake's."""
    sums: dict[str, Counter[str]] = {}
    for name in ("azure/AzureLLMInferenceTrace_conv.csv", "mooncake/conversation_trace.jsonl"):
        sums[name] = Counter()
        for row in open_trace(str(SHARED / "data" / name), seed=1).rows():
            sums[name].update({"rows": 1, **row.usage})
    azure, mooncake = sums.values()
    assert azure["rows"] == 19_366
    assert mooncake["rows"] == 12_031
    assert mooncake["cache_read"] > mooncake["input"] // 4
    with (SHARED / "data" / "azure/AzureLLMInferenceTrace_conv.csv").open() as file:
        next(file)
        cells = [line.strip().split(",") for line in file]
    assert azure["input"] == sum(int(cell[1]) for cell in cells)
    assert azure["output"] == sum(int(cell[2]) for cell in cells)


@pytest.mark.needs_shared
@needs_shared
def test_a_day_of_servegen_begins_without_being_drawn() -> None:
    """1.38 million requests are a stream: the first come at once."""
    trace = open_trace(str(SHARED / "data" / "servegen" / "deepseek-r1"), seed=1)
    assert trace.expected == 1_383_669
    rows: list[Any] = list(itertools.islice(trace.rows(), 100))
    assert len({row.session for row in rows}) > 3
