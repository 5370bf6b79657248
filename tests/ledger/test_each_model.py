"""Limits that count each model by itself: which counter, how many, and when they are forgotten."""

from datetime import timedelta

import pytest

from ledger import events as e
from ledger.codec import encode
from ledger.errors import InvalidField, LimitIsReached, RequestExceedsLimit
from ledger.limits import (
    KINDS,
    MODELS_MAX,
    OF_MODELS,
    Counter,
    claim,
    compile_rule,
    compile_rules,
    forget_dropped,
    limit_id,
    name_of,
    require,
)
from ledger.record.batch import Outcome
from ledger.usage import Usage
from tests.properties import core
from tests.properties.core import START, Core, a_card, account_id, key_id

A, K = account_id("a"), key_id("k")
ONE = Usage(input=1)
MODELS = [f"m{number}" for number in range(MODELS_MAX + 3)]
OWN, SHARED = "requests:each_model=m0/rolling:60", "requests:each_model/rolling:60"


def rule(kind="requests", window="rolling:60", ceiling="2", **more) -> e.LimitRule:
    """Make a rule that holds per model."""
    return e.LimitRule(
        **{"kind": kind, "window": window, "ceiling": ceiling, "each_model": True, **more}
    )


def a_world(*limits: e.LimitRule, account_limits=(), models=MODELS) -> Core:
    """Make an account with much credit and one key."""
    world = Core(a_card(dict.fromkeys(models, core.PRICES)))
    world.do(core.open_account(A, limits=account_limits))
    world.do(core.grant(A, "1000"))
    world.do(core.issue(A, K, limits=limits))
    return world


def ask(world: Core, model: str, *, usage: Usage = ONE, make=core.record):
    """Let the key ask a model once."""
    return world.submit(make(A, K, f"r{world.state.seq}", usage, model=model))


def counters(world: Core) -> dict[str, Counter]:
    """Return the key's counters."""
    return world.state.keys[K].counters


# Rules.


def test_a_rule_of_each_model_has_an_id_of_its_own() -> None:
    """Beside the same rule without it; a counter's id tells limit and model."""
    each = compile_rule(rule())
    assert each.limit_id == SHARED != limit_id(rule(each_model=False))
    assert limit_id(rule("spend", "day", category="chat", assets=("USD",), own=True)) == (
        "spend:chat:USD:own:each_model/day"
    )
    for model in ("m0", "house/m:own=1/day", "each_model=x", "ü"):
        assert each.model_of(each.counter_id(model)) == model
    assert each.counter_id("m0") == OWN
    others = (SHARED, "requests/rolling:60", "requests:model=m0/rolling:60", OWN[:-1])
    assert not any(map(each.model_of, others))
    assert compile_rule(rule(each_model=False)).model_of(OWN) == ""


@pytest.mark.parametrize("kind", sorted(set(KINDS) - OF_MODELS))
def test_kinds_that_name_no_model_are_refused(kind) -> None:
    """Failures, key creations and active keys are not of a model: nothing could be counted."""
    with pytest.raises(InvalidField) as refused:
        compile_rule(rule(kind, "lifetime"))
    assert refused.value.field == "each_model"


def test_one_model_and_each_of_them_is_refused() -> None:
    """What could never differ from a rule of that model is not accepted (F6)."""
    with pytest.raises(InvalidField) as refused:
        compile_rule(rule(model="m0"))
    assert refused.value.field == "each_model"


def test_no_limit_is_named_as_a_counter_of_another_is() -> None:
    """A category that looks like a counter's id would share the counter: such sets are refused."""
    assert len(compile_rules((rule(), rule(each_model=False), rule(category="chat")))) == 3
    for twisted in (rule(category="each_model=x", each_model=False), rule(category="each_model=x")):
        with pytest.raises(InvalidField):
            compile_rules((rule(), twisted))


# Which counter.


def test_every_model_gets_the_ceiling_by_itself() -> None:
    """Two of each are admitted; the third is refused, and by the id of its model's counter."""
    world = a_world(rule())
    for model in ("m0", "m1", "m0", "m1"):
        assert isinstance(ask(world, model), Outcome)
    refused = ask(world, "m0")
    assert (refused.limit_id, refused.used, refused.pending) == (OWN, 2, 0)
    written = world.log[-1].body
    assert isinstance(written, e.RequestRefused)
    assert (written.limit_id, written.model, written.used) == (OWN, "m0", "2")
    assert ask(world, "m1").limit_id == "requests:each_model=m1/rolling:60"
    assert isinstance(ask(world, "m2"), Outcome)


def test_an_accounts_limit_counts_all_its_keys() -> None:
    """Of each model, whichever key asks it; tokens and spend too."""
    limits = (rule("tokens", "day", "5"), rule("spend", "month", "0.000001", assets=("USD",)))
    world = a_world(account_limits=limits)
    other = key_id("l")
    world.do(core.issue(A, other))
    world.do(core.record(A, other, "r", Usage(input=4), model="m0"))
    refused = ask(world, "m0", usage=Usage(input=2))
    assert (refused.scope, refused.limit_id) == ("account", "tokens:each_model=m0/day")
    assert (refused.used, refused.requested) == (4, 2)
    world.do(core.set_account_limits(A, limits[1]))
    assert ask(world, "m0", usage=Usage(input=3)).limit_id == "spend:USD:each_model=m0/month"
    assert isinstance(ask(world, "m1", usage=Usage(input=3)), Outcome)


def test_only_what_a_category_covers_is_counted() -> None:
    """Of a category and each model: others make no counter."""
    world = a_world(rule(category="chat"))
    world.do(core.record(A, K, "r1", ONE, model="m0"))
    assert counters(world) == {}
    world.do(core.record(A, K, "r2", ONE, model="m0", category="chat"))
    assert set(counters(world)) == {"requests:chat:each_model=m0/rolling:60"}


def test_what_exceeds_the_ceiling_alone_names_the_limit_and_makes_no_counter() -> None:
    """So names that a client makes up are neither counted nor written one by one."""
    world = a_world(rule("tokens", ceiling="5"))
    written = world.state.seq
    for model in MODELS[:9]:
        refused = ask(world, model, usage=Usage(input=6))
        assert isinstance(refused, RequestExceedsLimit)
        assert refused.limit_id == "tokens:each_model/rolling:60"
    assert counters(world) == {}
    assert world.state.seq == written + 1


def test_a_settlement_counts_where_its_hold_stood() -> None:
    """Held and used are of the model's counter; a release frees it."""
    world = a_world(rule("tokens", ceiling="100"))
    name = "tokens:each_model=m0/rolling:60"
    held = ask(world, "m0", usage=Usage(input=60), make=core.reserve).events[0].body
    ask(world, "m1", usage=Usage(input=60), make=core.reserve)
    assert ask(world, "m0", usage=Usage(input=41)).pending == 60
    world.do(core.settle(A, K, held.request_id, Usage(input=7)))
    assert sum(counters(world)[name].used.values()) == 7
    assert counters(world)[name].pending == {}
    assert isinstance(ask(world, "m0", usage=Usage(input=93)), Outcome)
    assert ask(world, "m1", usage=Usage(input=41)).pending == 60


# How many.


def fill(world: Core) -> None:
    """Let as many models count as may."""
    for model in MODELS[:MODELS_MAX]:
        assert isinstance(ask(world, model), Outcome)


def test_so_many_models_count_by_themselves_and_others_share() -> None:
    """Promise 5: what comes beyond is held to the ceiling together, and named by the limit."""
    world = a_world(rule())
    fill(world)
    late, later, last = MODELS[MODELS_MAX:]
    assert isinstance(ask(world, late), Outcome)
    assert isinstance(ask(world, later), Outcome)
    for model in (late, later, last):
        refused = ask(world, model)
        assert (refused.limit_id, refused.used) == (SHARED, 2)
    assert isinstance(ask(world, MODELS[0]), Outcome)
    assert len(counters(world)) == MODELS_MAX + 1


def test_who_shared_gets_no_second_ceiling() -> None:
    """Promise 5: as long as anything shared counts, no model leaves it for a counter of its own."""
    world = a_world(rule())
    fill(world)
    late, later, last = MODELS[MODELS_MAX:]
    world.wait(50)
    assert isinstance(ask(world, late), Outcome)
    assert isinstance(ask(world, late), Outcome)
    # The others are idle now, so there would be room.
    world.wait(20)
    assert ask(world, late).limit_id == SHARED
    assert ask(world, later).limit_id == SHARED
    world.wait(50)
    assert isinstance(ask(world, last), Outcome)
    assert set(counters(world)) == {f"requests:each_model={last}/rolling:60"}
    assert isinstance(ask(world, late), Outcome)


def test_a_hold_that_is_shared_is_settled_there() -> None:
    """Its model has no counter of its own meanwhile."""
    world = a_world(rule("tokens", ceiling="100"))
    fill(world)
    late = MODELS[MODELS_MAX]
    held = ask(world, late, usage=Usage(input=10), make=core.reserve).events[0].body
    ask(world, MODELS[-1], usage=Usage(input=5))
    world.wait(30)
    world.do(core.settle(A, K, held.request_id, Usage(input=20)))
    shared = counters(world)["tokens:each_model/rolling:60"]
    assert sum(shared.used.values()) == 25
    assert shared.pending == {}


# When they are forgotten.


def test_counters_in_which_nothing_counts_make_room() -> None:
    """When another is made: so there are never more than may count, and they do not stay."""
    world = a_world(rule())
    fill(world)
    world.wait(63)
    assert isinstance(ask(world, MODELS[1]), Outcome)
    assert len(counters(world)) == MODELS_MAX
    assert isinstance(ask(world, MODELS[-1]), Outcome)
    assert set(counters(world)) == {
        f"requests:each_model={model}/rolling:60" for model in (MODELS[1], MODELS[-1])
    }
    assert core.plain(core.fold(world.log)) == core.plain(world.state)


def test_what_a_reservation_holds_is_not_idle() -> None:
    """Its counter stays although nothing in it was used."""
    world = a_world(rule(window="day"))
    ask(world, "m0", make=core.reserve)
    ask(world, "m1", make=core.record)
    limit = world.state.keys[K].limits["requests:each_model/day"]
    found = counters(world)
    assert claim(limit, found, "m2", world.at) == "requests:each_model=m2/day"
    assert len(found) == 2
    assert claim(limit, found, "m2", world.at + timedelta(days=1)) == "requests:each_model=m2/day"
    assert found == {}


def test_what_is_asked_and_what_is_counted_agree() -> None:
    """The counter that decides is the one that counts, or nothing counts in either."""
    limit = compile_rule(rule(ceiling="5"))
    bucket = limit.window.bucket(START)
    cases: list[dict[str, Counter]] = [
        {},
        {OWN: Counter({bucket: 5})},
        {SHARED: Counter({bucket: 5})},
        {SHARED: Counter({bucket - 40: 5})},
        {OWN: Counter({bucket - 40: 5}), SHARED: Counter({bucket: 5})},
        {limit.counter_id(model): Counter({bucket: 1}) for model in MODELS[3:]},
    ]
    for found in cases:
        asked = name_of(limit, found, "m0")
        refused = None
        try:
            require(limit, found, 1, START, "key", "m0")
        except LimitIsReached as refusal:
            refused = refusal
        named = claim(limit, dict(found), "m0", START)
        assert (refused is not None) == (found.get(named, Counter()).used == {bucket: 5})
        assert refused is None or refused.limit_id == named == asked


def test_dropping_a_limit_and_setting_it_again_resets_nothing() -> None:
    """Counters stay while something in them counts, and go with the next change when not."""
    plain = rule(each_model=False)
    world = a_world(rule(), plain)
    ask(world, "m0")
    world.do(core.set_key_limits(A, K))
    assert set(counters(world)) == {OWN, "requests/rolling:60"}
    world.do(core.set_key_limits(A, K, rule(), plain))
    ask(world, "m0")
    assert ask(world, "m0").used == 2
    world.do(core.set_key_limits(A, K))
    world.wait(63)
    world.do(core.set_key_limits(A, K, rule("tokens", "day")))
    assert counters(world) == {}


def test_counters_of_limits_that_stay_are_kept() -> None:
    """Also where nothing in them counts: for keys and for accounts."""
    world = a_world(rule(), account_limits=(rule(), rule("tokens", "day")))
    ask(world, "m0")
    world.wait(63)
    world.do(core.set_key_limits(A, K, rule(ceiling="9")))
    world.do(core.set_account_limits(A, rule(ceiling="9")))
    assert set(counters(world)) == {OWN}
    of_account = world.state.accounts[A].counters
    assert set(of_account) == {OWN, "tokens:each_model=m0/day"}
    world.wait(86_400)
    world.do(core.set_account_limits(A, rule()))
    assert set(of_account) == {OWN}


def test_a_dropped_limits_window_is_read_from_its_counters_name() -> None:
    """Whatever else stands in it."""
    limit = compile_rule(rule("tokens", "lifetime", category="a/day"))
    name = limit.counter_id("b/rolling:1")
    found = {name: Counter({0: 1}), "requests:x/day": Counter({1: 1})}
    forget_dropped(found, {}, START)
    assert set(found) == {name}
    assert forget_dropped(found, {limit.limit_id: limit}, START) is None
    assert set(found) == {name}


def test_it_is_left_out_where_it_is_not_said() -> None:
    """Canonical bytes of rules without it are as ever (Promise 12)."""
    said = e.KeyLimitsSet(by="o", limits=(rule(), rule(each_model=False)))
    assert encode(said) == (
        b'{"by":"o","limits":[{"kind":"requests","window":"rolling:60","ceiling":"2",'
        b'"each_model":true},{"kind":"requests","window":"rolling:60","ceiling":"2"}]}'
    )
