"""Recorded refusals."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from api.queries.reader import CATCH_UP_WAIT, Found, Part, Reader, head_of
from ledger.clock import Instant
from ledger.ids import AccountId, Position
from ledger.limits import matches_kinds
from projections import checkpoints
from projections.behind import refusals

HELD_BACK = timedelta(seconds=1, milliseconds=300)
"""After this long no refusal of the same kind is held back any more."""


class RefusalLine(NamedTuple):
    """A key's refusals for one reason in one second, with the numbers of the refusal."""

    seq: int
    """Lane position of the event."""
    recorded_at: Instant
    key_id: UUID
    times: int
    reason: str
    scope: str
    limit_id: str
    """The limit, or ``credit:`` and the asset; empty: neither was the reason."""
    model: str
    integration: str
    ceiling: str
    used: str
    pending: str
    requested: str
    usage: Mapping[str, int]
    """What the refused requests would have used in total, by class."""


class RefusalQueries:
    """Reads of refusals."""

    def __init__(self, reader: Reader) -> None:
        """Take the reader."""
        self._reader = reader

    async def page(
        self, account_id: AccountId, *, before: int, most: int
    ) -> Found[Part[RefusalLine]]:
        """List an account's refusals, newest first. The position is the projection's.

        Raises:
            NoSuchAccount: There is none.
        """
        async with self._reader.of(account_id) as lane:
            await head_of(lane, account_id)
            parameters = {
                "lane": lane.lane,
                "account": account_id,
                "before": before,
                "most": most + 1,
            }
            rows = await lane.rows(refusals.LATEST, parameters)
            log = {"lane": lane.lane, "projection": refusals.PROJECTION.name}
            reached = await lane.rows(checkpoints.NEWEST, log)
            position = Position(lane.lane, reached[0][0] if reached else 0)
        return Found(Part([_refusal(row) for row in rows[:most]], len(rows) > most), position)

    async def of_rates(self, account_id: AccountId, most: int) -> list[RefusalLine]:
        """Return an account's newest refusals by limits on requests, tokens and failures.

        What was just answered is among them: refusals that a second holds back are waited for,
        and the log is brought up to now.
        """
        reader = self._reader
        lane, clock = reader.lane_of(account_id), reader.clock
        kinds = matches_kinds("requests", "tokens", "failures")
        parameters = {"lane": lane, "account": account_id, "kinds": kinds, "most": most}
        deadline = clock.now() + CATCH_UP_WAIT
        while True:
            await reader.catch_up(refusals.PROJECTION, lane, deadline)
            found = [_refusal(row) for row in await reader.rows(refusals.RATE_BREACHES, parameters)]
            at = clock.now()
            settled_at = found[0].recorded_at + HELD_BACK if found else at
            if at >= min(settled_at, deadline):
                return found
            await asyncio.sleep((settled_at - at).total_seconds())


def _refusal(row: Sequence[Any]) -> RefusalLine:
    """Turn a row of ``refusals.LATEST`` into a line."""
    *columns, usage = row
    return RefusalLine._make((*columns, msgspec.json.decode(usage, type=dict[str, int])))
