"""Who sends is a function of the seed, skewed as real tenants are, and found again."""

from collections import Counter
from typing import Any

from api.tools.replay import fleet as fleets
from ledger.secrets import dialects

MODELS = ["m", "free"]


def muster(world: Any, seed: int, **terms: Any) -> fleets.Fleet:
    """Open a fleet on a served ledger."""

    def post(path: str, body: Any, idempotency_key: str) -> Any:
        headers = {"Idempotency-Key": idempotency_key}
        found = world.client.post(f"/ledger/v1{path}", json=body, headers=headers)
        assert found.is_success, found.text
        return found.json()

    return fleets.muster(fleets.plan(seed, MODELS, **terms), post)


def test_every_dialect_has_keys() -> None:
    """A replay goes through keys of all five, and one that is tight."""
    plan = fleets.plan(1, MODELS)
    assert {key.dialect for key in plan.keys} == set(dialects())
    assert {key.account for key in plan.keys} == set(range(len(plan.accounts)))
    assert [key.integration for key in plan.keys if len(key.limits) == 1] == ["free-trial"]


def test_more_accounts_and_keys_get_names_of_their_own() -> None:
    """Names are numbered where the list ends."""
    plan = fleets.plan(1, MODELS, accounts=12, keys=40, tight_requests=0)
    assert len({key.integration for key in plan.keys}) == 40
    assert len(set(plan.accounts)) == 12


def test_the_first_keys_send_most(world: Any) -> None:
    """Shares fall with the rank; the seed alone says who sends what."""
    fleet = muster(world, 3)
    counts = Counter(fleet.sender_of(str(number)) for number in range(5_000))
    assert counts[0] > 2 * counts[5] > counts[14] > 0
    again = muster(world, 3)
    assert [again.sender_of(str(n)) for n in range(50)] == [
        fleet.sender_of(str(n)) for n in range(50)
    ]


def test_the_same_seed_finds_the_same_keys(world: Any) -> None:
    """Accounts, keys and credit are made once."""
    first, second = muster(world, 4), muster(world, 4)
    assert [sender.key_id for sender in second.senders] == [
        sender.key_id for sender in first.senders
    ]
    assert second.opened_at == first.opened_at
    account = first.senders[0].account_id
    balances = world.get(f"/accounts/{account}/balances")["balances"]
    assert [found["balance"] for found in balances] == ["1000000"]
    assert muster(world, 5).senders[0].key_id != first.senders[0].key_id


def test_models_come_from_the_rate_card() -> None:
    """Well-known ones first; none without prices of input and output."""
    priced = {"prices": {"input": "1", "output": "2"}}
    half = {"prices": {"input": "1"}}
    assert fleets.choose_models({"b": priced, "a": priced, "c": half}) == ["a", "b"]
    assert fleets.choose_models({"a": priced, "openai/gpt-4.1": priced}) == ["openai/gpt-4.1"]
    assert fleets.choose_models({"c": half}) == []
