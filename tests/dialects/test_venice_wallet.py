"""venice: a wallet that holds a stake signs in on a real EVM, and its key works. V9."""

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NamedTuple

import httpx
import pytest
from eth_account import Account

from ledger import clock
from tests.conftest import Served, settings_for
from tests.dialects.venice_world import KEYS, together
from tests.identity.wallet.chain import Chain, Endpoint, sign

WEB3 = f"{KEYS}/generate_web3_key"


class Web3(NamedTuple):
    """A served ledger with a chain behind it."""

    served: Served
    chain: Chain
    client: httpx.Client
    """Shows nothing."""

    def token(self) -> str:
        """Get a token to sign."""
        found = self.client.get(WEB3)
        assert found.status_code == 200
        assert found.json()["success"] is True
        assert set(found.json()["data"]) == {"token"}
        return found.json()["data"]["token"]

    def ask(self, address: str, signature: str, token: str, **terms: Any) -> httpx.Response:
        """Ask for a key."""
        body = {
            "apiKeyType": "ADMIN",
            "address": address,
            "signature": signature,
            "token": token,
        }
        return self.client.post(WEB3, json={**body, **terms})


@pytest.fixture(scope="module")
def web3(ledger_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web3]:
    """Serve the module's ledger with a chain."""
    chain = Chain()
    endpoint = Endpoint(chain.answer)
    settings = settings_for(
        tmp_path_factory.mktemp("web3"),
        web3_rpc_url=endpoint.url,
        web3_contract=chain.staking,
        web3_chain_id=chain.chain_id,
    )
    served = Served(settings, ledger_url).start()
    with served.client(None) as client:
        yield Web3(served, chain, client)
    served.stop()
    endpoint.close()


def test_v9_a_wallet_mints_a_key(web3: Web3) -> None:
    """V9: a signed token makes a key of the wallet's own account, which works at once."""
    holder, token = web3.chain.staker(), web3.token()
    good = web3.ask(holder.address, sign(holder, token), token, consumptionLimit={"usd": 3})
    assert good.status_code == 200, good.text
    assert good.headers["Cache-Control"] == "no-store"
    made = good.json()["data"]
    assert made["description"] == "Web3 API Key"
    assert made["consumptionLimit"] == {"usd": 3, "diem": None, "vcu": None}
    assert made["apiKey"].startswith("VENICE_ADMIN_KEY_")
    with web3.served.client(made["apiKey"]) as admin:
        chat = {"model": "keyledger-small", "messages": [{"role": "user", "content": "Hello"}]}
        assert admin.post("/api/v1/chat/completions", json=chat).status_code == 200
        token = web3.token()
        again = web3.ask(holder.address, sign(holder, token), token, apiKeyType="INFERENCE")
        rows = admin.get(KEYS).json()["data"]
    assert [row["id"] for row in rows] == [again.json()["data"]["id"], made["id"]]


def test_v9_a_contract_wallet_mints_a_key(web3: Web3) -> None:
    """V9: EIP-1271: the contract judges its owner's signature."""
    owner = Account.create()
    wallet = web3.chain.wallet_of(owner.address)
    web3.chain.stake(wallet)
    token = web3.token()
    assert web3.ask(wallet, sign(owner, token), token).status_code == 200


def _tampered(token: str) -> str:
    head, _, mark = token.rpartition(".")
    return f"{head}.{'A' if mark[0] != 'A' else 'B'}{mark[1:]}"


def _used(web3: Web3, holder: Any) -> str:
    token = web3.token()
    assert web3.ask(holder.address, sign(holder, token), token).status_code == 200
    return token


class Proof(NamedTuple):
    """What a wallet shows."""

    address: str
    signature: str
    token: str


def _of(signer: Any, token: str, address: str = "") -> Proof:
    return Proof(address or signer.address, sign(signer, token), token)


WRONG: dict[str, Callable[[Web3, Any, Any, str], Proof]] = {
    "Invalid wallet address": lambda _web3, holder, _, token: _of(holder, token, "0x12"),
    "JWT claims are invalid": lambda web3, holder, _, _token: _of(holder, _used(web3, holder)),
    "JWT is malformed": lambda _web3, holder, _, _token: _of(holder, "x"),
    "JWT signature is invalid": lambda _web3, holder, _, token: _of(holder, _tampered(token)),
    "Wallet signature does not match": lambda _web3, holder, other, token: _of(
        other, token, holder.address
    ),
    "Could not verify wallet signature": lambda _web3, holder, _, token: Proof(
        holder.address, "no signature", token
    ),
    "Wallet has no staked VVV on Base": lambda _web3, _, other, token: _of(other, token),
}
"""What is said → what is shown, by a holder and somebody without a stake."""


@pytest.mark.parametrize("text", WRONG)
def test_v9_whoever_does_not_prove_it_is_refused(web3: Web3, text: str) -> None:
    """V9: each in the page's words; what was refused uses no token up."""
    holder, stranger, token = web3.chain.staker(), Account.create(), web3.token()
    refused = web3.ask(*WRONG[text](web3, holder, stranger, token))
    assert (refused.status_code, refused.json()) == (400, {"error": text})
    assert web3.ask(holder.address, sign(holder, token), token).status_code == 200


def test_v9_an_expired_token_is_refused(web3: Web3) -> None:
    """V9: a token holds for 15 minutes."""
    wallets, holder = web3.served.services.wallets, web3.chain.staker()
    token = wallets._challenges.issue(clock.now() - timedelta(minutes=16))
    refused = web3.ask(holder.address, sign(holder, token), token)
    assert (refused.status_code, refused.json()) == (400, {"error": "JWT has expired"})


def test_v9_wrong_terms_use_no_token_up(web3: Web3) -> None:
    """V9: what the key is to be is checked before the proof."""
    holder, token = web3.chain.staker(), web3.token()
    for terms in (
        {"limitPeriod": "WEEK"},
        {"expiresAt": "soon"},
        {"consumptionLimit": {"usd": -1}},
    ):
        refused = web3.ask(holder.address, sign(holder, token), token, **terms)
        assert refused.status_code == 400
        assert refused.json()["error"] == "Invalid request parameters"
    assert web3.ask(holder.address, sign(holder, token), token).status_code == 200


def test_v9_a_token_makes_one_key_however_often_it_comes(web3: Web3) -> None:
    """V9: eight at once with one token: one key."""
    holder, token = web3.chain.staker(), web3.token()
    signed = sign(holder, token)
    found = together(8, lambda _: web3.ask(holder.address, signed, token).status_code)
    assert Counter(found) == {200: 1, 400: 7}


def test_v10_wallets_are_held_to_their_accounts_limits(web3: Web3) -> None:
    """V10: a wallet's account makes 20 keys a minute."""
    holder = web3.chain.staker()
    for number in range(21):
        token = web3.token()
        found = web3.ask(holder.address, sign(holder, token), token)
        assert found.status_code == (200 if number < 20 else 429), found.text
    assert found.json() == {"error": "Rate limit exceeded"}


def test_v9_without_a_chain_wallets_cannot_sign_in(served: Any) -> None:
    """V9: no RPC URL: 503, said clearly; a token is given all the same."""
    with served.client(None) as nobody:
        token = nobody.get(WEB3).json()["data"]["token"]
        address = "0x" + "0" * 40
        body = {"apiKeyType": "ADMIN", "address": address, "signature": "0x", "token": token}
        found = nobody.post(WEB3, json=body)
    assert found.status_code == 503
    assert "KEYLEDGER_WEB3_RPC_URL" in found.json()["error"]
