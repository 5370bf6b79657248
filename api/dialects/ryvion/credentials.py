"""Who asks on ryvion's routes: a key, or a member by the token of a login, in either header.

``Authorization: Bearer`` and ``X-API-Key`` are equivalent; two that disagree are refused.
"""

import contextlib
from typing import Any, NamedTuple

from api.dialects.ryvion import scopes
from api.http.failure import Failure, Kind
from api.http.routing import Ask
from api.identity import auth, credentials
from api.identity.credentials import KeyCaller, Who, secured
from api.services import Services
from ledger.errors import ScopeIsDenied
from ledger.ids import AccountId
from ledger.requests import KEY
from ledger.state import Key

DIALECT = "ryvion"


class Client(NamedTuple):
    """Who asks, known to be good right now."""

    account_id: AccountId
    actor: str
    """As events name it."""
    key: Key | None = None
    """None: a session."""
    secret: int | None = None
    """Number of the key's secret that was shown."""
    member_id: str = ""
    """Of a session, or who issued the key where a member did."""
    role: str = ""
    """That member's, now; empty: there is no member, or they have left."""

    @property
    def scopes(self) -> tuple[str, ...]:
        """Give the key's scopes; a session has none and no need of any."""
        return () if self.key is None else self.key.scopes

    @property
    def only_own_keys(self) -> str:
        """Give the member whose keys alone are in sight; empty: all of the account."""
        return self.member_id if self.role in {"member", ""} else ""

    def may(self, operation: str) -> bool:
        """Tell whether the key's scope and the member's role both allow an operation."""
        return scopes.allows(self.scopes, operation) and self._role_allows(operation)

    def _role_allows(self, operation: str) -> bool:
        """Tell whether the role allows it: of a session always, of a key's issuer where it counts.

        Else a member would make a key to do what the member may not.
        """
        is_free = not self.member_id or operation not in scopes.OF_ACCOUNT
        if self.key is not None and is_free:
            return True
        return self.role in scopes.ROLES[operation]


@secured("key", "api_key", "session")
async def anyone(ask: Ask[Any, Any]) -> Client:
    """Find who asks, for a route that asks about scopes itself."""
    return await client(ask)


async def client(ask: Ask[Any, Any]) -> Client:
    """Find who asks, if they may act now.

    Raises:
        Failure: Nobody does, or the credential is no good.
    """
    text = credentials.bearer_or_api_key(ask.call)
    if credentials.is_token(text):
        return of_session(await credentials.member(ask.services, text))
    proven = await credentials.proven(ask.services, text, DIALECT)
    return await of_key(ask.services, await credentials.usable(ask.services, proven))


def of_session(member: auth.Caller) -> Client:
    """Take a member whose token was shown."""
    assert member.account_id is not None
    return Client(member.account_id, member.actor, member_id=member.member_id, role=member.role)


async def of_key(services: Services, caller: KeyCaller) -> Client:
    """Take a key whose state was read, with the role that its issuer has by now."""
    issuer, role = await credentials.issuer_of(services, caller)
    return Client(caller.account_id, caller.actor, caller.key, caller.secret, issuer, role)


async def require(services: Services, found: Client, operation: str) -> None:
    """Refuse what scope or role do not allow. A scoped key's refusal is recorded by the lane.

    Raises:
        Failure: They do not allow it.
    """
    if found.may(operation):
        return
    if found.key is None:
        raise Failure(Kind.ROLE_IS_DENIED, f"The role {found.role} does not allow this.")
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
    raise Failure(Kind.ROLE_IS_DENIED, "The role of who made this key does not allow this.")


def allowed(operation: str) -> Who:
    """Give the way to tell who asks, for a route that does this operation."""

    @secured("key", "api_key", "session")
    async def who(ask: Ask[Any, Any]) -> Client:
        found = await client(ask)
        await require(ask.services, found, operation)
        return found

    return who


def booked(operation: str) -> Who:
    """Give the same for a metered route: the lane decides about the key, in the same step."""

    @secured("key", "api_key", "session")
    async def who(ask: Ask[Any, Any]) -> KeyCaller:
        text = credentials.bearer_or_api_key(ask.call)
        if not credentials.is_token(text):
            return await credentials.proven(ask.services, text, DIALECT)
        found = of_session(await credentials.member(ask.services, text))
        await require(ask.services, found, operation)
        key_id = await ask.services.ledger.keys.for_sessions(found.account_id, DIALECT)
        return KeyCaller(found.account_id, key_id, None, found.actor)

    return who
