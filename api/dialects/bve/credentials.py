"""Who asks on bve's routes: the operator by secret, a client by key. Both as Bearer."""

from typing import Any

from api.http.exchange import Call
from api.http.failure import Failure, Kind
from api.http.routing import Ask
from api.identity import credentials
from api.identity.auth import Caller
from api.identity.credentials import KeyCaller, secured


@secured("operator")
async def operator(ask: Ask[Any, Any]) -> Caller:
    """Let the operator pass. ``Bearer `` may be left out.

    Raises:
        Failure: 401 in any other case.
    """
    shown = ask.call.header(b"authorization")
    if not shown:
        raise Failure(Kind.CREDENTIAL_IS_MISSING)
    secret = shown[7:] if shown[:7].lower() == "bearer " else shown
    try:
        return await credentials.operator(ask.services, secret.strip())
    except Failure as failure:
        raise Failure(Kind.ROLE_IS_DENIED, error=failure) from failure


@secured("key")
async def client(ask: Ask[Any, Any]) -> KeyCaller:
    """Find the key that is shown; the lane decides whether it may."""
    return await credentials.proven(ask.services, _shown(ask.call), "bve")


@secured("key")
async def usable_client(ask: Ask[Any, Any]) -> KeyCaller:
    """Find the key that is shown, if it may act now."""
    return await credentials.usable(ask.services, await client(ask))


def _shown(call: Call) -> str:
    # Of the two headers one counts here, and still both may not differ (RFC 6750 §2).
    credentials.bearer_or_api_key(call)
    return credentials.bearer(call)
