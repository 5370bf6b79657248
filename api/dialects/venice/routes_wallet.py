"""venice's routes for wallets: a token to sign, and a key for the wallet that signed it."""

import msgspec
from litestar.params import JSONBody

from api.dialects import account_keys
from api.dialects.venice import bodies, terms, views
from api.http.handlers import Rendered, get, post
from api.operations import Issuer
from api.services import Ask


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """What a wallet is to sign."""

    token: str


class TokenReply(msgspec.Struct, frozen=True, kw_only=True):
    """What a wallet is to sign."""

    success: bool = True
    data: Token


@get("/api/v1/api_keys/generate_web3_key", guards=[])
async def get_web3_token(request: Ask[None]) -> Rendered[TokenReply]:
    """Return a token for a wallet to sign: it is good once, for 15 minutes."""
    request.parameters()
    view = TokenReply(data=Token(token=request.services.wallets.challenge()))
    return Rendered(view)


@post("/api/v1/api_keys/generate_web3_key", guards=[], refusals=(429,))
async def create_web3_key(
    request: Ask[None], data: JSONBody[bodies.Web3Key]
) -> Rendered[views.CreatedKey]:
    """Create a key for a wallet that signed its token; the first opens the wallet's account."""
    wallets = request.services.wallets
    # First what needs no proof: a proof uses the token up.
    made = terms.issued(data, Issuer(), by="system")
    address = await wallets.prove(data.address, data.signature, data.token)
    account_id = await wallets.account_for(address)
    key, secret = await account_keys.issue(request.services, account_id, made, Issuer())
    return Rendered(views.created(key, secret))


HANDLERS = (
    get_web3_token,
    create_web3_key,
)
