"""A wallet's address, and everything that can go wrong when it signs in.

``WalletRefused``: it did not prove itself, and ``detail`` is what venice's page says of that.
``WalletUnavailable``: nothing was decided, and nothing is used up.
"""

from typing import ClassVar, NewType

from api.http.failure import Failure, Kind

WalletAddress = NewType("WalletAddress", str)
"""0x and 40 hexadecimal digits with their EIP-55 checksum: one spelling per wallet."""


class WalletRefused(Failure):
    """The wallet did not prove itself."""

    named: ClassVar[str]
    says: ClassVar[str]

    def __init__(self) -> None:
        super().__init__(Kind.INVALID_FIELD, self.says, code=self.named)


class AddressIsInvalid(WalletRefused):
    """Not an address in lower case or with a correct checksum."""

    named = "wallet_address_is_invalid"
    says = "Invalid wallet address"


class TokenIsMalformed(WalletRefused):
    """No JWT."""

    named = "wallet_token_is_malformed"
    says = "JWT is malformed"


class TokenSignatureIsInvalid(WalletRefused):
    """Signed by somebody else, or changed since."""

    named = "wallet_token_signature_is_invalid"
    says = "JWT signature is invalid"


class TokenHasExpired(WalletRefused):
    """Older than 15 minutes."""

    named = "wallet_token_has_expired"
    says = "JWT has expired"


class TokenClaimsAreInvalid(WalletRefused):
    """Made for something else."""

    named = "wallet_token_claims_are_invalid"
    says = "JWT claims are invalid"


class TokenIsUsed(TokenClaimsAreInvalid):
    """A wallet has signed in with it already."""

    named = "wallet_token_is_used"


class SignatureDoesNotMatch(WalletRefused):
    """The signature is not the wallet's."""

    named = "wallet_signature_does_not_match"
    says = "Wallet signature does not match"


class SignatureIsUnverifiable(WalletRefused):
    """It is not a signature, or the wallet's contract gives no answer about it."""

    named = "wallet_signature_is_unverifiable"
    says = "Could not verify wallet signature"


class WalletHasNoStake(WalletRefused):
    """The wallet holds nothing at the staking contract."""

    named = "wallet_has_no_stake"
    says = "Wallet has no staked VVV on Base"


class WalletUnavailable(Failure):
    """Nobody can sign in by wallet here, or now."""

    def __init__(self, detail: str, *, retry_after_seconds: int = 0) -> None:
        """Take what is missing; 0 seconds: waiting does not help."""
        headers = {"Retry-After": str(retry_after_seconds)} if retry_after_seconds else {}
        super().__init__(
            Kind.UNAVAILABLE, detail, code="wallet_sign_in_is_unavailable", headers=headers
        )
