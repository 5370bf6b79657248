"""Folds a lane from its first event on, checking every hash, for ``rebuild``.

By the rules that decide live: requests of a key that are alike are folded together by
``state.change_by_sums``, as a batch does it, every other event by ``state.change``. Nothing here
reads or writes a table; statements are returned to the caller, which does.
"""

import struct
from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from typing import NoReturn
from uuid import UUID

import msgspec

from ledger import codec
from ledger import events as e
from ledger.clock import Instant, from_microseconds, microseconds
from ledger.codec import Recorded
from ledger.errors import LedgerCorrupt
from ledger.ids import AccountId, KeyId
from ledger.limits import Window
from ledger.lines import Lines, lack_price
from ledger.money import parse_pico
from ledger.record import store, verify
from ledger.record.batch import BatchChanges
from ledger.record.store import Statement
from ledger.state import Account, Key, LaneState, advance_over, change, change_by_sums
from ledger.usage import Usage, tokens
from projections.base import CatchingUp, Inline
from projections.inline import spend

LINES_MAX = 20_000
"""So many lines of spend are summed before they are written."""

_SINCE = verify.since_1970(0)
_EPOCH = from_microseconds(_SINCE)
_DAY = 86_400_000_000
_SIZE = 4
"""Bytes of a payload's length, which lie before it."""
_NEVER = 2**63
_REQUESTS = (
    e.RequestRecorded,
    e.RequestReserved,
    e.RequestSettled,
    e.RequestReleased,
    e.RequestExpired,
    e.RequestRefused,
)
_RECORDED = codec.label_of(e.RequestRecorded).encode()


class _Recorded(msgspec.Struct, gc=False):
    """What a fold needs of a ``RequestRecorded``: its price list and ids only fill the memory."""

    integration: str
    model: str
    lines: Lines
    others: tuple[msgspec.Raw, ...] = ()
    category: str = ""
    asset: str = ""
    charge: str = ""
    lots: tuple[int, ...] = ()
    parts: tuple[str, ...] = ()


_head_of = verify.HEAD.unpack_from
_recorded_of = msgspec.json.Decoder(_Recorded).decode

_AlikeKey = tuple[bytes, int, str, str, str, str, tuple[int, ...]]
"""Key, day since 2000, integration, model, category, asset, lots: what alike requests share."""


class _Run:
    """Requests of one key that are alike and count in the same buckets.

    Instants here are µs since 2000, as in an ``EventRow``.
    """

    __slots__ = ("key", "last", "pico", "requests", "seq", "until", "usage")

    def __init__(self, key: Key | None, seq: int, until: int) -> None:
        self.requests = 0
        self.pico = 0
        self.usage: dict[str, int] = {}
        self.key = key
        self.seq = seq
        """Position of the first."""
        self.last = 0
        """When the last was recorded."""
        self.until = until
        """From then on a request counts in another bucket."""


class _Noted:
    """What folded requests that are alike used, and what each asset paid for them."""

    __slots__ = ("requests", "spent", "usage")

    def __init__(self) -> None:
        self.requests = 0
        self.usage: dict[str, int] = {}
        self.spent: dict[str, int] = {}


class _Gathered:
    """Requests of an account that were gathered: checked, but not yet folded."""

    __slots__ = ("account", "lines", "makes", "runs")

    def __init__(self, account: Account) -> None:
        self.account = account
        self.makes = False
        """Whether folding the run may make a counter of one model: then there is but that run."""
        self.runs: dict[_AlikeKey, _Run] = {}
        self.lines: dict[_AlikeKey, _Noted] = {}
        """What folded requests spent that is not yet summed."""


class Fold:
    """The state of a lane as its events make it, and what is still to be written of it."""

    def __init__(
        self, lane: int, inline: Sequence[Inline], projection: CatchingUp | None = None
    ) -> None:
        """Begin before the first event."""
        self.lane = lane
        self.state = LaneState()
        self._of_state = [each for each in inline if each.is_state]
        self._of_events = [
            each for each in inline if not each.is_state and each is not spend.PROJECTION
        ]
        self._sums: dict[spend.SpendGroup, spend.Sums] | None = (
            {} if spend.PROJECTION in inline else None
        )
        self._projection = projection
        self._changes = BatchChanges()
        self._kept: dict[tuple[type[e.Event], bytes, bytes], Recorded] = {}
        self._ids: dict[bytes, UUID] = {store.NO_KEY.bytes: store.NO_KEY}
        self._by_account: dict[bytes, _Gathered] = {}
        self._keys: dict[bytes, Key] = {}
        self._counted: set[bytes] = set()
        """Accounts, and below keys, whose gathered requests were folded since the last save."""
        self._used: set[bytes] = set()
        self._unsettled: list[_Gathered] = []
        """Those for whom something was gathered since the chunk began, some of them twice."""
        self._ends: dict[Window, int] = {}
        """When the bucket ends that a window is in."""
        self._last = -_NEVER
        """When the last event was recorded."""
        self._written: set[bytes] = set()
        """Reservations that stand in the table."""

    @property
    def seq(self) -> int:
        """The last position that was folded."""
        return self.state.seq

    def take(self, rows: Iterable[bytes]) -> list[Statement]:
        """Fold a chunk of ``verify.read``; return what projections of every event make of it.

        Raises:
            LedgerCorrupt: A gap, a broken chain, an unreadable event or one that cannot be.
        """
        changes = BatchChanges()
        try:
            self._walk(rows, changes)
        except struct.error as error:
            self._stop(self.seq + 1, "is not what its hash says", error)
        for gathered in self._unsettled:
            self._settle(gathered)
            if self._sums is not None:
                self._sum(gathered, self._sums)
        self._unsettled.clear()
        if self.seq:
            self.state.last_recorded_at = _instant(self._last)
        self._remember(changes)
        made = [
            statement
            for each in self._of_events
            for statement in each.save(self.lane, self.state, changes)
        ]
        if self._sums is not None:
            spend.sums_of(changes.of(*spend.KINDS), self.state, self._sums)
            if len(self._sums) > LINES_MAX:
                made += self._write_sums()
        return made + (self._projection.apply(changes.events) if self._projection else [])

    def _walk(self, rows: Iterable[bytes], changes: BatchChanges) -> None:  # noqa: C901, PLR0915
        """Check the place and the hash of each event; fold it, or gather it with those alike.

        Nearly all are gathered: what these need is done in place, because calls cost as much.
        """
        lane, state, by_account, start = self.lane, self.state, self._by_account, verify.HEAD.size
        gathers = self._projection is None
        for raw in rows:
            # fmt: off
            (seq, at, occurred_at, version, _, account_id, key_id, _, hashed,
             length) = _head_of(raw)
            # fmt: on
            tag, payload = raw[start : start + length], raw[start + length + _SIZE :]
            gathered = by_account.get(account_id)
            before, previous = 0, codec.GENESIS
            if gathered is not None:
                before, previous = gathered.account.version, gathered.account.hash
            if seq != state.seq + 1 or version != before + 1 or at <= self._last:
                self._stop(state.seq + 1, f"is not in its place: version {version} stands at {seq}")
            packed = codec.pack_envelope(
                lane, seq, account_id, version, at + _SINCE, occurred_at + _SINCE, key_id, tag,
            )  # fmt: skip
            if codec.event_hash(previous, packed, payload) != hashed:
                self._stop(seq, "is not what its hash says")
            self._last = at
            if gathers and gathered is not None and tag == _RECORDED:
                try:
                    body = _recorded_of(payload)
                except msgspec.MsgspecError as error:
                    self._stop(seq, f"cannot be read: {error}", error)
                if body.charge and not (body.parts or body.others or lack_price(body.lines)):
                    about = (
                        key_id, occurred_at // _DAY,
                        body.integration, body.model, body.category, body.asset, body.lots,
                    )  # fmt: skip
                    run = gathered.runs.get(about)
                    if run is None or at >= run.until:
                        run = self._begin(gathered, about, seq, at)
                    run.last = at
                    run.requests += 1
                    run.pico += parse_pico(body.charge)
                    used = run.usage
                    for name, (units, _) in body.lines.items():
                        used[name] = used.get(name, 0) + units
                    account = gathered.account
                    account.version, account.hash, account.last_seq = version, hashed, seq
                    state.seq, state.chain = seq, codec.chain(state.chain, hashed)
                    continue
            if gathered is not None:
                self._settle(gathered)
            about_key = self._id(key_id)
            envelope = e.Envelope(
                lane,
                seq,
                AccountId(self._id(account_id)),
                version,
                _instant(at),
                _instant(occurred_at),
                None if about_key is store.NO_KEY else KeyId(about_key),
            )
            folded = self._fold(gathered, envelope, tag, payload=payload, hashed=hashed)
            changes.note(folded)

    def _fold(
        self,
        gathered: _Gathered | None,
        envelope: e.Envelope,
        tag: bytes,
        *,
        payload: bytes,
        hashed: bytes,
    ) -> Recorded:
        """Fold one event by itself."""
        state, account_id, key_id = self.state, envelope.account_id, envelope.key_id
        account = gathered.account if gathered is not None else None
        key = state.keys.get(key_id) if key_id is not None else None
        try:
            body = codec.decode(tag.decode(), payload)
            change(state, account, key, envelope, body)
        except (LedgerCorrupt, LookupError, AssertionError, ValueError) as error:
            self._cannot_be(envelope.lane_seq, error)
        if gathered is None:
            gathered = self._by_account[account_id.bytes] = _Gathered(state.accounts[account_id])
        recorded = Recorded(envelope, body, payload, hashed)
        advance_over(state, gathered.account, recorded)
        return recorded

    def _begin(self, gathered: _Gathered, about: _AlikeKey, seq: int, at: int) -> _Run:
        """Begin a run; what was gathered of the account before it is folded before it."""
        if about in gathered.runs or gathered.makes:
            self._settle(gathered)
        key = self._key_of(about[0])
        if _makes(gathered.account, key, about):
            # Which counters are forgotten then depends on what came before, and on nothing later.
            self._settle(gathered)
            gathered.makes = True
        if not gathered.runs:
            self._unsettled.append(gathered)
        run = gathered.runs[about] = _Run(key, seq, self._until(gathered.account, key, at))
        return run

    def _key_of(self, key_id: bytes) -> Key | None:
        # A UUID hashes itself in Python, and most keys begin many runs.
        key = self._keys.get(key_id)
        if key is None:
            key = self.state.keys.get(self._id(key_id))
            if key is not None:
                self._keys[key_id] = key
        return key

    def _until(self, account: Account, key: Key | None, at: int) -> int:
        """Return when the first window that counts a key's requests leaves its bucket."""
        until, ends = _NEVER, self._ends
        for subject in (account, key):
            for limit in subject.limits.values() if subject is not None else ():
                window = limit.window
                end = ends.get(window, -_NEVER)
                if end <= at:
                    ends_at = window.ends_at(window.bucket(_instant(at)))
                    end = ends[window] = (
                        _NEVER if ends_at is None else microseconds(ends_at) - _SINCE
                    )
                until = min(until, end)
        return until

    def _settle(self, gathered: _Gathered) -> None:
        """Fold what was gathered of an account, each run where its last request stands."""
        if not gathered.runs:
            return
        account = gathered.account
        self._counted.add(account.account_id.bytes)
        for about, run in sorted(gathered.runs.items(), key=lambda item: item[1].last):
            _, _, _, model, category, asset, lots = about
            try:
                spent = change_by_sums(
                    account,
                    run.key,
                    category=category,
                    model=model,
                    asset=asset,
                    lots=lots,
                    requests=run.requests,
                    pico=run.pico,
                    tokens=tokens(Usage(**run.usage)),
                    at=_instant(run.last),
                )
            except (LookupError, AssertionError, TypeError, ValueError) as error:
                self._cannot_be(run.seq, error)
            if run.key is not None:
                self._used.add(about[0])
            if self._sums is not None:
                _note_spent(gathered, about, run, spent)
        gathered.runs = {}
        gathered.makes = False

    def _sum(self, gathered: _Gathered, sums: dict[spend.SpendGroup, spend.Sums]) -> None:
        """Sum what was noted as spent. When the chunk ends: many runs make one line."""
        account_id = gathered.account.account_id
        for (key_id, day, integration, model, _, asset, _), noted in gathered.lines.items():
            key, date = self._id(key_id), _date(day)
            line = spend.SpendGroup(account_id, key, date, integration, model, asset)
            spend.add_together(sums, line, noted.requests, noted.usage, noted.spent)
        gathered.lines = {}

    def _cannot_be(self, seq: int, error: Exception) -> NoReturn:
        self._stop(seq, f"cannot follow those before it: {error!r}", error)

    def _stop(self, seq: int, why: str, cause: Exception | None = None) -> NoReturn:
        message = f"Event {seq} of lane {self.lane} {why}."
        raise LedgerCorrupt(message, lane=self.lane, seq=seq) from cause

    def _id(self, raw: bytes) -> UUID:
        found = self._ids.get(raw)
        if found is None:
            found = self._ids[raw] = UUID(bytes=raw)
        return found

    def _remember(self, changes: BatchChanges) -> None:
        """Keep of a chunk what the state's projections are told at the next save.

        Of alike events about one account and key the newest is enough, and none of requests: so
        memory grows with accounts and keys, not with events.
        """
        kept = self._changes
        kept.accounts |= changes.accounts
        kept.keys |= changes.keys
        kept.opened = (kept.opened | changes.opened) - changes.closed
        kept.closed |= changes.closed & self._written
        for kind, events in changes.kinds.items():
            if kind not in _REQUESTS:
                for event in events:
                    place = event.envelope
                    key = (place.key_id or store.NO_KEY).bytes
                    self._kept[kind, place.account_id.bytes, key] = event

    def save(self) -> list[Statement]:
        """Return what writes the state down as it is now, and what was summed."""
        told = BatchChanges()
        for event in self._kept.values():
            told.note(event)
        told.accounts = self._changes.accounts | set(map(self._id, self._counted))
        told.keys = self._changes.keys | set(map(self._id, self._used))
        told.opened, told.closed = self._changes.opened, self._changes.closed
        made = [
            statement
            for each in self._of_state
            for statement in each.save(self.lane, self.state, told)
        ]
        for account_id in told.accounts:
            account = self.state.accounts[account_id]
            account.touched.clear()
            account.drained.clear()
        self._written = set(self.state.reservations)
        self._counted, self._used = set(), set()
        self._changes = BatchChanges()
        self._kept = {}
        return made + self._write_sums()

    def _write_sums(self) -> list[Statement]:
        sums, self._sums = self._sums, None if self._sums is None else {}
        return spend.written(self.lane, sums) if sums else []


def _makes(account: Account, key: Key | None, about: _AlikeKey) -> bool:
    """Return whether requests may make a counter of their model."""
    _, _, _, model, category, _, _ = about
    for subject in (account, key):
        if subject is None:
            continue
        for limit in subject.limits.values():
            if (
                limit.each_model
                and limit.covers(category, model)
                and limit.counter_id(model) not in subject.counters
            ):
                return True
    return False


def _note_spent(gathered: _Gathered, about: _AlikeKey, run: _Run, spent: dict[str, int]) -> None:
    noted = gathered.lines.get(about)
    if noted is None:
        noted = gathered.lines[about] = _Noted()
    noted.requests += run.requests
    _add(noted.usage, run.usage)
    _add(noted.spent, spent)


def _add(sums: dict[str, int], more: dict[str, int]) -> None:
    for name, quantity in more.items():
        sums[name] = sums.get(name, 0) + quantity


def _instant(at: int) -> Instant:
    return _EPOCH + timedelta(0, 0, at)


def _date(day: int) -> date:
    return _EPOCH.date() + timedelta(day)
