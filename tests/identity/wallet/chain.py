"""A real EVM in process behind JSON-RPC over HTTP, with the contracts that wallet sign-in meets."""

import http.server
import json
import sys
import threading
from collections.abc import Callable
from typing import Any

from eth_abi.abi import encode
from eth_account import Account
from eth_account.messages import encode_defunct
from eth_account.signers.local import LocalAccount
from eth_tester import EthereumTester, PyEVMBackend
from eth_tester.exceptions import TransactionFailed
from eth_utils.abi import function_signature_to_4byte_selector

from tests.identity.wallet.assembler import assemble, creation


def selector(signature: str) -> str:
    """Return the first word of a call of a function, as a number."""
    return "0x" + function_signature_to_4byte_selector(signature).hex()


STAKING = assemble(f"""
    # A stake is kept in the slot of its holder's address.
    0x0 calldataload 0xe0 shr
    dup1 {selector("balanceOf(address)")} eq @balance jumpi
    dup1 {selector("stake(address,uint256)")} eq @stake jumpi
    dup1 {selector("unstake(uint256)")} eq @unstake jumpi
  refuse: 0x0 0x0 revert
  balance: 0x4 calldataload sload 0x0 mstore 0x20 0x0 return
  stake: 0x4 calldataload dup1 sload 0x24 calldataload add swap1 sstore stop
  unstake: caller dup1 sload 0x4 calldataload dup2 dup2 gt @refuse jumpi
    swap1 sub swap1 sstore stop
""")
"""Staked VVV in little: ``stake`` for anybody, ``unstake`` one's own, ``balanceOf``."""

WALLET = assemble(f"""
    0x0 calldataload 0xe0 shr
    {selector("isValidSignature(bytes32,bytes)")} eq @check jumpi
  refuse: 0x0 0x0 revert
  check: 0x44 calldataload 0x41 eq iszero @refuse jumpi   # 65 bytes, or none of its business
    0x4 calldataload 0x0 mstore                           # hash
    0xa4 calldataload 0x0 byte 0x20 mstore                # v
    0x64 calldataload 0x40 mstore                         # r
    0x84 calldataload 0x60 mstore                         # s
    0x20 0x80 0x80 0x0 0x1 gas staticcall pop             # ecrecover
    0x80 mload 0x0 sload eq @valid jumpi                  # the owner is kept in slot 0
    0xffffffff 0xe0 shl 0x0 mstore 0x20 0x0 return
  valid: 0x1626ba7e 0xe0 shl 0x0 mstore 0x20 0x0 return
""")
"""A contract wallet (EIP-1271) of one owner."""

ECHO = assemble("calldatasize 0x0 0x0 calldatacopy calldatasize 0x0 return")
"""Returns what it was asked."""
MUTE = assemble("stop")
REVERTING = assemble("0x0 0x0 revert")
BROKEN = assemble("invalid")


class Chain:
    """A chain of one's own."""

    def __init__(self) -> None:
        """Begin a chain and deploy the staking contract."""
        limit = sys.getrecursionlimit()
        self._tester = EthereumTester(PyEVMBackend())
        # py-evm raises it for deep calls; JSON decoders would overflow the stack under it.
        sys.setrecursionlimit(limit)
        self._funded = self._tester.get_accounts()[0]
        self._lock = threading.Lock()
        self.chain_id: int = self._tester.backend.chain.chain_id
        self.staking = self.deploy(STAKING)
        self.asked: list[str] = []
        """Methods, as they were asked for."""

    def _send(self, **terms: Any) -> Any:
        terms = {"from": self._funded, "gas": 3_000_000, "value": 0, **terms}
        with self._lock:
            sent = self._tester.send_transaction(terms)
            return self._tester.get_transaction_receipt(sent)

    def deploy(self, runtime: bytes, constructor: str = "") -> str:
        """Put a contract on the chain; return its address."""
        receipt = self._send(data="0x" + creation(runtime, constructor).hex())
        assert receipt["status"] == 1
        return receipt["contract_address"]

    def wallet_of(self, owner: str) -> str:
        """Deploy a contract wallet; return its address."""
        return self.deploy(WALLET, f"{owner} 0x0 sstore")

    def stake(self, holder: str, amount: int = 1) -> None:
        """Return an address a stake."""
        question = function_signature_to_4byte_selector("stake(address,uint256)")
        data = question + encode(["address", "uint256"], [holder, amount])
        assert self._send(to=self.staking, data="0x" + data.hex())["status"] == 1

    def staker(self) -> LocalAccount:
        """Make an ordinary account with a stake."""
        account: LocalAccount = Account.create()
        self.stake(account.address)
        return account

    def answer(self, body: bytes) -> tuple[int, bytes]:
        """Answer one call as a node does."""
        call = json.loads(body)
        self.asked.append(call["method"])
        reply = {"jsonrpc": "2.0", "id": call["id"]}
        try:
            reply["result"] = self._result(call["method"], call["params"])
        except TransactionFailed as error:
            reply["error"] = _fault(str(error))
        return 200, json.dumps(reply).encode()

    def _result(self, method: str, params: list[Any]) -> str:
        with self._lock:
            match method:
                case "eth_chainId":
                    return hex(self.chain_id)
                case "eth_getCode":
                    return self._tester.get_code(params[0])
                case "eth_call":
                    terms = {"from": self._funded, **params[0], "gas": int(params[0]["gas"], 16)}
                    return self._tester.call(terms)
        raise AssertionError(method)


def _fault(said: str) -> dict[str, object]:
    """Word a failed call as geth does."""
    if "opcode" in said:
        return {"code": -32000, "message": "invalid opcode: INVALID"}
    return {"code": 3, "message": "execution reverted", "data": "0x"}


class Endpoint:
    """An HTTP server on a free port that hands each body to a function."""

    def __init__(self, answer: Callable[[bytes], tuple[int, bytes]]) -> None:
        """Begin to serve."""

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, reply = answer(body)
                self.send_response(status)
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v2/key-of-the-node"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """End."""
        self._server.shutdown()
        self._server.server_close()


def sign(account: LocalAccount, token: str) -> str:
    """Sign a token as wallets do, by ``personal_sign``."""
    signed = account.sign_message(encode_defunct(text=token))
    return "0x" + signed.signature.hex().removeprefix("0x")
