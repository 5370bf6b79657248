"""Recorded traffic as a stream of requests, and a made-up trace for where there is none.

Every trace is read lazily, so that memory stays bounded whatever its length. A request's
``identity`` and place in the order are functions of the file alone (and of the seed, where
arrivals are drawn), so that a second run sends the same requests under the same ids.
"""

import csv
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from api.tools.replay import servegen
from ledger.clock import TICK, Instant, InvalidInstant, parse_instant

GENERATED = "generated"
GENERATED_REQUESTS = 2_000
GENERATED_SPACING_MICROSECONDS = 600_000
BLOCK_TOKENS = 512
BLOCKS_REMEMBERED = 1_000_000
AZURE_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


class TraceRequest(NamedTuple):
    """One request of a trace."""

    identity: str
    """Which one, for ever: a row's number, or client and number."""
    offset: int
    """Microseconds since the trace's first request."""
    usage: Mapping[str, int]
    """Quantities above zero by usage class."""
    session: str
    """Requests of one session come from one key."""


class Trace(NamedTuple):
    """A trace that can be read again and again."""

    name: str
    """Part of every request id."""
    says: str
    """What it is, for people."""
    expected: int
    """How many requests; about so many where arrivals are drawn."""
    begins_at: Instant | None
    """When its first request was made; None: the trace does not say."""
    rows: Callable[[], Iterator[TraceRequest]]


class InvalidTrace(ValueError):
    """The file is no trace that can be read."""

    def __init__(self, path: Path, message: str, line: int | None = None) -> None:
        """Take where it is wrong and how."""
        place = str(path) if line is None else f"{path}, line {line}"
        super().__init__(f"{place}: {message}")


def open_trace(
    place: str, *, seed: int, clients: int | None = None, hours: int | None = None
) -> Trace:
    """Recognise a trace: a CSV of Azure's, a JSONL of Mooncake's, a folder of ServeGen's.

    ``clients`` and ``hours`` cut a ServeGen folder short.

    Raises:
        InvalidTrace: It is none of them.
    """
    if place == GENERATED:
        return generated(seed)
    path = Path(place)
    if path.is_dir():
        return _servegen(path, seed, clients, hours)
    if not path.is_file():
        raise InvalidTrace(path, "there is no such file.")
    if path.suffix == ".csv":
        return _azure(path)
    if path.suffix == ".jsonl":
        return _mooncake(path)
    raise InvalidTrace(path, "is neither .csv (Azure) nor .jsonl (Mooncake) nor a folder.")


def generated(seed: int) -> Trace:
    """Make up a trace: 20 minutes, 2,000 requests, lengths skewed as real ones are."""
    return Trace(
        name=GENERATED,
        says=f"a generated trace of {GENERATED_REQUESTS:,} requests: made up, not recorded",
        expected=GENERATED_REQUESTS,
        begins_at=None,
        rows=lambda: _generated_rows(seed),
    )


def _generated_rows(seed: int) -> Iterator[TraceRequest]:
    draw = random.Random(f"generated/{seed}")  # noqa: S311 - traffic, not secrets
    for number in range(1, GENERATED_REQUESTS + 1):
        usage = {
            "input": _skewed(draw, 20, 8_000),
            "cache_read": 256 * draw.choice((0, 0, 0, 1, 4, 8)),
            "output": _skewed(draw, 1, 1_500),
        }
        identity = str(number)
        offset = (number - 1) * GENERATED_SPACING_MICROSECONDS + draw.randrange(500_000)
        yield TraceRequest(identity, offset, _used(usage), identity)


def _skewed(draw: random.Random, low: int, high: int) -> int:
    """Draw a whole number whose small values are frequent: the least of three."""
    return min(draw.randint(low, high) for _ in range(3))


def _used(usage: Mapping[str, int]) -> dict[str, int]:
    return {name: quantity for name, quantity in usage.items() if quantity}


# Azure: one service, one hour, context and generated tokens.


def _azure(path: Path) -> Trace:
    first = next(_azure_times(path), None)
    if first is None:
        raise InvalidTrace(path, "has no requests.")
    return Trace(
        name=path.stem,
        says=f"Azure's {path.name}",
        expected=_lines(path) - 1,
        begins_at=first[0],
        rows=lambda: _azure_rows(path),
    )


def _azure_times(path: Path) -> Iterator[tuple[Instant, dict[str, int]]]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        if tuple(next(rows, ())) != AZURE_COLUMNS:
            raise InvalidTrace(path, f"the columns are not {', '.join(AZURE_COLUMNS)}.", 1)
        for line, row in enumerate(rows, 2):
            try:
                stamp, context, made = row
                # Seven fractional digits; the seventh is cut, for instants have six.
                at = parse_instant(stamp.replace(" ", "T", 1) + "Z")
                usage = {"input": int(context), "output": int(made)}
            except (ValueError, InvalidInstant) as error:
                raise InvalidTrace(path, "is no row of a time and two whole numbers.", line) from (
                    error
                )
            yield at, usage


def _azure_rows(path: Path) -> Iterator[TraceRequest]:
    begin: Instant | None = None
    for number, (at, usage) in enumerate(_azure_times(path), 1):
        begin = begin or at
        offset = max((at - begin) // TICK, 0)
        yield TraceRequest(str(number), offset, _used(usage), str(number))


# Mooncake: prompts as ids of 512-token blocks, so that what a prefix cache holds is known.


class _Prompt(msgspec.Struct, frozen=True):
    timestamp: int
    input_length: int
    output_length: int
    hash_ids: list[int]


def _mooncake(path: Path) -> Trace:
    return Trace(
        name=path.stem,
        says=f"Mooncake's {path.name}",
        expected=_lines(path),
        begins_at=None,
        rows=lambda: _mooncake_rows(path),
    )


def _mooncake_rows(path: Path) -> Iterator[TraceRequest]:
    decoder = msgspec.json.Decoder(_Prompt)
    cache = PrefixCache()
    begin: int | None = None
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                prompt = decoder.decode(line)
            except msgspec.DecodeError as error:
                raise InvalidTrace(path, str(error), number) from error
            begin = prompt.timestamp if begin is None else begin
            cached = cache.read(prompt.hash_ids, prompt.input_length)
            usage = {
                "input": prompt.input_length - cached,
                "cache_read": cached,
                "output": prompt.output_length,
            }
            # The first block is a system prompt that all share; the second differs by conversation.
            blocks = prompt.hash_ids[1:2] or prompt.hash_ids
            session = f"block {blocks[0]}" if blocks else str(number)
            offset = max(prompt.timestamp - begin, 0) * 1_000
            yield TraceRequest(str(number), offset, _used(usage), session)


class PrefixCache:
    """Finds how much of a prompt was seen before, by the ids of its blocks.

    Read from the cache are the leading blocks that any earlier prompt held, 512 tokens each, up to
    the first that none did; the rest is read afresh. A prompt's last block is partial: it counts
    the tokens it has. A million blocks are remembered, those longest unused go first.
    """

    def __init__(self, most: int = BLOCKS_REMEMBERED) -> None:
        """Begin empty."""
        self._blocks: dict[int, None] = {}
        self._most = most

    def read(self, blocks: list[int], tokens: int) -> int:
        """Return how many of a prompt's tokens come from the cache, and remember its blocks."""
        known = 0
        for block in blocks:
            if block not in self._blocks:
                break
            known += 1
        for block in blocks:
            self._blocks.pop(block, None)
            self._blocks[block] = None
        while len(self._blocks) > self._most:
            del self._blocks[next(iter(self._blocks))]
        return min(known * BLOCK_TOKENS, tokens)


# ServeGen: measured clients, from which requests are drawn.


def _servegen(path: Path, seed: int, clients: int | None, hours: int | None) -> Trace:
    try:
        found = servegen.clients_of(path, most=clients)
    except (OSError, ValueError) as error:
        raise InvalidTrace(path, str(error)) from error
    if not found:
        raise InvalidTrace(path, "has no chunk-N-trace.csv with its chunk-N-dataset.json.")
    until = (hours or 24) * 3_600
    expected = servegen.expected(found, until)

    def rows() -> Iterator[TraceRequest]:
        for arrival in servegen.arrivals(found, seed, until):
            usage = _used(arrival.usage)
            identity = f"{arrival.client}.{arrival.number}"
            yield TraceRequest(identity, arrival.offset, usage, f"client {arrival.client}")

    return Trace(
        name=f"servegen-{path.resolve().name}",
        says=f"ServeGen's {path.resolve().name}: {len(found)} clients, drawn with seed {seed}",
        expected=expected,
        begins_at=None,
        rows=rows,
    )


def _lines(path: Path) -> int:
    count, last = 0, b"\n"
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            count += block.count(b"\n")
            last = block[-1:]
    return count + (last != b"\n")
