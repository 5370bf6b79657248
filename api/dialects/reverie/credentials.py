"""Who asks on reverie's routes: a key as Bearer, or a login's token, which is the web chat."""

from typing import Any

from api.auth import may
from api.surface import credentials
from api.surface.credentials import KeyCaller, secured
from api.surface.failure import Failure, Kind
from api.surface.routing import Ask

DIALECT = "reverie"
SHARED = "/v1/"
"""Where other dialects' keys are shown too, so that two headers may not differ."""


@secured("key", "session")
async def caller(ask: Ask[Any, Any]) -> KeyCaller:
    """Find who asks; the lane decides whether a key may."""
    shown = _shown(ask)
    if not credentials.is_token(shown):
        return await credentials.proven(ask.services, shown, DIALECT)
    member = await credentials.member(ask.services, shown)
    assert member.account_id is not None
    if not may(member, ask.route.permission):
        raise Failure(Kind.ROLE_IS_DENIED, f"The role {member.role} does not allow this")
    key_id = await ask.services.ledger.session_key(member.account_id, DIALECT)
    return KeyCaller(member.account_id, key_id, None, member.actor)


@secured("key", "session")
async def usable_caller(ask: Ask[Any, Any]) -> KeyCaller:
    """Find who asks, if they may act now."""
    return await credentials.usable(ask.services, await caller(ask))


def _shown(ask: Ask[Any, Any]) -> str:
    found = credentials.presented(ask.call)
    if ask.route.path.startswith(SHARED) and found.bearer is not None:
        return found.any or ""
    return credentials.bearer(ask.call)
