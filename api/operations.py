"""What people may do: each operation turns what was asked into one command of one lane.

Only here and in ``api.jobs`` do commands come into being. Nothing here knows HTTP, and nothing
decides: decisions are the pure functions of ``ledger``, called inside the lane.
"""

import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from api import views
from api.exchange import Position
from api.opening import KEY_LIMITS
from api.resolve import CACHE_MAX, Lru, Resolver
from ledger import accounts, keys, metering, ratecards, secrets
from ledger import credits as credit
from ledger import events as e
from ledger.batch import Command, Idempotency, Outcome
from ledger.clock import Instant
from ledger.codec import GENESIS, Recorded
from ledger.errors import (
    InvalidField,
    NoSuchKey,
    NoSuchRequest,
    RequestFailed,
    RequestIdIsTaken,
    VersionIsOutdated,
)
from ledger.ids import (
    OPERATOR_ACCOUNT,
    AccountId,
    KeyId,
    format_id,
    new_account_id,
    new_key_id,
    new_member_id,
    parse_id,
    rating_id,
    request_hash,
)
from ledger.lanes import Writer
from ledger.limits import compile_rules
from ledger.metering import Facts, Known, Made
from ledger.money import Amount, InvalidAmount, format_pico
from ledger.pricing import RateCard, canonical
from ledger.ratecards import RateCards
from ledger.state import Account, Key, LaneState, advance, evolve
from ledger.store import Statement
from projections import reads

SETTING_MEMBER = "member"
"""Setting that names the member who issued a key; others of the role ``member`` cannot touch it."""

OWN_WINDOW = "rolling:3600"
"""In which an account may limit its own spending: any hour."""

SETTING_SESSION = "session"
"""Setting of a key that stands for login sessions; it has no secret and is in no dialect's list."""
SESSION_NAME = "Web"

SETTING_TYPE = "apiKeyType"
"""Setting of a venice key: ``INFERENCE`` or ``ADMIN``, which manages the account's keys."""
ADMIN_TYPE = "ADMIN"

FIXED_SETTINGS = frozenset({SETTING_MEMBER, SETTING_SESSION, SETTING_TYPE})
"""Given when a key is issued, and never changed: they say what its holder may do."""

_encode = msgspec.json.Encoder().encode
_canonical = msgspec.json.Encoder(order="deterministic").encode


class Asked(NamedTuple):
    """Who asks, and under which ``Idempotency-Key`` for which request."""

    by: str
    """operator, member:<id>, key:<id> or system."""
    idempotency_key: str = ""
    fingerprint: bytes = b""


class Done(NamedTuple):
    """What an operation answers."""

    body: bytes
    """JSON."""
    position: Position
    replayed: bool = False
    recorded: Sequence[Recorded] = ()


class Issued(NamedTuple):
    """A key with its secret; no secret where the reply was replayed."""

    done: Done
    key: views.KeyView | None
    secret: str | None

    @property
    def state(self) -> Key:
        """Give a key just issued, as its first event made it."""
        return _issued_key(self.done.recorded[0])


def fingerprint(operation: str, *parts: str, body: Any = None) -> bytes:  # noqa: ANN401
    """Give the hash of a request in its canonical form. Passwords are left out."""
    if isinstance(body, msgspec.Struct) and "password" in body.__struct_fields__:
        body = msgspec.structs.replace(body, password="")
    material = "\n".join((operation, *parts)).encode() + b"\n" + _canonical(body)
    return hashlib.sha256(material).digest()


Permits = Callable[[Account, Key, Instant], None]
"""Raises a refusal where a key may not do what is asked; sees the state before it is admitted."""
Sees = Callable[[Account, Key, Instant], None]
"""Is shown the state that a request was admitted into."""

Rule = Callable[[Facts, Instant], list[e.AnyEvent]]
Render = Callable[[Facts, list[Recorded], Instant], Any]


class _Change:
    """A change on its way through the lane: the rule, and the answer as of its own position."""

    def __init__(
        self, rule: Rule, render: Render, rows: Callable[[list[Recorded]], list[Statement]] | None
    ) -> None:
        self._rule = rule
        self._render = render
        self._rows = rows
        self._facts: Facts
        self._at: Instant
        self.view: Any = None

    def decide(self, facts: Facts, at: Instant) -> Made:
        self._facts, self._at = facts, at
        try:
            made = self._rule(facts, at)
        except InvalidAmount as error:
            raise InvalidField("amount", str(error)) from error
        if not made:
            self.view = self._render(facts, [], at)
        return made, None

    def also(self, recorded: list[Recorded]) -> list[Statement]:
        # Here the state has moved over the events and nobody else's came after.
        self.view = self._render(self._facts, recorded, self._at)
        return self._rows(recorded) if self._rows else []

    def stored(self, recorded: list[Recorded]) -> bytes:  # noqa: ARG002 - the batch passes it
        return _encode(self.view)


class _Hold:
    """A reservation on its way through the lane, and what is seen of the state on the way."""

    __slots__ = ("_facts", "_if_priced", "_key_id", "_permits", "_reserve", "_sees")

    def __init__(
        self,
        key_id: KeyId,
        reserve: metering.Reserve,
        permits: Permits | None,
        sees: Sees | None,
        *,
        if_priced: bool,
    ) -> None:
        self._key_id = key_id
        self._reserve = reserve
        self._permits = permits
        self._sees = sees
        self._if_priced = if_priced
        self._facts: Facts

    def decide(self, facts: Facts, at: Instant) -> Made:
        self._facts = facts
        if (self._permits is not None or self._if_priced) and self._is_free(facts, at):
            return [], None
        try:
            return metering.reserve(facts, self._reserve, key_id=self._key_id, at=at)
        except InvalidAmount as error:
            raise InvalidField("usage", "costs more than any amount") from error

    def _is_free(self, facts: Facts, at: Instant) -> bool:
        """Ask what else may refuse, and tell whether the request is admitted without metering."""
        key = keys.require_usable(facts.key, at, secret=self._reserve.secret)
        account = accounts.require_open(facts.account)
        keys.require_scope(key, self._reserve.scope)
        if self._permits is not None:
            self._permits(account, key, at)
        if not self._if_priced or _has_price(facts.cards, account, key, self._reserve, at):
            return False
        if self._sees is not None:
            self._sees(account, key, at)
        return True

    def also(self, recorded: list[Recorded]) -> list[Statement]:
        assert self._sees is not None
        _show(self._facts, self._sees, recorded)
        return []


class _Shown:
    """A decision on its way through the lane; the state that it led to is shown to somebody."""

    __slots__ = ("_decide", "_facts", "_sees")

    def __init__(self, decide: Callable[[Facts, Instant], Made], sees: Sees) -> None:
        self._decide = decide
        self._sees = sees
        self._facts: Facts

    def decide(self, facts: Facts, at: Instant) -> Made:
        self._facts = facts
        return self._decide(facts, at)

    def also(self, recorded: list[Recorded]) -> list[Statement]:
        _show(self._facts, self._sees, recorded)
        return []


def _show(facts: Facts, sees: Sees, recorded: list[Recorded]) -> None:
    """Show the state, which has moved over what was recorded."""
    assert facts.account is not None
    assert facts.key is not None
    sees(facts.account, facts.key, recorded[0].envelope.recorded_at)


class Ledger:
    """All operations, over the writer of this process."""

    def __init__(
        self,
        writer: Writer,
        cards: RateCards,
        resolver: Resolver,
        peppers: secrets.Peppers,
        welcome: Sequence[Amount],
    ) -> None:
        """Take what operations need."""
        self.writer = writer
        self.cards = cards
        self._resolver = resolver
        self._peppers = peppers
        self._welcome = welcome
        self._session_keys: Lru[tuple[AccountId, str], KeyId] = Lru(CACHE_MAX)

    @property
    def lanes(self) -> int:
        """Give the number of lanes."""
        return len(self.writer.lanes)

    def lane_of(self, account_id: AccountId) -> int:
        """Give the lane of an account."""
        return self.writer.lane_of(account_id)

    async def _change(
        self,
        asked: Asked,
        account_id: AccountId,
        rule: Rule,
        render: Render,
        *,
        key_id: KeyId | None = None,
        rows: Callable[[list[Recorded]], list[Statement]] | None = None,
    ) -> tuple[Done, Any]:
        change = _Change(rule, render, rows)
        outcome = await self.writer.submit_one(
            Command(
                account_id,
                change.decide,
                key_id=key_id,
                idempotency=_idempotency(asked, account_id, change.stored),
                also=change.also,
            )
        )
        position = Position(self.lane_of(account_id), outcome.position)
        if outcome.reply is not None:
            return Done(outcome.reply, position, replayed=True), None
        return Done(_encode(change.view), position, recorded=outcome.events), change.view

    # Accounts and their members.

    def account_id_for(self, asked: Asked) -> AccountId:
        """Give the id of an account about to be opened.

        It is the same for the same idempotency key, so that a repeat lands in the same lane.
        """
        if not asked.idempotency_key:
            return new_account_id()
        digest = hashlib.sha256(f"account/{asked.by}/{asked.idempotency_key}".encode()).digest()
        value = int.from_bytes(digest[:16])
        value = value & ~(0xF << 76) | (8 << 76)  # version 8: made by a rule of one's own
        return AccountId(UUID(int=value & ~(3 << 62) | (2 << 62)))

    async def open_account(
        self,
        asked: Asked,
        terms: e.AccountOpened,
        *,
        name: str,
        account_id: AccountId | None = None,
        welcome: bool = True,
        owner: "Person | None" = None,
    ) -> Done:
        """Open an account, with the welcome grant and its first owner in the same command."""
        found = self.account_id_for(asked) if account_id is None else account_id
        lane = self.lane_of(found)
        gifts = self._welcome if welcome else ()

        def rule(facts: Facts, at: Instant) -> list[e.AnyEvent]:  # noqa: ARG001
            made = accounts.open_account(facts.account, terms)
            if owner is not None:
                made.append(e.MemberAdded(by=asked.by, member_id=owner.member_id, role="owner"))
            made.extend(_welcome_event(lot, gift) for lot, gift in enumerate(gifts, 1))
            return made

        def render(facts: Facts, recorded: list[Recorded], at: Instant) -> Any:  # noqa: ANN401, ARG001
            return _opened_view(recorded, name, lane)

        def rows(recorded: list[Recorded]) -> list[Statement]:
            made: list[Statement] = [(reads.SAVE_PROFILE, (found, lane, name))]
            if owner is not None:
                made.append(owner.row(found, recorded[0].envelope.recorded_at))
            return made

        done, _ = await self._change(asked, found, rule, render, rows=rows)
        return done

    async def set_policy(
        self, asked: Asked, account_id: AccountId, patch: "Policy", *, name: str
    ) -> Done:
        """Change the terms under which an account is billed, and its name."""
        unset = msgspec.UNSET
        new_name = name if patch.name is unset else patch.name
        lane = self.lane_of(account_id)

        def rule(facts: Facts, at: Instant) -> list[e.AnyEvent]:  # noqa: ARG001
            account = accounts.require_not_closed(facts.account)
            _require_version(account.version, patch.expected_version)
            terms = e.AccountPolicySet(
                by=asked.by,
                pays_with=account.pays_with if patch.pays_with is unset else patch.pays_with,
                rate_card=account.rate_card if patch.rate_card is unset else patch.rate_card,
                overdraft=account.overdraft if patch.overdraft is unset else patch.overdraft,
                unpriced=account.unpriced if patch.unpriced is unset else patch.unpriced,
            )
            return accounts.set_policy(account, terms)

        def rows(recorded: list[Recorded]) -> list[Statement]:  # noqa: ARG001
            return [(reads.SAVE_PROFILE, (account_id, lane, new_name))]

        render = _account_render(new_name, lane)
        done, _ = await self._change(asked, account_id, rule, render, rows=rows)
        return done

    async def set_account_limits(
        self, asked: Asked, account_id: AccountId, rules: tuple[e.LimitRule, ...], *, name: str
    ) -> Done:
        """Replace an account's limits."""

        def rule(facts: Facts, at: Instant) -> list[e.AnyEvent]:  # noqa: ARG001
            return accounts.set_limits(facts.account, rules, by=asked.by)

        return await self._account_change(asked, account_id, rule, name)

    async def limit_own_spending(
        self, asked: Asked, account_id: AccountId, ceiling: str | None, *, asset: str
    ) -> Done:
        """Set what an account lets itself spend in any hour; None lifts it."""

        def rule(facts: Facts, at: Instant) -> list[e.AnyEvent]:  # noqa: ARG001
            return accounts.limit_own_spending(
                facts.account, ceiling, asset=asset, window=OWN_WINDOW, by=asked.by
            )

        return await self._account_change(asked, account_id, rule, "")

    async def suspend_account(
        self, asked: Asked, account_id: AccountId, *, name: str, reason: str = ""
    ) -> Done:
        """Stop every key of an account."""
        _check_reason(reason)
        return await self._account_change(
            asked,
            account_id,
            lambda facts, _at: accounts.suspend(facts.account, by=asked.by, reason=reason),
            name,
        )

    async def resume_account(self, asked: Asked, account_id: AccountId, *, name: str) -> Done:
        """Let a suspended account work again."""
        return await self._account_change(
            asked,
            account_id,
            lambda facts, _at: accounts.resume(facts.account, by=asked.by),
            name,
        )

    async def close_account(
        self, asked: Asked, account_id: AccountId, *, name: str, reason: str = ""
    ) -> Done:
        """Close an account for good."""
        _check_reason(reason)
        if account_id == OPERATOR_ACCOUNT:
            raise InvalidField("account_id", "the operator's own account stays open")
        return await self._account_change(
            asked,
            account_id,
            lambda facts, _at: accounts.close(facts.account, by=asked.by, reason=reason),
            name,
        )

    async def _account_change(
        self, asked: Asked, account_id: AccountId, rule: Rule, name: str
    ) -> Done:
        render = _account_render(name, self.lane_of(account_id))
        done, _ = await self._change(asked, account_id, rule, render)
        return done

    async def add_member(
        self, asked: Asked, account_id: AccountId, person: "Person", role: str
    ) -> Done:
        """Let a person join an account and log in."""

        def rule(facts: Facts, at: Instant) -> list[e.AnyEvent]:  # noqa: ARG001
            return accounts.add_member(facts.account, person.member_id, role, by=asked.by)

        def render(facts: Facts, recorded: list[Recorded], at: Instant) -> Any:  # noqa: ANN401, ARG001
            return views.MemberView(
                member_id=person.member_id, role=role, email=person.email, name=person.name
            )

        def rows(recorded: list[Recorded]) -> list[Statement]:
            return [person.row(account_id, recorded[0].envelope.recorded_at)]

        done, _ = await self._change(asked, account_id, rule, render, rows=rows)
        return done

    async def change_role(
        self, asked: Asked, account_id: AccountId, member_id: str, role: str
    ) -> Done:
        """Give a member another role."""
        done, _ = await self._change(
            asked,
            account_id,
            lambda facts, _at: accounts.change_role(facts.account, member_id, role, by=asked.by),
            lambda _facts, recorded, _at: views.change_view(recorded),
        )
        return done

    async def remove_member(self, asked: Asked, account_id: AccountId, member_id: str) -> Done:
        """Take a member out of an account, and their login away."""

        def rows(recorded: list[Recorded]) -> list[Statement]:  # noqa: ARG001
            return [(reads.DELETE_LOGIN, (UUID(member_id.removeprefix("mbr_")),))]

        done, _ = await self._change(
            asked,
            account_id,
            lambda facts, _at: accounts.remove_member(facts.account, member_id, by=asked.by),
            lambda _facts, recorded, _at: views.change_view(recorded),
            rows=rows,
        )
        return done

    # Keys.

    async def issue_key(
        self,
        asked: Asked,
        account_id: AccountId,
        terms: e.KeyIssued,
        *,
        admin: bool = False,
    ) -> Issued:
        """Issue a key; its secret is in this answer and nowhere else."""
        if terms.dialect not in keys.DIALECTS:
            raise InvalidField("dialect", "must be one of " + ", ".join(keys.DIALECTS))
        if not terms.limits and terms.dialect in KEY_LIMITS:
            terms = msgspec.structs.replace(terms, limits=KEY_LIMITS[terms.dialect])
        lane = self.lane_of(account_id)
        secret = secrets.generate(secrets.format_of(terms.dialect, admin=admin))
        key_id = new_key_id(lane)
        hinted = msgspec.structs.replace(terms, hint=secrets.hint_of(secret))

        def rule(facts: Facts, at: Instant) -> list[e.AnyEvent]:
            return keys.issue(facts.account, _priced(hinted, facts.cards), at=at)

        def render(facts: Facts, recorded: list[Recorded], at: Instant) -> Any:  # noqa: ANN401, ARG001
            return views.key_view(_issued_key(recorded[0]), at)

        def rows(recorded: list[Recorded]) -> list[Statement]:  # noqa: ARG001
            return [self._secret_row(secret, key_id, account_id, 1)]

        done, view = await self._change(asked, account_id, rule, render, key_id=key_id, rows=rows)
        return self._with_secret(done, view, secret)

    async def session_key(self, account_id: AccountId, dialect: str) -> KeyId:
        """Give the key on which a login session's own calls in a dialect are booked.

        It has no secret, so nobody can show it. It is made at first use, once.
        """
        key_id = self._session_keys.get((account_id, dialect))
        if key_id is not None:
            return key_id
        # No caller can send a line feed in an Idempotency-Key.
        asked = Asked("system", f"\nsession/{dialect}", fingerprint("session_key", dialect))
        terms = e.KeyIssued(
            by="system",
            name=SESSION_NAME,
            dialect=dialect,
            settings={SETTING_SESSION: dialect},
        )
        fresh = new_key_id(self.lane_of(account_id))
        done, _ = await self._change(
            asked,
            account_id,
            lambda facts, at: keys.issue(facts.account, _priced(terms, facts.cards), at=at),
            lambda _facts, recorded, at: views.key_view(_issued_key(recorded[0]), at),
            key_id=fresh,
        )
        made = msgspec.json.decode(done.body, type=views.KeyView)
        key_id = KeyId(parse_id("key", made.key_id))
        self._session_keys.put((account_id, dialect), key_id)
        self._resolver.remember(key_id, account_id)
        return key_id

    async def note_failure(
        self, account_id: AccountId, key_id: KeyId, *, secret: int | None, model: str = ""
    ) -> None:
        """Write down that a request of a key failed outside the ledger; it counts as a failure.

        Quiet where the key may fail as often as it likes.

        Raises:
            Refused: The key may not act; ``LimitIsReached``: too many of its requests have failed.
        """

        def decide(facts: Facts, at: Instant) -> Made:
            key = keys.require_usable(facts.key, at, secret=secret)
            if not any(limit.kind == "failures" for limit in key.limits.values()):
                return [], None
            keys.require_failures_left(key, at)
            raise RequestFailed

        command = Command(account_id, decide, key_id=key_id, metered=True, model=model)
        with contextlib.suppress(RequestFailed):
            await self.writer.submit_one(command)

    async def admit(
        self, account_id: AccountId, key_id: KeyId, *, secret: int | None, scope: str = ""
    ) -> None:
        """Decide in the lane whether a key may act now; a refusal is recorded.

        Raises:
            Refused: It may not.
        """

        def decide(facts: Facts, at: Instant) -> Made:
            key = keys.require_usable(facts.key, at, secret=secret)
            accounts.require_open(facts.account)
            keys.require_scope(key, scope)
            return [], None

        await self.writer.submit_one(Command(account_id, decide, key_id=key_id, metered=True))

    @staticmethod
    def actor_of_key(key_id: KeyId) -> str:
        """Name a key as events name who did something."""
        return f"key:{format_id('key', key_id)}"

    async def change_key(
        self,
        asked: Asked,
        key_id: KeyId,
        changes: keys.Changes | Callable[[Key], keys.Changes],
        *,
        expected_version: int | None = None,
        only_of: str = "",
    ) -> Done:
        """Change a key's terms. ``only_of``: a member who may touch no other's keys.

        Changes that hang on what the key's terms are now are given as a function of it.
        """

        def rule(facts: Facts, at: Instant) -> list[e.AnyEvent]:
            key = _own(facts.key, only_of)
            if key is None:
                raise NoSuchKey
            made = changes if isinstance(changes, keys.Changes) else changes(key)
            return keys.change(
                facts.account,
                key,
                _keeping_fixed(key, made),
                by=asked.by,
                at=at,
                expected_version=expected_version,
            )

        return await self._key_change(asked, key_id, rule)

    async def rotate_key(
        self, asked: Asked, key_id: KeyId, *, grace: timedelta, only_of: str = ""
    ) -> Issued:
        """Give a key another secret; earlier ones work for ``grace`` more."""
        account_id = await self._resolver.account_of(key_id)
        made: dict[str, str] = {}

        def rule(facts: Facts, at: Instant) -> list[e.AnyEvent]:
            key = keys.require_usable(_own(facts.key, only_of), at)
            admin = key.settings.get(SETTING_TYPE) == ADMIN_TYPE
            made["secret"] = secrets.generate(secrets.format_of(key.dialect, admin=admin))
            hint = secrets.hint_of(made["secret"])
            return keys.rotate(facts.account, key, hint=hint, grace=grace, by=asked.by, at=at)

        def rows(recorded: list[Recorded]) -> list[Statement]:
            body = recorded[0].body
            assert isinstance(body, e.KeyRotated)
            return [self._secret_row(made["secret"], key_id, account_id, body.secret)]

        done, view = await self._change(
            asked, account_id, rule, _key_render, key_id=key_id, rows=rows
        )
        return self._with_secret(done, view, made.get("secret", ""))

    async def suspend_key(self, asked: Asked, key_id: KeyId, *, only_of: str = "") -> Done:
        """Stop a key until it resumes."""
        return await self._key_change(
            asked,
            key_id,
            lambda facts, at: keys.suspend(_own(facts.key, only_of), by=asked.by, at=at),
        )

    async def resume_key(self, asked: Asked, key_id: KeyId, *, only_of: str = "") -> Done:
        """Let a suspended key work again."""
        return await self._key_change(
            asked,
            key_id,
            lambda facts, at: keys.resume(_own(facts.key, only_of), by=asked.by, at=at),
        )

    async def revoke_key(self, asked: Asked, key_id: KeyId, *, only_of: str = "") -> Done:
        """Withdraw a key for good."""
        return await self._key_change(
            asked, key_id, lambda facts, _at: keys.revoke(_own(facts.key, only_of), by=asked.by)
        )

    async def _key_change(self, asked: Asked, key_id: KeyId, rule: Rule) -> Done:
        account_id = await self._resolver.account_of(key_id)
        done, _ = await self._change(asked, account_id, rule, _key_render, key_id=key_id)
        return done

    def _secret_row(
        self, secret: str, key_id: KeyId, account_id: AccountId, number: int
    ) -> Statement:
        hashed, pepper = self._peppers.hash(secret), self._peppers.current
        lane = self.lane_of(account_id)
        return reads.secret_row(hashed, key_id, account_id, lane, number, pepper)

    @staticmethod
    def _with_secret(done: Done, view: views.KeyView | None, secret: str) -> Issued:
        if view is None:
            return Issued(done, None, None)
        shown = msgspec.structs.replace(view, secret=secret)
        return Issued(done._replace(body=_encode(shown)), shown, secret)

    # Credit.

    async def grant(self, asked: Asked, account_id: AccountId, terms: e.CreditGranted) -> Done:
        """Add a lot of credit."""
        done, _ = await self._change(
            asked,
            account_id,
            lambda facts, at: credit.grant(facts.account, terms, at=at),
            lambda _facts, recorded, _at: views.grant_of_event(recorded[0]),
        )
        return done

    async def grant_for_day(
        self, account_id: AccountId, asset: str, amount: str, day: date
    ) -> Done:
        """Grant a daily allowance for a day of UTC, once however often it is asked for.

        The lot is there from the day's first instant to its last; it may be granted ahead.
        """
        start = datetime.combine(day, time.min, tzinfo=UTC)
        # No caller can send a line feed in an Idempotency-Key.
        asked = Asked("system", f"\nallowance/{asset}/{day}", fingerprint("allowance", asset))
        terms = e.CreditGranted(
            by="system",
            lot=0,
            asset=asset,
            amount=amount,
            kind="promotional",
            effective_at=start,
            expires_at=start + timedelta(days=1),
            reason=f"Allowance of {day}",
        )
        return await self.grant(asked, account_id, terms)

    async def void_grant(
        self, asked: Asked, account_id: AccountId, lot: int, *, reason: str
    ) -> Done:
        """Withdraw what is left of a grant."""
        return await self._credit_change(
            asked,
            account_id,
            lambda facts, _at: credit.void(facts.account, lot, by=asked.by, reason=reason),
        )

    async def adjust(
        self, asked: Asked, account_id: AccountId, amount: Amount, *, reason: str
    ) -> Done:
        """Add credit as an adjustment, or take it away where the amount is negative."""
        text = format_pico(abs(amount.pico))

        def rule(facts: Facts, at: Instant) -> list[e.AnyEvent]:
            if not reason.strip():
                raise InvalidField("reason", "1 to 500 characters")
            if amount.pico < 0:
                return credit.reduce(
                    facts.account, amount.asset, text, by=asked.by, reason=reason, at=at
                )
            terms = e.CreditGranted(
                by=asked.by,
                lot=0,
                asset=amount.asset,
                amount=text,
                kind="adjustment",
                reason=reason,
            )
            return credit.grant(facts.account, terms, at=at)

        return await self._credit_change(asked, account_id, rule)

    async def _credit_change(self, asked: Asked, account_id: AccountId, rule: Rule) -> Done:
        done, _ = await self._change(asked, account_id, rule, _balances_render)
        return done

    # Rate cards.

    async def publish_rate_card(
        self, asked: Asked, card: RateCard, *, confirm_jumps: bool = False, first: bool = False
    ) -> Done:
        """Publish a version of a rate card. ``first``: quiet where there is one already."""

        def rule(facts: Facts, at: Instant) -> list[e.AnyEvent]:  # noqa: ARG001
            if first and facts.cards.versions(card.name):
                return []
            return ratecards.publish(facts.cards, card, by=asked.by, confirm_jumps=confirm_jumps)

        def render(facts: Facts, recorded: list[Recorded], at: Instant) -> Any:  # noqa: ANN401, ARG001
            if not recorded:
                return rate_card_view(facts.cards.versions(card.name)[-1])
            body = recorded[0].body
            assert isinstance(body, e.RateCardPublished)
            return rate_card_view(body.card)

        done, _ = await self._change(asked, OPERATOR_ACCOUNT, rule, render, rows=_card_rows)
        return done

    # Requests.

    def recording(
        self,
        account_id: AccountId,
        key_id: KeyId,
        record: metering.Record,
        asked: Asked | None = None,
        *,
        sees: Sees | None = None,
    ) -> Command:
        """Make the command that records a request in one step."""

        def decide(facts: Facts, at: Instant) -> Made:
            try:
                return metering.record(facts, record, key_id=key_id, at=at)
            except InvalidAmount as error:
                raise InvalidField("usage", "costs more than any amount") from error

        shown = None if sees is None else _Shown(decide, sees)
        return Command(
            account_id,
            decide if shown is None else shown.decide,
            key_id=key_id,
            request_id=record.request_id,
            metered=True,
            model=record.model,
            category=record.category,
            occurred_at=record.occurred_at,
            record=record,
            idempotency=None if asked is None else _receipts(asked, account_id),
            also=None if shown is None else shown.also,
        )

    async def record(
        self,
        account_id: AccountId,
        key_id: KeyId,
        record: metering.Record,
        asked: Asked | None = None,
        *,
        sees: Sees | None = None,
    ) -> Done:
        """Admit, price and charge a request in one step.

        ``sees`` is shown the state that it was admitted into, if it was not made before.
        """
        command = self.recording(account_id, key_id, record, asked, sees=sees)
        return self._receipt(account_id, await self.writer.submit_one(command))

    def require_room(self, commands: Sequence[Command]) -> None:
        """Make sure that all of these would be accepted now.

        Raises:
            LedgerUnavailable: They would not.
        """
        self.writer.require_room(commands)

    def hand_in(self, commands: Sequence[Command]) -> Awaitable[list[Outcome | Exception]]:
        """Have many decided; each has its own outcome.

        Raises:
            LedgerUnavailable: None of them was accepted.
        """
        return self.writer.hand_in(commands)

    def done(self, command: Command, outcome: Outcome | Exception) -> Done | Exception:
        """Give the receipt of a request that was handed in, or why there is none."""
        if isinstance(outcome, Exception):
            return outcome
        return self._receipt(command.account_id, outcome)

    async def reserve(
        self,
        account_id: AccountId,
        key_id: KeyId,
        reserve: metering.Reserve,
        asked: Asked | None = None,
    ) -> Done:
        """Hold the worst case of a request."""

        def decide(facts: Facts, at: Instant) -> Made:
            try:
                return metering.reserve(facts, reserve, key_id=key_id, at=at)
            except InvalidAmount as error:
                raise InvalidField("usage", "costs more than any amount") from error

        command = Command(
            account_id,
            decide,
            key_id=key_id,
            request_id=reserve.request_id,
            metered=True,
            model=reserve.model,
            category=reserve.category,
            idempotency=None if asked is None else _receipts(asked, account_id),
        )
        return self._receipt(account_id, await self.writer.submit_one(command))

    async def settle(
        self,
        account_id: AccountId,
        key_id: KeyId | None,
        settle: metering.Settle,
        asked: Asked | None = None,
    ) -> Done:
        """Charge a reserved request what it used."""

        def decide(facts: Facts, at: Instant) -> Made:
            _require_same_key(facts, key_id)
            try:
                return metering.settle(facts, settle, at=at)
            except InvalidAmount as error:
                raise InvalidField("usage", "costs more than any amount") from error

        return await self._close(account_id, key_id, settle.request_id, decide, asked)

    async def release(
        self,
        account_id: AccountId,
        key_id: KeyId | None,
        release: metering.Release,
        asked: Asked | None = None,
    ) -> Done:
        """Give a reservation back unused."""
        _check_reason(release.reason)

        def decide(facts: Facts, at: Instant) -> Made:  # noqa: ARG001
            _require_same_key(facts, key_id)
            return metering.release(facts, release)

        return await self._close(account_id, key_id, release.request_id, decide, asked)

    async def _close(
        self,
        account_id: AccountId,
        key_id: KeyId | None,
        request_id: str,
        decide: Callable[[Facts, Instant], Made],
        asked: Asked | None,
    ) -> Done:
        command = Command(
            account_id,
            decide,
            key_id=key_id,
            request_id=request_id,
            closes=True,
            idempotency=None if asked is None else _receipts(asked, account_id),
        )
        return self._receipt(account_id, await self.writer.submit_one(command))

    # The gateway's requests: nobody reads their receipts, so none are written.

    async def hold(
        self,
        account_id: AccountId,
        key_id: KeyId,
        reserve: metering.Reserve,
        *,
        permits: Permits | None = None,
        sees: Sees | None = None,
        if_priced: bool = False,
    ) -> bool:
        """Hold the worst case of a request about to be forwarded; tell whether anything is held.

        ``permits`` is asked in the lane whether this key may do this; ``sees`` is shown the state
        that the request was admitted into. ``if_priced``: what the rate card has no price for is
        admitted and not metered.

        Raises:
            RequestIdIsTaken: A request of this id was admitted before: it is not made again.
            Refused: Key, account, scope, model, price, limit or credit say no.
        """
        held = _Hold(key_id, reserve, permits, sees, if_priced=if_priced)
        command = Command(
            account_id,
            held.decide,
            key_id=key_id,
            request_id=reserve.request_id,
            metered=True,
            model=reserve.model,
            category=reserve.category,
            also=None if sees is None else held.also,
        )
        outcome = await self.writer.submit_one(command)
        if outcome.replay is not None:
            raise RequestIdIsTaken
        return bool(outcome.events)

    async def finish(
        self,
        account_id: AccountId,
        key_id: KeyId,
        ending: metering.Settle | metering.Release,
    ) -> None:
        """End what ``hold`` held: charge what was used, or give it back."""

        def decide(facts: Facts, at: Instant) -> Made:
            if isinstance(ending, metering.Release):
                return metering.release(facts, ending)
            try:
                return metering.settle(facts, ending, at=at)
            except InvalidAmount as error:
                raise InvalidField("usage", "costs more than any amount") from error

        command = Command(
            account_id, decide, key_id=key_id, request_id=ending.request_id, closes=True
        )
        await self.writer.submit_one(command)

    async def find_request(self, account_id: AccountId, request_id: str) -> tuple[Known, Position]:
        """Find what became of a request. It goes through the lane, because only the lane knows.

        Raises:
            NoSuchRequest: There is none of this id.
        """
        found: dict[str, Known] = {}

        def decide(facts: Facts, at: Instant) -> Made:  # noqa: ARG001
            if facts.known is None:
                raise NoSuchRequest
            found["known"] = facts.known
            return [], facts.known.first

        command = Command(account_id, decide, request_id=request_id)
        outcome = await self.writer.submit_one(command)
        return found["known"], Position(self.lane_of(account_id), outcome.position)

    def _receipt(self, account_id: AccountId, outcome: Outcome) -> Done:
        if outcome.events:
            first = outcome.events[0]
            position = Position(first.envelope.lane, outcome.position)
            return Done(views.receipt_bytes(first), position, recorded=outcome.events)
        position = Position(self.lane_of(account_id), outcome.position)
        if outcome.reply is not None:
            return Done(outcome.reply, position, replayed=True)
        assert outcome.replay is not None
        return Done(views.receipt_bytes(outcome.replay), position, replayed=True)

    async def rate_unpriced(
        self,
        account_id: AccountId,
        key_id: KeyId | None,
        unpriced: Recorded,
        *,
        by: str = "system",
    ) -> bool:
        """Price a request that had no price; tell whether it has one now."""
        body = unpriced.body
        assert isinstance(body, e.RequestRecorded | e.RequestSettled)
        marker = rating_id(unpriced.envelope.lane_seq)

        def decide(facts: Facts, at: Instant) -> Made:
            # The marker is a request id that no caller can send: a request is rated once for ever.
            return metering.rate(facts, unpriced, by=by, at=at), None

        command = Command(
            account_id,
            decide,
            key_id=key_id,
            request_id=marker,
            occurred_at=unpriced.envelope.occurred_at,
        )
        outcome = await self.writer.submit_one(command)
        return bool(outcome.events)


class Person(NamedTuple):
    """Someone who may log in. Never in an event."""

    member_id: str
    email: str
    name: str
    password_hash: str

    def row(self, account_id: AccountId, at: Instant) -> Statement:
        """Give the row of their login."""
        return reads.login_row(
            self.email, self.member_id, account_id, self.name, self.password_hash, at
        )


def new_person(email: str, name: str, password_hash: str) -> Person:
    """Make a person with a member id."""
    return Person(format_id("mbr", new_member_id()), email, name, password_hash)


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What to change about an account's terms; what is UNSET stays."""

    name: str | msgspec.UnsetType = msgspec.UNSET
    pays_with: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    rate_card: str | msgspec.UnsetType = msgspec.UNSET
    overdraft: dict[str, str] | msgspec.UnsetType = msgspec.UNSET
    unpriced: str | msgspec.UnsetType = msgspec.UNSET
    expected_version: int | None = None


def _idempotency(
    asked: Asked, account_id: AccountId, reply: Callable[[list[Recorded]], bytes]
) -> Idempotency | None:
    if not asked.idempotency_key:
        return None
    key_hash = request_hash(account_id, "idempotency/" + asked.idempotency_key)
    return Idempotency(key_hash, asked.fingerprint, reply)


def _receipts(asked: Asked, account_id: AccountId) -> Idempotency | None:
    def reply(recorded: list[Recorded]) -> bytes:
        return views.receipt_bytes(recorded[0])

    return _idempotency(asked, account_id, reply)


def _welcome_event(lot: int, gift: Amount) -> e.CreditGranted:
    return e.CreditGranted(
        by="system",
        lot=lot,
        asset=gift.asset,
        amount=format_pico(gift.pico),
        kind="promotional",
        reason="Welcome",
    )


def _opened_view(recorded: list[Recorded], name: str, lane: int) -> Any:  # noqa: ANN401
    """Show an account as its first events made it."""
    if not recorded:
        return None
    first = recorded[0].envelope
    state = LaneState(seq=first.lane_seq - 1, chain=GENESIS)
    for event in recorded:
        evolve(state, event.envelope, event.body)
        advance(state, event)
    at = recorded[-1].envelope.recorded_at
    return views.account_view(state.accounts[first.account_id], name, lane, at)


def _priced(terms: e.KeyIssued, cards: RateCards) -> e.KeyIssued:
    """Price a dialect's keys by the rate card of its name where there is one."""
    if terms.rate_card or not cards.versions(terms.dialect):
        return terms
    return msgspec.structs.replace(terms, rate_card=terms.dialect)


def _issued_key(recorded: Recorded) -> Key:
    """Show a key as its first event made it."""
    envelope, body = recorded.envelope, recorded.body
    assert isinstance(body, e.KeyIssued)
    assert envelope.key_id is not None
    return Key(
        key_id=envelope.key_id,
        account_id=envelope.account_id,
        name=body.name,
        dialect=body.dialect,
        created_at=envelope.recorded_at,
        updated_at=envelope.recorded_at,
        hint=body.hint,
        scopes=body.scopes,
        allowed_models=body.allowed_models,
        default_character=body.default_character,
        expires_at=body.expires_at,
        rate_card=body.rate_card,
        rules=body.limits,
        limits=compile_rules(body.limits),
        settings=dict(body.settings),
        secrets={1: None},
        version=1,
    )


def _key_render(facts: Facts, recorded: list[Recorded], at: Instant) -> Any:  # noqa: ANN401, ARG001
    assert facts.key is not None
    return views.key_view(facts.key, at)


def _balances_render(facts: Facts, recorded: list[Recorded], at: Instant) -> Any:  # noqa: ANN401
    assert facts.account is not None
    return {
        "events": [event.body.type for event in recorded],
        "balances": views.balance_views(facts.account, at),
    }


def _account_render(name: str, lane: int) -> Render:
    def render(facts: Facts, recorded: list[Recorded], at: Instant) -> Any:  # noqa: ANN401, ARG001
        assert facts.account is not None
        return views.account_view(facts.account, name, lane, at)

    return render


def _own(key: Key | None, only_of: str) -> Key | None:
    """Hide a key from a member who did not issue it."""
    if key is not None and only_of and key.settings.get(SETTING_MEMBER) != only_of:
        raise NoSuchKey
    return key


def _keeping_fixed(key: Key, changes: keys.Changes) -> keys.Changes:
    """Keep what no change of settings may touch."""
    if changes.settings is msgspec.UNSET:
        return changes
    settings = {name: v for name, v in changes.settings.items() if name not in FIXED_SETTINGS}
    settings.update((name, v) for name, v in key.settings.items() if name in FIXED_SETTINGS)
    return msgspec.structs.replace(changes, settings=settings)


def _require_version(version: int, expected: int | None) -> None:
    if expected is not None and version != expected:
        raise VersionIsOutdated


def _has_price(
    cards: RateCards, account: Account, key: Key, reserve: metering.Reserve, at: Instant
) -> bool:
    book = cards.current(key.rate_card or account.rate_card, at)
    if book is None:
        return False
    return book.quote(reserve.model, reserve.usage, reserve.condition or None) is not None


def _require_same_key(facts: Facts, key_id: KeyId | None) -> None:
    """Hide a request from a caller who names another key than the one that reserved it."""
    if key_id is None or facts.known is None:
        return
    if facts.known.first.envelope.key_id != key_id:
        raise NoSuchRequest


def _check_reason(reason: str) -> None:
    if len(reason) > accounts.REASON_MAX:
        raise InvalidField("reason", f"at most {accounts.REASON_MAX} characters")


def _card_rows(recorded: list[Recorded]) -> list[Statement]:
    rows: list[Statement] = []
    for event in recorded:
        body = event.body
        assert isinstance(body, e.RateCardPublished)
        card = body.card
        content = msgspec.json.encode(card, order="deterministic").decode()
        parameters = (
            card.name,
            card.version,
            card.asset,
            card.effective_from,
            body.content_hash,
            event.envelope.lane_seq,
            content,
        )
        rows.append((reads.INSERT_RATE_CARD, parameters))
    return rows


def rate_card_view(card: RateCard) -> views.RateCardView:
    """Show a version without its prices."""
    digest = hashlib.sha256(canonical(card)).hexdigest()
    return views.RateCardView(
        name=card.name,
        version=card.version,
        asset=card.asset,
        effective_from=views.instant(card.effective_from) or "",
        content_hash=digest,
        models=len(card.models),
        source=card.source,
    )
