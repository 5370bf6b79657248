"""Who asks on reverie's routes: a key as Bearer, or a login's token, which is the web chat."""

from typing import Any, NamedTuple

from api.http.failure import Failure, Kind
from api.http.routing import Ask
from api.identity import credentials
from api.identity.auth import may
from api.identity.credentials import KeyCaller, secured
from ledger.ids import AccountId
from ledger.state import Key

DIALECT = "reverie"
SHARED = "/v1/"
"""Where other dialects' keys are shown too, so that two headers may not differ."""


class Visitor(NamedTuple):
    """Who asks for something that costs nothing."""

    account_id: AccountId
    key: Key | None
    """None: a login."""

    @property
    def default_character(self) -> str:
        """Give whom requests without a model are for; empty: nobody in particular."""
        return "" if self.key is None else self.key.default_character

    def may_use(self, model: str) -> bool:
        """Tell whether the key's terms allow a model."""
        return self.key is None or self.key.may_use(model)


@secured("key", "session")
async def caller(ask: Ask[Any, Any]) -> KeyCaller:
    """Find who asks; the lane decides whether a key may."""
    shown = _shown(ask)
    if not credentials.is_token(shown):
        return await credentials.proven(ask.services, shown, DIALECT)
    account_id, actor = await _member(ask, shown)
    key_id = await ask.services.ledger.keys.for_sessions(account_id, DIALECT)
    return KeyCaller(account_id, key_id, None, actor)


@secured("key", "session")
async def visitor(ask: Ask[Any, Any]) -> Visitor:
    """Find who asks, if they may act now."""
    shown = _shown(ask)
    if credentials.is_token(shown):
        account_id, _ = await _member(ask, shown)
        return Visitor(account_id, None)
    found = await credentials.proven(ask.services, shown, DIALECT)
    return visitor_of(await credentials.usable(ask.services, found))


def visitor_of(found: KeyCaller) -> Visitor:
    """Give a caller whose key's state was read."""
    return Visitor(found.account_id, found.key)


async def _member(ask: Ask[Any, Any], token: str) -> tuple[AccountId, str]:
    """Find the account and the name of the member whose token it is, if their role allows this."""
    member = await credentials.member(ask.services, token)
    assert member.account_id is not None
    if not may(member, ask.route.permission):
        raise Failure(Kind.ROLE_IS_DENIED, f"The role {member.role} does not allow this")
    return member.account_id, member.actor


def _shown(ask: Ask[Any, Any]) -> str:
    if ask.route.path.startswith(SHARED):
        # Of the two headers one counts here, and still both may not differ (RFC 6750 §2).
        credentials.bearer_or_api_key(ask.call)
    return credentials.bearer(ask.call)
