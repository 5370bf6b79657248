"""Wallets sign in on a real EVM: an ordinary account, contract wallets, and everybody refused."""

import asyncio
import multiprocessing
import subprocess
import sys
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import psycopg
import pytest
from eth_account import Account
from eth_utils.abi import function_signature_to_4byte_selector

from api.http.failure import Kind
from api.identity.wallet import (
    AddressIsInvalid,
    SignatureDoesNotMatch,
    SignatureIsUnverifiable,
    TokenClaimsAreInvalid,
    TokenHasExpired,
    TokenIsMalformed,
    TokenIsUsed,
    TokenSignatureIsInvalid,
    WalletHasNoStake,
)
from api.identity.wallet.challenges import Challenges
from api.process import jobs
from api.services import Services
from ledger import clock
from ledger.ids import OPERATOR_ACCOUNT, new_member_id
from ledger.server import database
from tests.conftest import JWT_SECRET
from tests.identity.wallet import workers
from tests.identity.wallet.chain import BROKEN, ECHO, MUTE, REVERTING, Chain, sign

PROCESSES = 3
ROOT = Path(__file__).parents[3]
TIMES = 4
EVENTS = ["account_opened", "wallet_linked", "credit_granted"]


def accounts_of(url: str, address: str) -> list[tuple[Any, ...]]:
    """Return the account that a wallet opened, with the kinds of its events and its balances."""
    with psycopg.connect(database.conninfo(url, database.APP)) as connection:
        return connection.execute(
            "SELECT w.account_id, p.name, array_agg(e.type::text ORDER BY e.lane_seq),"
            " (SELECT array_agg(posted || asset) FROM balances b"
            " WHERE b.account_id = w.account_id) FROM wallets w"
            " JOIN account_profiles p USING (account_id) JOIN events e USING (account_id)"
            " WHERE w.address = %s GROUP BY 1, 2",
            (bytes.fromhex(address[2:]),),
        ).fetchall()


def test_an_ordinary_account_signs_in_once(run: Any, chain: Chain) -> None:
    """V9: a good proof; its replay is refused, and one form of the address means one wallet."""
    holder = chain.staker()

    async def story(services: Services) -> None:
        token = services.wallets.challenge()
        signed = sign(holder, token)
        found = await services.wallets.prove(holder.address.lower(), signed, token)
        assert found == holder.address
        with pytest.raises(TokenIsUsed, match="JWT claims are invalid"):
            await services.wallets.prove(holder.address, signed.removeprefix("0x"), token)
        token = services.wallets.challenge()
        assert await services.wallets.prove(holder.address, sign(holder, token), token) == found

    run(story)


def test_a_contract_wallet_signs_in_by_its_owner(run: Any, chain: Chain) -> None:
    """V9: EIP-1271, judged by the contract on the chain; another's signature is refused."""
    owner, other = Account.create(), Account.create()
    wallet = chain.wallet_of(owner.address)
    chain.stake(wallet)

    async def story(services: Services) -> None:
        token = services.wallets.challenge()
        with pytest.raises(SignatureDoesNotMatch, match="Wallet signature does not match"):
            await services.wallets.prove(wallet, sign(other, token), token)
        with pytest.raises(SignatureDoesNotMatch):
            await services.wallets.prove(wallet, sign(owner, token + "."), token)
        assert await services.wallets.prove(wallet, sign(owner, token), token) == wallet
        with pytest.raises(TokenIsUsed):
            await services.wallets.prove(wallet, sign(owner, token), token)

    run(story)


@pytest.mark.parametrize(
    ("code", "refusal"),
    [
        (REVERTING, SignatureIsUnverifiable),
        (BROKEN, SignatureIsUnverifiable),
        (MUTE, SignatureIsUnverifiable),
        (ECHO, SignatureDoesNotMatch),
    ],
    ids=["reverting", "broken", "mute", "echo"],
)
def test_a_contract_that_vouches_for_nothing_is_no_wallet(
    run: Any, chain: Chain, code: bytes, refusal: type[Exception]
) -> None:
    """One that gives back what it was asked begins with the right four bytes, and is refused."""
    contract = chain.deploy(code)
    chain.stake(contract)
    signer = Account.create()

    async def story(services: Services) -> None:
        token = services.wallets.challenge()
        with pytest.raises(refusal):
            await services.wallets.prove(contract, sign(signer, token), token)

    run(story)


def test_a_wrong_signer_is_refused_and_burns_no_token(run: Any, chain: Chain) -> None:
    """V9: who knows another's token and address cannot use the token up."""
    holder, thief = chain.staker(), chain.staker()

    async def story(services: Services) -> None:
        token = services.wallets.challenge()
        for wrong in (sign(thief, token), sign(holder, services.wallets.challenge())):
            with pytest.raises(SignatureDoesNotMatch, match="Wallet signature does not match"):
                await services.wallets.prove(holder.address, wrong, token)
        with pytest.raises(SignatureIsUnverifiable):
            await services.wallets.prove(holder.address, "nonsense", token)
        assert await services.wallets.prove(holder.address, sign(holder, token), token)

    run(story)


def test_a_wallet_without_stake_is_refused(run: Any, chain: Chain) -> None:
    """V9: it may come again with the same token once it holds one."""
    poor = Account.create()

    async def story(services: Services) -> None:
        token = services.wallets.challenge()
        proof = poor.address, sign(poor, token), token
        with pytest.raises(WalletHasNoStake, match="Wallet has no staked VVV on Base"):
            await services.wallets.prove(*proof)
        chain.stake(poor.address, 10**18)
        assert await services.wallets.prove(*proof) == poor.address

    run(story)


def test_a_stake_counts_as_it_is_now(run: Any, chain: Chain) -> None:
    """A wallet that took its stake out is refused at its next sign-in."""
    owner = chain._tester.get_accounts()[0]
    assert owner == chain._funded
    chain.stake(owner, 5)
    out = function_signature_to_4byte_selector("unstake(uint256)")
    key = Account.from_key(chain._tester.backend._key_lookup[bytes.fromhex(owner[2:])].to_bytes())

    async def story(services: Services) -> None:
        token = services.wallets.challenge()
        assert await services.wallets.prove(owner, sign(key, token), token) == owner
        assert chain._send(to=chain.staking, data="0x" + (out + bytes(31) + b"\5").hex())["status"]
        token = services.wallets.challenge()
        with pytest.raises(WalletHasNoStake):
            await services.wallets.prove(owner, sign(key, token), token)

    run(story)


def test_a_mistyped_address_is_refused_before_anything_is_asked(run: Any, chain: Chain) -> None:
    """EIP-55: one letter in the wrong case."""
    holder = chain.staker()
    at = next(i for i, letter in enumerate(holder.address) if i > 1 and letter.isalpha())
    mistyped = holder.address[:at] + holder.address[at].swapcase() + holder.address[at + 1 :]

    async def story(services: Services) -> None:
        token = services.wallets.challenge()
        asked = len(chain.asked)
        with pytest.raises(AddressIsInvalid, match="Invalid wallet address"):
            await services.wallets.prove(mistyped, sign(holder, token), token)
        assert len(chain.asked) == asked

    run(story)


def _signed(secret: str = JWT_SECRET, algorithm: str = "HS256", **changes: Any) -> str:
    claims = {
        "iss": "keyledger",
        "aud": "keyledger/wallet",
        "iat": clock.now(),
        "exp": clock.now() + timedelta(minutes=15),
        "jti": "req_of_nobody",
        **changes,
    }
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, secret, algorithm=algorithm)


def _tampered() -> str:
    head, claims, signature = Challenges(JWT_SECRET).issue(clock.now()).split(".")
    return f"{head}.{claims[:-2]}{'A' if claims[-2] != 'A' else 'B'}{claims[-1]}.{signature}"


TOKENS = {
    "malformed": ("no token", TokenIsMalformed, "JWT is malformed"),
    "empty": ("", TokenIsMalformed, "JWT is malformed"),
    "two_parts": ("a.b", TokenIsMalformed, "JWT is malformed"),
    "not_base64": ("x.y.z", TokenIsMalformed, "JWT is malformed"),
    "too_long": ("a." + "b" * 1_024 + ".c", TokenIsMalformed, "JWT is malformed"),
    "not_ascii": ("é.\ud800.z", TokenIsMalformed, "JWT is malformed"),
    "tampered": (_tampered(), TokenSignatureIsInvalid, "JWT signature is invalid"),
    "another_secret": (_signed("s" * 64), TokenSignatureIsInvalid, "JWT signature is invalid"),
    "unsigned": (_signed("", "none"), TokenSignatureIsInvalid, "JWT signature is invalid"),
    "another_algorithm": (
        _signed(algorithm="HS512"),
        TokenSignatureIsInvalid,
        "JWT signature is invalid",
    ),
    "expired": (
        Challenges(JWT_SECRET).issue(clock.now() - timedelta(minutes=15, seconds=1)),
        TokenHasExpired,
        "JWT has expired",
    ),
    "another_audience": (
        _signed(aud="keyledger/ledger/v1"),
        TokenClaimsAreInvalid,
        "JWT claims are invalid",
    ),
    "another_issuer": (_signed(iss="x"), TokenClaimsAreInvalid, "JWT claims are invalid"),
    "without_expiry": (_signed(exp=None), TokenClaimsAreInvalid, "JWT claims are invalid"),
    "without_id": (_signed(jti=None), TokenClaimsAreInvalid, "JWT claims are invalid"),
    "not_yet": (
        _signed(nbf=clock.now() + timedelta(hours=1)),
        TokenClaimsAreInvalid,
        "JWT claims are invalid",
    ),
}


@pytest.mark.parametrize("name", TOKENS)
def test_a_token_that_is_not_ours_or_over_is_refused(run: Any, chain: Chain, name: str) -> None:
    """V9: expired, tampered, malformed, made for something else; each with the page's words."""
    token, refusal, words = TOKENS[name]
    holder = Account.create()

    async def story(services: Services) -> None:
        asked = len(chain.asked)
        signed = sign(holder, token.encode("utf-8", "replace").decode())
        with pytest.raises(refusal) as refused:
            await services.wallets.prove(holder.address, signed, token)
        assert (str(refused.value), refused.value.kind) == (words, Kind.INVALID_FIELD)
        assert len(chain.asked) == asked

    run(story)


def test_a_token_holds_for_15_minutes() -> None:
    """A second before the end it is good; the limit is the token's own."""
    challenges = Challenges(JWT_SECRET)
    at = clock.now()
    token, second = challenges.issue(at), timedelta(seconds=1)
    read = challenges.read(token, at + timedelta(minutes=14, seconds=58))
    assert timedelta(0) <= at + timedelta(minutes=15) - read.expires_at < second
    with pytest.raises(TokenHasExpired):
        challenges.read(token, at + timedelta(minutes=15) + second)


def test_neither_token_passes_for_the_other(run: Any, chain: Chain) -> None:
    """A login's token signs no wallet in, and a wallet's token is no login."""
    holder = chain.staker()

    async def story(services: Services) -> None:
        login = services.gate.access_token(
            OPERATOR_ACCOUNT, f"mbr_{new_member_id().hex}", clock.now()
        )
        with pytest.raises(TokenClaimsAreInvalid):
            await services.wallets.prove(holder.address, sign(holder, login), login)
        with pytest.raises(Exception, match="not valid"):
            await services.gate.caller(f"Bearer {services.wallets.challenge()}")

    run(story)


@pytest.mark.processes
def test_a_token_is_used_once_by_many_processes(
    ledger_url: str, web3: Any, chain: Chain, tmp_path: Path
) -> None:
    """V9: of twelve at once in three processes one signs in; one account is opened."""
    holder = chain.staker()
    token = Challenges(JWT_SECRET).issue(clock.now())
    proof = holder.address, sign(holder, token), token
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(PROCESSES)
    tasks = [(ledger_url, str(tmp_path / str(n)), web3, proof, TIMES) for n in range(PROCESSES)]
    with context.Pool(PROCESSES, workers.enter, (barrier,)) as pool:
        found = [each for made in pool.map(workers.sign_in, tasks, chunksize=1) for each in made]
        pool.close()
        pool.join()
    used = PROCESSES * TIMES - 1
    assert Counter(kind for kind, _ in found) == {"str": 1, "TokenIsUsed": used}
    assert len({account for _, account in found}) == 1
    ((account, name, events, balances),) = accounts_of(ledger_url, holder.address)
    assert (str(account), name) == (found[0][1], holder.address)
    assert events == EVENTS
    assert balances == [f"{5 * 10**12}USD"]


def test_a_wallet_that_comes_often_at_once_has_one_account(
    run: Any, chain: Chain, ledger_url: str
) -> None:
    """The account, its welcome and the wallet's row are one command, and one of many stands."""
    holder = chain.staker()

    async def story(services: Services) -> None:
        found = await asyncio.gather(
            *(services.wallets.account_for(holder.address) for _ in range(8))
        )
        assert len(set(found)) == 1
        other = chain.staker()
        assert await services.wallets.account_for(other.address) != found[0]

    run(story)
    ((_, _, events, _),) = accounts_of(ledger_url, holder.address)
    assert events == EVENTS


def test_used_tokens_are_forgotten_when_no_clock_takes_them_any_more(
    run: Any, chain: Chain
) -> None:
    """A token that is forgotten is refused because it expired; one that could hold is kept."""
    holder = chain.staker()

    async def story(services: Services) -> None:
        token = services.wallets.challenge()
        await services.wallets.prove(holder.address, sign(holder, token), token)
        assert await jobs.forget_wallet_tokens(services) == "0 gone"
        with pytest.raises(TokenIsUsed):
            await services.wallets.prove(holder.address, sign(holder, token), token)
        assert await services.wallets.forget(clock.now() + timedelta(minutes=74)) == 0
        assert await services.wallets.forget(clock.now() + timedelta(minutes=76)) >= 1

    run(story)


def test_signing_in_leaves_the_process_as_deep_as_it_was() -> None:
    """py_ecc lifts the recursion limit for the whole process, where deep JSON would then end it."""
    code = (
        "import sys; from api.identity.wallet import sign_in; before = sys.getrecursionlimit();"
        " sign_in._load(); sys.exit(sys.getrecursionlimit() != before or 'py_ecc' not in"
        " sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
