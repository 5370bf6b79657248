"""Decisions about requests: record, reserve, settle, release, expire, rate."""

from datetime import timedelta

import pytest

from ledger import events as e
from ledger import keys, metering, secrets
from ledger.errors import (
    AccountIsClosed,
    AccountIsSuspended,
    CreditIsExhausted,
    InvalidField,
    KeyIsExpired,
    KeyIsRevoked,
    KeyIsSuspended,
    LimitIsReached,
    ModelIsDenied,
    ModelIsUnpriced,
    NoSuchKey,
    NoSuchRequest,
    RequestExceedsLimit,
    RequestIdIsTaken,
    RequestIsClosed,
    ScopeIsDenied,
    SecretIsRetired,
)
from ledger.lines import charge_of
from ledger.money import PICO_PER_UNIT
from ledger.pricing import ConditionPrice, ModelPrice
from ledger.ratecards import RateCards
from ledger.record.batch import Outcome
from ledger.requests import Facts, Notes, ProviderReport, Record, Reserve
from ledger.usage import QUANTITY_MAX, Usage
from tests.properties import core
from tests.properties.core import START, Core, a_card, account_id, key_id

A, K = account_id("a"), key_id("k")
MILLION = Usage(input=10**6)  # costs 0.15 USD
DAY = 86_400


def a_world(*, grant="1", limits=(), account_limits=(), cards=None, **terms) -> Core:
    """Make an account with one lot and one key."""
    world = Core(*(cards or [a_card()]))
    world.do(core.open_account(A, limits=account_limits, **terms))
    if grant:
        world.do(core.grant(A, grant))
    world.do(core.issue(A, K, limits=limits))
    return world


def rule(kind, window, ceiling, **more) -> e.LimitRule:
    """Make a limit rule."""
    return e.LimitRule(kind=kind, window=window, ceiling=ceiling, **more)


def balance(world, asset="USD") -> int:
    """Return what is unspent, in pico."""
    return world.state.accounts[A].balance(asset)


def test_a_request_is_priced_charged_and_explained() -> None:
    """The event says what was decided: card, unit prices, charge, lots (Promise 10)."""
    world = a_world()
    usage = Usage(input=1_000, output=10)
    (made,) = world.do(core.record(A, K, "r1", usage, category="chat"))
    assert made == e.RequestRecorded(
        by="operator",
        request_id="r1",
        integration="bot",
        model="mini",
        lines={"input": (1_000, "0.15"), "output": (10, "0.6")},
        category="chat",
        card="standard/1",
        asset="USD",
        charge="0.000156",
        lots=(1,),
    )
    assert charge_of(made.lines) == 156_000_000
    assert balance(world) == PICO_PER_UNIT - 156_000_000
    assert world.state.keys[K].last_used_at == START + timedelta(microseconds=3)


def test_a_condition_has_its_own_prices() -> None:
    """A request under a condition is priced by it, and unpriced where the card has none."""
    half = ConditionPrice(prices={"input": "0.075"})
    model = ModelPrice(prices={"input": "0.15"}, conditions={"batch": half})
    card = core.RateCard(
        name="standard", version=1, asset="USD", effective_from=START, models={"mini": model}
    )
    world = a_world(cards=[card])
    (made,) = world.do(core.record(A, K, "r1", MILLION, condition="batch"))
    assert (made.charge, made.condition) == ("0.075", "batch")
    refused = world.submit(core.record(A, K, "r2", MILLION, condition="priority"))
    assert isinstance(refused, ModelIsUnpriced)


def test_a_key_may_have_its_own_rate_card() -> None:
    """The key's card goes before the account's."""
    cheap = a_card({"mini": {"input": "0.1"}}, name="partners")
    world = a_world(cards=[a_card(), cheap])
    other = key_id("l")
    world.do(core.issue(A, other, rate_card="partners"))
    (made,) = world.do(core.record(A, other, "r1", MILLION))
    assert (made.card, made.charge) == ("partners/1", "0.1")


@pytest.mark.parametrize("make", [core.record, core.reserve])
def test_the_order_of_checks_is_fixed(make) -> None:  # noqa: PLR0915
    """Key, account, scope, model, price, limits, credit: the first that says no answers.

    Everything is wrong at once and then mended one by one.
    """
    world = Core(a_card())
    world.do(core.open_account(A, limits=(rule("requests", "day", "0"),)))
    bad = {"model": "unknown", "scope": "images", "secret": 2}
    world.do(core.issue(A, K, scopes=("chat",), allowed_models=("mini", "free")))

    def said() -> type:
        return type(world.submit(make(A, K, "r1", MILLION, **bad)))

    assert type(world.submit(make(A, key_id("x"), "r1", MILLION))) is NoSuchKey
    assert type(world.submit(make(A, K, "", MILLION, **bad))) is InvalidField
    account, key = world.state.accounts[A], world.state.keys[K]
    account.status = "suspended"
    for status, why in (
        ("revoked", KeyIsRevoked),
        ("expired", KeyIsExpired),
        ("suspended", KeyIsSuspended),
    ):
        key.status = status
        assert said() is why
    key.status = "active"
    assert said() is NoSuchKey
    key.secrets[2] = START
    assert said() is SecretIsRetired
    key.secrets[2] = None
    assert said() is AccountIsSuspended
    account.status = "closed"
    assert said() is AccountIsClosed
    account.status = "open"
    assert said() is ScopeIsDenied
    bad["scope"] = "chat"
    assert said() is ModelIsDenied
    bad["model"] = "free"
    assert said() is ModelIsUnpriced
    bad["model"] = "mini"
    assert said() is RequestExceedsLimit
    world.do(core.set_account_limits(A, rule("requests", "day", "1")))
    assert said() is CreditIsExhausted
    world.do(core.grant(A, "1"))
    assert said() is Outcome
    assert type(world.submit(make(A, K, "r2", MILLION, **bad))) is LimitIsReached


@pytest.mark.parametrize("make", [core.record, core.reserve])
@pytest.mark.parametrize(
    ("field", "named"),
    [
        ("request_id", ("x" * 256, "mini")),
        ("model", ("r", "")),
        ("model", ("r", "x" * 256)),
    ],
)
def test_ids_and_names_have_a_length(make, field, named) -> None:
    """What is too long or empty is refused by name."""
    request_id, model = named
    refused = a_world().submit(make(A, K, request_id, MILLION, model=model))
    assert isinstance(refused, InvalidField)
    assert refused.field == field


def test_the_keys_limit_is_named_before_the_accounts() -> None:
    """Which of two limits says no is the same every time (B8)."""
    tight = (rule("requests", "day", "0"),)
    refused = a_world(limits=tight, account_limits=tight).submit(core.record(A, K, "r", MILLION))
    assert refused.scope == "key"


def test_the_same_request_again_is_the_same_answer() -> None:
    """One id and content charges once, for ever, and answers as it did (Promise 4)."""
    world = a_world()
    first = world.submit(core.record(A, K, "r1", MILLION))
    world.wait(400 * DAY)
    again = world.submit(core.record(A, K, "r1", MILLION))
    assert again.events == []
    assert again.replay == first.events[0]
    assert balance(world) == PICO_PER_UNIT * 85 // 100


@pytest.mark.parametrize(
    "other",
    [
        core.record(A, K, "r1", Usage(input=1)),
        core.record(A, K, "r1", MILLION, model="maxi"),
        core.record(A, K, "r1", MILLION, category="chat"),
        core.record(A, K, "r1", MILLION, condition="batch"),
        core.record(A, K, "r1", MILLION, occurred_at=START - timedelta(hours=1)),
        core.record(A, key_id("l"), "r1", MILLION),
        core.reserve(A, K, "r1", MILLION),
    ],
)
def test_the_same_id_with_other_content_is_refused_and_recorded(other) -> None:
    """A request id names one content: anything else is a conflict, never a skip (C6, Promise 4)."""
    world = a_world()
    world.do(core.issue(A, key_id("l")))
    world.do(core.record(A, K, "r1", MILLION))
    refused = world.submit(other)
    assert isinstance(refused, RequestIdIsTaken)
    last = world.log[-1].body
    assert isinstance(last, e.RequestRefused)
    assert (last.reason, last.request_id) == ("request_id_is_taken", "r1")


def test_a_refused_request_may_come_again() -> None:
    """A refusal takes no request id, no credit and no limit."""
    world = a_world(grant="", limits=(rule("requests", "day", "1"),))
    assert isinstance(world.submit(core.record(A, K, "r1", MILLION)), CreditIsExhausted)
    world.do(core.grant(A, "1"))
    assert world.do(core.record(A, K, "r1", MILLION))


def test_what_was_delivered_is_recorded_whatever_stands_against_it() -> None:
    """A revoked key, a full limit, no credit: the service was rendered and is charged (C8)."""
    world = a_world(grant="", limits=(rule("requests", "day", "0"),))
    world.do(core.revoke(A, K))
    (made,) = world.do(core.record(A, K, "r1", MILLION, delivered=True))
    assert (made.charge, made.lots, made.flags) == ("0.15", (0,), ("delivered",))
    assert balance(world) == -PICO_PER_UNIT * 15 // 100
    (made,) = world.do(core.record(A, K, "r2", MILLION, model="new", delivered=True))
    assert (made.charge, made.card) == ("", "")
    assert isinstance(
        world.submit(core.record(A, key_id("x"), "r3", MILLION, delivered=True)), NoSuchKey
    )


@pytest.mark.parametrize(
    ("hours", "flags"), [(-72, ()), (-73, ("late",)), (0, ()), (1, ("early",)), (None, ())]
)
def test_usage_from_outside_the_accepted_time_is_flagged(hours, flags) -> None:
    """From 72 hours before to 5 minutes after; otherwise recorded with a flag."""
    world = a_world()
    at = None if hours is None else START + timedelta(hours=hours)
    if hours == -72:
        at += timedelta(seconds=1)
    (made,) = world.do(core.record(A, K, "r1", MILLION, occurred_at=at))
    assert made.flags == flags
    envelope = world.log[-1].envelope
    taken = envelope.recorded_at if at is None or "early" in flags else at
    assert (envelope.occurred_at, made.told_at) == (taken, at if "early" in flags else None)


def test_unpriced_usage_is_refused_or_recorded_as_the_account_says() -> None:
    """Without a price there is no charge, and never a charge of zero (C9, Promise 10)."""
    refused = a_world().submit(core.record(A, K, "r1", MILLION, model="new"))
    assert isinstance(refused, ModelIsUnpriced)
    world = a_world(unpriced="record")
    (made,) = world.do(core.record(A, K, "r1", MILLION, model="new"))
    assert (made.charge, made.card, made.lots, made.asset) == ("", "", (), "")
    free = a_world(cards=[a_card({"mini": {"input": "0"}})])
    (made,) = free.do(core.record(A, K, "r1", MILLION))
    assert (made.charge, made.card) == ("0", "standard/1")


def test_a_known_model_of_which_nothing_used_has_a_price_charges_nothing_and_not_zero() -> None:
    """That a model is on the card prices none of its classes (C9, Promise 10)."""
    world = a_world(unpriced="record")
    usage = Usage(images=3, searches=1)
    (made,) = world.do(core.record(A, K, "r1", usage))
    assert (made.charge, made.card, made.asset, made.lots) == ("", "", "", ())
    assert made.lines == {"images": (3, None), "searches": (1, None)}
    (made,) = world.do(core.record(A, K, "r2", Usage()))
    assert (made.charge, made.lines) == ("0", {})


def test_a_choice_without_a_price_does_not_free_the_others() -> None:
    """Held is the dearest of what has a price; what is used of it then is charged."""
    world = a_world(unpriced="record")
    (held,) = world.do(core.reserve(A, K, "r1", MILLION, model="new", choices=("mini",)))
    assert (held.model, held.held_as, held.held) == ("new", "mini", "0.15")
    (made,) = world.do(core.settle(A, K, "r1", MILLION, model="mini"))
    assert (made.charge, made.card) == ("0.15", "standard/1")
    refused = a_world().submit(core.reserve(A, K, "r1", MILLION, choices=("new",)))
    assert isinstance(refused, ModelIsUnpriced)


def test_a_reservation_without_a_price_does_not_free_its_settlement() -> None:
    """It is priced by the card in force when it was reserved, whatever came since (C10)."""
    world = a_world(unpriced="record")
    (held,) = world.do(core.reserve(A, K, "r1", Usage(images=1)))
    assert (held.held, held.card) == ("", "")
    world.wait(1)
    world.cards.add(a_card({"mini": {"input": "9"}}, version=2), world.at)
    (made,) = world.do(core.settle(A, K, "r1", Usage(images=1, input=10**6)))
    assert (made.charge, made.card) == ("0.15", "standard/1")
    assert made.lines == {"input": (10**6, "0.15"), "images": (1, None)}


def test_a_reservation_holds_the_worst_case() -> None:
    """Credit and every limit are held until the request ends (A12, B1)."""
    limits = (rule("requests", "day", "5"), rule("tokens", "day", str(2 * 10**6)))
    world = a_world(limits=limits, account_limits=(rule("spend", "month", "0.3"),))
    (made,) = world.do(core.reserve(A, K, "r1", MILLION, ttl_seconds=60))
    assert (made.held, made.lots) == ("0.15", (1,))
    assert made.expires_at == world.log[-1].envelope.recorded_at + timedelta(seconds=60)
    account, key = world.state.accounts[A], world.state.keys[K]
    assert account.pending("USD") == PICO_PER_UNIT * 15 // 100
    assert sum(key.counters["tokens/day"].pending.values()) == 10**6
    assert sum(account.counters["spend/month"].pending.values()) == PICO_PER_UNIT * 15 // 100
    refused = world.submit(core.reserve(A, K, "r2", Usage(input=10**6 + 1)))
    assert isinstance(refused, LimitIsReached)
    assert (refused.used, refused.pending, refused.requested) == (0, 10**6, 10**6 + 1)
    world.do(core.reserve(A, K, "r3", MILLION))
    refused = world.submit(core.reserve(A, K, "r4", Usage(output=1)))
    assert refused.limit_id == "tokens/day"


@pytest.mark.parametrize("ttl", [0, -1, 86_401])
def test_a_reservation_lives_a_day_at_most(ttl) -> None:
    """A hold cannot be for ever (B1)."""
    refused = a_world().submit(core.reserve(A, K, "r1", MILLION, ttl_seconds=ttl))
    assert isinstance(refused, InvalidField)
    assert refused.field == "ttl_seconds"


def test_settling_charges_what_was_used_and_frees_the_rest() -> None:
    """The request counts once, with its actual usage, where its hold stood."""
    world = a_world(limits=(rule("tokens", "day", str(10**6)),))
    world.do(core.reserve(A, K, "r1", MILLION))
    (made,) = world.do(core.settle(A, K, "r1", Usage(input=400_000), model="mini"))
    assert (made.charge, made.lots, made.overage, made.flags) == ("0.06", (1,), "", ())
    account, key = world.state.accounts[A], world.state.keys[K]
    assert account.pending("USD") == 0
    assert balance(world) == PICO_PER_UNIT * 94 // 100
    counter = key.counters["tokens/day"]
    assert (sum(counter.used.values()), counter.pending) == (400_000, {})
    assert world.state.reservations == {}


def test_settling_at_the_pinned_price() -> None:
    """A price that changed in between does not touch a reserved request (C10, Promise 10)."""
    world = a_world()
    world.do(core.reserve(A, K, "r1", MILLION))
    world.cards.add(a_card({"mini": {"input": "1"}}, version=2))
    (made,) = world.do(core.settle(A, K, "r1", MILLION))
    assert (made.card, made.charge) == ("standard/1", "0.15")


def test_more_than_was_reserved_is_charged_as_overage() -> None:
    """The service was delivered: free credit pays the rest, then the overdraft beyond its bound."""
    world = a_world(grant="0.2")
    world.do(core.reserve(A, K, "r1", MILLION))
    (made,) = world.do(core.settle(A, K, "r1", Usage(input=2 * 10**6), interrupted=True))
    assert (made.charge, made.overage) == ("0.3", "0.15")
    assert (made.lots, made.parts) == ((1, 0), ("0.2", "0.1"))
    assert made.flags == ("interrupted",)
    assert balance(world) == -PICO_PER_UNIT // 10


def test_settling_again_is_the_same_answer() -> None:
    """The same usage replays; other usage is a conflict; another model was not reserved (A6)."""
    world = a_world()
    world.do(core.reserve(A, K, "r1", MILLION))
    wrong = world.submit(core.settle(A, K, "r1", MILLION, model="maxi"))
    assert isinstance(wrong, InvalidField)
    first = world.submit(core.settle(A, K, "r1", MILLION))
    assert world.submit(core.settle(A, K, "r1", MILLION)).replay == first.events[0]
    assert isinstance(world.submit(core.settle(A, K, "r1", Usage(input=1))), RequestIdIsTaken)
    assert isinstance(world.submit(core.release(A, K, "r1")), RequestIdIsTaken)
    assert isinstance(world.submit(core.settle(A, K, "r9", MILLION)), NoSuchRequest)


def test_reserving_again_holds_once() -> None:
    """A repeated reservation is the first one (Promise 4)."""
    world = a_world()
    first = world.submit(core.reserve(A, K, "r1", MILLION))
    again = world.submit(core.reserve(A, K, "r1", MILLION, ttl_seconds=5))
    assert again.replay == first.events[0]
    assert len(world.state.reservations) == 1
    assert isinstance(world.submit(core.reserve(A, K, "r1", Usage(input=1))), RequestIdIsTaken)
    assert isinstance(world.submit(core.record(A, K, "r1", MILLION)), RequestIdIsTaken)


def test_releasing_gives_everything_back() -> None:
    """Release frees credit and limits, stays quiet when repeated, refuses what never was (B1)."""
    world = a_world(limits=(rule("requests", "day", "1"),))
    world.do(core.reserve(A, K, "r1", MILLION))
    first = world.submit(core.release(A, K, "r1"))
    assert balance(world) == PICO_PER_UNIT
    assert world.state.accounts[A].pending("USD") == 0
    again = world.submit(core.release(A, K, "r1"))
    assert (again.events, again.replay) == ([], first.events[0])
    assert isinstance(world.submit(core.settle(A, K, "r1", MILLION)), RequestIsClosed)
    assert isinstance(world.submit(core.release(A, K, "r2")), NoSuchRequest)
    world.do(core.record(A, K, "r3", MILLION))
    assert isinstance(world.submit(core.release(A, K, "r3")), NoSuchRequest)


def test_a_reservation_runs_out_before_the_next_decision() -> None:
    """Its credit and limits are free for the very next request (B1)."""
    world = a_world(grant="0.15", limits=(rule("requests", "day", "1"),))
    world.do(core.reserve(A, K, "r1", MILLION, ttl_seconds=60))
    world.wait(59)
    assert isinstance(world.submit(core.record(A, K, "r2", MILLION)), LimitIsReached)
    world.wait(2)
    world.do(core.record(A, K, "r3", MILLION))
    kinds = [event.body.type for event in world.log[-2:]]
    assert kinds == ["request_expired", "request_recorded"]


@pytest.mark.parametrize("between", [True, False])
def test_a_late_settle_is_recorded_never_refused(between) -> None:
    """The service was delivered: charged, flagged late, counted when it came.

    It makes no difference whether the expiry was recorded by an earlier batch or by this one.
    """
    world = a_world(limits=(rule("requests", "day", "1"),))
    world.do(core.reserve(A, K, "r1", MILLION, ttl_seconds=1))
    world.wait(2)
    if between:
        world.do(core.grant(A, "1"))
    (made,) = world.do(core.settle(A, K, "r1", MILLION))
    assert (made.charge, made.overage, made.flags) == ("0.15", "0.15", ("late",))
    again = world.submit(core.settle(A, K, "r1", MILLION))
    assert again.replay.body == made
    assert isinstance(world.submit(core.record(A, K, "r2", MILLION)), LimitIsReached)


@pytest.mark.parametrize("between", [True, False])
def test_releasing_what_ran_out_is_quiet(between) -> None:
    """It is free already, even where the same batch recorded the expiry."""
    world = a_world()
    world.do(core.reserve(A, K, "r1", MILLION, ttl_seconds=1))
    world.wait(2)
    if between:
        world.do(core.grant(A, "1"))
    outcome = world.submit(core.release(A, K, "r1"))
    assert outcome.events == []
    assert isinstance(outcome.replay.body, e.RequestExpired)


def test_a_held_part_of_a_closed_lot_pays_or_lapses() -> None:
    """A reservation keeps what it holds of an expired or voided lot; the rest vanishes."""
    world = a_world(grant="0.15")
    world.do(core.grant(A, "1", priority=200))
    world.do(core.reserve(A, K, "r1", MILLION))
    world.do(core.reserve(A, K, "r2", MILLION))
    world.do(core.void(A, 1))
    assert balance(world) == PICO_PER_UNIT * 115 // 100
    (made,) = world.do(core.settle(A, K, "r1", Usage(input=500_000)))
    assert (made.charge, made.lots, made.lapsed) == ("0.075", (1,), ((1, "0.075"),))
    assert balance(world) == PICO_PER_UNIT
    (made,) = world.do(core.release(A, K, "r2"))
    assert made.lapsed == ()
    assert world.state.accounts[A].lots.keys() == {2}


def test_a_hold_across_midnight_counts_on_its_day() -> None:
    """A request counts in the window it was admitted in, wherever it is settled."""
    world = a_world(limits=(rule("requests", "day", "1"),))
    world.at = START.replace(hour=23, minute=59, second=59)
    world.do(core.reserve(A, K, "r1", MILLION))
    world.wait(2)
    world.do(core.settle(A, K, "r1", MILLION))
    world.do(core.record(A, K, "r2", MILLION))
    assert isinstance(world.submit(core.record(A, K, "r3", MILLION)), LimitIsReached)


def test_a_price_that_comes_later_is_charged_once() -> None:
    """Rate charges what was delivered unpriced, by lots and overdraft, once for ever (C9)."""
    limits = (rule("spend", "month", "0.1"), rule("requests", "day", "9"))
    world = a_world(grant="0.1", unpriced="record", limits=limits)
    world.do(core.record(A, K, "r1", MILLION, model="new", category="chat"))
    unpriced = world.log[-1]
    assert world.do(core.rate(A, K, unpriced)) == []
    world.cards.add(a_card({"mini": {"input": "0.15"}, "new": {"input": "0.2"}}, version=2))
    (made,) = world.do(core.rate(A, K, unpriced))
    assert (made.charge, made.card) == ("0.2", "standard/2")
    assert (made.lots, made.parts) == ((1, 0), ("0.1", "0.1"))
    assert made.rated_seq == unpriced.envelope.lane_seq
    assert world.log[-1].envelope.occurred_at == unpriced.envelope.occurred_at
    assert world.do(core.rate(A, K, unpriced)) == []
    key = world.state.keys[K]
    assert sum(key.counters["requests/day"].used.values()) == 1
    refused = world.submit(core.record(A, K, "r2", MILLION))
    assert (refused.limit_id, refused.used) == ("spend/month", PICO_PER_UNIT // 5)


def test_what_has_a_price_is_not_rated() -> None:
    """Rating leaves priced requests and other events alone."""
    world = a_world()
    world.do(core.record(A, K, "r1", MILLION))
    assert world.do(core.rate(A, K, world.log[-1])) == []
    assert world.do(core.rate(A, K, world.log[0])) == []


def test_failures_lock_a_key_out_for_the_window_and_no_longer() -> None:
    """So many failures, then no request; being locked out is no further failure (B6, Promise 5)."""
    world = a_world(limits=(rule("failures", "rolling:60", "3"),))
    for number in range(3):
        refused = world.submit(core.record(A, K, f"r{number}", MILLION, model=f"no-{number}"))
        assert isinstance(refused, ModelIsUnpriced)
        world.wait(2)
    counter = world.state.keys[K].counters["failures/rolling:60"]
    assert sum(counter.used.values()) == 3
    for number in range(10):
        refused = world.submit(core.record(A, K, f"s{number}", MILLION))
        assert (refused.limit_id, refused.used, refused.ceiling) == ("failures/rolling:60", 3, 3)
        world.wait(2)
    world.at = refused.resets_at
    world.do(core.record(A, K, "t", MILLION))


def test_repeated_refusals_are_counted_not_written_one_by_one() -> None:
    """The first of a second is recorded at once, the rest as one event with their count."""
    world = a_world(grant="")
    for number in range(500):
        world.submit(core.record(A, K, f"r{number}", MILLION))
    world.wait(2)
    world.submit(core.record(A, K, "last", MILLION))
    refused = [event.body for event in world.log if isinstance(event.body, e.RequestRefused)]
    assert [(body.request_id, body.count) for body in refused] == [
        ("r0", 1),
        ("r1", 499),
        ("last", 1),
    ]
    assert all(body.limit_id == "credit:USD" and body.requested == "0.15" for body in refused)


def test_a_refusal_says_where_it_was_decided() -> None:
    """The lane position of a refusal is that of the state it was decided on (B5, Promise 14)."""
    world = a_world(grant="0.1")
    position = world.state.seq
    refused = world.submit(core.record(A, K, "r1", MILLION))
    assert refused.position == position
    at_position = core.fold(world.log[:position]).accounts[A]
    assert refused.available == at_position.balance("USD") - at_position.pending("USD")


def test_a_refusal_is_written_with_its_numbers() -> None:
    """The event carries what the caller was told (Promise 14)."""
    world = a_world(limits=(rule("spend", "day", "0.2"),))
    world.do(core.record(A, K, "r1", MILLION))
    world.submit(core.record(A, K, "r2", MILLION, category="chat"))
    assert world.log[-1].body == e.RequestRefused(
        by="operator",
        request_id="r2",
        integration="bot",
        model="mini",
        category="chat",
        reason="limit_is_reached",
        usage={"input": 1_000_000},
        limit_id="spend/day",
        scope="key",
        ceiling="0.2",
        used="0.15",
        pending="0",
        requested="0.15",
    )


def test_a_limit_may_be_of_a_category_a_model_or_an_asset() -> None:
    """Only what a limit covers counts against it, and is refused by it."""
    limits = (
        rule("requests", "day", "1", category="chat"),
        rule("requests", "day", "1", model="mini"),
        rule("spend", "day", "0", assets=("CREDIT",)),
    )
    cards = [a_card({"mini": {"input": "0.15"}, "maxi": {"input": "0.15"}})]
    world = a_world(limits=limits, cards=cards, pays_with=("USD", "CREDIT"))
    world.do(core.record(A, K, "r1", MILLION, category="chat", model="maxi"))
    refused = world.submit(core.record(A, K, "r2", MILLION, category="chat", model="maxi"))
    assert refused.limit_id == "requests:chat/day"
    world.do(core.record(A, K, "r3", MILLION))
    refused = world.submit(core.record(A, K, "r4", MILLION))
    assert refused.limit_id == "requests:model=mini/day"
    world.do(core.grant(A, "1", "CREDIT"))
    world.do(core.record(A, K, "r5", Usage(input=4 * 10**6), model="maxi"))
    refused = world.submit(core.record(A, K, "r6", MILLION, model="maxi"))
    assert refused.limit_id == "spend:CREDIT/day"


def test_the_largest_usage_is_priced_without_overflow() -> None:
    """A quantity at its bound is charged exactly."""
    world = a_world(grant="", overdraft={"USD": "unlimited"})
    (made,) = world.do(core.record(A, K, "r1", Usage(input=QUANTITY_MAX, output=QUANTITY_MAX)))
    assert made.charge == "750000"


def test_promise_11_a_secret_is_not_taken_as_a_name() -> None:
    """Promise 11: what is stored for ever (request id, model, a key's name) holds no secret."""
    secret = secrets.generate(secrets.format_of("bve"))
    world = a_world(unpriced="record")
    for field, values in {"request_id": (f"x {secret}", "m"), "model": ("x", secret)}.items():
        refused = world.submit(core.record(A, K, values[0], MILLION, model=values[1]))
        assert isinstance(refused, InvalidField)
        assert refused.field == field
        assert secret not in str(world.log)
    with pytest.raises(InvalidField, match="holds a secret"):
        keys.check_name(f"my {secret}")
    keys.check_name("sk-bve-not-a-secret")


def test_promise_11_notes_and_reports_beside_events_hold_no_secret() -> None:
    """What a caller notes is refused by its field; what a provider repeats is kept without it."""
    secret = secrets.generate(secrets.format_of("ryvion"))
    nothing = Facts(None, None, RateCards(), None, None)
    for field in ("metadata", "end_user"):
        notes = Notes(bytes(16), **{field: f"x {secret}"})
        terms = {"request_id": "r", "model": "m", "usage": Usage(input=1), "notes": notes}
        for decide, command in (
            (metering.record, Record(**terms)),
            (metering.reserve, Reserve(**terms)),
        ):
            with pytest.raises(InvalidField) as refused:
                decide(nothing, command, key_id=key_id("K1"), at=START)
            assert refused.value.field == field
    report = ProviderReport(f'{{"user":"{secret}"}}', secret)
    assert report.kept == ProviderReport('{"user":"[redacted]"}', secrets.REDACTED)
    assert report.digest == report.kept.digest
    clean = ProviderReport('{"input_tokens":1}', "resp_1")
    assert clean.kept == clean
