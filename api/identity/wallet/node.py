"""Asks a node of the chain: JSON-RPC over HTTP, bounded in time and size.

The node's URL often holds its owner's key: it is in no error and no log line.
"""

import asyncio
import re

import httpx
import msgspec
import structlog

from api.identity.wallet.words import WalletUnavailable

log = structlog.get_logger("keyledger.wallet")

TIMEOUT_SECONDS = 5
"""For one attempt as a whole."""
ATTEMPTS = 2
REPLY_MAX = 1_048_576
"""Bytes; the code of a contract is some 50,000."""
CONNECTIONS_MAX = 8
GAS_MAX = 5_000_000
"""Gas for one call: ten times what verifying a passkey takes."""
RETRY_AFTER_SECONDS = 5

_QUANTITY = re.compile(r"0x([0-9a-fA-F]{1,64})", re.ASCII)
_DATA = re.compile(r"0x((?:[0-9a-fA-F]{2})*)", re.ASCII)
# Nodes differ in how they report that a contract failed, as opposed to the node itself.
_REVERTED = re.compile(
    r"revert|out of gas|gas required exceeds|invalid opcode|invalid jump|stack (under|over)flow"
    r"|vm execution error",
    re.IGNORECASE,
)
_REVERTED_CODE = 3


class Reverted(Exception):
    """The contract that was called reverted."""


class _Garbled(Exception):
    """The node's answer makes no sense."""


class _Fault(msgspec.Struct):
    code: int
    message: str = ""


class _Reply(msgspec.Struct):
    id: int
    result: str | None = None
    error: _Fault | None = None


class ChainNode:
    """A node, as ``KEYLEDGER_WEB3_RPC_URL`` names it."""

    def __init__(self, url: str) -> None:
        """Take its address; nothing is connected yet."""
        self._url = url
        self._client: httpx.AsyncClient | None = None

    async def close(self) -> None:
        """Let go of its connections."""
        if self._client is not None:
            await self._client.aclose()

    async def chain_id(self) -> int:
        """Ask which chain it serves."""
        return int(await self._ask(_QUANTITY, "eth_chainId"), 16)

    async def has_code(self, address: str) -> bool:
        """Ask whether an address is a contract's."""
        return bool(await self._ask(_DATA, "eth_getCode", address, "latest"))

    async def call(self, contract: str, question: bytes) -> bytes:
        """Call a contract at the latest block.

        Raises:
            Reverted: It failed.
        """
        call = {"to": contract, "data": "0x" + question.hex(), "gas": hex(GAS_MAX)}
        return bytes.fromhex(await self._ask(_DATA, "eth_call", call, "latest"))

    async def _ask(self, form: re.Pattern[str], method: str, *params: object) -> str:
        """Return the hexadecimal digits of an answer that has this form."""
        body = msgspec.json.encode({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        failed: Exception | None = None
        for _ in range(ATTEMPTS):
            try:
                async with asyncio.timeout(TIMEOUT_SECONDS):
                    return _result(form, await self._post(body))
            except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, _Garbled) as error:
                failed = error
                log.warning("web3_rpc_failed", method=method, error=type(error).__name__)
        raise _unreachable() from failed

    async def _post(self, body: bytes) -> bytes:
        client, reply = self._connected(), bytearray()
        async with client.stream("POST", self._url, content=body) as response:
            if response.status_code != httpx.codes.OK:
                raise _Garbled
            # Raw, because a short compressed answer could expand without end.
            async for part in response.aiter_raw():
                reply += part
                if len(reply) > REPLY_MAX:
                    raise _Garbled
        return bytes(reply)

    def _connected(self) -> httpx.AsyncClient:
        if self._client is None:
            self._client = httpx.AsyncClient(
                headers={"Content-Type": "application/json", "Accept-Encoding": "identity"},
                timeout=TIMEOUT_SECONDS,
                limits=httpx.Limits(max_connections=CONNECTIONS_MAX),
            )
        return self._client


def _unreachable() -> WalletUnavailable:
    detail = (
        "The chain cannot be asked now: the node at KEYLEDGER_WEB3_RPC_URL does not answer as it"
        " should."
    )
    return WalletUnavailable(detail, retry_after_seconds=RETRY_AFTER_SECONDS)


def _result(form: re.Pattern[str], body: bytes) -> str:
    try:
        reply = msgspec.json.decode(body, type=_Reply)
    except msgspec.DecodeError as error:
        raise _Garbled from error
    fault = reply.error
    if fault is not None and (fault.code == _REVERTED_CODE or _REVERTED.search(fault.message)):
        raise Reverted
    digits = None if fault is not None or reply.id != 1 else form.fullmatch(reply.result or "")
    if digits is None:
        raise _Garbled
    return digits[1]
