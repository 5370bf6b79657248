"""A node that is not there, slow, or talks nonsense: 503 that says so, and no token is used up."""

import asyncio
import itertools
import json
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from api.http.failure import Kind
from api.identity.wallet import WalletHasNoStake, WalletUnavailable, node, proof
from api.process import logs
from api.services import Services
from tests.identity.wallet.chain import Chain, Endpoint, sign

Answer = Callable[[bytes], tuple[int, bytes]]


@contextmanager
def answering(answer: Answer) -> Iterator[str]:
    """Serve answers; return the URL."""
    endpoint = Endpoint(answer)
    try:
        yield endpoint.url
    finally:
        endpoint.close()


def unavailable(run: Any, chain: Chain, url: str, **changes: Any) -> WalletUnavailable:
    """Let a good proof be refused for the node's sake, and see that its token still holds."""
    holder = chain.staker()

    async def refused(services: Services) -> tuple[WalletUnavailable, tuple[str, str, str]]:
        token = services.wallets.challenge()
        good = holder.address, sign(holder, token), token
        with pytest.raises(WalletUnavailable) as error:
            await services.wallets.prove(*good)
        return error.value, good

    found, good = run(refused, web3_rpc_url=url, **changes)
    assert found.kind is Kind.UNAVAILABLE
    assert "key-of-the-node" not in str(found)
    run(lambda services: services.wallets.prove(*good))
    return found


def says(call: bytes, **members: Any) -> tuple[int, bytes]:
    """Return an answer with the id of its question."""
    return 200, json.dumps({"jsonrpc": "2.0", "id": json.loads(call)["id"], **members}).encode()


NONSENSE: dict[str, Answer] = {
    "no_json": lambda _: (200, b"<html>Bad gateway</html>"),
    "empty": lambda _: (200, b""),
    "no_object": lambda _: (200, b"[]"),
    "no_result": says,
    "null": lambda call: says(call, result=None),
    "a_number": lambda call: says(call, result=8453),
    "no_hexadecimal": lambda call: says(call, result="8453"),
    "a_huge_number": lambda call: says(call, result="0x" + "f" * 65),
    "another_id": lambda call: says(call, id=7, result="0x2105"),
    "an_error": lambda call: says(call, error={"code": -32005, "message": "rate limited"}),
    "error_and_result": lambda call: says(
        call, result="0x1", error={"code": -32603, "message": "no"}
    ),
    "refused": lambda _: (429, b"Too many requests"),
    "forbidden": lambda _: (403, b"the key is not valid"),
    "broken": lambda call: (500, says(call, result="0x2105")[1]),
    "moved": lambda _: (302, b""),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_is_no_answer(run: Any, chain: Chain, name: str) -> None:
    """Whatever a node says that is no answer, the reply is a 503 and asks to come back."""
    asked: list[bytes] = []

    def answer(call: bytes) -> tuple[int, bytes]:
        asked.append(call)
        return NONSENSE[name](call)

    with answering(answer) as url:
        found = unavailable(run, chain, url)
    assert "the node at KEYLEDGER_WEB3_RPC_URL does not answer" in str(found)
    assert found.headers == {"Retry-After": "5"}
    assert len(asked) == 2


def test_an_answer_that_does_not_end_is_not_read_to_its_end(run: Any, chain: Chain) -> None:
    """Right as it may be: what is longer than any contract's code is no answer."""

    def answer(call: bytes) -> tuple[int, bytes]:
        status, reply = chain.answer(call)
        return status, reply + b" " * node.REPLY_MAX

    with answering(answer) as url:
        unavailable(run, chain, url)


@pytest.mark.parametrize("method", ["eth_chainId", "eth_getCode", "eth_call"])
def test_one_failure_is_tried_again(run: Any, chain: Chain, method: str) -> None:
    """A node that fails at first and answers then is good enough, whatever was asked."""
    owner = chain.staker()
    wallet = chain.wallet_of(owner.address)
    chain.stake(wallet)
    failures = itertools.count()

    def answer(call: bytes) -> tuple[int, bytes]:
        if json.loads(call)["method"] == method and next(failures) == 0:
            return 503, b""
        return chain.answer(call)

    async def story(services: Services) -> str:
        token = services.wallets.challenge()
        return await services.wallets.prove(wallet, sign(owner, token), token)

    with answering(answer) as url:
        assert run(story, web3_rpc_url=url) == wallet
    assert next(failures) > 1


def test_a_node_that_is_not_there_is_a_503(run: Any, chain: Chain) -> None:
    """Nobody listens; the log tells what failed and not where, because the URL holds a key."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    found = unavailable(run, chain, f"http://127.0.0.1:{port}/v2/key-of-the-node")
    assert "does not answer" in str(found)


def test_the_url_is_in_no_log(run: Any, chain: Chain, capsys: Any) -> None:
    """Promise 11: neither our lines nor those of the HTTP library name the node."""
    before = logging.getLogger().handlers[:], logging.getLogger().level
    logs.configure()
    try:
        with answering(lambda _: (500, b"")) as url:
            unavailable(run, chain, url)
    finally:
        logging.getLogger().handlers[:] = before[0]
        logging.getLogger().setLevel(before[1])
    words = capsys.readouterr().err
    assert words.count('"event": "web3_rpc_failed"') == 2
    assert "key-of-the-node" not in words


def test_a_node_that_hangs_is_given_up(
    run: Any, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It accepts and says nothing: two attempts, each with its time-out."""
    assert (node.TIMEOUT_SECONDS, node.ATTEMPTS) == (5, 2)
    monkeypatch.setattr(node, "TIMEOUT_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        found = unavailable(run, chain, f"http://127.0.0.1:{port}/v2/key-of-the-node")
    assert "does not answer" in str(found)


def test_a_proof_as_a_whole_is_given_up(
    run: Any, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers that each come in time add up to too long."""
    monkeypatch.setattr(proof, "PROOF_SECONDS", 1)
    waiting = threading.Event()

    def answer(call: bytes) -> tuple[int, bytes]:
        waiting.wait(0.8)
        return chain.answer(call)

    with answering(answer) as url:
        holder = chain.staker()

        async def story(services: Services) -> None:
            token = services.wallets.challenge()
            with pytest.raises(WalletUnavailable, match="took too long"):
                await services.wallets.prove(holder.address, sign(holder, token), token)

        run(story, web3_rpc_url=url)


def test_no_more_proofs_than_there_are_places(
    run: Any, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody may begin one: whoever comes over the bound is refused, and the places come free."""
    monkeypatch.setattr(proof, "PROOFS_AT_ONCE", 2)
    holders = [chain.staker() for _ in range(4)]

    async def story(services: Services) -> None:
        async def attempt(holder: Any) -> str:
            token = services.wallets.challenge()
            return await services.wallets.prove(holder.address, sign(holder, token), token)

        done = await asyncio.gather(*map(attempt, holders), return_exceptions=True)
        refused = [each for each in done if isinstance(each, WalletUnavailable)]
        assert [str(each) for each in refused] == [
            "Too many wallets are signing in at once. Try again later."
        ] * 2
        assert await attempt(holders[0]) == holders[0].address

    run(story)


def test_another_chain_proves_nothing(run: Any, chain: Chain, node_url: str) -> None:
    """A stake on a test chain is none: the node must serve the chain that was configured."""
    found = unavailable(run, chain, node_url, web3_chain_id=8453)
    assert f"serves chain {chain.chain_id}, not 8453" in str(found)
    assert found.headers == {}


@pytest.mark.parametrize("missing", ["nothing", "another"])
def test_a_contract_that_tells_no_balance_is_the_operators_mistake(
    run: Any, chain: Chain, node_url: str, missing: str
) -> None:
    """A wrong address is no reason to tell wallets that they hold no stake."""
    wallet = chain.wallet_of(chain.staker().address)
    contract = "0x" + "11" * 20 if missing == "nothing" else wallet
    found = unavailable(run, chain, node_url, web3_contract=contract)
    assert "KEYLEDGER_WEB3_CONTRACT is not a token contract" in str(found)
    assert found.headers == {}


def test_without_a_node_the_answer_says_which_variable_to_set(run: Any, chain: Chain) -> None:
    """Unset: off; a token is handed out all the same."""
    found = unavailable(run, chain, "")
    assert str(found) == ("Wallet sign-in is off: the operator has not set KEYLEDGER_WEB3_RPC_URL.")
    assert found.headers == {}


def test_a_balance_is_read_as_one_word(run: Any, chain: Chain) -> None:
    """A stake of 2²⁵⁶ − 1 counts, a zero of 32 bytes does not."""
    holder = chain.staker()

    def telling(word: str) -> Answer:
        def answer(call: bytes) -> tuple[int, bytes]:
            asked = json.loads(call)["method"] == "eth_call"
            return says(call, result="0x" + word) if asked else chain.answer(call)

        return answer

    async def story(services: Services) -> str:
        token = services.wallets.challenge()
        return await services.wallets.prove(holder.address, sign(holder, token), token)

    with answering(telling("f" * 64)) as url:
        assert run(story, web3_rpc_url=url) == holder.address
    with answering(telling("0" * 64)) as url, pytest.raises(WalletHasNoStake):
        run(story, web3_rpc_url=url)


WITHOUT_THE_EXTRA = """
import asyncio, sys
from pathlib import Path
HIDDEN = ("eth_abi", "eth_account", "eth_keys", "eth_utils")
sys.modules.update(dict.fromkeys(HIDDEN))
import api.process.app, api.process.jobs, api.process.serve
from api.settings import Settings
from api.identity.wallet import WalletUnavailable
from api.native.errors import word
from api.services import Services

async def main():
    settings = Settings(
        home=Path(sys.argv[1]), admin_secret="x", pepper="pepper-of-tests", jwt_secret="j" * 64,
        web3_rpc_url="http://127.0.0.1:9/",
    )
    services = await Services.open(settings, sys.argv[2])
    try:
        await services.wallets.prove("0x", "0x", services.wallets.challenge())
    except WalletUnavailable as error:
        print(word(error).status, error)
    await services.close()

asyncio.run(main())
"""


def test_without_the_extra_the_answer_says_what_to_install(ledger_url: str, tmp_path: Path) -> None:
    """The service runs and hands out tokens; only a proof needs the packages."""
    command = [sys.executable, "-c", WITHOUT_THE_EXTRA, str(tmp_path), ledger_url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == (
        "503 Wallet sign-in is off: its packages are not installed (keyledger[wallet]).\n"
    )


def test_a_worker_imports_nothing_of_ethereum_until_a_wallet_comes() -> None:
    """Thirty megabytes and a second that only wallets pay."""
    slow = ("eth_abi", "eth_account", "eth_keys", "eth_utils", "httpx", "pydantic")
    modules = "api.process.app, api.process.jobs, api.process.serve"
    script = f"import sys, {modules}; print(*(n for n in {slow} if n in sys.modules))"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == []
