"""Who asks on ryvion's routes: a key, or a member by the token of a login, in either header.

``Authorization: Bearer`` and ``X-API-Key`` are equivalent; two that disagree are refused.
"""

import contextlib
from typing import Any, NamedTuple

from litestar.types import Guard

from api.dialects.ryvion import scopes
from api.http import shown
from api.http.failure import Failure, Kind
from api.http.handlers import guard
from api.identity import auth
from api.identity.credentials import KeyCaller
from api.services import Ask, Services
from ledger.errors import ScopeIsDenied
from ledger.ids import AccountId
from ledger.requests import KEY
from ledger.state import Key

DIALECT = "ryvion"


class Principal(NamedTuple):
    """Whoever asks, known to be good right now."""

    account_id: AccountId
    actor: str
    """As events name it."""
    key: Key | None = None
    """None: a session."""
    secret: int | None = None
    """Number of the key's secret that was shown."""
    member_id: str = ""
    """The session's member, or the one who issued the key; empty: the operator did."""
    role: str = ""
    """That member's role now; empty: there is no member, or they have left."""

    @property
    def scopes(self) -> tuple[str, ...]:
        """Return the key's scopes; a session has none and needs none."""
        return () if self.key is None else self.key.scopes

    @property
    def only_own_keys(self) -> str:
        """Return the member whose keys alone are shown; empty: all of the account's are."""
        return self.member_id if self.role in {"member", ""} else ""

    def may(self, operation: str) -> bool:
        """Return whether the key's scope and the member's role both allow an operation."""
        return scopes.allows(self.scopes, operation) and self._role_allows(operation)

    def _role_allows(self, operation: str) -> bool:
        """Return whether the role allows it: a session's always, a key issuer's on the account.

        Otherwise a member could make a key that does what the member may not.
        """
        is_free = not self.member_id or operation not in scopes.OF_ACCOUNT
        if self.key is not None and is_free:
            return True
        return self.role in scopes.ROLES[operation]


_who = guard("key", "api_key", "session")


async def _usable(ask: Ask[Any]) -> Principal:
    """Find who asks, if they may act now.

    Raises:
        Failure: Nothing is shown, or the credential is no good.
    """
    credentials = ask.services.credentials
    found = await credentials.shown(shown.bearer_or_api_key(ask), DIALECT)
    if isinstance(found, auth.Caller):
        return _of_session(found)
    found = await credentials.usable(found)
    issuer, role = await credentials.issuer_of(found)
    return Principal(found.account_id, found.actor, found.key, found.secret, issuer, role)


def _of_session(member: auth.Caller) -> Principal:
    """Take a member whose token was shown."""
    assert member.account_id is not None
    return Principal(member.account_id, member.actor, member_id=member.member_id, role=member.role)


async def require(services: Services, found: Principal, operation: str) -> None:
    """Refuse what scope or role do not allow. A scoped key's refusal is recorded by the lane.

    Raises:
        Failure: They do not allow it.
    """
    if found.may(operation):
        return
    if found.key is None:
        raise _denied(found)
    with contextlib.suppress(ScopeIsDenied):
        await services.ledger.calls.admit(
            found.account_id,
            found.key.key_id,
            by=KEY,
            secret=found.secret,
            scope=operation,
        )
    if not scopes.allows(found.scopes, operation):
        raise Failure(Kind.SCOPE_IS_DENIED)
    raise Failure(
        Kind.ROLE_IS_DENIED, "The role of the member who made this key does not allow this."
    )


def _denied(session: Principal) -> Failure:
    return Failure(Kind.ROLE_IS_DENIED, f"The role {session.role} does not allow this.")


def usable_key_or_session(operation: str = "") -> Guard:
    """Return the guard of a route that does an operation: a key that may act now, or a session.

    Without ``operation`` the route itself asks what scope and role allow.
    """

    @_who
    async def who(ask: Ask[Any]) -> Principal:
        found = await _usable(ask)
        if operation:
            await require(ask.services, found, operation)
        return found

    return who


def key_or_session(operation: str) -> Guard:
    """Return the guard of a metered route: a key, which the lane decides about, or a session."""

    def require_role(member: auth.Caller) -> None:
        session = _of_session(member)
        if not session.may(operation):
            raise _denied(session)

    @_who
    async def who(ask: Ask[Any]) -> KeyCaller:
        text = shown.bearer_or_api_key(ask)
        return await ask.services.credentials.acting(text, DIALECT, require=require_role)

    return who
