"""Events as they were written: an account's, a lane's, or one; and the lanes' positions."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, NamedTuple

from api.queries.reader import CATCH_UP_WAIT, Found, Reader, head_of
from ledger.clock import Instant
from ledger.codec import Recorded
from ledger.errors import InvalidField, NoSuchEvent, NoSuchLane
from ledger.ids import AccountId
from ledger.record import store
from ledger.record.store import Stored
from projections.behind import account_marks
from projections.inline import credits as credit

MARKS_BEHIND_MAX = 2_000
"""How many more events are read along the chain before waiting for marks."""
BACK_AT_ONCE = 200


class Chain(NamedTuple):
    """Some of an account's events, newest first."""

    events: list[Stored]
    following: int | None
    """Lane position of the event before them; None: there is none."""


class Chapter(NamedTuple):
    """A part of an account's history."""

    events: Sequence[Recorded]
    assets: Mapping[int, str]
    """Lot → its asset."""


class LaneHead(NamedTuple):
    """A lane's newest position."""

    lane: int
    seq: int
    last_recorded_at: Instant | None
    """None: it has no event."""
    chain: bytes


class EventQueries:
    """Reads of events."""

    def __init__(self, reader: Reader) -> None:
        """Take the reader."""
        self._reader = reader

    async def of_account(
        self, account_id: AccountId, *, before: int | None, most: int
    ) -> Found[Chain]:
        """List an account's events, newest first, along its own chain.

        ``before``: position of the event to begin at; None: the newest.

        Raises:
            NoSuchAccount: There is none.
            InvalidField: ``before`` is not the position of an event of this account.
        """
        async with self._reader.of(account_id) as lane:
            newest, _ = await head_of(lane, account_id)
            start = newest if before is None else before
            parameters = {"lane": lane.lane, "start": start, "most": most + 1}
            rows = await lane.rows(store.ACCOUNT_EVENTS, parameters)
            position = lane.position
        found = [store.stored(row) for row in rows]
        if not found or found[0].recorded.envelope.account_id != account_id:
            raise InvalidField("after", "is not a cursor of this list")
        following = found[most].recorded.envelope.lane_seq if len(found) > most else None
        return Found(Chain(found[:most], following), position)

    async def back(self, account_id: AccountId, *, before: int | None) -> AsyncIterator[Stored]:
        """Yield an account's events backwards from the one at ``before``; None: the newest.

        Raises:
            NoSuchAccount: There is none.
            InvalidField: ``before`` is no position of an event of this account.
        """
        while True:
            chain, _ = await self.of_account(account_id, before=before, most=BACK_AT_ONCE)
            for event in chain.events:
                yield event
            if chain.following is None:
                return
            before = chain.following

    async def of_lane(self, number: int, *, after: int, most: int) -> Found[list[Stored]]:
        """List a lane's events in order, as a feed.

        Raises:
            NoSuchLane: There is none of this number.
        """
        async with self._reader.at(self._require_lane(number)) as lane:
            rows = await lane.rows(store.FEED, (number, after, after + most))
            return Found([store.stored(row) for row in rows], lane.position)

    async def one(self, number: int, seq: int) -> Found[Stored]:
        """Find the event at a position.

        Raises:
            NoSuchLane: There is none of this number.
            NoSuchEvent: There is none at this position.
        """
        async with self._reader.at(self._require_lane(number)) as lane:
            found = await store.find_event(lane.connection, number, seq)
            position = lane.position
        if found is None:
            raise NoSuchEvent
        return Found(found, position)

    def _require_lane(self, number: int) -> int:
        if not 0 <= number < self._reader.lanes:
            raise NoSuchLane
        return number

    async def after(self, account_id: AccountId, version: int, most: int) -> Chapter:
        """Read an account's next events in their order, and which asset their lots are of.

        Events are counted by their version; fewer than ``most`` come only at the end.
        """
        reader = self._reader
        found = await self._chapter(account_id, version, most, reach=most + MARKS_BEHIND_MAX)
        if found is None:
            deadline = reader.clock.now() + CATCH_UP_WAIT
            await reader.catch_up(account_marks.PROJECTION, reader.lane_of(account_id), deadline)
            found = await self._chapter(account_id, version, most, reach=None)
        assert found is not None
        return found

    async def _chapter(
        self, account_id: AccountId, version: int, most: int, *, reach: int | None
    ) -> Chapter | None:
        """Read along the chain from a mark or from the end; None: no mark is within reach."""
        async with self._reader.of(account_id) as lane:
            heads = await lane.rows(store.ACCOUNT_HEAD, (lane.lane, account_id))
            if not heads or heads[0][1] <= version:
                return Chapter([], {})
            parameters: Any = {"lane": lane.lane, "account": account_id, "version": version + most}
            start, last = (await lane.rows(account_marks.FIRST_FROM, parameters) or heads)[0]
            if reach is not None and last - version > reach:
                return None
            parameters = {"lane": lane.lane, "start": start, "most": last - version}
            rows = await lane.rows(store.ACCOUNT_EVENTS, parameters)
            events = [store.stored(row).recorded for row in reversed(rows)][:most]
            lots = sorted({lot for event in events for lot in getattr(event.body, "lots", ())})
            parameters = {"lane": lane.lane, "account": account_id, "lots": lots}
            assets = await lane.rows(credit.ASSETS, parameters)
        return Chapter(events, dict(assets))

    async def version_before(self, account_id: AccountId, at: Instant) -> int:
        """Find a version of an account shortly before the first event at or after an instant."""
        async with self._reader.of(account_id) as lane:
            parameters = {"lane": lane.lane, "account": account_id, "before": at}
            rows = await lane.rows(account_marks.LAST_BEFORE, parameters)
        return rows[0][0] if rows else 0

    async def lanes(self) -> list[LaneHead]:
        """List each lane's newest position."""
        rows = await self._reader.rows(store.LANES)
        return [LaneHead(row[0], row[1], row[2], bytes(row[3])) for row in rows]
