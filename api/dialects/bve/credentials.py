"""Who asks on bve's routes: the operator by secret, a client by key. Both as Bearer."""

from typing import Any

from api.http import shown
from api.http.failure import Failure, Kind
from api.http.handlers import guard
from api.identity.auth import Caller
from api.identity.credentials import KeyCaller
from api.services import Ask


@guard("operator")
async def operator(ask: Ask[Any]) -> Caller:
    """Let the operator pass. ``Bearer `` may be left out.

    Raises:
        Failure: 401 in any other case.
    """
    text = ask.header(b"authorization")
    if not text:
        raise Failure(Kind.CREDENTIAL_IS_MISSING)
    secret = text[7:] if text[:7].lower() == "bearer " else text
    try:
        return await ask.services.credentials.operator(secret.strip())
    except Failure as failure:
        raise Failure(Kind.ROLE_IS_DENIED, error=failure) from failure


@guard("key")
async def key(ask: Ask[Any]) -> KeyCaller:
    """Find the key that is shown; the lane decides whether it may act."""
    return await _key(ask)


@guard("key")
async def usable_key(ask: Ask[Any]) -> KeyCaller:
    """Find the key that is shown, if it may act now."""
    return await ask.services.credentials.usable(await _key(ask))


async def _key(ask: Ask[Any]) -> KeyCaller:
    # Only one of the two headers counts here, but they may not differ (RFC 6750 §2).
    shown.bearer_or_api_key(ask)
    return await ask.services.credentials.proven(shown.bearer(ask), "bve")
