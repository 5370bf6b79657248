"""Limits against a brute-force oracle, on random traces (Promise 5)."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from ledger import events as e
from ledger import limits
from ledger.clock import TICK
from ledger.errors import LimitIsReached, Refused, RequestExceedsLimit
from ledger.limits import SUB_BUCKETS
from ledger.usage import Usage
from tests.properties import core
from tests.properties.audit import counted
from tests.properties.core import Core, a_card, account_id, key_id

A, K = account_id("a"), key_id("k")
MODELS = ("m0", "m1", "m2")
MEASURES = {"requests": lambda body: 1, "tokens": lambda body: body.usage.input}  # noqa: ARG005
bounded = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),
)

steps = st.tuples(
    # How long after the one before, in thousandths of the longest gap: often next to nothing,
    # or nearly a whole window.
    st.one_of(st.integers(0, 30), st.integers(940, 1_000), st.integers(0, 1_000)),
    st.sampled_from(["record", "record", "reserve", "settle", "release"]),
    st.integers(1, 12),
)
traces = st.lists(steps, min_size=5, max_size=60)


class Trace:
    """Plays a trace on a key with one limit."""

    def __init__(self, rule: e.LimitRule, at: datetime, scope: str) -> None:
        self.core = Core(a_card(dict.fromkeys(("mini", *MODELS), core.PRICES)), at=at)
        self.rule = rule
        of_account, of_key = ((rule,), ()) if scope == "account" else ((), (rule,))
        self.core.do(core.open_account(A, overdraft={"USD": "unlimited"}, limits=of_account))
        self.core.do(core.issue(A, K, limits=of_key))
        self.number = 0

    def entries(self, model: str = "", until: int | None = None):
        """List what counts, from the (first) events alone; of one model, or of all."""
        events = self.core.log[:until]
        asked = {
            event.body.request_id
            for event in events
            if isinstance(event.body, e.RequestRecorded | e.RequestReserved)
            and model in {"", event.body.model}
        }
        log = [event for event in events if is_in(event, asked)]
        return counted(log, MEASURES[self.rule.kind])

    def step(self, what: str, tokens: int, model: str = "mini"):
        """Play one step; return the outcome and what was asked, if anything was."""
        open_now = sorted(r.seq for r in self.core.state.reservations.values())
        if what in {"settle", "release"}:
            if open_now:
                oldest = next(
                    r for r in self.core.state.reservations.values() if r.seq == open_now[0]
                )
                used = min(tokens, oldest.event.usage.input)
                make, more = (
                    (core.settle, (Usage(input=used),)) if what == "settle" else (core.release, ())
                )
                self.core.submit(make(A, K, oldest.request_id, *more))
            return None
        self.number += 1
        make = core.record if what == "record" else core.reserve
        more = {} if what == "record" else {"ttl_seconds": 86_400}
        usage = Usage(input=tokens)
        return self.core.submit(make(A, K, f"r{self.number}", usage, model=model, **more))


@pytest.mark.parametrize("kind", ["requests", "tokens"])
@pytest.mark.parametrize("scope", ["key", "account"])
@given(
    trace=traces,
    seconds=st.sampled_from([1, 7, 60, 3_600]),
    ceiling=st.one_of(st.integers(1, 3), st.integers(1, 25)),
)
@bounded
def test_no_interval_holds_more_than_a_rolling_limit(kind, scope, trace, seconds, ceiling) -> None:
    """Every (t − W, t] holds at most the limit (Promise 5, H1, H2, H4).

    None is refused that W and a thirtieth had room for, and a request larger than the limit is
    refused as such.
    """
    width = timedelta(seconds=seconds)
    rule = e.LimitRule(kind=kind, window=f"rolling:{seconds}", ceiling=str(ceiling))
    played = Trace(rule, core.START, scope)
    for gap, what, tokens in trace:
        played.core.at += width * gap // 1_000
        earlier = played.entries()
        outcome = played.step(what, tokens)
        if outcome is None:
            continue
        quantity = 1 if kind == "requests" else tokens
        if isinstance(outcome, Refused):
            assert isinstance(outcome, LimitIsReached)
            assert isinstance(outcome, RequestExceedsLimit) == (quantity > ceiling)
            wide = played.core.at - width - width // SUB_BUCKETS - TICK
            assert sum(one.quantity for one in earlier if one.at > wide) + quantity > ceiling
        else:
            now = outcome.events[0].envelope.recorded_at
            inside = sum(one.quantity for one in earlier if one.at > now - width)
            assert inside + quantity <= ceiling
    entries = played.entries()
    for last in entries:
        inside = [one for one in entries if last.at - width < one.at <= last.at]
        assert sum(one.quantity for one in inside) <= ceiling


@pytest.mark.parametrize("kind", ["requests", "tokens"])
@pytest.mark.parametrize("scope", ["key", "account"])
@given(
    trace=st.lists(
        # Bursts of one model after a part of a window, or a little more than one.
        st.tuples(
            st.sampled_from([0, 0, 300, 740, 1_040]),
            st.sampled_from(["record", "record", "reserve", "settle", "release"]),
            st.integers(1, 3),
            st.sampled_from(MODELS),
        ),
        min_size=20,
        max_size=40,
    ),
    seconds=st.sampled_from([1, 60, 3_600]),
    ceiling=st.integers(1, 4),
    at_once=st.sampled_from([1, 2, 2]),
)
@example(
    # The third shares; when the first two are idle it must not begin anew beside what it shared.
    trace=[
        (0, "record", 1, "m0"),
        (0, "record", 1, "m1"),
        (300, "record", 1, "m2"),
        (740, "record", 3, "m2"),
    ],
    seconds=60,
    ceiling=2,
    at_once=2,
)
@bounded
def test_no_interval_holds_more_of_any_model_than_a_limit_of_each(  # noqa: PLR0917
    kind, scope, trace, seconds, ceiling, at_once
) -> None:
    """Promise 5: nor of all that share; counters are bounded, and a fold of the events.

    A model with a counter of its own is not refused what W and a thirtieth of it had room for.
    """
    width = timedelta(seconds=seconds)
    rule = e.LimitRule(
        kind=kind, window=f"rolling:{seconds}", ceiling=str(ceiling), each_model=True
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(limits, "MODELS_MAX", at_once)
        played = Trace(rule, core.START, scope)
        asked = [
            (gap * (not place), what, model)
            for gap, what, burst, model in trace
            for place in range(burst)
        ]
        for gap, what, model in asked:
            played.core.at += width * gap // 1_000
            before = len(played.core.log)
            outcome = played.step(what, 1, model)
            state = played.core.state
            counters = (state.accounts[A] if scope == "account" else state.keys[K]).counters
            assert len(counters) <= at_once + 1
            if isinstance(outcome, Refused):
                assert isinstance(outcome, LimitIsReached)
                limit = limits.compile_rule(rule)
                named = limit.model_of(outcome.limit_id)
                assert named in {"", model}
                wide = played.core.at - width - width // SUB_BUCKETS - TICK
                earlier = played.entries(named, before)
                held = sum(one.quantity for one in earlier if one.at > wide)
                assert held + outcome.requested > ceiling
        for model in MODELS:
            entries = played.entries(model)
            for last in entries:
                inside = [one for one in entries if last.at - width < one.at <= last.at]
                assert sum(one.quantity for one in inside) <= ceiling
        assert core.plain(core.fold(played.core.log)) == core.plain(played.core.state)


BUCKET_OF = {
    "day": lambda at: at.date(),
    "month": lambda at: (at.year, at.month),
    "lifetime": lambda at: None,  # noqa: ARG005
}


@pytest.mark.parametrize("window", ["day", "month", "lifetime"])
@given(
    trace=traces,
    ceiling=st.integers(1, 40),
    start=st.datetimes(datetime(2027, 12, 20), datetime(2028, 3, 5), timezones=st.just(UTC)),  # noqa: DTZ001
)
@bounded
def test_a_calendar_window_holds_exactly_its_limit(window, trace, ceiling, start) -> None:
    """Admitted if and only if the UTC window has room (Promise 5, F1, F2, B6).

    So it is over the ends of days, months, a year and a leap day; and the counter is the
    brute-force sum.
    """
    rule = e.LimitRule(kind="tokens", window=window, ceiling=str(ceiling))
    played = Trace(rule, start, "key")
    bucket_of = BUCKET_OF[window]
    for gap, what, tokens in trace:
        # Gaps from none to four days: reservations may run out.
        played.core.at += timedelta(seconds=4 * 86_400 * gap**3 // 10**9)
        outcome = played.step(what, tokens)
        if outcome is None:
            continue
        now = played.core.state.last_recorded_at
        own = f"r{played.number}"
        before = [event for event in played.core.log if not is_of(event, own)]
        admitted = sum(
            one.quantity
            for one in counted(before, MEASURES["tokens"])
            if bucket_of(one.at) == bucket_of(now)
        )
        assert (admitted + tokens <= ceiling) == (not isinstance(outcome, Refused))
        if isinstance(outcome, LimitIsReached):
            assert outcome.used + outcome.pending == admitted
            assert outcome.resets_at is None or bucket_of(outcome.resets_at) != bucket_of(now)
        counter = played.core.state.keys[K].counters.get(f"tokens/{window}")
        total = sum(one.quantity for one in played.entries() if bucket_of(one.at) == bucket_of(now))
        if counter is not None:
            newest = max((*counter.used, *counter.pending), default=None)
            held = counter.used.get(newest, 0) + counter.pending.get(newest, 0)
            assert held == total or not total


def is_of(event, request_id: str) -> bool:
    """Return whether an event admits this request."""
    kinds = e.RequestRecorded | e.RequestReserved
    return isinstance(event.body, kinds) and event.body.request_id == request_id


def is_in(event, asked: set[str]) -> bool:
    """Return whether an event is about one of these requests."""
    return getattr(event.body, "request_id", None) in asked
