"""Sign-in by wallet: a token to sign, the proof of signature and stake, an account.

``Wallets`` is the whole interface. ``words`` names what can go wrong, ``challenges`` makes and
reads the tokens, ``node`` asks the chain, ``ethereum`` knows signatures. Only ``ethereum`` needs
the extra ``wallet``; it is imported at the first proof, so that nobody else pays for it.
"""

from api.identity.wallet.sign_in import Wallets
from api.identity.wallet.words import (
    AddressIsInvalid,
    SignatureDoesNotMatch,
    SignatureIsUnverifiable,
    TokenClaimsAreInvalid,
    TokenHasExpired,
    TokenIsMalformed,
    TokenIsUsed,
    TokenSignatureIsInvalid,
    WalletAddress,
    WalletHasNoStake,
    WalletRefused,
    WalletUnavailable,
)

__all__ = [
    "AddressIsInvalid",
    "SignatureDoesNotMatch",
    "SignatureIsUnverifiable",
    "TokenClaimsAreInvalid",
    "TokenHasExpired",
    "TokenIsMalformed",
    "TokenIsUsed",
    "TokenSignatureIsInvalid",
    "WalletAddress",
    "WalletHasNoStake",
    "WalletRefused",
    "WalletUnavailable",
    "Wallets",
]
