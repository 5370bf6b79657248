"""Who asks on foil's routes: a key in ``X-API-Key``; a login's token where keys are managed."""

from typing import Any

from api.dialects.foil.errors import LoginIsMissing
from api.http import shown
from api.http.failure import Failure, Kind
from api.http.handlers import guard
from api.identity.auth import Caller, may
from api.identity.credentials import KeyCaller
from api.services import Ask


@guard("api_key")
async def usable_key(ask: Ask[Any]) -> KeyCaller:
    """Find the key that is shown, if it may act now."""
    credentials = ask.services.credentials
    return await credentials.usable(await credentials.proven(shown.api_key(ask), "foil"))


@guard("session")
async def session(ask: Ask[Any]) -> Caller:
    """Find the member whose token is shown; an API key is refused.

    Raises:
        Failure: 401 in any other case.
    """
    found = shown.presented(ask)
    if not any(found):
        raise LoginIsMissing
    if found.bearer is None:
        raise Failure(Kind.ROLE_IS_DENIED)
    try:
        member = await ask.services.credentials.member(found.bearer)
    except Failure as failure:
        raise Failure(Kind.ROLE_IS_DENIED, error=failure) from failure
    if not may(member, ask.route_handler.opt["contract"].permission):
        raise Failure(Kind.ACCESS_IS_DENIED, "Your role may not manage API keys")
    return member
