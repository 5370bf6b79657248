"""Usage in any order, told up to three days late, over changing prices, as a table prices it."""

import random
from datetime import timedelta
from decimal import ROUND_HALF_EVEN, Decimal

import pandas as pd
import pytest

from ledger.usage import Usage
from tests.properties import core
from tests.properties.core import START, Core, a_card, account_id, key_id

A = account_id("a")
KEYS = [key_id(name) for name in "klm"]
PRICES = [
    (START - timedelta(days=9), "1", "4"),
    (START - timedelta(hours=31, minutes=7), "0.7", "5.25"),
    (START - timedelta(minutes=90), "0.000001", "3"),
    (START + timedelta(minutes=3), "2.5", "10"),
]


def oracle(rows: list[dict]) -> pd.DataFrame:
    """Price usage by joining it to the prices that were in force, as an accountant would."""
    prices = pd.DataFrame(PRICES, columns=["since", "input_price", "output_price"])
    used = pd.DataFrame(rows).sort_values("at")
    joined = pd.merge_asof(used, prices, left_on="at", right_on="since")

    def charge(row) -> str:
        exact = row["input"] * Decimal(row["input_price"])
        exact += row["output"] * Decimal(row["output_price"])
        rounded = (exact / 10**6).quantize(Decimal("1e-12"), ROUND_HALF_EVEN)
        return f"{rounded.normalize():f}"

    joined["charge"] = joined.apply(charge, axis=1)
    return joined.set_index("request_id")


@pytest.mark.parametrize("seed", range(3))
def test_charges_by_service_time_equal_the_oracle(seed: int) -> None:
    """Whatever the order of arrival, every charge is that of its service instant (Promise 10)."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    cards = [
        a_card({"mini": {"input": one, "output": two}}, version=n, effective_from=since)
        for n, (since, one, two) in enumerate(PRICES, 1)
    ]
    world = Core(*cards)
    world.do(core.open_account(A, overdraft={"USD": "unlimited"}))
    for key in KEYS:
        world.do(core.issue(A, key))
    rows, commands = [], []
    for number in range(400):
        at = START + timedelta(seconds=chance.uniform(-3 * 86_400 + 60, 290))
        usage = Usage(input=chance.randrange(10**6), output=chance.randrange(10**5))
        rows.append(
            {"request_id": f"r{number}", "at": at, "input": usage.input, "output": usage.output}
        )
        commands.append(core.record(A, chance.choice(KEYS), f"r{number}", usage, occurred_at=at))
    pairs = list(zip(rows, commands, strict=True))
    chance.shuffle(pairs)
    expected = oracle(rows)
    while pairs:
        size = chance.randint(1, 40)
        some, pairs = pairs[:size], pairs[size:]
        outcomes = world.submit_all([command for _, command in some])
        for (row, _), outcome in zip(some, outcomes, strict=True):
            body = outcome.events[0].body
            assert body.charge == expected.loc[row["request_id"], "charge"], row
            assert outcome.events[0].envelope.occurred_at == row["at"]
