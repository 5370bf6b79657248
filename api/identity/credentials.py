"""Finds who asks on a dialect's path: a key by its secret, a member by a token, or the operator.

The dialect says which headers count and which of the three a route takes; what a secret
proves is found in one way for all. Nothing positive is cached: a key's state is read again for each
request, and metered requests are decided in the lane as well (promise 6).
"""

from collections.abc import Callable
from typing import NamedTuple

import structlog

from api.http.failure import Failure, Kind
from api.http.shown import is_token
from api.identity.auth import Caller, Gate
from api.operations import SETTING_MEMBER, Ledger, actor_of_key
from api.queries import Queries
from api.queries.resolve import Resolver
from ledger import keys, secrets
from ledger.clock import DatabaseClock
from ledger.errors import LedgerError, NoSuchKey
from ledger.ids import AccountId, KeyId
from ledger.requests import KEY
from ledger.state import Key

log = structlog.get_logger("keyledger.api")


class KeyCaller(NamedTuple):
    """A key, proven by one of its secrets; or a session that acts through its own key."""

    account_id: AccountId
    key_id: KeyId
    secret: int | None
    """Number of the secret; None: a session."""
    actor: str
    """As events name it."""
    scopes: tuple[str, ...] = ()
    key: Key | None = None
    """Its state as read for this request; None: the lane decides."""

    @property
    def by(self) -> str:
        """Return the actor as a request's events name it: the key where a secret proved it."""
        return self.actor if self.secret is None else KEY


class Credentials:
    """Finds out what a credential proves."""

    def __init__(
        self,
        resolver: Resolver,
        queries: Queries,
        ledger: Ledger,
        gate: Gate,
        clock: DatabaseClock,
    ) -> None:
        """Take what resolves secrets, keys and members, and the clock."""
        self._resolver = resolver
        self._queries = queries
        self._ledger = ledger
        self._gate = gate
        self._clock = clock

    async def proven(self, text: str, dialect: str) -> KeyCaller:
        """Find the key that a secret of this dialect proves, without checking that it may act.

        Raises:
            Failure: It is mistyped, of another dialect, or unknown.
        """
        form = secrets.recognise(text) if len(text) <= secrets.SECRET_MAX else None
        if form is None or form.dialect != dialect:
            raise Failure(Kind.CREDENTIAL_IS_MALFORMED)
        try:
            proof = await self._resolver.secret(text)
        except NoSuchKey as error:
            log.info("credential_unknown", dialect=dialect, hint=secrets.hint_of(text))
            raise Failure(Kind.CREDENTIAL_IS_UNKNOWN, error=error) from error
        actor = actor_of_key(proof.key_id)
        return KeyCaller(proof.account_id, proof.key_id, proof.secret, actor)

    async def shown(self, text: str, dialect: str) -> Caller | KeyCaller:
        """Find the member whose token is shown, or this dialect's key whose secret is.

        Raises:
            Failure: It is neither a valid token nor a key's secret.
        """
        return await (self.member(text) if is_token(text) else self.proven(text, dialect))

    async def acting(
        self, text: str, dialect: str, *, require: Callable[[Caller], None]
    ) -> KeyCaller:
        """Find the key that acts: the one shown, or for a member the account's key for sessions.

        The lane decides about a key; ``require`` refuses a member whose role does not allow it.

        Raises:
            Failure: The credential is missing or invalid, or the member may not.
        """
        found = await self.shown(text, dialect)
        if isinstance(found, KeyCaller):
            return found
        require(found)
        assert found.account_id is not None
        key_id = await self._ledger.keys.for_sessions(found.account_id, dialect)
        return KeyCaller(found.account_id, key_id, None, found.actor)

    async def usable(self, caller: KeyCaller) -> KeyCaller:
        """Return the caller with the key's state, provided that it may act now.

        Raises:
            Failure: It is revoked, suspended, expired, or its account is barred. The refusal is
                recorded, because the caller is not told all of it.
        """
        key, _ = await self._queries.keys.one(caller.key_id)
        account, _ = await self._queries.accounts.one(caller.account_id)
        try:
            keys.require_allowed(key, account, self._clock.now(), secret=caller.secret)
        except LedgerError:
            # Decided again in the lane, where refusals are recorded.
            await self._ledger.calls.admit(
                caller.account_id, caller.key_id, by=caller.by, secret=caller.secret
            )
            raise
        return caller._replace(key=key, scopes=key.scopes)

    async def issuer_of(self, caller: KeyCaller) -> tuple[str, str]:
        """Return the member who issued a key whose state was read, and the role they have now.

        Both empty: the operator did. No role: they have left.
        """
        assert caller.key is not None
        issuer = caller.key.settings.get(SETTING_MEMBER, "")
        if not issuer:
            return "", ""
        account, _ = await self._queries.accounts.one(caller.account_id)
        return issuer, account.members.get(issuer, "")

    async def member(self, token: str) -> Caller:
        """Find the member that a token is for.

        Raises:
            Failure: It is not a valid token.
        """
        try:
            found = await self._gate.caller(f"Bearer {token}")
        except Failure as error:
            raise Failure(Kind.CREDENTIAL_IS_UNKNOWN, error=error) from error
        if found.account_id is None:
            raise Failure(Kind.CREDENTIAL_IS_UNKNOWN)
        return found

    async def operator(self, text: str) -> Caller:
        """Check that it is the operator's secret.

        Raises:
            Failure: It is not.
        """
        try:
            await self._gate.require_operator(f"Bearer {text}")
        except Failure as error:
            raise Failure(Kind.CREDENTIAL_IS_UNKNOWN, error=error) from error
        return await self._gate.caller(f"Bearer {text}")
