"""Usage in any order, told up to three days late, over changing prices, as a table prices it."""

import asyncio
import random
from datetime import timedelta
from decimal import ROUND_HALF_EVEN, Decimal

import pandas as pd
import pytest

from api import services as wiring
from api.operations import Asked
from api.process import furnishing
from ledger import clock
from ledger import events as e
from ledger.ids import lane_of_account
from ledger.ratecards import draft_of
from ledger.record import verify
from ledger.requests import Record
from ledger.server import database
from ledger.usage import Usage
from projections import rebuild
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


def oracle(rows: list[dict], prices=PRICES) -> pd.DataFrame:
    """Price usage by joining it to the prices that were in force, as an accountant would."""
    prices = pd.DataFrame(prices, columns=["since", "input_price", "output_price"])
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


async def opened(services: wiring.Services, name: str) -> tuple:
    """Open an account with a key; return both ids."""
    asked = Asked("operator")
    terms = e.AccountOpened(by="operator", overdraft={"USD": "unlimited"})
    account = (await services.ledger.accounts.open(asked, terms, name=name)).recorded[0]
    terms = e.KeyIssued(by="operator", name="bot", dialect="bve")
    issued = await services.ledger.keys.issue(asked, account.envelope.account_id, terms)
    key = issued.done.recorded[0]
    return account.envelope.account_id, key.envelope.key_id


async def published(services: wiring.Services, since, one: str, two: str) -> None:
    """Publish prices that take effect at an instant."""
    draft = draft_of(a_card({"mini": {"input": one, "output": two}}), start=since)
    await services.ledger.prices.publish(Asked("operator"), draft, confirm=True)


def test_a_card_swapped_in_the_middle_of_a_day_prices_what_comes_late(  # noqa: PLR0915 - a story
    database_url: str, tmp_path
) -> None:
    """The service itself, over days played by its clock: every charge equals the oracle's."""
    now = clock.now()
    prices = [(now + (since - START), one, two) for since, one, two in PRICES]
    prices[0] = (now - timedelta(days=4) + timedelta(minutes=1), *prices[0][1:])
    chance = random.Random(7)  # noqa: S311 - no secret
    rows: list[dict] = []

    async def told() -> dict[str, str]:
        settings = wiring.Settings(
            home=tmp_path, admin_secret="x" * 16, pepper="pepper-of-tests", jwt_secret="j" * 64
        )
        database.set_clock_offset(database_url, -timedelta(days=4))
        services = await wiring.Services.open(settings, database_url)
        try:
            await furnishing.open_operator(services)
            for since, *pair in prices:
                await published(services, since, *pair)
            keys = []
            while len(keys) < 6 or len({lane_of_account(account, 2) for account, _ in keys}) < 2:
                keys.append(await opened(services, f"A{len(keys)}"))
            database.set_clock_offset(database_url, timedelta(0))
            commands = []
            for number in range(600):
                at = now + timedelta(seconds=chance.uniform(-3 * 86_400 + 600, 270))
                usage = Usage(input=chance.randrange(10**6), output=chance.randrange(10**5))
                row = {"request_id": f"r{number}", "at": at}
                rows.append({**row, "input": usage.input, "output": usage.output})
                record = Record(request_id=f"r{number}", model="mini", usage=usage, occurred_at=at)
                commands.append(services.ledger.requests.recording(*chance.choice(keys), record))
            chance.shuffle(commands)
            outcomes = []
            for start in range(0, 600, 75):
                outcomes += await services.ledger.requests.hand_in(commands[start : start + 75])
            return {
                outcome.events[0].body.request_id: outcome.events[0].body.charge
                for outcome in outcomes
            }
        finally:
            await services.close()

    charges = asyncio.run(told())
    expected = oracle(rows, prices)
    assert charges == {row["request_id"]: expected.loc[row["request_id"], "charge"] for row in rows}
    report = verify.verify(database_url)
    assert report.intact, report.findings
    assert report.charges == 600
    assert rebuild.rebuild(database_url).equal
