"""How events moved an account's balances: a fold of its events, newest first.

The balance after the newest is the ledger's own; each one before it follows by taking away what
moved.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple

import msgspec

from ledger import events as e
from ledger.clock import Instant
from ledger.codec import Recorded
from ledger.events import Utc
from ledger.ids import KeyId, Position, format_id
from ledger.money import format_pico, parse_pico
from ledger.state import parts_of

CHAT, USAGE, PURCHASE, DAILY, BONUS, ADJUSTMENT, EXPIRY = TYPES = (
    *("Chat", "Usage", "Purchase", "Daily login", "Bonus", "Adjustment", "Expiry"),
)
"""``Daily login`` is the daily allowance; ``Usage`` is metered and not a chat."""

CHAT_CATEGORY = "chat"
DAY = timedelta(days=1)

Charged = e.RequestRecorded | e.RequestSettled | e.RequestRated
Freed = e.RequestSettled | e.RequestReleased | e.RequestExpired


class Moved(NamedTuple):
    """How an event moved the balance of one asset."""

    type: str
    """One of ``TYPES``."""
    description: str
    asset: str
    pico: int
    """Below zero: it was taken away."""


class Movement(NamedTuple):
    """A movement of a balance, and where it came from."""

    at: Instant
    moved: Moved
    balance: int
    """Balance of the asset afterwards, over all keys, in pico."""
    key_id: KeyId | None
    """The key that spent it; None: no key did."""
    integration: str | None
    """The key's name at that moment."""
    model: str | None
    character: str | None
    request_id: str | None
    position: Position


class KeyTerms(NamedTuple):
    """What a movement needs to know about its key."""

    speaks_to_characters: bool
    """Whether its dialect's models are characters."""
    session: bool


class MovementContext(NamedTuple):
    """The lots and keys that events name, as needed to describe movements."""

    assets: Mapping[int, str]
    """Lot → its asset."""
    keys: Mapping[KeyId, KeyTerms]


class Stretch(NamedTuple):
    """Some events from the newest back."""

    events: Sequence[Recorded]
    following: int
    """Position of the event before them; 0: there is none."""
    balances: Mapping[str, int]
    """Balances at the lane's position."""
    known: MovementContext
    position: Position


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

    def cover(self, found: Movement) -> bool:
        """Return whether a movement matches."""
        pairs = (
            (self.type, found.moved.type),
            (self.asset, found.moved.asset),
            (self.character, found.character),
            (self.model, found.model),
            (self.key, found.key_id and format_id("key", found.key_id)),
        )
        return all(not wanted or wanted == is_of for wanted, is_of in pairs) and (
            self.end is None or found.at < self.end
        )


class MovementPlace(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far a walk back through an account's events has come, and what it looks for."""

    account: str
    filters: Filters = Filters()
    seq: int = 0
    """Lane position of the next event; 0: the newest."""
    shown: int = 0
    """Movements of that event that were shown already."""
    balances: dict[str, str] = {}
    """Balance of each asset after the next movement."""


class MovementWalk:
    """Goes through a stretch, newest first, and stops when a page is full."""

    def __init__(self, place: MovementPlace, stretch: Stretch, room: int) -> None:
        """Begin at a place; the page has room for ``room`` movements."""
        self.place = place
        self.ended = False
        """Whether nothing follows."""
        self._stretch = stretch
        self._room = room
        self._left = {
            asset: parse_pico(text, signed=True) for asset, text in place.balances.items()
        }

    def movements(self) -> Iterator[Movement]:
        """Yield the movements that match; ``place`` says where to continue."""
        filters, given = self.place.filters, 0
        for event, shown, moved in self._moved():
            if filters.start is not None and event.envelope.recorded_at < filters.start:
                self.ended = True
                return
            left = self._left.get(moved.asset, 0)
            found = _movement(event, moved, left, self._stretch.known)
            covered = filters.cover(found)
            if covered and given == self._room:
                self._stop(event.envelope.lane_seq, shown)
                return
            self._left[moved.asset] = left - moved.pico
            if covered:
                given += 1
                yield found
        self._stop(self._stretch.following, 0)
        self.ended = not self._stretch.following

    def _moved(self) -> Iterator[tuple[Recorded, int, Moved]]:
        """Yield the movements not shown yet, each with how many of its event come before it."""
        passed = self.place.shown
        for event in self._stretch.events:
            moved = list(reversed(list(movements(event, self._stretch.known))))
            for shown, each in enumerate(moved[passed:], passed):
                yield event, shown, each
            passed = 0

    def _stop(self, seq: int, shown: int) -> None:
        balances = {asset: format_pico(pico) for asset, pico in self._left.items()}
        self.place = msgspec.structs.replace(self.place, seq=seq, shown=shown, balances=balances)


def _movement(event: Recorded, moved: Moved, balance: int, known: MovementContext) -> Movement:
    envelope, body = event.envelope, event.body
    # Credit that lapses when a request ends is spent by nobody.
    charged = body if isinstance(body, Charged) and moved.type in {CHAT, USAGE} else None
    key_id = None if charged is None else envelope.key_id
    key = None if key_id is None else known.keys.get(key_id)
    model = None if charged is None else charged.model
    is_character = key is not None and key.speaks_to_characters
    return Movement(
        at=envelope.recorded_at,
        moved=moved,
        balance=balance,
        key_id=key_id,
        integration=None if charged is None else charged.integration,
        model=model,
        character=model.partition("/")[0] if is_character and model else None,
        request_id=getattr(body, "request_id", None),
        position=Position(envelope.lane, envelope.lane_seq),
    )


def movements(event: Recorded, known: MovementContext) -> Iterator[Moved]:
    """Yield what an event moved, in order, without movements of zero."""
    body = event.body
    if isinstance(body, Charged):
        yield from _charge(event, body, known)
    elif isinstance(body, e.CreditGranted):
        kind = _kind_of_grant(body)
        yield Moved(kind, body.reason or kind, body.asset, parse_pico(body.amount))
    elif isinstance(body, e.BalanceReduced):
        yield Moved(ADJUSTMENT, body.reason, body.asset, -parse_pico(body.amount))
    elif isinstance(body, e.GrantVoided | e.GrantExpired) and parse_pico(body.amount):
        yield _ended(body)
    if isinstance(body, Freed):
        for lot, amount in body.lapsed:
            said = f"Held part of grant {lot}, which had ended"
            yield Moved(EXPIRY, said, known.assets[lot], -parse_pico(amount))
    if isinstance(body, e.Repaying):
        yield from _repaid(body, known)


def _repaid(body: e.Repaying, known: MovementContext) -> Iterator[Moved]:
    for lot, asset, amount in body.repaid:
        # In its own asset it does not change the balance.
        if known.assets[lot] != asset:
            said = f"Grant {lot} repaid what was overdrawn in {asset}"
            yield Moved(ADJUSTMENT, said, known.assets[lot], -parse_pico(amount))
            yield Moved(ADJUSTMENT, said, asset, parse_pico(amount))


def _charge(event: Recorded, body: Charged, known: MovementContext) -> Iterator[Moved]:
    key = known.keys.get(event.envelope.key_id) if event.envelope.key_id else None
    is_chat = body.category == CHAT_CATEGORY or (key is not None and key.speaks_to_characters)
    kind = CHAT if is_chat else USAGE
    said = f"Web: {body.model}" if key and key.session else f"API, {body.integration}: {body.model}"
    sums: dict[str, int] = {}
    for lot, pico in parts_of(body):
        asset = known.assets[lot] if lot else body.asset
        sums[asset] = sums.get(asset, 0) + pico
    for asset, pico in sums.items():
        if pico:
            yield Moved(kind, said, asset, -pico)


def _kind_of_grant(body: e.CreditGranted) -> str:
    if body.kind == "adjustment":
        return ADJUSTMENT
    if body.kind == "paid":
        return PURCHASE
    ends, begins = body.expires_at, body.effective_at
    is_daily = body.by == "system" and ends is not None and begins is not None
    return DAILY if is_daily and ends - begins == DAY else BONUS  # type: ignore[operator]


def _ended(body: e.GrantVoided | e.GrantExpired) -> Moved:
    pico = -parse_pico(body.amount)
    if isinstance(body, e.GrantExpired):
        return Moved(EXPIRY, f"Grant {body.lot} expired", body.asset, pico)
    said = f"Grant {body.lot} withdrawn"
    return Moved(ADJUSTMENT, f"{said}: {body.reason}" if body.reason else said, body.asset, pico)
