"""What people may ask: reads of projections, each with the lane position it reflects."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from psycopg_pool import AsyncConnectionPool

from api.beside import login_rows
from api.http.failure import Failure, Kind
from api.native import views
from api.queries.resolve import Resolver
from ledger import secrets
from ledger.clock import DatabaseClock, Instant
from ledger.codec import Recorded
from ledger.errors import (
    AccountIsClosed,
    AccountIsSuspended,
    InvalidField,
    KeyIsExpired,
    KeyIsRevoked,
    KeyIsSuspended,
    ModelIsDenied,
    NoSuchAccount,
    NoSuchKey,
    NoSuchRateCard,
    Refused,
    ScopeIsDenied,
    SecretIsRetired,
)
from ledger.events import Utc
from ledger.ids import (
    OPERATOR_ACCOUNT,
    AccountId,
    KeyId,
    Position,
    format_id,
    lane_of_account,
    lane_of_key,
    request_hash,
)
from ledger.keys import require_allowed
from ledger.limits import matches_kinds
from ledger.pricing import RateCard
from ledger.ratecards import Proposal, RateCards
from ledger.record import card_rows, profiles, store, texts
from ledger.record.batch import Inline
from ledger.state import Account, Key
from projections import checkpoints, engine
from projections.base import CatchingUp
from projections.behind import account_marks, refusals
from projections.behind.refusals import Refusal
from projections.inline import credits as credit
from projections.inline import keys, spend
from projections.inline.spend import SpendLine, UsageLine
from projections.snapshot import Snapshot, snapshot

__all__ = [
    "Analytics",
    "Found",
    "KeyUsage",
    "Queries",
    "Refusal",
    "SpendLine",
    "SpendTerms",
    "UsageLine",
    "UsageTerms",
]

PAGE_MAX = 1_000
SPEND_MAX = 10_000
LATELY = timedelta(days=30)
"""What was used since is thought to be used again."""
MODELS_USED_MAX = 10_000
HELD_BACK = timedelta(seconds=1, milliseconds=300)
"""After so long no refusal of the same kind is held back any more."""
BREACHES_WAIT = timedelta(seconds=3)
CATCH_UP_PAUSE_SECONDS = 0.05
MARKS_BEHIND_MAX = 2_000
"""So many events more are read along the chain before marks are waited for."""


class Found(NamedTuple):
    """A view, and the position it reflects."""

    view: Any
    position: Position


class SpendTerms(NamedTuple):
    """What to sum, and by what."""

    day: bool
    integration: bool
    model: bool
    key: bool
    start: date | None
    end: date | None


class Beside(NamedTuple):
    """What is kept beside a request's events."""

    metadata: dict[str, str] | None
    end_user: str | None
    report: views.ReportView | None


class UsageTerms(NamedTuple):
    """Of which keys to show the usage, and how much of it. Numbers are of rows at most."""

    dialect: str
    key_id: KeyId | None
    """None: all of the dialect."""
    days: int
    months: int
    first_day: date | None = None
    """None: however long ago."""
    first_month: date | None = None
    """First day of the month."""


class KeyUsage(NamedTuple):
    """What keys used, the newest rows first."""

    days: Sequence[UsageLine]
    months: Sequence[UsageLine]
    recorded_at: Instant
    """Of the account's newest event: nothing recorded until then is missing, nor is there more."""


class Chapter(NamedTuple):
    """A part of an account's history."""

    events: Sequence[Recorded]
    assets: Mapping[int, str]
    """Lot → what it is of."""


class AnalyticsTerms(NamedTuple):
    """Over which days of UTC to sum, and what."""

    start: date
    end: date
    """Exclusive."""
    assets: Sequence[str]
    top: int
    """How many models and keys are shown by day."""


class Analytics(NamedTuple):
    """Sums of spend in pico. A name's lines are one for each asset."""

    days: Sequence[tuple[date, str, int]]
    models: Sequence[tuple[str, str, int, int]]
    """Model, asset, amount, tokens."""
    keys: Sequence[tuple[UUID, str, int, int, str]]
    """Key, asset, amount, tokens, integration."""
    top_models: Sequence[str]
    """Those that cost most, the dearest first."""
    top_keys: Sequence[UUID]
    models_by_day: Sequence[tuple[date, str, int]]
    keys_by_day: Sequence[tuple[date, UUID, int]]
    known: Mapping[UUID, Key]
    """The keys as they are now."""


GROUPS = ("integration", "model", "day", "key")


class Queries:
    """All reads of the native API."""

    def __init__(  # noqa: PLR0917
        self,
        pool: AsyncConnectionPool,
        inline: Sequence[Inline],
        lanes: int,
        resolver: Resolver,
        peppers: secrets.Peppers,
        cards: RateCards,
        clock: DatabaseClock,
    ) -> None:
        """Take where to read, and what tells the time."""
        self._clock = clock
        self.pool = pool
        self.lanes = lanes
        self._inline = inline
        self._resolver = resolver
        self._peppers = peppers
        self._cards = cards

    def _lane(self, account_id: AccountId) -> int:
        return lane_of_account(account_id, self.lanes)

    def at(self, lane: int) -> Any:  # noqa: ANN401 - an async context manager of Snapshot
        """Open a snapshot of a lane."""
        return snapshot(self.pool, lane, self._inline, self._clock)

    async def account_of(self, key_id: KeyId) -> AccountId:
        """Find the account of a key.

        Raises:
            NoSuchKey: It was never issued.
        """
        return await self._resolver.account_of(key_id)

    async def name_of(self, account_id: AccountId) -> str:
        """Give an account's name; empty where there is no such account."""
        async with self.pool.connection() as connection:
            rows = await connection.execute(profiles.FIND, {"account_ids": [account_id]})
            row = await rows.fetchone()
        return "" if row is None else row[1]

    async def account(self, account_id: AccountId) -> Found:
        """Show an account.

        Raises:
            NoSuchAccount: There is none.
        """
        async with self.at(self._lane(account_id)) as lane:
            account = await _account(lane, account_id)
            names = dict(await lane.rows(profiles.FIND, {"account_ids": [account_id]}))
            position = Position(lane.lane, lane.seq)
        name, priced = names.get(account_id, ""), await self._priced()
        view = views.account_view(account, name, position.lane, self._clock.now(), priced)
        return Found(view, position)

    async def accounts(self, *, after: UUID | None, most: int) -> tuple[views.Page, list[Position]]:
        """List accounts, each as its lane stood."""
        terms = {"after": after, "most": most + 1, "operator": OPERATOR_ACCOUNT}
        async with self.pool.connection() as connection:
            rows = await (await connection.execute(profiles.PAGE, terms)).fetchall()
        shown = rows[:most]
        priced = await self._priced()
        found: dict[UUID, views.AccountView] = {}
        positions = []
        for lane_number in sorted({row[1] for row in shown}):
            ids = [row[0] for row in shown if row[1] == lane_number]
            async with self.at(lane_number) as lane:
                state = await lane.state(accounts=ids)
                names = dict(await lane.rows(profiles.FIND, {"account_ids": ids}))
                positions.append(Position(lane.lane, lane.seq))
            at = self._clock.now()
            for account_id, account in state.accounts.items():
                name = names.get(account_id, "")
                found[account_id] = views.account_view(account, name, lane_number, at, priced)
        data = [found[row[0]] for row in shown if row[0] in found]
        return _page(data, len(rows) > most, lambda view: view.account_id), positions

    async def members(self, account_id: AccountId) -> Found:
        """List who is in an account.

        Raises:
            NoSuchAccount: There is none.
        """
        async with self.at(self._lane(account_id)) as lane:
            account = await _account(lane, account_id)
            people = {
                format_id("mbr", row[0]): row[1:]
                for row in await lane.rows(login_rows.FIND_PEOPLE, {"account_id": account_id})
            }
            position = Position(lane.lane, lane.seq)
        data = [
            views.MemberView(
                member_id=member_id,
                role=role,
                email=people.get(member_id, (None, None))[0],
                name=people.get(member_id, (None, None))[1],
            )
            for member_id, role in sorted(account.members.items())
        ]
        return Found(views.Page(data=data, has_more=False, next=None), position)

    async def person_of(self, account_id: AccountId, *, member_id: str = "") -> views.MemberView:
        """Show a member, or where that is none an owner; an account may have nobody.

        Raises:
            NoSuchAccount: There is none.
        """
        people = (await self.members(account_id)).view.data
        for person in people:
            if person.member_id == member_id:
                return person  # type: ignore[no-any-return]
        for person in people:
            if person.role == "owner":
                return person  # type: ignore[no-any-return]
        name = await self.name_of(account_id)
        return views.MemberView(member_id="", role="", email=None, name=name)

    async def key(self, key_id: KeyId, *, only_of: str = "") -> Found:
        """Show a key with its limits and what counts against them.

        Raises:
            NoSuchKey: There is none, or it is another member's.
        """
        async with self.at(await self._lane_of_key(key_id)) as lane:
            state = await lane.state(keys=[key_id])
            position = Position(lane.lane, lane.seq)
        key = state.keys.get(key_id)
        if key is None or (only_of and key.settings.get("member") != only_of):
            raise NoSuchKey
        return Found(views.key_view(key, self._clock.now()), position)

    async def key_state(self, key_id: KeyId) -> tuple[Key, Position]:
        """Give a key as decisions see it, for dialects that show it in their own words.

        Raises:
            NoSuchKey: There is none.
        """
        async with self.at(await self._lane_of_key(key_id)) as lane:
            state = await lane.state(keys=[key_id])
            position = Position(lane.lane, lane.seq)
        if key_id not in state.keys:
            raise NoSuchKey
        return state.keys[key_id], position

    async def account_state(self, account_id: AccountId) -> tuple[Account, Position]:
        """Give an account as decisions see it, for dialects that show it in their own words.

        Raises:
            NoSuchAccount: There is none.
        """
        async with self.at(self._lane(account_id)) as lane:
            return await _account(lane, account_id), Position(lane.lane, lane.seq)

    async def _lane_of_key(self, key_id: KeyId) -> int:
        lane = lane_of_key(key_id)
        if lane >= self.lanes:
            raise NoSuchKey
        return lane

    async def keys(
        self, account_id: AccountId, *, after: UUID | None, most: int, only_of: str = ""
    ) -> Found:
        """List an account's keys, newest first."""
        found, has_more, position = await self.key_states(
            account_id, after=after, most=most, only_of=only_of
        )
        at = self._clock.now()
        data = [views.key_view(key, at) for key in found]
        return Found(_page(data, has_more, lambda view: view.key_id), position)

    async def key_states(
        self, account_id: AccountId, *, after: UUID | None, most: int, only_of: str = ""
    ) -> tuple[list[Key], bool, Position]:
        """Give an account's keys as decisions see them, newest first.

        Raises:
            NoSuchAccount: There is no such account.
        """
        async with self.at(self._lane(account_id)) as lane:
            await _require_account(lane, account_id)
            terms = {
                "lane": lane.lane,
                "account": account_id,
                "after": after,
                "most": most + 1,
                "member": only_of or None,
            }
            ids = [row[0] for row in await lane.rows(keys.PAGE, terms)]
            state = await lane.state(keys=ids[:most])
            position = Position(lane.lane, lane.seq)
        return [state.keys[found] for found in ids[:most]], len(ids) > most, position

    async def balances(self, account_id: AccountId) -> Found:
        """Show what an account has of each asset.

        Raises:
            NoSuchAccount: There is none.
        """
        account, position = await self.account_state(account_id)
        return Found(
            {"balances": views.balance_views(account, self._clock.now(), await self._priced())},
            position,
        )

    async def grants(self, account_id: AccountId, *, before: int, most: int) -> Found:
        """List an account's grants, newest first.

        Raises:
            NoSuchAccount: There is none.
        """
        async with self.at(self._lane(account_id)) as lane:
            await _require_account(lane, account_id)
            terms = {"lane": lane.lane, "account": account_id, "before": before, "most": most + 1}
            rows = await lane.rows(credit.PAGE, terms)
            position = Position(lane.lane, lane.seq)
        data = [views.grant_of_row(row) for row in rows[:most]]
        return Found(_page(data, len(rows) > most, lambda view: str(view.lot)), position)

    async def spend(self, account_id: AccountId, terms: SpendTerms) -> Found:
        """Sum what an account spent, in days of UTC.

        Raises:
            NoSuchAccount: There is none.
            InvalidField: There would be more than 10,000 lines.
        """
        lines, position = await self.spend_lines(account_id, terms)
        data = [views.spend_view(line) for line in lines]
        return Found({"data": [view for view in data if view.requests or _moved(view)]}, position)

    async def spend_lines(
        self, account_id: AccountId, terms: SpendTerms
    ) -> tuple[list[SpendLine], Position]:
        """Give the sums themselves, for dialects that show them in their own words.

        Raises:
            NoSuchAccount: There is none.
            InvalidField: There would be more than 10,000 lines.
        """
        async with self.at(self._lane(account_id)) as lane:
            await _require_account(lane, account_id)
            parameters = {
                "lane": lane.lane,
                "account": account_id,
                "day": terms.day,
                "integration": terms.integration,
                "model": terms.model,
                "key": terms.key,
                "from": terms.start,
                "to": terms.end,
                "most": SPEND_MAX + 1,
            }
            rows = await lane.rows(spend.SUMS, parameters)
            position = Position(lane.lane, lane.seq)
        if len(rows) > SPEND_MAX:
            raise InvalidField("group_by", f"makes more than {SPEND_MAX} lines; ask for less")
        return [spend.spend_line(row) for row in rows], position

    async def key_usage(self, account_id: AccountId, asked: UsageTerms) -> KeyUsage:
        """Sum what an account's keys used by day and by month of UTC.

        Raises:
            NoSuchAccount: There is none.
        """
        async with self.at(self._lane(account_id)) as lane:
            terms = {
                "lane": lane.lane,
                "account": account_id,
                "dialect": asked.dialect,
                "key": asked.key_id,
            }
            days = {**terms, "from": asked.first_day, "most": asked.days}
            months = {**terms, "from": asked.first_month, "most": asked.months}
            by_day = await lane.rows(spend.USAGE_BY_DAY, days)
            by_month = await lane.rows(spend.USAGE_BY_MONTH, months)
            newest = await lane.rows(store.LAST_RECORDED_AT, (lane.lane, account_id))
        if not newest:
            raise NoSuchAccount
        return KeyUsage(
            [UsageLine(*row) for row in by_day],
            [UsageLine(*row) for row in by_month],
            newest[0][0],
        )

    async def events(self, account_id: AccountId, *, before: int | None, most: int) -> Found:
        """List an account's events, newest first, along its own chain.

        Raises:
            NoSuchAccount: There is none.
            InvalidField: ``before`` is no position of an event of this account.
        """
        async with self.at(self._lane(account_id)) as lane:
            heads = await lane.rows(store.ACCOUNT_HEAD, (lane.lane, account_id))
            if not heads:
                raise NoSuchAccount
            start = heads[0][0] if before is None else before
            terms = {"lane": lane.lane, "start": start, "most": most + 1}
            rows = await lane.rows(store.ACCOUNT_EVENTS, terms)
            position = Position(lane.lane, lane.seq)
        found = [store.stored(row) for row in rows]
        if not found or found[0].recorded.envelope.account_id != account_id:
            raise InvalidField("after", "is no cursor of this list")
        data = [views.event_view(event) for event in found[:most]]
        has_more = len(found) > most
        cursor = str(found[most].recorded.envelope.lane_seq) if has_more else None
        return Found(views.Page(data=data, has_more=has_more, next=cursor), position)

    async def lane_events(self, lane_number: int, *, after: int, most: int) -> Found:
        """List a lane's events in their order: a feed."""
        async with self.at(self._require_lane(lane_number)) as lane:
            rows = await lane.rows(store.FEED, (lane_number, after, after + most))
            position = Position(lane.lane, lane.seq)
        found = [views.event_view(store.stored(row)) for row in rows]
        last = found[-1].position.seq if found else after
        has_more = last < position.seq
        return Found(views.Page(data=found, has_more=has_more, next=str(last)), position)

    async def event(self, lane_number: int, seq: int) -> Found:
        """Show one event.

        Raises:
            Failure: There is none at this position.
        """
        async with self.at(self._require_lane(lane_number)) as lane:
            found = await store.find_event(lane.connection, lane_number, seq)
            position = Position(lane.lane, lane.seq)
        if found is None:
            raise Failure(Kind.NOT_FOUND, "No event at this position.", code="no_such_event")
        return Found(views.event_view(found), position)

    def _require_lane(self, lane: int) -> int:
        if not 0 <= lane < self.lanes:
            raise Failure(Kind.NOT_FOUND, "No such lane.", code="no_such_lane")
        return lane

    async def beside_request(self, account_id: AccountId, request_id: str) -> Beside:
        """Return what is kept beside a request's events."""
        lane = self._lane(account_id)
        terms = {"lane": lane, "hash": request_hash(account_id, request_id)}
        async with self.pool.connection() as connection:
            notes = await (await connection.execute(texts.FIND_NOTES, terms)).fetchone()
            told = await (await connection.execute(texts.FIND_REPORT, terms)).fetchone()
        metadata, end_user = notes or ("", "")
        return Beside(
            msgspec.json.decode(metadata, type=dict[str, str]) if metadata else None,
            end_user or None,
            None if told is None else views.ReportView(provider_request_id=told[0], report=told[1]),
        )

    async def refusals(self, account_id: AccountId, *, before: int, most: int) -> Found:
        """List refusals that were written down, newest first. The position is the projection's.

        Raises:
            NoSuchAccount: There is none.
        """
        async with self.at(self._lane(account_id)) as lane:
            await _require_account(lane, account_id)
            terms = {"lane": lane.lane, "account": account_id, "before": before, "most": most + 1}
            rows = await lane.rows(refusals.LATEST, terms)
            log = {"lane": lane.lane, "projection": refusals.PROJECTION.name}
            reached = await lane.rows(checkpoints.NEWEST, log)
            position = Position(lane.lane, reached[0][0] if reached else 0)
        data = [views.refusal_view(position.lane, row) for row in rows[:most]]
        return Found(_page(data, len(rows) > most, lambda view: str(view.position.seq)), position)

    async def rate_breaches(self, account_id: AccountId, most: int) -> list[Refusal]:
        """Give an account's newest breaches of limits on requests, tokens and failures.

        What was just answered is among them: refusals that a second holds back are waited for,
        and the breach log is brought up to now.
        """
        lane = self._lane(account_id)
        kinds = matches_kinds("requests", "tokens", "failures")
        terms = {"lane": lane, "account": account_id, "kinds": kinds, "most": most}
        deadline = self._clock.now() + BREACHES_WAIT
        while True:
            await self._catch_up(refusals.PROJECTION, lane, deadline)
            async with self.pool.connection() as connection:
                found = await (await connection.execute(refusals.RATE_BREACHES, terms)).fetchall()
            breaches = [Refusal(*row) for row in found]
            at = self._clock.now()
            settled_at = breaches[0].recorded_at + HELD_BACK if breaches else at
            if at >= min(settled_at, deadline):
                return breaches
            await asyncio.sleep((settled_at - at).total_seconds())

    async def _catch_up(self, projection: CatchingUp, lane: int, deadline: Instant) -> None:
        """Bring a projection of a lane up to now, or wait for whoever is at it."""
        while True:
            async with self.pool.connection() as connection:
                progress = await engine.catch_up_fully(connection, projection, lane)
            if not progress.taken or self._clock.now() >= deadline:
                return
            await asyncio.sleep(CATCH_UP_PAUSE_SECONDS)

    async def events_after(self, account_id: AccountId, version: int, most: int) -> Chapter:
        """Give an account's next events in their order, and which asset their lots are of.

        Events are counted by their version; there are fewer than ``most`` only at the end.
        """
        lane = self._lane(account_id)
        found = await self._chapter(account_id, version, most, reach=most + MARKS_BEHIND_MAX)
        if found is None:
            await self._catch_up(account_marks.PROJECTION, lane, self._clock.now() + BREACHES_WAIT)
            found = await self._chapter(account_id, version, most, reach=None)
        assert found is not None
        return found

    async def _chapter(
        self, account_id: AccountId, version: int, most: int, *, reach: int | None
    ) -> Chapter | None:
        """Read along the chain from a mark or the end; None: there is no mark within reach."""
        async with self.at(self._lane(account_id)) as lane:
            heads = await lane.rows(store.ACCOUNT_HEAD, (lane.lane, account_id))
            if not heads or heads[0][1] <= version:
                return Chapter([], {})
            terms: Any = {"lane": lane.lane, "account": account_id, "version": version + most}
            start, last = (await lane.rows(account_marks.FIRST_FROM, terms) or heads)[0]
            if reach is not None and last - version > reach:
                return None
            terms = {"lane": lane.lane, "start": start, "most": last - version}
            rows = await lane.rows(store.ACCOUNT_EVENTS, terms)
            events = [store.stored(row).recorded for row in reversed(rows)][:most]
            lots = sorted({lot for event in events for lot in getattr(event.body, "lots", ())})
            terms = {"lane": lane.lane, "account": account_id, "lots": lots}
            assets = await lane.rows(credit.ASSETS, terms)
        return Chapter(events, dict(assets))

    async def version_before(self, account_id: AccountId, at: Instant) -> int:
        """Give a version of an account, not far below the first event at or after an instant."""
        async with self.at(self._lane(account_id)) as lane:
            terms = {"lane": lane.lane, "account": account_id, "before": at}
            rows = await lane.rows(account_marks.LAST_BEFORE, terms)
        return rows[0][0] if rows else 0

    async def analytics(self, account_id: AccountId, asked: AnalyticsTerms) -> "Analytics":
        """Sum what an account spent over some days, by day, model and key."""
        terms: dict[str, Any] = {
            "account": account_id,
            "from": asked.start,
            "to": asked.end,
            "assets": list(asked.assets),
        }
        async with self.at(self._lane(account_id)) as lane:
            terms["lane"] = lane.lane
            days = await lane.rows(spend.BY_DAY, terms)
            models = await lane.rows(spend.BY_MODEL, terms)
            keys = await lane.rows(spend.BY_KEY, terms)
            top_models = _top(models, asked.top)
            top_keys = _top(keys, asked.top)
            chosen = {**terms, "chosen": top_models}
            models_by_day = await lane.rows(spend.MODELS_BY_DAY, chosen)
            chosen = {**terms, "chosen": top_keys}
            keys_by_day = await lane.rows(spend.KEYS_BY_DAY, chosen)
            state = await lane.state(keys=sorted({row[0] for row in keys}))
        return Analytics(
            days, models, keys, top_models, top_keys, models_by_day, keys_by_day, state.keys
        )

    async def lane_heads(self) -> list[views.LaneView]:
        """Show where each lane stands."""
        async with self.pool.connection() as connection:
            rows = await (await connection.execute(store.LANES)).fetchall()
        return [
            views.LaneView(
                lane=row[0],
                seq=row[1],
                last_recorded_at=views.instant(row[2]),
                chain=bytes(row[3]).hex(),
            )
            for row in rows
        ]

    async def verify(self, secret: str, *, scope: str = "", model: str = "") -> Found:
        """Tell whether a secret opens a key now; one statement, nothing cached."""
        unknown = views.VerifyView(valid=False, code="NOT_FOUND", reason="no_such_key")
        if len(secret) > secrets.SECRET_MAX or secrets.recognise(secret) is None:
            return Found(unknown, Position(0, 0))
        async with self.pool.connection() as connection:
            hashes = self._peppers.candidates(secret)
            rows = await connection.execute(keys.VERIFY, {"hashes": hashes}, binary=True)
            row = await rows.fetchone()
        if row is None:
            return Found(unknown, Position(0, 0))
        return Found(_verified(row, self._clock.now(), scope, model), Position(row[3], row[4]))

    # Rate cards are all in memory.

    async def refreshed_cards(self) -> RateCards:
        """Give the rate cards, the newest included whoever published it."""
        async with self.pool.connection() as connection:
            count = await (await connection.execute(card_rows.COUNT)).fetchone()
            if count is not None and count[0] != self._cards.count:
                await card_rows.load(connection, self._cards)
        return self._cards

    async def _priced(self) -> set[str]:
        """Give what prices are in."""
        return (await self.refreshed_cards()).assets()

    async def card(self, name: str, version: int) -> RateCard:
        """Find a version of a rate card, withdrawn or not.

        Raises:
            NoSuchRateCard: There is none.
        """
        versions = (await self.refreshed_cards()).versions(name)
        if not 1 <= version <= len(versions):
            raise NoSuchRateCard
        return versions[version - 1]

    async def card_at(self, name: str, at: Instant, known_at: Instant | None) -> RateCard:
        """Find the version in force at an instant, as known at another; None: now.

        Raises:
            NoSuchRateCard: There is none.
        """
        found = (await self.refreshed_cards()).current(name, at, known_at)
        if found is None:
            raise NoSuchRateCard
        return found.card

    async def accounts_losing(self, proposal: Proposal, at: Instant) -> int:
        """Count the accounts that used a model lately which would lose a price."""
        if proposal.base is None:
            return 0
        since = at.date() - LATELY
        async with self.pool.connection() as connection:
            terms: dict[str, Any] = {"since": since, "card": proposal.card.name}
            used = await connection.execute(spend.MODELS_USED, terms | {"most": MODELS_USED_MAX})
            losing = proposal.losing(name for (name,) in await used.fetchall())
            if not losing:
                return 0
            counted = await connection.execute(spend.ACCOUNTS_THAT_USED, terms | {"models": losing})
            row = await counted.fetchone()
        assert row is not None
        return int(row[0])


def _top(rows: Sequence[Sequence[Any]], most: int) -> list[Any]:
    """Give the names of the lines that cost most, all assets taken together."""
    sums: dict[Any, int] = defaultdict(int)
    for name, _, amount, *_ in rows:
        sums[name] += amount
    return sorted(sums, key=lambda name: (-sums[name], str(name)))[:most]


def _page(data: list[Any], has_more: bool, cursor: Callable[[Any], str]) -> views.Page:  # noqa: FBT001
    following = cursor(data[-1]) if has_more and data else None
    return views.Page(data=data, has_more=has_more, next=following)


def _moved(view: views.SpendView) -> bool:
    return view.amount not in {None, "0"} or bool(view.unpriced)


async def _account(lane: Snapshot, account_id: AccountId) -> Account:
    state = await lane.state(accounts=[account_id])
    account = state.accounts.get(account_id)
    if account is None:
        raise NoSuchAccount
    return account


async def _require_account(lane: Snapshot, account_id: AccountId) -> None:
    if not await lane.rows(store.ACCOUNT_HEAD, (lane.lane, account_id)):
        raise NoSuchAccount


_ends = msgspec.json.Decoder(dict[int, Utc | None])
_CODES: Mapping[type[Refused], str] = {
    NoSuchKey: "NOT_FOUND",
    KeyIsRevoked: "DISABLED",
    KeyIsSuspended: "DISABLED",
    KeyIsExpired: "EXPIRED",
    SecretIsRetired: "EXPIRED",
    AccountIsSuspended: "DISABLED",
    AccountIsClosed: "DISABLED",
    ScopeIsDenied: "INSUFFICIENT_PERMISSIONS",
    ModelIsDenied: "FORBIDDEN",
}
"""What ``keys/verify`` calls the refusal that a request would get."""


def _verified(row: Sequence[Any], at: Instant, scope: str, model: str) -> views.VerifyView:
    """Say of a row of ``reads.VERIFY`` what the ledger would say of a request."""
    key_id, account_id, number, _, _, name, dialect, status, expires_at, scopes, ends, *rest = row
    account_status, models = rest
    account = Account(account_id=account_id, opened_at=at, status=account_status)
    key = Key(
        key_id=key_id,
        account_id=account_id,
        name=name,
        dialect=dialect,
        created_at=at,
        updated_at=at,
        status=status,
        scopes=tuple(scopes),
        allowed_models=None if models is None else tuple(models),
        expires_at=expires_at,
        secrets=_ends.decode(ends),
    )
    code, reason = "VALID", None
    try:
        require_allowed(key, account, at, secret=number, scope=scope, model=model)
    except Refused as refusal:
        code, reason = _CODES[type(refusal)], refusal.code
    return views.VerifyView(
        valid=code == "VALID",
        code=code,
        reason=reason,
        key_id=format_id("key", key_id),
        account_id=format_id("acct", account_id),
        name=name,
        dialect=dialect,
        scopes=list(scopes),
        expires_at=views.instant(expires_at),
    )
