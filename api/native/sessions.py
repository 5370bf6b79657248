"""Logging in and out."""

import msgspec
from litestar.params import JSONBody

from api.http.handlers import Rendered, post
from api.identity.auth import Tokens
from api.native import bodies
from api.native.asking import (
    Ask,
)


class TokensView(msgspec.Struct, frozen=True, kw_only=True):
    """A login's tokens. A refresh token works once; the next one comes with the answer."""

    access_token: str
    token_type: str
    expires_in: int
    """Seconds."""
    refresh_token: str


def _answer(tokens: Tokens) -> Rendered[TokensView]:
    view = TokensView(
        access_token=tokens.access_token,
        token_type="Bearer",  # noqa: S106 - the kind, not the token
        expires_in=tokens.expires_in,
        refresh_token=tokens.refresh_token,
    )
    return Rendered(view)


@post(
    "/ledger/v1/login",
    example={"email": "ada@example.com", "password": "correct horse battery"},
    refusals=(429,),
)
async def login(request: Ask, data: JSONBody[bodies.LoginBody]) -> Rendered[TokensView]:
    """Log in with an e-mail address and a password."""
    tokens = await request.services.logins.login(
        data.email,
        data.password,
        client=request.client_address,
        at=request.services.clock.now(),
    )
    return _answer(tokens)


@post(
    "/ledger/v1/token/refresh",
    example={"refresh_token": "o4S0…"},
)
async def refresh_token(request: Ask, data: JSONBody[bodies.RefreshBody]) -> Rendered[TokensView]:
    """Exchange a refresh token for new tokens; one that comes twice ends its family."""
    return _answer(await request.services.logins.refresh(data.refresh_token))


@post(
    "/ledger/v1/logout",
    example={"refresh_token": "o4S0…"},
)
async def logout(request: Ask, data: JSONBody[bodies.RefreshBody]) -> Rendered[dict[str, bool]]:
    """End the family of a refresh token."""
    await request.services.logins.logout(data.refresh_token)
    return Rendered({"ended": True})


HANDLERS = (login, refresh_token, logout)
