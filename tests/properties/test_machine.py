"""A machine that does anything in any order, and asks after every step whether it still adds up."""

from datetime import timedelta

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ledger import events as e
from ledger import limits as rules
from ledger.errors import CreditIsExhausted, LimitIsReached, Refused
from ledger.lines import charge_of
from ledger.money import format_pico, parse_pico
from ledger.pricing import PriceBook
from ledger.record.batch import Outcome
from ledger.record.recount import Recount
from ledger.state import LaneState
from ledger.usage import Usage
from tests.properties import core
from tests.properties.audit import (
    check_chain,
    check_charged_once,
    check_credit,
    counted,
    drawn,
    exempt,
)
from tests.properties.core import Core, a_card, account_id, key_id

A, K, L = account_id("a"), key_id("k"), key_id("l")
MODELS = {"mini": {"input": "100000"}, "costly": {"input": "1000000"}}
"""0.1 and 1 USD a token."""
PRICED_LATER = {**MODELS, "new": {"input": "100000"}}
TOKENS = 10**11
"""Pico of one token of ``mini``."""
OVERDRAFT = "0.5"
EACH = "15"
"""Tokens per model in a minute."""
AT_ONCE = 2
"""Models that a key counts by themselves: one fewer than there are."""
UNASKED = (
    *(e.RequestRefused, e.RequestExpired, e.KeyExpired),
    *(e.GrantExpired, e.GrantTookEffect),
)
"""What may be recorded beside a command that is refused."""
ADMITTED = (e.RequestRecorded, e.RequestReserved)

tokens = st.integers(0, 12)
models = st.sampled_from(["mini", "mini", "mini", "costly", "new"])
keys = st.sampled_from([K, L])
amounts = st.integers(1, 30).map(lambda tenths: format_pico(tenths * TOKENS))


def limits(requests: int, per_day: int, spend: int) -> tuple[e.LimitRule, ...]:
    """Return a key's limits; the same counters whatever the ceilings."""
    return (
        e.LimitRule(kind="requests", window="rolling:60", ceiling=str(requests)),
        e.LimitRule(kind="tokens", window="day", ceiling=str(per_day)),
        e.LimitRule(kind="spend", window="month", ceiling=str(spend)),
        e.LimitRule(kind="tokens", window="rolling:60", ceiling=EACH, each_model=True),
    )


class Ledger(RuleBasedStateMachine):
    """One account with two keys, against what its own events say (A2, B1, D3, D7, E1)."""

    @initialize()
    def open(self) -> None:
        """Open the account; unpriced usage is recorded."""
        self.patched = pytest.MonkeyPatch()
        self.patched.setattr(rules, "MODELS_MAX", AT_ONCE)
        self.core = Core(a_card(MODELS))
        self.folded, self.checker = LaneState(), Recount(self.core.cards)
        self.seen = 0
        self.done: list[tuple] = []
        self.unpriced: list = []
        self.ids = 0
        self.submit(
            core.open_account,
            A,
            overdraft={"USD": OVERDRAFT},
            pays_with=("CREDIT", "USD"),
            unpriced="record",
        )
        for key in (K, L):
            self.submit(core.issue, A, key, limits=limits(20, 60, 9))

    def submit(self, make, *args, **terms) -> Outcome | Refused:
        """Let a command happen, and remember it so that all can happen again."""
        self.done.append((self.core.at, make, args, terms))
        before = self.core.state.seq
        outcome = self.core.submit(make(*args, **terms))
        if isinstance(outcome, Refused):
            made = [event.body for event in self.core.log if event.envelope.lane_seq > before]
            assert all(isinstance(body, UNASKED) for body in made)
        else:
            assert all(event in self.core.log for event in outcome.events)
        return outcome

    def new_id(self) -> str:
        """Make a request id."""
        self.ids += 1
        return f"r{self.ids}"

    # What people do.

    @rule(
        amount=amounts,
        asset=st.sampled_from(["USD", "USD", "CREDIT"]),
        priority=st.integers(1, 3),
        starts=st.sampled_from([None, None, 30]),
        ends=st.sampled_from([None, 60, 100_000]),
    )
    def grant(self, amount, asset, priority, starts, ends) -> None:
        """Add credit."""
        at = self.core.at
        self.submit(
            core.grant,
            A,
            amount,
            asset,
            priority=priority,
            effective_at=None if starts is None else at + timedelta(seconds=starts),
            expires_at=None if ends is None else at + timedelta(seconds=ends + 1),
        )

    @rule(lot=st.integers(1, 12))
    def void(self, lot) -> None:
        """Withdraw a grant, if there is one."""
        self.submit(core.void, A, lot)

    @rule(amount=amounts)
    def reduce(self, amount) -> None:
        """Take credit away, if there is enough."""
        self.submit(core.reduce, A, amount)

    @rule(
        key=keys, requests=st.integers(0, 20), per_day=st.integers(0, 60), spend=st.integers(0, 9)
    )
    def limit(self, key, requests, per_day, spend) -> None:
        """Set other ceilings."""
        self.submit(core.set_key_limits, A, key, *limits(requests, per_day, spend))

    @rule(assets=st.sampled_from([("CREDIT", "USD"), ("USD", "CREDIT"), ("USD",), ("CREDIT",)]))
    def pay_with(self, assets) -> None:
        """Let other assets pay from now on."""
        self.submit(core.set_paying, A, *assets)

    @rule(key=keys, grace=st.sampled_from([0, 60]))
    def rotate(self, key, grace) -> None:
        """Give a key another secret; nothing else may come of it (A17)."""
        account = self.core.state.accounts[A]
        before = account.balance("USD"), account.pending("USD"), self.core.state.keys[key].counters
        outcome = self.submit(core.rotate, A, key, grace)
        expired = [x for x in self.core.log if isinstance(x.body, UNASKED)]
        if isinstance(outcome, Outcome) and not expired:
            after = account.balance("USD"), account.pending("USD")
            assert (*after, self.core.state.keys[key].counters) == before

    @rule(seconds=st.sampled_from([0, 1, 7, 30, 61, 3_600, 90_000]))
    def wait(self, seconds) -> None:
        """Let time pass."""
        self.core.wait(seconds)

    # Requests.

    def judge(self, outcome, usage, model, *, delivered=False) -> None:
        """Check a decision against what the events before it said."""
        if not isinstance(outcome, Refused):
            return
        assert not delivered
        assert isinstance(outcome, LimitIsReached | CreditIsExhausted)
        if isinstance(outcome, LimitIsReached):
            assert outcome.used + outcome.pending + outcome.requested > outcome.ceiling
        else:
            assert outcome.requested > outcome.available
            asked = charge_of(PriceBook(a_card(PRICED_LATER)).quote(model, usage).lines)
            assert outcome.requested == asked
            account = self.core.state.accounts[A]
            now = max(self.core.at, self.core.state.last_recorded_at)
            free = sum(
                lot.remaining - lot.held
                for lot in account.lots.values()
                if not lot.closed
                and lot.asset in {"USD", *(account.pays_with if "USD" in account.pays_with else ())}
                and lot.effective_at <= now
                and not (lot.expires_at and lot.expires_at <= now)
            )
            used = account.overdrawn.get("USD", 0) + account.overdraft_held.get("USD", 0)
            assert outcome.available == free + max(parse_pico(OVERDRAFT) - used, 0)

    @rule(key=keys, quantity=tokens, model=models, delivered=st.sampled_from([False] * 4 + [True]))
    def record(self, key, quantity, model, delivered) -> None:
        """Record a request in one step."""
        usage = Usage(input=quantity)
        outcome = self.submit(
            core.record, A, key, self.new_id(), usage, model=model, delivered=delivered
        )
        self.judge(outcome, usage, model, delivered=delivered)
        self.note(outcome)

    @rule(key=keys, quantity=tokens, model=models, ttl=st.sampled_from([5, 60, 600]))
    def reserve(self, key, quantity, model, ttl) -> None:
        """Reserve a request."""
        usage = Usage(input=quantity)
        outcome = self.submit(
            core.reserve, A, key, self.new_id(), usage, model=model, ttl_seconds=ttl
        )
        self.judge(outcome, usage, model)

    @rule(key=keys, amount=amounts)
    def owe(self, key, amount) -> None:
        """Deliver more than there is, and promise credit for later, of either asset."""
        usage, terms = Usage(input=12), {"model": "costly", "delivered": True}
        self.note(self.submit(core.record, A, key, self.new_id(), usage, **terms))
        later = self.core.at + timedelta(seconds=30)
        for asset in ("CREDIT", "USD"):
            self.submit(core.grant, A, amount, asset, effective_at=later)

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), quantity=tokens)
    def settle(self, data, quantity) -> None:
        """Settle some request: it may be open, ended, late, or never reserved."""
        request, key = self.some_request(data)
        self.note(self.submit(core.settle, A, key, request, Usage(input=quantity)))

    @precondition(lambda self: self.ids)
    @rule(data=st.data())
    def release(self, data) -> None:
        """Release some request."""
        request, key = self.some_request(data)
        self.submit(core.release, A, key, request)

    def some_request(self, data) -> tuple[str, object]:
        """Choose an open reservation more often than not."""
        reserved = [r.request_id for r in self.core.state.reservations.values()]
        every = [f"r{number}" for number in range(1, self.ids + 1)]
        request = data.draw(st.sampled_from((reserved or every) + every[-3:]))
        return request, next(
            (
                args[1]
                for _, make, args, _ in self.done
                if make in {core.record, core.reserve} and args[2] == request
            ),
            K,
        )

    @precondition(lambda self: self.ids)
    @rule(data=st.data())
    def again(self, data) -> None:
        """Send a request again that was admitted: the same event answers (Promise 4)."""
        sent = [one for one in self.done if one[1] in {core.record, core.reserve}]
        _, make, args, terms = data.draw(st.sampled_from(sent))
        kinds = e.RequestRecorded | e.RequestReserved
        first = [
            event
            for event in self.core.log
            if isinstance(event.body, kinds) and event.body.request_id == args[2]
        ]
        outcome = self.submit(make, *args, **terms)
        if first:
            assert outcome.events == []
            assert outcome.replay == first[0]
        else:
            self.note(outcome)

    def note(self, outcome) -> None:
        """Remember what has no price yet."""
        if isinstance(outcome, Outcome):
            self.unpriced += [
                event
                for event in outcome.events
                if isinstance(event.body, e.RequestRecorded | e.RequestSettled)
                and not event.body.charge
            ]

    @precondition(lambda self: self.unpriced)
    @rule(data=st.data())
    def rate(self, data) -> None:
        """Publish the missing price, once, and rate something unpriced."""
        if self.core.cards.count == 1:
            self.core.cards.add(a_card(PRICED_LATER, version=2))
            self.done.append((self.core.at, None, (), {}))
        event = data.draw(st.sampled_from(self.unpriced))
        self.submit(core.rate, A, event.envelope.key_id, event)

    # What holds after every step.

    @invariant()
    def adds_up(self) -> None:
        """Balances are a fold of the events, to the last pico (Promise 4, Promise 7).

        Positions have no gap and hashes follow one another (Promise 2, Promise 12).
        """
        log, state = self.core.log, self.core.state
        check_chain(log)
        check_charged_once(log)
        check_credit(log, state)
        assert core.plain(core.fold(log)) == core.plain(state)

    @invariant()
    def never_over(self) -> None:
        """Posted and pending stay within credit and declared overdraft (Promise 5, A2).

        What was delivered already is the only exception, and named as such.
        """
        account = self.core.state.accounts[A]
        assert set(account.overdrawn) | set(account.overdraft_held) <= {"USD"}
        used = account.overdrawn.get("USD", 0) + account.overdraft_held.get("USD", 0)
        assert used <= parse_pico(OVERDRAFT) + exempt(self.core.log)

    @invariant()
    def no_credit_is_free_beside_overdraft(self) -> None:
        """After every event what is overdrawn has no free lot beside it that may pay for it (E1).

        The checker, which chooses the lots of each event again, comes to the same.
        """
        state = self.folded
        for event in self.core.log[state.seq :]:
            found = self.checker.take(event.envelope, event.body)
            # The price that comes later is in force from the beginning here.
            assert not [each for each in found if each.what != "rate_card_was_not_in_force"]
            core.evolve(state, event.envelope, event.body)
            core.advance(state, event)
            account, now = state.accounts[A], event.envelope.recorded_at
            for asset in (asset for asset, pico in account.overdrawn.items() if pico):
                may_pay = {asset, *(account.pays_with if asset in account.pays_with else ())}
                assert not [
                    lot
                    for lot in account.lots.values()
                    if lot.asset in may_pay
                    and lot.number not in account.waiting
                    and lot.remaining > lot.held
                    and lot.effective_at <= now
                    and not (lot.closed or (lot.expires_at and lot.expires_at <= now))
                ]

        # Several that take effect at once do so one after another, and none is late.
        waiting = state.accounts[A].waiting
        assert all(at > state.last_recorded_at for at in waiting.values())

    @invariant()
    def counters_are_sums(self) -> None:
        """A calendar counter equals the sum of what was admitted in its window (B2, B3)."""
        at = self.core.state.last_recorded_at
        for key in (K, L):
            of_key = [event for event in self.core.log if event.envelope.key_id == key]
            counter = self.core.state.keys[key].counters.get("tokens/day")
            today = [
                one
                for one in counted(of_key, lambda body: body.usage.input)
                if one.at.date() == at.date()
            ]
            bucket = at.toordinal()
            used = counter.used.get(bucket, 0) if counter else 0
            pending = counter.pending.get(bucket, 0) if counter else 0
            assert used == sum(one.quantity for one in today if not one.pending)
            assert pending == sum(one.quantity for one in today if one.pending)

    @invariant()
    def spend_counter_is_what_was_charged(self) -> None:
        """A spend counter equals the charges of its month, those that came late included (E1)."""
        month = self.core.state.last_recorded_at.month
        for key in (K, L):
            of_key = [event for event in self.core.log if event.envelope.key_id == key]
            rated = [
                event
                for event in of_key
                if isinstance(event.body, e.RequestRated)
                and event.envelope.recorded_at.month == month
            ]
            expected = sum(
                one.quantity
                for one in counted(of_key, lambda body: sum(pico for _, pico in drawn(body)))
                if one.at.month == month and not one.pending
            ) + sum(parse_pico(event.body.charge) for event in rated)
            counter = self.core.state.keys[key].counters.get("spend/month")
            assert sum(counter.used.values() if counter else ()) == expected

    @invariant()
    def each_model_is_held_to_its_limit(self) -> None:
        """What was admitted had room among what counted of its model in the minute (Promise 5).

        So it is whether the model has a counter of its own or shares one, and these are bounded.
        """
        width, log = timedelta(seconds=60), self.core.log
        for key in (K, L):
            assert len(self.core.state.keys[key].counters) <= 3 + AT_ONCE + 1
        for place in range(self.seen, len(log)):
            envelope, body = log[place].envelope, log[place].body
            if not isinstance(body, ADMITTED) or "delivered" in getattr(body, "flags", ()):
                continue
            asked = {
                event.body.request_id
                for event in log[:place]
                if isinstance(event.body, ADMITTED)
                and (event.envelope.key_id, event.body.model) == (envelope.key_id, body.model)
            }
            before = [x for x in log[:place] if getattr(x.body, "request_id", None) in asked]
            inside = [
                one.quantity
                for one in counted(before, lambda body: body.usage.input)
                if one.at > envelope.recorded_at - width
            ]
            assert sum(inside) + body.usage.input <= int(EACH)
        self.seen = len(log)

    def teardown(self) -> None:
        """Everything once more from the beginning gives the same bytes."""
        if not hasattr(self, "done"):
            return
        try:
            self.repeat()
        finally:
            self.patched.undo()

    def repeat(self) -> None:
        """Do everything once more."""
        again = Core(a_card(MODELS))
        for at, make, args, terms in self.done:
            again.at = at
            if make is None:
                again.cards.add(a_card(PRICED_LATER, version=2))
            else:
                again.submit(make(*args, **terms))
        assert [event.hash for event in again.log] == [event.hash for event in self.core.log]
        assert core.plain(again.state) == core.plain(self.core.state)


TestLedger = Ledger.TestCase
TestLedger.settings = settings(
    max_examples=60,
    stateful_step_count=35,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow],
)
