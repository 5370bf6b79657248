"""How much of an answer fits, and as what each unit is held."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import events as e
from ledger import metering
from ledger.errors import CreditIsExhausted, LimitIsReached, Refused
from ledger.fitting import Open, dearest, fit
from ledger.limits import Counter
from ledger.money import format_pico
from ledger.pricing import ConditionPrice, ModelPrice, PriceBook, PriceTier
from ledger.ratecards import RateCards
from ledger.requests import Facts, Made, Reserve
from ledger.state import Lot
from ledger.usage import Usage, context_tokens, output_tokens, tokens
from tests.properties import core
from tests.properties.core import START, Core, a_card, account_id, key_id

A, K = account_id("a"), key_id("k")


def a_world(*, grant="1", limits=(), account_limits=(), cards=(), **terms) -> Core:
    """Make an account with one lot and one key; ``mini`` costs 0.15 in and 0.6 out a million."""
    world = Core(*(cards or (a_card(),)))
    world.do(core.open_account(A, limits=account_limits, **terms))
    if grant:
        world.do(core.grant(A, grant))
    world.do(core.issue(A, K, limits=limits))
    world.wait(1)
    return world


def rule(kind: str, window: str, ceiling: str, **more) -> e.LimitRule:
    """Make a limit rule."""
    return e.LimitRule(kind=kind, window=window, ceiling=ceiling, **more)


def facts_of(world: Core) -> Facts:
    """Return what a decision about a new request would read."""
    state = world.state
    return Facts(state.accounts[A], state.keys[K], world.cards, None, None)


def holding(world: Core, usage: Usage, open_: Open):
    """Return what decides about an answer of so many tokens."""
    facts = facts_of(world)

    def hold(tokens_: int) -> Made:
        asked = open_.shortened(usage, tokens_)
        command = Reserve(request_id="r", model="mini", usage=asked)
        return metering.reserve(facts, command, key_id=K, at=world.at)

    return hold


def fits(hold, tokens_: int) -> bool:
    """Return whether an answer of so many tokens would be held."""
    try:
        hold(tokens_)
    except (CreditIsExhausted, LimitIsReached):
        return False
    return True


def test_all_that_is_wanted_is_held_where_it_fits() -> None:
    """With room for the longest answer nothing is shortened, and it is decided once."""
    decided: list[int] = []
    fitted = fit(lambda n: decided.append(n) or n, 16_384, 16)
    assert (fitted.held, fitted.tokens, fitted.why) == (16_384, 16_384, "")
    assert decided == [16_384]


def test_an_answer_is_shortened_to_what_credit_leaves() -> None:
    """A tenth of a cent pays for 100 tokens in and 1,641 out: one more would be too many."""
    world = a_world(grant="0.001")
    open_ = Open(16_384, 16)
    hold = holding(world, Usage(input=100, output=16_384), open_)
    fitted = fit(hold, open_.most, open_.least)
    ((event,), _) = fitted.held
    assert (fitted.tokens, fitted.why) == (1_641, "credit")
    assert event.usage == Usage(input=100, output=1_641)
    assert not fits(hold, 1_642)


@pytest.mark.parametrize(
    ("grant", "read", "times"), [("0.001", 0, 4), ("0.001", 10, 5), ("0.001", 3_000, 5)]
)
def test_few_lengths_are_tried(grant: str, read: int, times: int) -> None:
    """The numbers of refusals tell how long an answer may be; 16,384 need not be halved away."""
    world = a_world(grant=grant)
    hold = holding(world, Usage(input=read, output=16_384), Open(16_384, 16))
    tried: list[int] = []
    fit(lambda n: tried.append(n) or hold(n), 16_384, 16)
    assert len(tried) <= times


def test_an_answer_is_shortened_to_what_the_tightest_limit_leaves() -> None:
    """Of 4,000 tokens a month the input takes 100; limits of key and account both count."""
    month, day = rule("tokens", "month", "4000"), rule("tokens", "day", "900")
    for limits, account_limits, tokens_ in (((month,), (), 3_900), ((month,), (day,), 800)):
        world = a_world(limits=limits, account_limits=account_limits)
        hold = holding(world, Usage(input=100, output=16_384), Open(16_384, 16))
        fitted = fit(hold, 16_384, 16)
        assert (fitted.tokens, fitted.why) == (tokens_, "limit")


def test_every_answer_is_shortened_alike() -> None:
    """Three answers share what is left; none gets the remainder."""
    world = a_world(limits=(rule("tokens", "month", "1000"),))
    open_ = Open(500, 16, 3)
    fitted = fit(holding(world, Usage(input=1, output=1_500), open_), 500, 16)
    ((event,), _) = fitted.held
    assert fitted.tokens == 333
    assert event.usage.output == 999


@pytest.mark.parametrize(("ceiling", "room"), [(105, 5), (101, 1), (100, 0), (50, 0)])
def test_what_is_too_short_is_refused_and_says_what_would_fit(ceiling: int, room: int) -> None:
    """Below 16 tokens the refusal is about those 16, with its numbers, and names the room left."""
    world = a_world(limits=(rule("tokens", "month", str(ceiling)),))
    with pytest.raises(LimitIsReached) as caught:
        fit(holding(world, Usage(input=100, output=500), Open(500, 16)), 500, 16)
    refusal = caught.value
    assert (refusal.ceiling, refusal.used, refusal.requested) == (ceiling, 0, 116)
    assert (refusal.room, refusal.least) == (room, 16)
    assert f"An answer of {room} tokens would fit, and 16 are the least." in str(refusal)


def test_what_no_shorter_answer_would_mend_is_refused_as_it_is() -> None:
    """Neither a missing price nor a limit on requests depends on the answer."""
    world = a_world(limits=(rule("requests", "day", "0"),))
    with pytest.raises(LimitIsReached) as caught:
        fit(holding(world, Usage(input=1, output=500), Open(500, 16)), 500, 16)
    assert caught.value.room == 0
    hold = holding(a_world(), Usage(input=1, images=1, output=500), Open(500, 16))
    with pytest.raises(Refused) as other:
        fit(hold, 500, 16)
    assert other.value.code == "model_is_unpriced"


def test_a_wish_below_the_least_is_held_as_it_is() -> None:
    """A model that writes ten tokens at most is asked for ten."""
    assert fit(lambda n: n, 10, 16).tokens == 10


PICO = st.integers(0, 3 * 10**9)
COUNT = st.integers(0, 5_000)
LOTS = st.lists(st.tuples(st.sampled_from(["USD", "BUNDLED_CREDITS"]), PICO), max_size=4)


@st.composite
def worlds(draw) -> Core:
    """Draw an account with lots of two assets, an overdraft, limits, and what counts already."""
    rules = [rule("requests", "day", "1000")]
    if (ceiling := draw(st.none() | COUNT)) is not None:
        rules.append(rule("tokens", "month", str(ceiling)))
    if (pico := draw(st.none() | PICO)) is not None:
        rules.append(rule("spend", "day", format_pico(pico), assets=("USD",)))
    world = a_world(grant="", limits=tuple(rules), pays_with=("BUNDLED_CREDITS", "USD"))
    account, key = world.state.accounts[A], world.state.keys[K]
    for number, (asset, amount) in enumerate(draw(LOTS), 1):
        account.lots[number] = Lot(
            number=number,
            asset=asset,
            kind="paid",
            priority=100,
            amount=amount + 1,
            remaining=amount + 1,
            held=0,
            granted_at=START,
            effective_at=START,
            expires_at=None,
        )
    if (overdraft := draw(st.none() | PICO)) is not None:
        account.overdraft = {"USD": format_pico(overdraft)}
    for limit in key.limits.values():
        if limit.kind == "tokens":
            counter = key.counters[limit.limit_id] = Counter()
            counter.add_used(limit.window.bucket(world.at), draw(COUNT), 0)
    return world


@given(worlds(), st.integers(0, 2_000), st.integers(1, 6_000), st.integers(1, 4))
def test_the_longest_answer_that_fits_is_held(
    world: Core, read: int, most: int, answers: int
) -> None:
    """Promise 5: what is held fits, and one token more would not, whatever bounds it."""
    least = min(16, most)
    hold = holding(world, Usage(input=read, output=most * answers), Open(most, 16, answers))
    if not fits(hold, least):
        with pytest.raises((CreditIsExhausted, LimitIsReached)) as caught:
            fit(hold, most, 16)
        room = caught.value.room
        assert caught.value.least == least
        assert room is not None
        assert room == max((n for n in range(least) if fits(hold, n)), default=0)
        return
    fitted = fit(hold, most, 16)
    ((event,), _) = fitted.held
    assert event.usage.output == fitted.tokens * answers
    assert least <= fitted.tokens <= most
    assert (fitted.tokens == most) == (fitted.why == "")
    assert fitted.tokens == most or not fits(hold, fitted.tokens + 1)


ALIKE = {
    "input": ("cache_read", "cache_write", "cache_write_1h"),
    "audio_input": ("input", "cache_write"),
    "output": ("reasoning", "audio_output"),
}
CLAUDE = {"input": "3", "cache_read": "0.3", "cache_write": "3.75", "cache_write_1h": "6"}


@pytest.mark.parametrize(
    ("prices", "usage", "held"),
    [
        ({"input": "1", "output": "2"}, Usage(input=5, output=3), Usage(input=5, output=3)),
        (
            {**CLAUDE, "output": "15"},
            Usage(input=5, output=3),
            Usage(cache_write_1h=5, output=3),
        ),
        (
            {"input": "1", "output": "2", "reasoning": "8"},
            Usage(input=5, output=3),
            Usage(input=5, reasoning=3),
        ),
        (
            {"input": "1", "output": "2", "reasoning": "1"},
            Usage(input=5, output=3),
            Usage(input=5, output=3),
        ),
        # A sound may be counted as text; where sounds are dearer it stays one.
        (
            {"input": "9", "audio_input": "1", "output": "2"},
            Usage(input=5, audio_input=7),
            Usage(input=12),
        ),
        (
            {"input": "1", "audio_input": "9", "output": "2"},
            Usage(input=5, audio_input=7),
            Usage(input=5, audio_input=7),
        ),
        ({"output": "2"}, Usage(input=5, output=3), Usage(input=5, output=3)),
    ],
)
def test_each_unit_is_held_as_the_dearest_it_may_be(prices, usage: Usage, held: Usage) -> None:
    """A class counts by a price of its own only; all tokens stay, in whichever class."""
    assert dearest(prices, usage, ALIKE) == held
    assert tokens(held) == tokens(usage)
    assert dearest({}, usage, ALIKE) == usage


def test_tiers_conditions_and_hours_have_their_own_dearest_class() -> None:
    """What is dearest is asked of the prices that would count."""
    tier = PriceTier(above_tokens=100, prices={"input": "2", "cache_write": "9", "output": "4"})
    cheap = {"input": "2", "cache_write": "1", "output": "4"}
    night = ConditionPrice(prices={"input": "2", "cache_read": "3"}, between=("22:00", "06:00"))
    model = ModelPrice(
        prices=cheap,
        tiers=(tier,),
        conditions={"fast": ConditionPrice(prices=CLAUDE), "night": night},
    )
    card = core.RateCard(
        name="standard", version=1, asset="USD", effective_from=START, models={"mini": model}
    )
    book = PriceBook(card)

    def held(usage: Usage, condition: str = "", hour: int = 12) -> Usage:
        at = START.replace(hour=hour)
        return dearest(book.prices("mini", usage, condition, at), usage, ALIKE)

    assert held(Usage(input=100)) == Usage(input=100)
    assert held(Usage(input=101)) == Usage(cache_write=101)
    assert held(Usage(input=1), "fast") == Usage(cache_write_1h=1)
    assert held(Usage(input=1), hour=23) == Usage(cache_read=1)


def test_the_dearest_model_condition_and_class_is_held() -> None:
    """One hold covers whichever of its choices serves a request, and however (A6)."""
    dear = ModelPrice(
        prices={"input": "1", "output": "2"},
        conditions={
            "priority": ConditionPrice(prices={"input": "2", "output": "4", "reasoning": "9"})
        },
    )
    cheap = ModelPrice(prices={"input": "1", "output": "3"})
    card = core.RateCard(
        name="standard",
        version=1,
        asset="USD",
        effective_from=START,
        models={"mini": cheap, "dear": dear},
    )
    world = a_world()
    command = Reserve(
        request_id="r",
        model="mini",
        usage=Usage(input=10, output=100),
        choices=("dear",),
        conditions=("priority",),
        alike=ALIKE,
    )
    facts = facts_of(world)._replace(cards=RateCards([card]))
    ((event,), _) = metering.reserve(facts, command, key_id=K, at=world.at)
    assert isinstance(event, e.RequestReserved)
    assert (event.model, event.held_as, event.held_at) == ("mini", "dear", "priority")
    assert event.lines == {"input": (10, "2"), "reasoning": (100, "9")}
    assert event.held == "0.00092"
    assert context_tokens(event.usage) == 10
    assert output_tokens(event.usage) == 100


OF_MODEL = rule("tokens", "day", "1000", model="other")
OF_EACH = rule("tokens", "day", "1000", each_model=True)


@pytest.mark.parametrize("limit", [OF_MODEL, OF_EACH])
def test_a_limit_on_any_model_among_the_choices_is_held_too(limit: e.LimitRule) -> None:
    """A request that another model may serve counts for that one's limit too (A6)."""
    card = a_card({"mini": {"input": "1", "output": "1"}, "other": {"input": "1", "output": "1"}})
    world = a_world(limits=(limit,), cards=(card,))
    asks = {"choices": ("other",), "usage": Usage(input=600)}
    world.do(core.reserve(A, K, "r1", **asks))
    refused = world.submit(core.reserve(A, K, "r2", **asks))
    assert isinstance(refused, LimitIsReached)
    assert (refused.pending, refused.requested) == (600, 600)
    # What cannot be served by the other one is not held to its limit.
    if limit is OF_MODEL:
        world.do(core.reserve(A, K, "r3", usage=Usage(input=600)))
        world.do(core.release(A, K, "r3"))
    world.do(core.settle(A, K, "r1", Usage(input=500), model="other"))
    counted = {
        name: (sum(each.used.values()), sum(each.pending.values()))
        for name, each in world.state.keys[K].counters.items()
        if any(each.used.values()) or any(each.pending.values())
    }
    name = "tokens:model=other/day" if limit is OF_MODEL else "tokens:each_model=other/day"
    assert counted == {name: (500, 0)}
    assert core.plain(core.fold(world.log)) == core.plain(world.state)
