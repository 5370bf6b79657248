"""SQL of wallets and their sign-in tokens: ordinary tables beside the ledger, no fold of events."""

from typing import LiteralString

FIND_WALLET: LiteralString = "SELECT account_id FROM wallets WHERE address = %s"
INSERT_WALLET: LiteralString = (
    "INSERT INTO wallets (address, account_id, created_at) VALUES (%s, %s, %s)"
    " ON CONFLICT ON CONSTRAINT wallet_has_one_account DO NOTHING"
)
# Used once: of two at a time one enters the row, the other waits for it and enters none.
MARK_USED: LiteralString = (
    "INSERT INTO wallet_tokens (jti, used_at, expires_at) VALUES (%s, %s, %s)"
    " ON CONFLICT ON CONSTRAINT wallet_token_is_used_once DO NOTHING"
)
FORGET_USED: LiteralString = "DELETE FROM wallet_tokens WHERE expires_at < %s"
