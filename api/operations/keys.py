"""Keys: issue, change, rotate, suspend, resume, revoke; and those that login sessions use."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from datetime import timedelta

import msgspec

from api.operations.asked import Asked, Done, fingerprint, key_of_actor
from api.operations.dispatch import Dispatcher, Rule
from api.operations.issued import (
    ADMIN_TYPE,
    FIXED_SETTINGS,
    OPERATOR_ISSUES,
    SETTING_MEMBER,
    SETTING_OUTPUT,
    SETTING_SESSION,
    SETTING_TYPE,
    Issued,
    Issuer,
    first_state,
)
from api.queries.resolve import CACHE_MAX, Lru, Proof, Resolver
from ledger import events as e
from ledger import keys, secrets
from ledger.clock import Instant
from ledger.codec import Recorded
from ledger.errors import InvalidField, NoSuchKey
from ledger.ids import AccountId, KeyId, format_id, new_key_id
from ledger.pricing import MODEL_TOKENS_MAX
from ledger.ratecards import RateCards
from ledger.record.bound_rows import SecretRow
from ledger.record.store import Row
from ledger.requests import OPERATOR, Facts
from ledger.state import Key

SESSION_NAME = "Web"


class Keys:
    """Operations on keys."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        resolver: Resolver,
        peppers: secrets.Peppers,
        limits: Mapping[str, tuple[e.LimitRule, ...]],
    ) -> None:
        """Take the dispatcher, what finds a key's account, and how secrets are hashed.

        ``limits``: dialect → limits of keys that are issued without any, however they are issued.
        """
        self._limits = limits
        self._dispatcher = dispatcher
        self._resolver = resolver
        self._peppers = peppers
        resolver.rehashes = self.rehash
        self._of_sessions: Lru[tuple[AccountId, str], KeyId] = Lru(CACHE_MAX)

    async def issue(
        self,
        asked: Asked[Key],
        account_id: AccountId,
        terms: e.KeyIssued,
        issuer: Issuer = OPERATOR_ISSUES,
    ) -> Issued:
        """Issue a key on terms that its issuer may set; its secret is only in this answer."""
        terms = issuer.allowed(terms)
        keys.require_dialect(terms.dialect)
        if not terms.limits:
            terms = msgspec.structs.replace(terms, limits=self._limits.get(terms.dialect, ()))
        _check_output(terms.settings)
        admin = terms.settings.get(SETTING_TYPE) == ADMIN_TYPE
        secret = secrets.generate(secrets.format_of(terms.dialect, admin=admin))
        lane = self._dispatcher.lane_of(account_id)
        key_id = new_key_id(lane)
        row = self._secret_row(secret, key_id, 1)
        hint = secrets.hint_of(secret)
        made = {"hint": hint, "digest": row.digest, "parent": key_of_actor(asked.by)}
        terms = msgspec.structs.replace(terms, **made)

        def rows(recorded: list[Recorded]) -> list[Row]:  # noqa: ARG001
            return [row.insert(account_id, lane)]

        done = await self._dispatcher.change(
            asked, account_id, _issuing(terms), _issued, key_id=key_id, rows=rows
        )
        return Issued(done, None if done.replayed else secret)

    async def for_sessions(self, account_id: AccountId, dialect: str) -> KeyId:
        """Return the key on which login sessions' own calls in a dialect are booked.

        It has no secret, so nobody can show it. It is made once, at first use.
        """
        key_id = self._of_sessions.get((account_id, dialect))
        if key_id is not None:
            return key_id
        # No caller can send a line feed in an Idempotency-Key.
        asked: Asked[Key] = Asked(
            "system", f"\nsession/{dialect}", fingerprint("session_key", dialect)
        )
        terms = e.KeyIssued(
            by="system",
            name=SESSION_NAME,
            dialect=dialect,
            settings={SETTING_SESSION: dialect},
        )
        fresh = new_key_id(self._dispatcher.lane_of(account_id))
        done = await self._dispatcher.change(
            asked, account_id, _issuing(terms), _issued, key_id=fresh
        )
        key_id = fresh
        if done.replayed:
            key_id = await self._resolver.session_key(account_id, dialect)
        self._of_sessions.put((account_id, dialect), key_id)
        self._resolver.remember(key_id, account_id)
        return key_id

    async def change(
        self,
        asked: Asked[Key],
        key_id: KeyId,
        changes: keys.KeyPatch | Callable[[Key], keys.KeyPatch],
        *,
        expected_version: int | None = None,
        only_of: str = "",
    ) -> Done[Key]:
        """Change a key's terms. ``only_of``: a member who may touch no other's keys.

        Changes that depend on the key's current terms are passed as a function of the key.
        """

        def rule(facts: Facts, at: Instant) -> list[e.AnyEvent]:
            key = _own(facts.key, only_of)
            if key is None:
                raise NoSuchKey
            made = changes if isinstance(changes, keys.KeyPatch) else changes(key)
            return keys.change(
                facts.account,
                key,
                _keeping_fixed(key, made, by=asked.by),
                by=asked.by,
                at=at,
                expected_version=expected_version,
            )

        return await self._change(asked, key_id, rule)

    async def rotate(
        self, asked: Asked[Key], key_id: KeyId, *, grace: timedelta, only_of: str = ""
    ) -> Issued:
        """Issue a new secret for a key; earlier ones work for another ``grace``."""
        account_id = await self._resolver.account_of(key_id)
        lane = self._dispatcher.lane_of(account_id)
        made: dict[str, tuple[str, SecretRow]] = {}

        def rule(facts: Facts, at: Instant) -> list[e.AnyEvent]:
            key = keys.require_usable(_own(facts.key, only_of), at)
            admin = key.settings.get(SETTING_TYPE) == ADMIN_TYPE
            secret = secrets.generate(secrets.format_of(key.dialect, admin=admin))
            row = self._secret_row(secret, key_id, keys.next_secret(key))
            made["new"] = secret, row
            hint, digest = secrets.hint_of(secret), row.digest
            return keys.rotate(
                facts.account, key, hint=hint, digest=digest, grace=grace, by=asked.by, at=at
            )

        def rows(recorded: list[Recorded]) -> list[Row]:  # noqa: ARG001
            return [made["new"][1].insert(account_id, lane)]

        done = await self._dispatcher.change(
            asked, account_id, rule, _key_now, key_id=key_id, rows=rows
        )
        return Issued(done, None if done.replayed else made["new"][0])

    async def rehash(self, proof: Proof, secret: str, old: bytes) -> None:
        """Keep a proven secret under the newest pepper instead of as ``old``, once.

        Raises:
            LedgerUnavailable: It could not be decided now.
        """
        account_id, key_id, number = proof
        row = self._secret_row(secret, key_id, number)

        def rule(facts: Facts, at: Instant) -> list[e.AnyEvent]:  # noqa: ARG001
            return keys.rehash(facts.key, number, row.digest, by="system")

        def rows(recorded: list[Recorded]) -> list[Row]:  # noqa: ARG001
            return [row.renew(old)]

        # No caller can send a line feed in an Idempotency-Key.
        once = f"\nrehash/{format_id('key', key_id)}/{number}/{row.pepper}"
        asked: Asked[Key] = Asked("system", once, fingerprint("rehash"))
        await self._dispatcher.change(asked, account_id, rule, _key_now, key_id=key_id, rows=rows)

    async def suspend(self, asked: Asked[Key], key_id: KeyId, *, only_of: str = "") -> Done[Key]:
        """Stop a key until it resumes."""
        return await self._change(
            asked,
            key_id,
            lambda facts, at: keys.suspend(_own(facts.key, only_of), by=asked.by, at=at),
        )

    async def resume(self, asked: Asked[Key], key_id: KeyId, *, only_of: str = "") -> Done[Key]:
        """Lift a key's suspension."""
        return await self._change(
            asked,
            key_id,
            lambda facts, at: keys.resume(_own(facts.key, only_of), by=asked.by, at=at),
        )

    async def revoke(self, asked: Asked[Key], key_id: KeyId, *, only_of: str = "") -> Done[Key]:
        """Withdraw a key for good."""
        return await self._change(
            asked, key_id, lambda facts, _at: keys.revoke(_own(facts.key, only_of), by=asked.by)
        )

    async def _change(self, asked: Asked[Key], key_id: KeyId, rule: Rule) -> Done[Key]:
        account_id = await self._resolver.account_of(key_id)
        return await self._dispatcher.change(asked, account_id, rule, _key_now, key_id=key_id)

    def _secret_row(self, secret: str, key_id: KeyId, number: int) -> SecretRow:
        return SecretRow(key_id, number, self._peppers.hash(secret), self._peppers.current)


def _issuing(terms: e.KeyIssued) -> Rule:
    def rule(facts: Facts, at: Instant) -> list[e.AnyEvent]:
        return keys.issue(facts.account, _priced(terms, facts.cards), at=at)

    return rule


def _priced(terms: e.KeyIssued, cards: RateCards) -> e.KeyIssued:
    """Price a dialect's keys by the rate card of the same name, if there is one."""
    if terms.rate_card or not cards.versions(terms.dialect):
        return terms
    return msgspec.structs.replace(terms, rate_card=terms.dialect)


def _issued(facts: Facts, recorded: Sequence[Recorded]) -> Key:  # noqa: ARG001 - a ``Show``
    # The facts were loaded before the key existed.
    return first_state(recorded[0])


def _key_now(facts: Facts, recorded: Sequence[Recorded]) -> Key:  # noqa: ARG001 - a ``Show``
    assert facts.key is not None
    return deepcopy(facts.key)


def _own(key: Key | None, only_of: str) -> Key | None:
    """Hide a key from a member who did not issue it."""
    if key is not None and only_of and key.settings.get(SETTING_MEMBER) != only_of:
        raise NoSuchKey
    return key


def _keeping_fixed(key: Key, changes: keys.KeyPatch, *, by: str) -> keys.KeyPatch:
    """Keep the settings that nobody, or only the operator, may change."""
    if changes.settings is msgspec.UNSET:
        return changes
    fixed = FIXED_SETTINGS if by == OPERATOR else FIXED_SETTINGS | {SETTING_OUTPUT}
    settings = {name: v for name, v in changes.settings.items() if name not in fixed}
    settings.update((name, v) for name, v in key.settings.items() if name in fixed)
    _check_output(settings)
    return msgspec.structs.replace(changes, settings=settings)


def _check_output(settings: Mapping[str, str]) -> None:
    text = settings.get(SETTING_OUTPUT, "1")
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= MODEL_TOKENS_MAX:
        problem = f"must be a whole number as text, 1 to {MODEL_TOKENS_MAX}"
        raise InvalidField(f"settings.{SETTING_OUTPUT}", problem)
