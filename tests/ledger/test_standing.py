"""Where accounts and keys stand: what is said to be left is what a decision would let pass."""

from datetime import timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ledger import credits as credit
from ledger import events as e
from ledger import standing
from ledger.errors import CreditIsExhausted, LimitIsReached
from ledger.limits import Counter, compile_rule, compile_rules, left, require
from ledger.state import Account, Key, Lot
from tests.properties.core import START, account_id, key_id

A, K = account_id("a"), key_id("k")
HOUR = timedelta(hours=1)
windows = st.sampled_from(["rolling:60", "rolling:3600", "day", "month", "lifetime"])
quantities = st.integers(0, 20)


def rule(kind="requests", window="day", ceiling="10", **more) -> e.LimitRule:
    """Make a rule."""
    return e.LimitRule(kind=kind, window=window, ceiling=ceiling, **more)


def a_key(*rules: e.LimitRule, **more) -> Key:
    """Make a key with limits."""
    about = {"key_id": K, "account_id": A, "name": "bot", "dialect": "bve"}
    return Key(
        **about,
        created_at=START,
        updated_at=START,
        rules=rules,
        limits=compile_rules(rules),
        **more,
    )


@given(
    window=windows,
    used=st.lists(st.tuples(st.integers(0, 40), quantities)),
    pending=st.lists(st.tuples(st.integers(0, 40), quantities)),
)
def test_what_remains_is_what_a_decision_lets_pass(window, used, pending) -> None:
    """As much as remains fits, and one more does not, whatever was counted when."""
    limit = compile_rule(rule(window=window))
    counter = Counter()
    newest = limit.window.bucket(START)
    for ago, quantity in used:
        counter.add_used(newest - ago, quantity, newest - 100)
    for ago, quantity in pending:
        counter.add_pending(newest - ago, quantity, newest - 100)
    counters = {limit.limit_id: counter}
    found = standing.of_limit(limit, counters, START)
    assert found.remaining == max(left(limit, counters, START), 0)
    assert (found.ceiling, found.kind, found.limit_id) == (10, "requests", limit.limit_id)
    if found.remaining:
        require(limit, counters, found.remaining, START, "key")
    with pytest.raises(LimitIsReached) as refused:
        require(limit, counters, found.remaining + 1, START, "key")
    assert (refused.value.used, refused.value.pending) == (found.used, found.pending)


@pytest.mark.parametrize(
    ("window", "seconds"),
    [("rolling:60", 60), ("day", 86_400), ("month", 30 * 86_400), ("lifetime", None)],
)
def test_a_window_says_how_long_it_is(window: str, seconds: int | None) -> None:
    """November has 30 days; a lifetime has no end."""
    found = standing.of_limit(compile_rule(rule(window=window)), {}, START)
    assert found.window_seconds == seconds


def test_a_request_stands_before_the_limits_that_count_it() -> None:
    """Those of key and account that cover it, and none that counts keys."""
    key = a_key(rule(), rule(window="month", category="images"))
    limits = (rule("key_creations"), rule("tokens", each_model=True))
    account = Account(account_id=A, opened_at=START, rules=limits, limits=compile_rules(limits))
    own = compile_rules(limits)["tokens:each_model/day"].counter_id("m")
    account.counters[own] = Counter(used={START.toordinal(): 3})
    found = list(standing.of_request(account, key, category="", model="m", at=START))
    assert [(each.scope, each.limit_id, each.used) for each in found] == [
        ("key", "requests/day", 0),
        ("account", own, 3),
    ]
    models = standing.of_models(account.limits["tokens:each_model/day"], account.counters, START)
    assert {model: each.remaining for model, each in models.items()} == {"m": 7}


def test_an_account_counts_its_active_keys() -> None:
    """There is no counter for that: the number is the account's own."""
    limits = (rule("active_keys", "lifetime"),)
    account = Account(
        account_id=A,
        opened_at=START,
        rules=limits,
        limits=compile_rules(limits),
        active_keys=4,
    )
    (found,) = standing.of_limits(account, START)
    assert (found.used, found.remaining, found.scope) == (4, 6, "account")


def a_lot(number: int, amount: int, held: int, asset: str, begins: timedelta) -> Lot:
    """Make a lot of which part is held."""
    return Lot(
        number=number,
        asset=asset,
        kind="paid",
        priority=0,
        amount=amount,
        remaining=amount,
        held=min(held, amount),
        granted_at=START,
        effective_at=START + begins,
        expires_at=None,
    )


lots = st.lists(
    st.tuples(
        st.integers(1, 9),
        st.integers(0, 9),
        st.sampled_from(["USD", "CREDIT"]),
        st.sampled_from([-HOUR, HOUR]),
    ),
    max_size=4,
)


@given(given_lots=lots, overdraft=st.sampled_from(["0", "0.000000000005", "unlimited"]))
def test_what_is_spendable_pays_and_no_more(given_lots, overdraft) -> None:
    """Spendable and overdraft are what a charge is covered by, to the last pico."""
    account = Account(account_id=A, opened_at=START, overdraft={"USD": overdraft})
    for number, terms in enumerate(given_lots, 1):
        account.lots[number] = a_lot(number, *terms)
    (usd,) = [each for each in standing.balances(account, START, {"USD"}) if each.asset == "USD"]
    assert usd.unspent == account.balance("USD")
    assert usd.pending == account.pending("USD")
    assert standing.to_spend(account, START)["USD"] == usd.spendable
    assume(usd.overdraft_left is not None)
    most = usd.spendable + usd.overdraft_left
    credit.require_covered(account, "USD", credit.plan(account, "USD", most, START))
    with pytest.raises(CreditIsExhausted):
        credit.require_covered(account, "USD", credit.plan(account, "USD", most + 1, START))


def test_credit_that_can_pay_for_nothing_is_not_spendable() -> None:
    """Nothing is priced in it, and the account does not pay with it."""
    account = Account(account_id=A, opened_at=START)
    account.lots[1] = a_lot(1, 5, 2, "DIEM", -HOUR)
    found = {each.asset: each for each in standing.balances(account, START, ())}
    assert (found["DIEM"].unspent, found["DIEM"].pending, found["DIEM"].spendable) == (5, 2, 0)
    found = {each.asset: each for each in standing.balances(account, START, {"DIEM"})}
    assert found["DIEM"].spendable == 3
