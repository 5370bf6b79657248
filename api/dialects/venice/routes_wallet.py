"""venice's routes for wallets: a token to sign, and a key for the wallet that signed it."""

import msgspec

from api.dialects import account_keys
from api.dialects.venice import bodies, terms, views
from api.http.exchange import Answer
from api.http.routing import Ask, Routes, anybody
from api.operations import Issuer

routes = Routes()


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """What a wallet is to sign."""

    token: str


class TokenReply(msgspec.Struct, frozen=True, kw_only=True):
    """What a wallet is to sign."""

    success: bool = True
    data: Token


@routes("GET", "/api/v1/api_keys/generate_web3_key", who=anybody, answer=TokenReply)
async def get_web3_token(ask: Ask[None, None]) -> Answer:
    """Give a token for a wallet to sign: it holds for 15 minutes, and once."""
    ask.query()
    view = TokenReply(data=Token(token=ask.services.wallets.challenge()))
    return views.answer(view, headers={"Cache-Control": "no-store"})


@routes(
    "POST",
    "/api/v1/api_keys/generate_web3_key",
    who=anybody,
    body=bodies.Web3Key,
    answer=views.CreatedKey,
    refusals=(429,),
)
async def create_web3_key(ask: Ask[bodies.Web3Key, None]) -> Answer:
    """Create a key for a wallet that signed its token; the first opens the wallet's account."""
    body, wallets = ask.body, ask.services.wallets
    # First what needs no proof: a proof uses the token up.
    made = terms.issued(body, Issuer(), by="system")
    address = await wallets.prove(body.address, body.signature, body.token)
    account_id = await wallets.account_for(address)
    key, secret = await account_keys.issue(ask.services, account_id, made, Issuer())
    return views.answer(views.created(key, secret), headers={"Cache-Control": "no-store"})
