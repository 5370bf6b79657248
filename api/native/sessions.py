"""Logging in and out."""

import msgspec

from api.http.exchange import Answer
from api.identity.auth import Tokens
from api.native import bodies
from api.native.routing import Ask, route


class TokensView(msgspec.Struct, frozen=True, kw_only=True):
    """What a login gives. The refresh token works once; the next one comes with the answer."""

    access_token: str
    token_type: str
    expires_in: int
    """Seconds."""
    refresh_token: str


def _answer(tokens: Tokens) -> Answer:
    view = TokensView(
        access_token=tokens.access_token,
        token_type="Bearer",  # noqa: S106 - the kind, not the token
        expires_in=tokens.expires_in,
        refresh_token=tokens.refresh_token,
    )
    return Answer(msgspec.json.encode(view), headers={"Cache-Control": "no-store"})


@route(
    "POST",
    "/login",
    body=bodies.LoginBody,
    answer=TokensView,
    example={"email": "ada@example.com", "password": "correct horse battery"},
    refusals=(429,),
    public=True,
)
async def login(ask: Ask[bodies.LoginBody]) -> Answer:
    """Log in with an address and a password."""
    tokens = await ask.services.logins.login(
        ask.body.email,
        ask.body.password,
        client=ask.call.client_address,
        at=ask.services.clock.now(),
    )
    return _answer(tokens)


@route(
    "POST",
    "/token/refresh",
    body=bodies.RefreshBody,
    answer=TokensView,
    example={"refresh_token": "o4S0…"},
    refusals=(),
    public=True,
)
async def refresh_token(ask: Ask[bodies.RefreshBody]) -> Answer:
    """Exchange a refresh token for new tokens; one that comes twice ends its family."""
    return _answer(await ask.services.logins.refresh(ask.body.refresh_token))


@route(
    "POST",
    "/logout",
    body=bodies.RefreshBody,
    answer=dict[str, bool],
    example={"refresh_token": "o4S0…"},
    refusals=(),
    public=True,
)
async def logout(ask: Ask[bodies.RefreshBody]) -> Answer:
    """End the family of a refresh token."""
    await ask.services.logins.logout(ask.body.refresh_token)
    return Answer(b'{"ended":true}')
