"""Requests as lines: priced by service time, class by class, model by model."""

from datetime import timedelta
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import events as e
from ledger.errors import AccountIsClosed, KeyIsRevoked, ModelIsUnpriced, SecretIsRetired
from ledger.lines import ModelLines, charge_of, exact_cost
from ledger.money import format_pico, parse_pico
from ledger.pricing import ConditionPrice, ModelPrice
from ledger.requests import OtherUse
from ledger.state import is_unpriced
from ledger.usage import Usage
from tests.ledger.test_metering import rule
from tests.properties import core
from tests.properties.core import START, Core, a_card, account_id, key_id

A, K = account_id("a"), key_id("k")
MILLION = Usage(input=10**6)
DAY = timedelta(days=1)


@given(units=st.integers(0, 10**12), price=st.integers(0, 10**18))
def test_what_units_cost_is_written_exactly(units: int, price: int) -> None:
    """Price of a million times units, with every place it has and no more."""
    text = exact_cost(units, format_pico(price))
    assert Fraction(text) == Fraction(units * price, 10**18)
    assert not (text.endswith("0") and "." in text)


def world_with(cards, **terms) -> Core:
    """Open an account with a key and credit under some rate cards."""
    world = Core(*cards)
    world.do(core.open_account(A, **terms))
    world.do(core.issue(A, K))
    world.do(core.grant(A, "100"))
    return world


def from_day(day: int, version: int, price: str):
    """Make a version that takes effect some days after the start."""
    return a_card({"mini": {"input": price}}, version=version, effective_from=START + day * DAY)


def test_a_request_is_priced_by_the_card_in_force_when_it_was_served() -> None:
    """Usage told late costs what that day cost, in whatever order it arrives."""
    world = world_with([from_day(-9, 1, "1"), from_day(-2, 2, "2"), from_day(-1, 3, "3")])
    for number, hours in enumerate((-47, -70, -1, -25, -71.5)):
        at = START + timedelta(hours=hours)
        (made,) = world.do(core.record(A, K, f"r{number}", MILLION, occurred_at=at))
        assert made.charge == {-47: "2", -70: "1", -1: "3", -25: "2", -71.5: "1"}[hours]
        assert world.log[-1].envelope.occurred_at == at


def test_alike_requests_of_two_prices_are_priced_each_by_its_own() -> None:
    """A batch over a change of prices gives each request that of its service instant."""
    world = world_with([from_day(-9, 1, "1"), from_day(-1, 2, "2")])
    at = START - DAY
    commands = [
        core.record(A, K, f"r{n}", MILLION, occurred_at=at + timedelta(minutes=n))
        for n in range(-2, 2)
    ]
    outcomes = world.submit_all(commands)
    assert [each.events[0].body.charge for each in outcomes] == ["1", "1", "2", "2"]


def test_a_settlement_keeps_the_reservations_service_instant_and_card() -> None:
    """A request across a change of prices costs what it was reserved at, on that day."""
    world = world_with([from_day(-9, 1, "1"), from_day(1, 2, "2")])
    world.at = START + DAY - timedelta(seconds=5)
    world.do(core.reserve(A, K, "r", MILLION))
    reserved_at = world.log[-1].envelope.occurred_at
    world.wait(60)
    (made,) = world.do(core.settle(A, K, "r", MILLION))
    assert (made.card, made.charge) == ("standard/1", "1")
    assert world.log[-1].envelope.occurred_at == reserved_at


def test_a_class_without_a_price_frees_nothing_else() -> None:
    """What has a price is charged and limited at once; the rest waits, and is rated alone (C9)."""
    world = world_with([a_card()], unpriced="record")
    usage = Usage(input=10**6, images=3)
    (made,) = world.do(core.record(A, K, "r", usage))
    assert made.lines == {"input": (10**6, "0.15"), "images": (3, None)}
    assert (made.charge, made.card) == ("0.15", "standard/1")
    assert is_unpriced(made)
    unpriced = world.log[-1]
    priced = {"input": "0.2", "images": "40000"}
    world.cards.add(a_card({"mini": priced}, version=2))
    (rated,) = world.do(core.rate(A, K, unpriced))
    assert (rated.lines, rated.charge) == ({"images": (3, "40000")}, "0.12")
    assert rated.rest
    assert world.do(core.rate(A, K, unpriced)) == []


def test_what_gets_its_price_first_is_rated_first() -> None:
    """A class whose price comes later frees none whose price is there (C9)."""
    world = world_with([a_card()], unpriced="record")
    usage = Usage(input=10**6, images=3, searches=2)
    world.do(core.record(A, K, "r", usage))
    request = world.log[-1]
    world.cards.add(a_card({"mini": {"input": "0.2", "images": "40000"}}, version=2))
    (first,) = world.do(core.rate(A, K, request))
    assert first.lines == {"images": (3, "40000"), "searches": (2, None)}
    assert first.charge == "0.12"
    rated = world.log[-1]
    assert world.do(core.rate(A, K, rated, request)) == []
    prices = {"input": "0.2", "images": "50000", "searches": "10000"}
    world.cards.add(a_card({"mini": prices}, version=3))
    (second,) = world.do(core.rate(A, K, rated, request))
    assert (second.lines, second.charge) == ({"searches": (2, "10000")}, "0.02")
    assert second.rated_seq == rated.envelope.lane_seq
    assert second.rest
    assert world.do(core.rate(A, K, rated, request)) == []
    assert world.do(core.rate(A, K, request)) == []


def test_an_account_that_refuses_unpriced_usage_refuses_it_in_part_too() -> None:
    """A class that the request must use has no price: no. One found in a report only is booked."""
    world = world_with([a_card()])
    usage = Usage(input=10, images=1)
    assert isinstance(world.submit(core.record(A, K, "r", usage)), ModelIsUnpriced)
    assert isinstance(world.submit(core.reserve(A, K, "s", usage)), ModelIsUnpriced)
    world.do(core.reserve(A, K, "t", Usage(input=10)))
    (made,) = world.do(core.settle(A, K, "t", usage))
    assert made.lines["images"] == (1, None)
    assert made.charge == "0.0000015"


def test_other_models_inside_a_request_are_priced_as_themselves() -> None:
    """Their lines stand beside the request's own; the charge is the sum, rounded once."""
    card = a_card({"mini": {"input": "0.0000005"}, "judge": {"output": "0.0000005"}})
    world = world_with([card], limits=(rule("tokens", "day", "3"),))
    others = (OtherUse("judge", Usage(output=1)),)
    (made,) = world.do(core.record(A, K, "r", Usage(input=1), others=others))
    assert made.others == (ModelLines(model="judge", lines={"output": (1, "0.0000005")}),)
    assert charge_of(made.lines, made.others) == parse_pico(made.charge) == 1
    (counter,) = world.state.accounts[A].counters.values()
    assert sum(counter.used.values()) == 2
    assert world.submit(core.record(A, K, "r", Usage(input=1), others=others)).replay is not None
    assert world.submit(core.record(A, K, "r", Usage(input=1))).code == "request_id_is_taken"


def test_the_dearest_of_what_a_request_allows_is_held() -> None:
    """Any of its models under any of its conditions may come to serve it."""
    dear = ModelPrice(
        prices={"input": "2"}, conditions={"priority": ConditionPrice(prices={"input": "5"})}
    )
    card = a_card({"mini": {"input": "1"}})
    card = msgspec.structs.replace(card, models={**card.models, "maxi": dear})
    world = world_with([card])
    (made,) = world.do(
        core.reserve(A, K, "r", MILLION, choices=("maxi",), conditions=("priority", "flex"))
    )
    assert (made.model, made.held, made.held_as, made.held_at) == ("mini", "5", "maxi", "priority")
    (settled,) = world.do(
        core.settle(A, K, "r", MILLION, served_model="maxi", condition="priority")
    )
    assert (settled.model, settled.charge, settled.condition) == ("maxi", "5", "priority")
    assert (settled.served_model, settled.flags) == ("", ())


def test_a_model_that_nobody_asked_for_is_named_and_not_priced() -> None:
    """The price is that of the model asked for; what was served instead is in the event."""
    world = world_with([a_card(aliases={"mini-2026": "mini"})])
    for number, (served, kept) in enumerate({"mini-2026": "", "other": "other"}.items()):
        world.do(core.reserve(A, K, f"r{number}", MILLION))
        (made,) = world.do(core.settle(A, K, f"r{number}", MILLION, served_model=served))
        assert (made.model, made.charge, made.served_model) == ("mini", "0.15", kept)
        assert made.flags == (("other_model",) if kept else ())


def test_a_condition_that_the_card_does_not_know_leaves_the_reserved_price() -> None:
    """A platform that prices no tiers sells every tier at its one price."""
    world = world_with([a_card()])
    world.do(core.reserve(A, K, "r", MILLION))
    (made,) = world.do(core.settle(A, K, "r", MILLION, condition="priority"))
    assert (made.charge, made.condition) == ("0.15", "")


END = {
    "revoked": (core.revoke(A, K), KeyIsRevoked),
    "closed": (core.close(A), AccountIsClosed),
}


@pytest.mark.parametrize("end", END)
def test_what_was_served_before_the_end_is_recorded_after_it(end) -> None:
    """Usage of before a key or account ended is charged and flagged, for 72 hours."""
    command, refusal = END[end]
    world = world_with([a_card()], overdraft={"USD": "0"}, limits=(rule("requests", "day", "0"),))
    world.wait(60)
    before = world.at
    world.wait(60)
    world.do(command)
    world.wait(3_600)
    (made,) = world.do(core.record(A, K, "r", MILLION, occurred_at=before))
    assert (made.charge, made.flags) == ("0.15", ("after_end",))
    assert made.lots == ((0,) if end == "closed" else (1,))
    assert made.overage == ("0.15" if end == "closed" else "")
    late = core.record(A, K, "s", MILLION, occurred_at=world.at)
    assert isinstance(world.submit(late), refusal)
    assert isinstance(world.submit(core.record(A, K, "t", MILLION)), refusal)
    world.wait(72 * 3_600)
    assert isinstance(world.submit(core.record(A, K, "u", MILLION, occurred_at=before)), refusal)


def test_an_expired_key_and_a_suspended_one_are_told_of_as_well() -> None:
    """Expiry and suspension end a key as revocation does."""
    world = world_with([a_card()])
    other = key_id("l")
    world.do(core.issue(A, other, expires_at=world.at + timedelta(hours=1)))
    world.do(core.suspend_key(A, K))
    before = world.at - timedelta(seconds=1)
    world.wait(2 * 3_600)
    for key in (K, other):
        command = core.record(A, key, f"r-{key}", MILLION, occurred_at=before)
        (made,) = [each.body for each in world.submit(command).events]
        assert made.flags == ("after_end",)


def test_a_secret_that_no_longer_works_proves_no_past() -> None:
    """Only who vouches for a key by its id tells of what was before (Promise 6)."""
    world = world_with([a_card()])
    before = world.at
    world.wait(60)
    world.do(core.rotate(A, K))
    world.do(core.revoke(A, K))
    told = core.record(A, K, "r", MILLION, occurred_at=before, secret=1, by="key")
    assert isinstance(world.submit(told), KeyIsRevoked | SecretIsRetired)


def test_usage_told_ahead_of_time_counts_today_and_keeps_what_was_told() -> None:
    """Its price and day are those of now; the told instant stays in the event."""
    world = world_with([from_day(-9, 1, "1"), from_day(1, 2, "2")])
    ahead = world.at + 2 * DAY
    (made,) = world.do(core.record(A, K, "r", MILLION, occurred_at=ahead))
    assert (made.charge, made.flags, made.told_at) == ("1", ("early",), ahead)
    envelope = world.log[-1].envelope
    assert envelope.occurred_at == envelope.recorded_at
    again = world.submit(core.record(A, K, "r", MILLION, occurred_at=ahead))
    assert again.replay is not None


def test_a_refusal_says_what_would_have_been_used_and_by_whom() -> None:
    """Model, usage, actor and secret stand in it; held-back ones are added up."""
    world = world_with([a_card()], limits=(rule("requests", "day", "0"),))
    usage = Usage(input=3, output=4)
    for number in range(3):
        world.submit(core.record(A, K, f"r{number}", usage, by="key", secret=1))
    first = world.log[-1].body
    assert isinstance(first, e.RequestRefused)
    assert (first.by, first.secret, first.model) == ("key", 1, "mini")
    assert first.usage == {"input": 3, "output": 4}
    world.wait(2)
    world.do(core.grant(A, "1"))
    counted = [each.body for each in world.log if isinstance(each.body, e.RequestRefused)][-1]
    assert (counted.count, counted.usage) == (2, {"input": 6, "output": 8})
