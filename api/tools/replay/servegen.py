"""Requests drawn from what ServeGen measured of each client of a service.

``chunk-N-trace.csv`` says, per window of 600 s, at which rate and with which coefficient of
variation (cv) a client sent; ``chunk-N-dataset.json`` says, per longer window, how its lengths were
distributed. Time between two requests is drawn from a Gamma distribution of that rate and cv, or
from a Weibull one of that rate and the fitted shape where the pattern says so.
"""

import ast
import csv
import heapq
import json
import math
import random
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

WINDOW_SECONDS = 600
LENGTHS = ("input_tokens", "output_tokens")
REASONING = "reason_ratio"


class RateWindow(NamedTuple):
    """How a client sent for ten minutes."""

    start_seconds: int
    rate: float
    """Requests per second."""
    cv: float
    shape: float | None
    """Of a Weibull distribution; None: a Gamma one of the cv."""


class MeasuredClient(NamedTuple):
    """What was measured of one client."""

    number: int
    windows: Sequence[RateWindow]
    dataset: Path


class Arrival(NamedTuple):
    """One request drawn."""

    offset: int
    """Microseconds since the first window began."""
    client: int
    number: int
    """1, 2, 3 … within the client."""
    usage: Mapping[str, int]


def clients_of(folder: Path, *, most: int | None = None) -> list[MeasuredClient]:
    """Read what was measured, by the number of the client.

    ``most``: only so many, those that sent most.

    Raises:
        ValueError: A file is not as expected.
    """
    found = []
    for trace in folder.glob("chunk-*-trace.csv"):
        number = int(trace.name.split("-")[1])
        dataset = folder / f"chunk-{number}-dataset.json"
        if dataset.is_file():
            found.append(MeasuredClient(number, _windows(trace), dataset))
    found.sort(key=lambda client: (-_sent(client), client.number))
    return sorted(found[:most])


def _windows(trace: Path) -> list[RateWindow]:
    windows = []
    with trace.open(newline="", encoding="utf-8") as file:
        for line, row in enumerate(csv.reader(file), 1):
            try:
                start, rate, cv, pattern, shape, _ = row
                is_weibull = pattern == "Weibull"
                window = RateWindow(
                    int(start), float(rate), float(cv), float(shape) if is_weibull else None
                )
            except ValueError as error:
                message = f"{trace.name}, line {line}: {error}"
                raise ValueError(message) from error
            if window.rate > 0 and window.cv > 0:
                windows.append(window)
    return windows


def _sent(client: MeasuredClient) -> float:
    return sum(window.rate for window in client.windows)


def expected(clients: Sequence[MeasuredClient], until_seconds: int) -> int:
    """Return about how many requests will be drawn."""
    rates = [w.rate for c in clients for w in c.windows if w.start_seconds < until_seconds]
    return round(sum(rates) * WINDOW_SECONDS)


def arrivals(clients: Sequence[MeasuredClient], seed: int, until_seconds: int) -> Iterator[Arrival]:
    """Draw every client's requests and merge them in the order of their arrival.

    Each client draws from a seed of its own: another number of clients changes nobody's requests.
    """
    return heapq.merge(*(_requests(client, seed, until_seconds) for client in clients))


def _requests(client: MeasuredClient, seed: int, until_seconds: int) -> Iterator[Arrival]:
    draw = random.Random(f"servegen/{seed}/{client.number}")  # noqa: S311 - traffic
    lengths = _Lengths(client.dataset)
    number = 0
    for window in client.windows:
        if window.start_seconds >= until_seconds:
            return
        if not lengths.at(window.start_seconds):
            continue
        after = _gap(draw, window)
        while after < WINDOW_SECONDS:
            number += 1
            offset = round((window.start_seconds + after) * 1_000_000)
            yield Arrival(offset, client.number, number, lengths.draw(draw))
            after += _gap(draw, window)


def _gap(draw: random.Random, window: RateWindow) -> float:
    """Draw the seconds to the next request; their mean is 1 / rate."""
    if window.shape is not None:
        mean = math.gamma(1 + 1 / window.shape)
        return draw.weibullvariate(1 / window.rate / mean, window.shape)
    variance = window.cv * window.cv
    return draw.gammavariate(1 / variance, variance / window.rate)


class _Lengths:
    """The distributions of one client, one window of them in memory at a time."""

    def __init__(self, dataset: Path) -> None:
        self._texts: dict[str, dict[str, str]] = json.loads(dataset.read_text("utf-8"))
        self._starts = sorted(map(int, self._texts))
        self._start: int | None = None
        self._tables: dict[str, _Table] = {}

    def at(self, seconds: int) -> bool:
        """Turn to the window that holds an instant; return whether its lengths are known."""
        place = bisect_right(self._starts, seconds) - 1
        start = self._starts[max(place, 0)]
        if start != self._start:
            self._start = start
            self._tables = {
                name: table
                for name, text in self._texts[str(start)].items()
                if (table := _Table.of(text)) is not None
            }
        return all(name in self._tables for name in LENGTHS)

    def draw(self, draw: random.Random) -> dict[str, int]:
        """Draw lengths; the share of the output that was thought counts as reasoning."""
        context, made = (round(self._tables[name].draw(draw)) for name in LENGTHS)
        ratios = self._tables.get(REASONING)
        thought = min(round(made * ratios.draw(draw)), made) if ratios else 0
        return {"input": context, "output": made - thought, "reasoning": thought}


class _Table(NamedTuple):
    values: tuple[float, ...]
    sums: tuple[float, ...]

    @classmethod
    def of(cls, text: str) -> "_Table | None":
        shares: dict[float, float] = ast.literal_eval(text)
        kept = {value: share for value, share in shares.items() if share > 0}
        return cls(tuple(kept), tuple(accumulate(kept.values()))) if kept else None

    def draw(self, draw: random.Random) -> float:
        place = bisect_right(self.sums, draw.random() * self.sums[-1])
        return self.values[min(place, len(self.values) - 1)]
