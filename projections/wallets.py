"""SQL of wallets and their sign-in tokens: ordinary tables beside the ledger, no fold of events."""

from typing import LiteralString, NamedTuple

from ledger import secrets
from ledger.clock import Instant
from ledger.ids import AccountId
from ledger.record.store import Statement

FIND_WALLET: LiteralString = "SELECT account_id FROM wallets WHERE address = %s"
INSERT_WALLET: LiteralString = (
    "INSERT INTO wallets (address, account_id, created_at, salt) VALUES (%s, %s, %s, %s)"
)
# Used once: of two at a time one enters the row, the other waits for it and enters none.
MARK_USED: LiteralString = (
    "INSERT INTO wallet_tokens (jti, used_at, expires_at) VALUES (%s, %s, %s)"
    " ON CONFLICT ON CONSTRAINT wallet_token_is_used_once DO NOTHING"
)
FORGET_USED: LiteralString = "DELETE FROM wallet_tokens WHERE expires_at < %s"


class WalletRow(NamedTuple):
    """The row by which a wallet's account is found. Only its digest stands in an event."""

    salt: bytes
    account_id: AccountId
    address: bytes

    @property
    def digest(self) -> str:
        """Return what binds the row to its event; it tells nothing to anyone without the salt."""
        return secrets.digest("wallet", self.salt, self.account_id.bytes, self.address)

    def insert(self, at: Instant) -> Statement:
        """Return the statement that adds the row."""
        return INSERT_WALLET, (self.address, self.account_id, at, self.salt)
