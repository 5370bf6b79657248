"""An account's credit ledger: whatever moved a balance, newest first, with the balance after it.

It is read along the account's own chain of events, from the newest back. The balance after the
newest is the ledger's own at that position; each one before it follows by taking away what moved.
A page goes on where its cursor says, so that pages stay what they are while usage is written.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple

import msgspec

from api.native.views import PositionView
from api.queries import Queries
from ledger import events as e
from ledger.clock import Instant, format_instant
from ledger.codec import Recorded
from ledger.errors import NoSuchAccount
from ledger.events import Utc
from ledger.ids import AccountId, KeyId, Position, format_id, lane_of_account
from ledger.money import format_pico, parse_pico
from ledger.record import store
from ledger.state import parts_of
from projections.inline import credits as credit
from projections.inline import keys
from projections.snapshot import Snapshot

CHAT, USAGE, PURCHASE, DAILY, BONUS, ADJUSTMENT, EXPIRY = TYPES = (
    *("Chat", "Usage", "Purchase", "Daily login", "Bonus", "Adjustment", "Expiry"),
)
"""``Daily login`` is what the account has anew each day; ``Usage`` is metered and no chat."""

READ_AT_ONCE, READS_MAX = 500, 20
"""Events read for one page: after so many of them a page may be short, and goes on."""
CHARACTERS_OF = "reverie"
"""The dialect whose models are characters."""
CHAT_CATEGORY = "chat"
DAY = timedelta(days=1)

Charged = e.RequestRecorded | e.RequestSettled | e.RequestRated
Freed = e.RequestSettled | e.RequestReleased | e.RequestExpired


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One movement of a balance."""

    time: str
    type: str
    """Chat, Usage, Purchase, Daily login, Bonus, Adjustment or Expiry."""
    description: str
    amount: str
    """Below zero: it was taken."""
    balance_after: str
    """Of the asset, all keys together."""
    asset: str
    key_id: str | None
    """Which key spent it; None: no key did."""
    integration: str | None
    """The key's name at that moment."""
    model: str | None
    character: str | None
    request_id: str | None
    position: PositionView


class Filters(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which movements are asked for; empty: all."""

    type: str = ""
    asset: str = ""
    character: str = ""
    model: str = ""
    key: str = ""
    start: Utc | None = None
    end: Utc | None = None
    """Exclusive."""

    def cover(self, entry: Entry, at: Instant) -> bool:
        """Tell whether a movement is asked for."""
        pairs = (
            (self.type, entry.type),
            (self.asset, entry.asset),
            (self.character, entry.character),
            (self.model, entry.model),
            (self.key, entry.key_id),
        )
        return all(not wanted or wanted == found for wanted, found in pairs) and (
            self.end is None or at < self.end
        )


class Place(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a walk back through an account's events stands, and what it is for."""

    account: str
    filters: Filters = Filters()
    seq: int = 0
    """Lane position of the next event; 0: the newest."""
    shown: int = 0
    """Movements of that event that were passed already."""
    balances: dict[str, str] = {}
    """Of each asset after the next movement."""


class LedgerPage(NamedTuple):
    """Some movements, and where the next ones are."""

    entries: list[Entry]
    following: Place | None
    """None: these are the last."""
    position: Position


class _Moved(NamedTuple):
    """A movement, before anybody is told of it."""

    type: str
    description: str
    asset: str
    pico: int


class _KeyTerms(NamedTuple):
    """What a movement says of its key."""

    dialect: str
    session: bool


class _Chapter(NamedTuple):
    """Some events from the newest back, and what is needed to tell of them."""

    events: Sequence[Recorded]
    following: int
    """Position of the event before them; 0: there is none."""
    balances: Mapping[str, int]
    """As they are at the lane's position."""
    assets: Mapping[int, str]
    """Lot → what it is of."""
    keys: Mapping[KeyId, _KeyTerms]
    position: Position


class CreditLedger:
    """Reads the credit ledgers of accounts."""

    def __init__(self, queries: Queries) -> None:
        """Take what reads."""
        self._queries = queries

    async def page(self, account_id: AccountId, place: Place, most: int) -> LedgerPage:
        """Give the movements from a place back.

        Raises:
            NoSuchAccount: There is no such account.
        """
        entries: list[Entry] = []
        chapter = await self._chapter(account_id, place.seq)
        if not place.seq:
            balances = {asset: format_pico(pico) for asset, pico in chapter.balances.items()}
            place = msgspec.structs.replace(place, balances=balances)
        for _ in range(READS_MAX):
            walk = _Walk(place, chapter, most - len(entries))
            entries += walk.entries()
            if walk.ended:
                return LedgerPage(entries, None, chapter.position)
            place = walk.place
            if len(entries) == most:
                break
            chapter = await self._chapter(account_id, place.seq)
        return LedgerPage(entries, place, chapter.position)

    async def _chapter(self, account_id: AccountId, seq: int) -> _Chapter:
        queries = self._queries
        async with queries.at(lane_of_account(account_id, queries.lanes)) as lane:
            heads = await lane.rows(store.ACCOUNT_HEAD, (lane.lane, account_id))
            if not heads:
                raise NoSuchAccount
            terms = {"lane": lane.lane, "start": seq or heads[0][0], "most": READ_AT_ONCE + 1}
            rows = [store.stored(row) for row in await lane.rows(store.ACCOUNT_EVENTS, terms)]
            events = [row.recorded for row in rows[:READ_AT_ONCE]]
            balances = await lane.rows(
                credit.OF_ACCOUNT, {"lane": lane.lane, "account": account_id}
            )
            return _Chapter(
                events,
                rows[READ_AT_ONCE].recorded.envelope.lane_seq if len(rows) > READ_AT_ONCE else 0,
                {row[0]: int(row[1]) for row in balances},
                await _assets(lane, account_id, events),
                await _keys(lane, events),
                Position(lane.lane, lane.seq),
            )


async def _assets(
    lane: Snapshot, account_id: AccountId, events: Sequence[Recorded]
) -> Mapping[int, str]:
    lots = {lot for event in events for lot in getattr(event.body, "lots", ())}
    lots |= {lot for event in events for lot, _ in getattr(event.body, "lapsed", ())}
    lots |= {lot for event in events for lot, _, _ in getattr(event.body, "repaid", ())}
    terms = {"lane": lane.lane, "account": account_id, "lots": sorted(lots)}
    return dict(await lane.rows(credit.ASSETS, terms))


async def _keys(lane: Snapshot, events: Sequence[Recorded]) -> Mapping[KeyId, _KeyTerms]:
    charged = [event for event in events if isinstance(event.body, Charged)]
    ids = {event.envelope.key_id for event in charged if event.envelope.key_id is not None}
    rows = await lane.rows(keys.TERMS, {"lane": lane.lane, "keys": sorted(ids)})
    return {KeyId(row[0]): _KeyTerms(row[1], session=row[2]) for row in rows}


class _Walk:
    """Goes through a chapter, newest first, and stops where a page is full."""

    def __init__(self, place: Place, chapter: _Chapter, room: int) -> None:
        self.place = place
        self.ended = False
        """Whether there is nothing more to be asked for."""
        self._chapter = chapter
        self._room = room
        self._left = {
            asset: parse_pico(text, signed=True) for asset, text in place.balances.items()
        }

    def entries(self) -> Iterator[Entry]:
        """Give the movements that are asked for; where the next ones are stands in ``place``."""
        filters, given = self.place.filters, 0
        for event, shown, moved in self._movements():
            at = event.envelope.recorded_at
            if filters.start is not None and at < filters.start:
                self.ended = True
                return
            entry = _entry(event, moved, self._left.get(moved.asset, 0), self._chapter)
            covered = filters.cover(entry, at)
            if covered and given == self._room:
                self._stop(event.envelope.lane_seq, shown)
                return
            self._left[moved.asset] = self._left.get(moved.asset, 0) - moved.pico
            if covered:
                given += 1
                yield entry
        self._stop(self._chapter.following, 0)
        self.ended = not self._chapter.following

    def _movements(self) -> Iterator[tuple[Recorded, int, _Moved]]:
        """Give the movements not passed yet, each with how many of its event come before it."""
        passed = self.place.shown
        for event in self._chapter.events:
            moved = list(reversed(list(_movements(event, self._chapter))))
            for shown, each in enumerate(moved[passed:], passed):
                yield event, shown, each
            passed = 0

    def _stop(self, seq: int, shown: int) -> None:
        balances = {asset: format_pico(pico) for asset, pico in self._left.items()}
        self.place = msgspec.structs.replace(self.place, seq=seq, shown=shown, balances=balances)


def _entry(event: Recorded, moved: _Moved, balance: int, chapter: _Chapter) -> Entry:
    envelope, body = event.envelope, event.body
    # What lapses as a request ends is spent by nobody.
    charged = body if isinstance(body, Charged) and moved.type in {CHAT, USAGE} else None
    key_id = None if charged is None else envelope.key_id
    key = None if key_id is None else chapter.keys.get(key_id)
    model = None if charged is None else charged.model
    is_character = key is not None and key.dialect == CHARACTERS_OF
    return Entry(
        time=format_instant(envelope.recorded_at),
        type=moved.type,
        description=moved.description,
        amount=format_pico(moved.pico),
        balance_after=format_pico(balance),
        asset=moved.asset,
        key_id=None if key_id is None else format_id("key", key_id),
        integration=None if charged is None else charged.integration,
        model=model,
        character=model.partition("/")[0] if is_character and model else None,
        request_id=getattr(body, "request_id", None),
        position=PositionView(lane=envelope.lane, seq=envelope.lane_seq),
    )


def _movements(event: Recorded, chapter: _Chapter) -> Iterator[_Moved]:
    """Give what an event moved, in the order in which it did; nothing that moved nothing."""
    body = event.body
    if isinstance(body, Charged):
        yield from _charge(event, body, chapter)
    elif isinstance(body, e.CreditGranted):
        kind = _kind_of_grant(body)
        yield _Moved(kind, body.reason or kind, body.asset, parse_pico(body.amount))
    elif isinstance(body, e.BalanceReduced):
        yield _Moved(ADJUSTMENT, body.reason, body.asset, -parse_pico(body.amount))
    elif isinstance(body, e.GrantVoided | e.GrantExpired) and parse_pico(body.amount):
        yield _ended(body)
    if isinstance(body, Freed):
        for lot, amount in body.lapsed:
            said = f"Held part of grant {lot}, which had ended"
            yield _Moved(EXPIRY, said, chapter.assets[lot], -parse_pico(amount))
    if isinstance(body, e.Repaying):
        yield from _repaid(body, chapter)


def _repaid(body: e.Repaying, chapter: _Chapter) -> Iterator[_Moved]:
    for lot, asset, amount in body.repaid:
        # In its own asset it only moves within the balance.
        if chapter.assets[lot] != asset:
            said = f"Grant {lot} repaid what was overdrawn in {asset}"
            yield _Moved(ADJUSTMENT, said, chapter.assets[lot], -parse_pico(amount))
            yield _Moved(ADJUSTMENT, said, asset, parse_pico(amount))


def _charge(event: Recorded, body: Charged, chapter: _Chapter) -> Iterator[_Moved]:
    key = chapter.keys.get(event.envelope.key_id) if event.envelope.key_id else None
    is_chat = body.category == CHAT_CATEGORY or (key is not None and key.dialect == CHARACTERS_OF)
    kind = CHAT if is_chat else USAGE
    said = f"Web: {body.model}" if key and key.session else f"API, {body.integration}: {body.model}"
    sums: dict[str, int] = {}
    for lot, pico in parts_of(body):
        asset = chapter.assets[lot] if lot else body.asset
        sums[asset] = sums.get(asset, 0) + pico
    for asset, pico in sums.items():
        if pico:
            yield _Moved(kind, said, asset, -pico)


def _kind_of_grant(body: e.CreditGranted) -> str:
    if body.kind == "adjustment":
        return ADJUSTMENT
    if body.kind == "paid":
        return PURCHASE
    ends, begins = body.expires_at, body.effective_at
    is_daily = body.by == "system" and ends is not None and begins is not None
    return DAILY if is_daily and ends - begins == DAY else BONUS  # type: ignore[operator]


def _ended(body: e.GrantVoided | e.GrantExpired) -> _Moved:
    pico = -parse_pico(body.amount)
    if isinstance(body, e.GrantExpired):
        return _Moved(EXPIRY, f"Grant {body.lot} expired", body.asset, pico)
    said = f"Grant {body.lot} withdrawn"
    return _Moved(ADJUSTMENT, f"{said}: {body.reason}" if body.reason else said, body.asset, pico)
