"""The bench runs: every row is printed with its peer and its ratio. How fast is not tested."""

import importlib.metadata
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from api.cli.bench import command
from api.tools.bench.table import BenchRow, rendered

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[3]
PEERS = (
    "empty Litestar @post handler",
    "pgbench TPC-B, one client",
    f"eventsourcing {importlib.metadata.version('eventsourcing')}, one thread",
    "pgledger transfers, 20 clients",
    "uniform accounts",
    "its upstream asked directly, a Litestar @post handler, whole",
    "its upstream, one connection, whole",
    "LiteLLM proxy, whole",
    "its upstream asked directly, a Litestar @post handler, streamed",
    "its upstream, one connection, streamed",
    "LiteLLM proxy, streamed",
    "its upstream asked directly, waiting as long",
    "bare binary COPY in",
    "bare binary COPY out",
    "pgledger per transfer, as its README says",
    "–",
    "the same from events in SQL",
)
NOT_SHIPPED = {
    "pgledger transfers, 20 clients": "--pgledger",
    "LiteLLM proxy, whole": "--litellm",
    "LiteLLM proxy, streamed": "--litellm",
}
"""Peers that are nobody's to ship, and the option that brings each."""
WITHOUT_RATIO = {*NOT_SHIPPED, "–"}
"""These, and the row that is held to a bound of its own."""
TIMEOUT_SECONDS = 300


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``keyledger bench`` as a user would."""
    start = "import sys; from api.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", start, "bench", "--quick", *arguments],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )


@pytest.fixture(scope="module")
def document(server_url: str) -> Any:
    """What a whole run with the smallest sizes says as JSON."""
    done = bench("--json", "--events", "1000", "--workers", "1", "--database", server_url)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_each_row_names_its_peer(document: Any) -> None:
    """Every row of DESIGN §9 is there, beside what it is measured against."""
    assert [row["against"] for row in document["rows"]] == list(PEERS)


def test_each_row_has_a_ratio(document: Any) -> None:
    """A row has our figure, the peer's, their ratio, and what both are held to."""
    for row in document["rows"]:
        assert row["reach"], row
        assert row["aim"], row
        if row["against"] not in WITHOUT_RATIO:
            assert row["ratio"] == pytest.approx(row["ours"] / row["peer"]), row
            assert row["ours"] > 0, row
            assert row["met"] in {"aim", "reach", "neither"}, row


def test_a_peer_that_is_not_there_is_said_to_be_missing(document: Any) -> None:
    """Its row says that it was not measured, and how it could be."""
    rows = {row["against"]: row for row in document["rows"]}
    for peer, option in NOT_SHIPPED.items():
        assert rows[peer]["met"] == "not measured"
        assert option in rows[peer]["note"]


def test_the_machine_is_described(document: Any) -> None:
    """Figures come with what they were measured on."""
    assert {"processor", "memory", "system", "PostgreSQL", "Python"} <= document["machine"].keys()


def test_every_acknowledged_request_is_stored(document: Any) -> None:
    """The bench itself fails where an acknowledged request is not stored (promise 3)."""
    sizes = document["sizes"]
    assert document["acknowledged"] > sizes["rounds"] * sizes["batch"] * sizes["batches"]


def test_fewer_keys_than_accounts_are_refused() -> None:
    """An account without a key could make no request."""
    done = CliRunner().invoke(command, ["--quick", "--keys", "1", "--accounts", "2"])
    assert done.exit_code == 2
    assert "as many keys as accounts" in done.output


def test_the_table_can_be_rendered(document: Any) -> None:
    """The table for people has a line for each row, with ratio and verdict."""
    rows = [
        BenchRow(**{name: row[name] for name in BenchRow.__struct_fields__})
        for row in document["rows"]
    ]
    written = io.StringIO()
    Console(width=200, file=written).print(rendered(rows))
    text = written.getvalue()
    for row in rows:
        assert row.against in text
        assert row.verdict in text
