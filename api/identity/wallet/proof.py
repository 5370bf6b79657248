"""What a wallet must prove, in this order: address, token, signature, stake.

Needs the extra ``wallet``; imported at the first proof. Nothing is written here.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import NamedTuple

from api.identity.wallet import ethereum
from api.identity.wallet.challenges import Challenge, Challenges
from api.identity.wallet.node import RETRY_AFTER_SECONDS, ChainNode, Reverted
from api.identity.wallet.words import (
    SignatureDoesNotMatch,
    SignatureIsUnverifiable,
    WalletAddress,
    WalletHasNoStake,
    WalletUnavailable,
)
from api.settings import Settings
from ledger.clock import Instant

PROOFS_AT_ONCE = 32
"""Proofs at once per process; anybody may begin one."""
PROOF_SECONDS = 20
"""For all questions to the node in one proof."""
WORD_BYTES = 32


class Proven(NamedTuple):
    """A wallet that signed a token and holds a stake."""

    address: WalletAddress
    challenge: Challenge


class Prover:
    """Checks proofs against a chain."""

    def __init__(self, settings: Settings, challenges: Challenges) -> None:
        """Take the settings, which name chain and contract, and the challenges."""
        self._challenges = challenges
        self._chain_id = settings.web3_chain_id
        self._contract = settings.web3_contract
        self._node = ChainNode(settings.web3_rpc_url)
        self._under_way = 0

    async def close(self) -> None:
        """Let go of the node."""
        await self._node.close()

    async def prove(self, address: str, signature: str, token: str, at: Instant) -> Proven:
        """Check that a wallet signed this very token and holds a stake.

        Raises:
            WalletRefused: It did not sign it, or holds none.
            WalletUnavailable: The chain cannot be asked.
        """
        wallet = ethereum.address_of(address)
        challenge = self._challenges.read(token, at)
        signed = ethereum.signature_of(signature)
        with self._place():
            try:
                async with asyncio.timeout(PROOF_SECONDS):
                    await self._require_chain()
                    await self._require_signature(wallet, token, signed)
                    await self._require_stake(wallet)
            except TimeoutError as error:
                detail = "The chain took too long to answer."
                raise _passing(detail) from error
        return Proven(wallet, challenge)

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        if self._under_way >= PROOFS_AT_ONCE:
            raise _passing("Too many wallets are signing in at once. Try again later.")
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    async def _require_chain(self) -> None:
        found = await self._node.chain_id()
        if found != self._chain_id:
            detail = (
                f"The node at KEYLEDGER_WEB3_RPC_URL serves chain {found}, not {self._chain_id}"
                " as KEYLEDGER_WEB3_CHAIN_ID says."
            )
            raise WalletUnavailable(detail)

    async def _require_signature(self, wallet: WalletAddress, token: str, signature: bytes) -> None:
        signer = await asyncio.to_thread(ethereum.signer_of, token, signature)
        if signer == wallet:
            return
        # Only a contract may still accept it.
        if not await self._node.has_code(wallet):
            raise SignatureDoesNotMatch
        question = ethereum.question_of_signature(token, signature)
        try:
            answer = await self._node.call(wallet, question)
        except Reverted as error:
            raise SignatureIsUnverifiable from error
        if len(answer) < WORD_BYTES:
            raise SignatureIsUnverifiable
        if not ethereum.says_valid(answer):
            raise SignatureDoesNotMatch

    async def _require_stake(self, wallet: WalletAddress) -> None:
        try:
            answer = await self._node.call(self._contract, ethereum.question_of_balance(wallet))
        except Reverted:
            answer = b""
        if len(answer) < WORD_BYTES:
            detail = "KEYLEDGER_WEB3_CONTRACT is not a token contract on this chain."
            raise WalletUnavailable(detail)
        if not any(answer[:WORD_BYTES]):
            raise WalletHasNoStake


def _passing(detail: str) -> WalletUnavailable:
    return WalletUnavailable(detail, retry_after_seconds=RETRY_AFTER_SECONDS)
