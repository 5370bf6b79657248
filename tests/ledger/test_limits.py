"""Limits: rules, windows, counters, and what a refusal says."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from ledger import clock
from ledger import events as e
from ledger.clock import TICK
from ledger.errors import InvalidField, LimitIsReached, RequestExceedsLimit
from ledger.limits import (
    KINDS,
    ROLLING_SECONDS_MAX,
    SUB_BUCKETS,
    Counter,
    LimitId,
    compile_rule,
    compile_rules,
    credit_id,
    limit_id,
    matches_kinds,
    require,
    total,
    window,
)
from ledger.money import PICO_PER_UNIT

SECOND = timedelta(seconds=1)
instants = st.integers(
    *map(clock.microseconds, (datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)))
).map(clock.from_microseconds)
names = st.one_of(
    st.sampled_from(["day", "month"]),
    st.integers(1, ROLLING_SECONDS_MAX).map(lambda seconds: f"rolling:{seconds}"),
)


def rule(kind="requests", window="day", ceiling="5", **more) -> e.LimitRule:
    """Make a rule."""
    return e.LimitRule(kind=kind, window=window, ceiling=ceiling, **more)


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("requests/day", rule()),
        ("requests:chat/rolling:60", rule(window="rolling:60", category="chat")),
        ("tokens:chat:model=mini/month", rule("tokens", "month", category="chat", model="mini")),
        ("spend:USD+CREDIT/lifetime", rule("spend", "lifetime", assets=("USD", "CREDIT"))),
    ],
)
def test_a_limit_is_named_by_what_it_counts(text, made) -> None:
    """Kind, qualifiers and window name the counter; no two limits share one (H1)."""
    assert limit_id(made) == text
    assert compile_rule(made).limit_id == text


words = st.from_regex(r"[a-z]{1,8}", fullmatch=True).filter(lambda text: text != "own")
"""Of categories as they are given; a model's name may be anything."""
anything = st.text(min_size=1, max_size=20)
asset_codes = st.lists(st.sampled_from(["USD", "CREDIT", "DIEM"]), unique=True, max_size=3)
windows = st.one_of(names, st.just("lifetime"))
ids = st.builds(
    LimitId,
    kind=st.sampled_from(KINDS),
    window=windows,
    category=st.one_of(st.just(""), words, anything),
    model=st.one_of(st.just(""), anything),
    assets=asset_codes.map(tuple),
    own=st.booleans(),
    each_model=st.booleans(),
    counted=st.one_of(st.just(""), anything),
)


@given(made=ids)
def test_an_id_that_was_stored_is_read_as_it_was_written(made: LimitId) -> None:
    """Whatever names stand in it: kind and window are what was written, and so is the text."""
    read = LimitId.parse(made.text)
    assert read is not None
    assert (read.kind, read.window, read.text) == (made.kind, made.window, made.text)


@given(
    kind=st.sampled_from(["requests", "tokens", "spend"]),
    window=windows,
    category=st.one_of(st.just(""), words),
    model=st.one_of(st.just(""), words, st.just("openai/gpt-4o:latest")),
    assets=asset_codes.map(tuple),
    own=st.booleans(),
    counted=st.one_of(st.none(), st.just(""), anything),
)
def test_an_id_says_all_that_it_is_made_of(  # noqa: PLR0917 (the parts of an id)
    kind, window, category, model, assets, own, counted
) -> None:
    """Every part comes back: of a rule that may be set, and of the counter of one model."""
    made = LimitId(kind, window, category, model)
    if kind == "spend":
        made = made._replace(assets=assets, own=own)
    if counted is not None:
        made = made._replace(model="", each_model=True, counted=counted)
    assert LimitId.parse(made.text) == made
    rule_of_it = rule(kind, window, category=category, model=made.model, assets=made.assets)
    rule_of_it = structs.replace(rule_of_it, own=made.own, each_model=made.each_model)
    limit = compile_rule(rule_of_it)
    assert limit.limit_id == made._replace(counted="").text
    if counted:
        assert limit.counter_id(counted) == made.text
        assert limit.model_of(made.text) == counted


@pytest.mark.parametrize("text", ["", credit_id("USD")])
def test_a_refusal_that_no_limit_made_names_none(text: str) -> None:
    """Want of credit is no limit, and what else refuses names nothing."""
    assert LimitId.parse(text) is None


@given(made=ids)
def test_a_pattern_finds_ids_by_their_kind(made: LimitId) -> None:
    """As the database looks for them."""
    assert bool(re.match(matches_kinds("requests", "tokens"), made.text)) == (
        made.kind in {"requests", "tokens"}
    )


@given(made=ids, at=instants)
def test_a_refusal_says_what_its_limit_counts(made: LimitId, at) -> None:
    """Kind, window, assets, category and model are fields; nobody has to read the id."""
    limit = compile_rule(rule("tokens", made.window, category=made.category, model=made.model))
    with pytest.raises(LimitIsReached) as refused:
        require(limit, {}, 6, at, "key", made.model)
    said = refused.value
    assert (said.kind, said.window, said.assets) == ("tokens", made.window, ())
    assert (said.category, said.model) == (made.category, made.model)


@pytest.mark.parametrize(
    ("field", "made"),
    [
        ("kind", rule("wishes")),
        ("window", rule(window="week")),
        ("window", rule(window="rolling:0")),
        ("window", rule(window="rolling:60s")),
        ("window", rule(window=f"rolling:{ROLLING_SECONDS_MAX + 1}")),
        ("window", rule("active_keys", "day")),
        ("ceiling", rule(ceiling="-1")),
        ("ceiling", rule(ceiling="1.5")),
        ("ceiling", rule(ceiling="1" * 16)),
        ("ceiling", rule("spend", ceiling="1e3")),
        ("category", rule("key_creations", category="chat")),
        ("model", rule("active_keys", "lifetime", model="mini")),
        ("assets", rule("tokens", assets=("USD",))),
        ("assets", rule("spend", assets=("usd",))),
        ("assets", rule("spend", assets=("USD", "USD"))),
    ],
)
def test_a_rule_that_would_not_bite_is_refused(field, made) -> None:
    """What enforcement would ignore, or what could never match, is not accepted (F6)."""
    with pytest.raises(InvalidField) as refused:
        compile_rule(made)
    assert refused.value.field == field


def test_a_set_of_rules_is_small_and_without_doubles() -> None:
    """At most 64, no two of one id."""
    with pytest.raises(InvalidField):
        compile_rules((rule(), rule(ceiling="9")))
    many = tuple(rule(window=f"rolling:{n}") for n in range(1, 66))
    with pytest.raises(InvalidField):
        compile_rules(many)
    assert len(compile_rules(many[:64])) == 64


@given(st.sampled_from(KINDS), st.text(max_size=5), st.text(max_size=5))
def test_an_id_names_its_kind_and_window(kind, category, model) -> None:
    """The kind stands first and the window last, so that both can be read back."""
    made = rule(kind, "month", category=category, model=model)
    assert limit_id(made).startswith(kind)
    assert limit_id(made).endswith("/month")


@pytest.mark.parametrize(
    ("name", "at", "frees_at"),
    [
        ("day", "2026-11-21T23:59:59.999999", "2026-11-22T00:00:00"),
        ("day", "2026-12-31T00:00:00", "2027-01-01T00:00:00"),
        ("month", "2026-11-30T23:59:59.999999", "2026-12-01T00:00:00"),
        ("month", "2026-12-31T23:59:59", "2027-01-01T00:00:00"),
        ("month", "2028-02-29T12:00:00", "2028-03-01T00:00:00"),
        # Clocks change in New York and on Lord Howe: a UTC window knows nothing of it.
        ("day", "2026-11-01T05:59:59", "2026-11-02T00:00:00"),
        ("day", "2026-04-04T14:45:00", "2026-04-05T00:00:00"),
    ],
)
def test_a_calendar_window_is_half_open_in_utc(name, at, frees_at) -> None:
    """A day is a UTC day and a month a UTC month, to the microsecond (F1, F2, F7)."""
    instant = datetime.fromisoformat(at).replace(tzinfo=UTC)
    end = datetime.fromisoformat(frees_at).replace(tzinfo=UTC)
    found = window(name)
    bucket = found.bucket(instant)
    assert found.frees_at(bucket) == end
    assert found.bucket(end - TICK) == bucket
    assert found.first(end - TICK) == bucket
    assert found.bucket(end) == bucket + 1 == found.first(end)


def test_a_lifetime_has_no_end() -> None:
    """Everything counts, for ever."""
    found = window("lifetime")
    assert found.frees_at(found.bucket(datetime(2000, 1, 1, tzinfo=UTC))) is None


@given(names, instants)
def test_a_bucket_is_free_from_its_instant_on_and_not_before(name, at) -> None:
    """``frees_at`` is the first instant at which a bucket no longer counts (Promise 14).

    So ``resets_at`` is exact to the microsecond.
    """
    found = window(name)
    bucket = found.bucket(at)
    end = found.frees_at(bucket)
    assert found.first(end - TICK) <= bucket < found.first(end)


@given(names, instants)
def test_a_bucket_ends_where_the_next_one_begins(name, at) -> None:
    """``ends_at`` is the first instant of a later bucket, to the microsecond."""
    found = window(name)
    bucket = found.bucket(at)
    end = found.ends_at(bucket)
    assert found.bucket(end - TICK) == bucket < found.bucket(end)


@given(st.integers(1, ROLLING_SECONDS_MAX), instants, st.integers(0, 10**6))
def test_a_rolling_window_covers_its_interval_and_little_more(seconds, at, share) -> None:
    """Whatever was in (t − W, t] counts; what is older than W and one thirtieth does not."""
    found = window(f"rolling:{seconds}")
    width = seconds * SECOND
    inside = at - (width - TICK) * share // 10**6
    assert found.first(at) <= found.bucket(inside) <= found.bucket(at)
    beyond = at - width - width // SUB_BUCKETS - TICK
    assert found.bucket(beyond) < found.first(at)


def test_a_counter_forgets_what_no_longer_counts() -> None:
    """A counter holds at most one bucket for each that still counts (J1)."""
    found, counter = window("rolling:60"), Counter()
    at = datetime(2026, 1, 1, tzinfo=UTC)
    for _ in range(500):
        counter.add_used(found.bucket(at), 1, found.first(at))
        counter.add_pending(found.bucket(at), 1, found.first(at))
        at += SECOND
    assert len(counter.used) <= SUB_BUCKETS + 1
    assert len(counter.pending) <= SUB_BUCKETS + 1
    assert total(counter.used, found.first(at - SECOND)) in range(60, 63)


def test_freeing_never_goes_below_nothing() -> None:
    """A hold whose bucket is past frees nothing; what is freed is gone, not zero."""
    counter = Counter()
    counter.add_pending(7, 5, 0)
    counter.free_pending(7, 2)
    assert counter.pending == {7: 3}
    counter.free_pending(7, 3)
    counter.free_pending(7, 3)
    counter.free_pending(6, 1)
    assert counter.pending == {}


AT = datetime(2026, 11, 21, 10, tzinfo=UTC)


def refusal(made, used, pending, quantity) -> LimitIsReached:
    """Ask a limit for more than it has."""
    limit = compile_rule(made)
    bucket = limit.window.bucket(AT)
    counter = Counter(used={bucket: used}, pending={bucket: pending})
    with pytest.raises(LimitIsReached) as refused:
        require(limit, {limit.limit_id: counter}, quantity, AT, "key")
    return refused.value


def test_the_last_unit_of_a_limit_is_given() -> None:
    """Used and pending and asked may reach the ceiling, and not pass it."""
    limit = compile_rule(rule())
    bucket = limit.window.bucket(AT)
    counter = Counter(used={bucket: 3}, pending={bucket: 1})
    require(limit, {limit.limit_id: counter}, 1, AT, "key")
    require(limit, {}, 5, AT, "key")
    require(limit, {limit.limit_id: Counter(used={bucket - 1: 5})}, 5, AT, "key")


def test_a_refusal_tells_which_limit_and_its_numbers() -> None:
    """Scope, limit, ceiling, used, pending, requested, and when it would fit (B8, Promise 14)."""
    said = refusal(rule(), 3, 1, 2)
    assert type(said) is LimitIsReached
    assert (said.scope, said.limit_id, said.ceiling) == ("key", "requests/day", 5)
    assert (said.used, said.pending, said.requested) == (3, 1, 2)
    assert said.resets_at == datetime(2026, 11, 22, tzinfo=UTC)


def test_a_request_larger_than_the_limit_is_refused_as_such() -> None:
    """Waiting does not help a request that no empty window would hold (H2, H6)."""
    said = refusal(rule(), 0, 0, 6)
    assert type(said) is RequestExceedsLimit
    assert said.resets_at is None
    assert refusal(rule("spend", ceiling="0"), 0, 0, 1).code == "request_exceeds_limit"


def test_a_lifetime_limit_never_resets() -> None:
    """No instant is named where none comes."""
    assert refusal(rule(window="lifetime"), 5, 0, 1).resets_at is None


@given(
    st.lists(st.tuples(st.integers(0, 59), st.integers(1, 5)), min_size=1, max_size=20),
    st.integers(1, 10),
)
def test_resets_at_is_when_the_request_fits(trace, quantity) -> None:
    """At ``resets_at`` the request is admitted if nothing else came, and not a tick before."""
    limit = compile_rule(rule("tokens", "rolling:60", "10"))
    counter = Counter()
    for ago, tokens in sorted(trace, reverse=True):
        then = AT - ago * SECOND
        counter.add_used(limit.window.bucket(then), tokens, limit.window.first(then))
    try:
        require(limit, {limit.limit_id: counter}, quantity, AT, "key")
    except LimitIsReached as refused:
        assert refused.resets_at > AT  # noqa: PT017
        require(limit, {limit.limit_id: counter}, quantity, refused.resets_at, "key")
        with pytest.raises(LimitIsReached):
            require(limit, {limit.limit_id: counter}, quantity, refused.resets_at - TICK, "key")


def test_quantities_are_written_as_their_kind_is() -> None:
    """Spend is a decimal amount, everything else a count."""
    assert compile_rule(rule("spend", ceiling="2.5")).ceiling == 5 * PICO_PER_UNIT // 2
    assert compile_rule(rule("spend")).write(PICO_PER_UNIT // 2) == "0.5"
    assert compile_rule(rule("tokens")).write(17) == "17"
