"""Who asks on foil's routes: a key in ``X-API-Key``; a login's token where keys are managed."""

from typing import Any

from api.dialects.foil.errors import LoginIsMissing
from api.http.failure import Failure, Kind
from api.http.routing import Ask
from api.identity import credentials
from api.identity.auth import Caller, may
from api.identity.credentials import KeyCaller, secured


@secured("api_key")
async def key(ask: Ask[Any, Any]) -> KeyCaller:
    """Find the key that is shown; the lane decides whether it may."""
    return await credentials.proven(ask.services, credentials.api_key(ask.call), "foil")


@secured("api_key")
async def usable_key(ask: Ask[Any, Any]) -> KeyCaller:
    """Find the key that is shown, if it may act now."""
    return await credentials.usable(ask.services, await key(ask))


@secured("session")
async def login(ask: Ask[Any, Any]) -> Caller:
    """Find the member whose token is shown; an API key is none.

    Raises:
        Failure: 401 in any other case.
    """
    found = credentials.presented(ask.call)
    if not any(found):
        raise LoginIsMissing
    if found.bearer is None:
        raise Failure(Kind.ROLE_IS_DENIED)
    try:
        member = await credentials.member(ask.services, found.bearer)
    except Failure as failure:
        raise Failure(Kind.ROLE_IS_DENIED, error=failure) from failure
    if not may(member, ask.route.permission):
        raise Failure(Kind.ACCESS_IS_DENIED, "Your role may not manage API keys")
    return member
