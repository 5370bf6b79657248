"""The tokens that wallets sign: issued by and for this service, for 15 minutes, used at most once.

Only the database knows which tokens were used, so that all processes and hosts agree.
"""

import re
from datetime import timedelta
from typing import NamedTuple

import jwt

from api.identity.auth import ALGORITHM, ISSUER, require_unexpired
from api.identity.wallet.words import (
    TokenClaimsAreInvalid,
    TokenHasExpired,
    TokenIsMalformed,
    TokenSignatureIsInvalid,
)
from ledger import clock
from ledger.clock import Instant
from ledger.ids import new_request_id

AUDIENCE = "keyledger/wallet"
"""Not the audience of logins, so that neither token passes for the other."""
LIFETIME = timedelta(minutes=15)
TOKEN_MAX = 1_024
"""In characters; ours have some 250."""

_THREE_PARTS = re.compile(r"[\w-]+\.[\w-]+\.[\w-]*", re.ASCII)
_CLAIMS: jwt.types.Options = {
    "require": ["exp", "iat", "jti", "aud", "iss"],
    # Checked by the ledger's clock instead; ``exp`` alone bounds it.
    "verify_exp": False,
    "verify_iat": False,
}


class Challenge(NamedTuple):
    """A token that is ours and still valid."""

    jti: str
    expires_at: Instant


class Challenges:
    """Makes and reads tokens."""

    def __init__(self, secret: str) -> None:
        """Take the secret that signs them, which all hosts share."""
        self._secret = secret

    def issue(self, at: Instant) -> str:
        """Make a token."""
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "iat": at,
            "exp": at + LIFETIME,
            "jti": new_request_id(),
        }
        return jwt.encode(claims, self._secret, algorithm=ALGORITHM)

    def read(self, token: str, at: Instant) -> Challenge:
        """Read a token that came back.

        Raises:
            WalletRefused: It is malformed, not ours, for something else, or expired.
        """
        if len(token) > TOKEN_MAX or _THREE_PARTS.fullmatch(token) is None:
            raise TokenIsMalformed
        try:
            claims = jwt.decode(
                token,
                self._secret,
                algorithms=[ALGORITHM],
                audience=AUDIENCE,
                issuer=ISSUER,
                options=_CLAIMS,
            )
            require_unexpired(claims, at)
        except (jwt.InvalidSignatureError, jwt.InvalidAlgorithmError) as error:
            raise TokenSignatureIsInvalid from error
        except jwt.DecodeError as error:
            raise TokenIsMalformed from error
        except jwt.ExpiredSignatureError as error:
            raise TokenHasExpired from error
        except jwt.InvalidTokenError as error:
            raise TokenClaimsAreInvalid from error
        return Challenge(claims["jti"], clock.from_microseconds(int(claims["exp"]) * 1_000_000))
