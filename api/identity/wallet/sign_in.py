"""Lets wallets sign in: hands out tokens, accepts each once, opens accounts."""

import asyncio
import sys
from datetime import timedelta
from typing import TYPE_CHECKING

from psycopg_pool import AsyncConnectionPool
from sqlalchemy import Column, PrimaryKeyConstraint, Table, Text, bindparam, delete, select
from sqlalchemy.dialects.postgresql import insert

from api.identity.wallet.challenges import Challenge, Challenges
from api.identity.wallet.words import TokenIsUsed, WalletAddress, WalletUnavailable
from api.operations import Asked, Ledger
from api.settings import Settings
from ledger.clock import DatabaseClock, Instant
from ledger.errors import AccountIsOpen
from ledger.ids import AccountId, new_account_id
from ledger.record.bound_rows import WALLETS, WalletRow
from ledger.secrets import new_salt
from ledger.server.tables import INSTANT, compiled, metadata

if TYPE_CHECKING:
    from api.identity.wallet.proof import Prover

SKEW = timedelta(hours=1)
"""More than the clocks of two processes may differ by."""

FIND_WALLET = compiled(
    select(WALLETS.c.account_id).where(WALLETS.c.address == bindparam("address"))
)

WALLET_TOKENS = Table(
    "wallet_tokens",
    metadata,
    Column("jti", Text, nullable=False),
    Column("used_at", INSTANT, nullable=False),
    Column("expires_at", INSTANT, nullable=False),
    PrimaryKeyConstraint("jti", name="wallet_token_is_used_once"),
    comment="Used ones only, until no clock takes them for valid any more",
)
MARK_USED = compiled(
    insert(WALLET_TOKENS).on_conflict_do_nothing(constraint=WALLET_TOKENS.primary_key)
)
"""Used once: if two come at a time, one inserts the row; the other waits and inserts none."""
FORGET_USED = compiled(
    delete(WALLET_TOKENS).where(WALLET_TOKENS.c.expires_at < bindparam("before"))
)


class Wallets:
    """Sign-in by wallet, and the accounts that wallets opened."""

    def __init__(
        self,
        pool: AsyncConnectionPool,
        ledger: Ledger,
        settings: Settings,
        jwt_secret: str,
        clock: DatabaseClock,
    ) -> None:
        """Take what sign-in needs; no node is asked yet."""
        self._pool = pool
        self._clock = clock
        self._ledger = ledger
        self._settings = settings
        self._challenges = Challenges(jwt_secret)
        self._prover: Prover | None = None

    async def close(self) -> None:
        """Close the connection to the chain."""
        if self._prover is not None:
            await self._prover.close()

    def challenge(self) -> str:
        """Make a token for a wallet to sign: it is valid for 15 minutes and one sign-in."""
        return self._challenges.issue(self._clock.now())

    async def prove(self, address: str, signature: str, token: str) -> WalletAddress:
        """Check that a wallet signed this very token and holds a stake, and use the token up.

        A proof that fails leaves the token as it was, so that nobody can spoil another's. Check
        everything else first: if that fails afterwards, a new token is needed.

        Raises:
            WalletRefused: The proof fails, or the token was used before.
            WalletUnavailable: It cannot be checked here or now; the token stays valid.
        """
        prover = await self._ready()
        proven = await prover.prove(address, signature, token, self._clock.now())
        await self._use(proven.challenge)
        return proven.address

    async def _ready(self) -> "Prover":
        if not self._settings.web3_rpc_url:
            detail = "Wallet sign-in is off: the operator has not set KEYLEDGER_WEB3_RPC_URL."
            raise WalletUnavailable(detail)
        if self._prover is None:
            # In a thread, because the import takes a second; the lines after it run without a
            # break.
            await asyncio.to_thread(_load)
            from api.identity.wallet.proof import Prover  # noqa: PLC0415

            self._prover = self._prover or Prover(self._settings, self._challenges)
        return self._prover

    async def _use(self, challenge: Challenge) -> None:
        parameters = {
            "jti": challenge.jti,
            "used_at": self._clock.now(),
            "expires_at": challenge.expires_at,
        }
        async with self._pool.connection() as connection:
            done = await connection.execute(MARK_USED, parameters)
        if not done.rowcount:
            raise TokenIsUsed

    async def forget(self, at: Instant) -> int:
        """Delete used tokens that no clock counts as valid any more; return how many."""
        async with self._pool.connection() as connection:
            done = await connection.execute(FORGET_USED, {"before": at - SKEW})
        return done.rowcount

    async def account_for(self, address: WalletAddress) -> AccountId:
        """Return the wallet's account; open it with the welcome grant at the first sign-in.

        Raises:
            LedgerUnavailable: It could not be opened now.
        """
        return await self._known(address) or await self._opened(address)

    async def _known(self, address: WalletAddress) -> AccountId | None:
        async with self._pool.connection() as connection:
            rows = await connection.execute(FIND_WALLET, {"address": _bytes(address)})
            row = await rows.fetchone()
        return None if row is None else AccountId(row[0])

    async def _opened(self, address: WalletAddress) -> AccountId:
        # The account's id is not derived from the address, which its events would then reveal. If
        # two come at the same time, the table of wallets takes one; the other finds its row.
        account_id = new_account_id()
        wallet = WalletRow(new_salt(), account_id, _bytes(address))
        try:
            await self._ledger.accounts.open(
                Asked("system"),
                self._ledger.accounts.opening.own_terms("system"),
                name=address,
                account_id=account_id,
                wallet=wallet,
            )
        except AccountIsOpen:
            found = await self._known(address)
            assert found is not None
            return found
        return account_id


def _load() -> None:
    depth = sys.getrecursionlimit()
    try:
        import api.identity.wallet.proof  # noqa: F401, PLC0415 - a second, and absent without the extra
    except ImportError as error:
        detail = "Wallet sign-in is off: its packages are not installed (keyledger[wallet])."
        raise WalletUnavailable(detail) from error
    finally:
        # py_ecc raises it to 100,000 for the whole process: deep JSON would then overflow the stack
        # of the C code that decodes it, instead of being an ordinary error.
        sys.setrecursionlimit(depth)


def _bytes(address: WalletAddress) -> bytes:
    return bytes.fromhex(address.removeprefix("0x"))
