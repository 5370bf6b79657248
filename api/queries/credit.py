"""Credit of accounts: grants, and the ledger of what moved a balance.

The ledger is read along the account's own chain of events, from the newest back. A page goes on
where its cursor says, so that pages do not shift while usage is recorded.
"""

from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

import msgspec

from api.queries.movements import (
    Charged,
    KeyTerms,
    Movement,
    MovementContext,
    MovementPlace,
    MovementWalk,
    Stretch,
)
from api.queries.reader import Found, Part, Reader, head_of
from ledger.clock import Instant
from ledger.codec import Recorded
from ledger.ids import AccountId, KeyId
from ledger.money import format_pico
from ledger.record import store
from projections.inline import credits as credit
from projections.inline import keys
from projections.snapshot import Snapshot

READ_AT_ONCE, READS_MAX = 500, 20
"""Events read for one page: after this many a page may be short, with more to follow."""


class Grant(NamedTuple):
    """A lot of credit, amounts in pico."""

    lot: int
    asset: str
    kind: str
    status: str
    """open, spent, voided or expired."""
    priority: int
    amount: int
    remaining: int
    held: int
    granted_at: Instant
    effective_at: Instant
    expires_at: Instant | None
    reason: str
    cost: str
    """What was paid for it, in ``currency``; empty: unknown."""
    currency: str
    payment_reference: str


class Movements(NamedTuple):
    """Some movements, and where to continue."""

    shown: list[Movement]
    following: MovementPlace | None
    """Where to continue; None: these are the last."""


class CreditQueries:
    """Reads of credit."""

    def __init__(self, reader: Reader, with_characters: Container[str] = ()) -> None:
        """Take the reader, and the dialects whose models are characters."""
        self._reader = reader
        self._with_characters = with_characters

    async def grants(self, account_id: AccountId, *, before: int, most: int) -> Found[Part[Grant]]:
        """List an account's grants, newest first.

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
            rows = await lane.rows(credit.PAGE, parameters)
            position = lane.position
        grants = [Grant(*row[:5], *map(int, row[5:8]), *row[8:]) for row in rows[:most]]
        return Found(Part(grants, len(rows) > most), position)

    async def movements(
        self, account_id: AccountId, place: MovementPlace, most: int
    ) -> Found[Movements]:
        """Read the movements of an account's balances backwards from a place.

        Raises:
            NoSuchAccount: There is no such account.
        """
        found: list[Movement] = []
        stretch = await self._stretch(account_id, place.seq)
        if not place.seq:
            balances = {asset: format_pico(pico) for asset, pico in stretch.balances.items()}
            place = msgspec.structs.replace(place, balances=balances)
        for _ in range(READS_MAX):
            walk = MovementWalk(place, stretch, most - len(found))
            found += walk.movements()
            if walk.ended:
                return Found(Movements(found, None), stretch.position)
            place = walk.place
            if len(found) == most:
                break
            stretch = await self._stretch(account_id, place.seq)
        return Found(Movements(found, place), stretch.position)

    async def _stretch(self, account_id: AccountId, seq: int) -> Stretch:
        async with self._reader.of(account_id) as lane:
            newest, _ = await head_of(lane, account_id)
            parameters = {"lane": lane.lane, "start": seq or newest, "most": READ_AT_ONCE + 1}
            rows = [store.stored(row) for row in await lane.rows(store.ACCOUNT_EVENTS, parameters)]
            events = [row.recorded for row in rows[:READ_AT_ONCE]]
            balances = await lane.rows(
                credit.OF_ACCOUNT, {"lane": lane.lane, "account": account_id}
            )
            return Stretch(
                events,
                rows[READ_AT_ONCE].recorded.envelope.lane_seq if len(rows) > READ_AT_ONCE else 0,
                {row[0]: int(row[1]) for row in balances},
                MovementContext(
                    await _assets(lane, account_id, events), await self._keys(lane, events)
                ),
                lane.position,
            )

    async def _keys(self, lane: Snapshot, events: Sequence[Recorded]) -> Mapping[KeyId, KeyTerms]:
        charged = [event for event in events if isinstance(event.body, Charged)]
        ids = {event.envelope.key_id for event in charged if event.envelope.key_id is not None}
        rows = await lane.rows(keys.TERMS, {"lane": lane.lane, "keys": sorted(ids)})
        return {
            KeyId(row[0]): KeyTerms(row[1] in self._with_characters, session=row[2]) for row in rows
        }


async def _assets(
    lane: Snapshot, account_id: AccountId, events: Sequence[Recorded]
) -> Mapping[int, str]:
    lots = {lot for event in events for lot in getattr(event.body, "lots", ())}
    lots |= {lot for event in events for lot, _ in getattr(event.body, "lapsed", ())}
    lots |= {lot for event in events for lot, _, _ in getattr(event.body, "repaid", ())}
    parameters = {"lane": lane.lane, "account": account_id, "lots": sorted(lots)}
    return dict(await lane.rows(credit.ASSETS, parameters))
