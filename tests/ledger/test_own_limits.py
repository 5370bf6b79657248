"""An account limits its own spending beside the operator: it does, refuses, or stays quiet."""

import pytest

from ledger import accounts
from ledger import events as e
from ledger.codec import decode, encode
from ledger.errors import AccountIsClosed, InvalidField, NoSuchAccount
from ledger.limits import compile_rules
from ledger.state import Account
from tests.properties.core import START, account_id

HOUR = "rolling:3600"
THEIRS = e.LimitRule(kind="spend", window=HOUR, ceiling="5", assets=("CAD",))
OWN = e.LimitRule(kind="spend", window=HOUR, ceiling="2", assets=("CAD",), own=True)
KEYS = e.LimitRule(kind="active_keys", window="lifetime", ceiling="500")


def an_account(*rules: e.LimitRule, status: str = "open") -> Account:
    """Make an account with these limits."""
    return Account(
        account_id=account_id("a"),
        opened_at=START,
        status=status,
        rules=rules,
        limits=compile_rules(rules),
    )


def limit(account: Account | None, ceiling: str | None) -> list[e.AnyEvent]:
    """Let the account set its limit in CAD an hour."""
    return accounts.limit_own_spending(account, ceiling, asset="CAD", window=HOUR, by="member:ann")


def rules_of(made: list[e.AnyEvent]) -> tuple[e.LimitRule, ...]:
    """Return the limits that the one event sets."""
    (event,) = made
    assert isinstance(event, e.AccountLimitsSet)
    return event.limits


def test_its_own_limit_stands_beside_the_operators() -> None:
    """Both count, each by its own counter, and the operator's is untouched."""
    rules = rules_of(limit(an_account(KEYS, THEIRS), "2"))
    assert rules == (KEYS, THEIRS, OWN)
    assert list(compile_rules(rules)) == [
        "active_keys/lifetime",
        "spend:CAD/rolling:3600",
        "spend:CAD:own/rolling:3600",
    ]


def test_another_replaces_it_and_none_lifts_it() -> None:
    """There is one at a time."""
    held = an_account(THEIRS, OWN)
    assert [rule.ceiling for rule in rules_of(limit(held, "3"))] == ["5", "3"]
    assert rules_of(limit(held, None)) == (THEIRS,)


def test_the_same_again_is_quiet() -> None:
    """What changes nothing is no event."""
    assert limit(an_account(THEIRS, OWN), "2") == []
    assert limit(an_account(THEIRS), None) == []


@pytest.mark.parametrize(
    "theirs",
    [
        THEIRS,
        e.LimitRule(kind="spend", window=HOUR, ceiling="5"),
        e.LimitRule(kind="spend", window=HOUR, ceiling="5", assets=("USD", "CAD")),
    ],
)
def test_it_is_never_above_the_operators(theirs: e.LimitRule) -> None:
    """As much is allowed, more is refused and names what may be."""
    assert rules_of(limit(an_account(theirs), "5"))[-1].ceiling == "5"
    with pytest.raises(InvalidField, match="ceiling: at most 5"):
        limit(an_account(theirs), "5.000000000001")


@pytest.mark.parametrize(
    "other",
    [
        e.LimitRule(kind="spend", window="day", ceiling="1", assets=("CAD",)),
        e.LimitRule(kind="spend", window=HOUR, ceiling="1", assets=("USD",)),
        e.LimitRule(kind="spend", window=HOUR, ceiling="1", assets=("CAD",), category="chat"),
        e.LimitRule(kind="requests", window=HOUR, ceiling="1"),
    ],
)
def test_other_limits_do_not_bound_it(other: e.LimitRule) -> None:
    """Of another window, asset or category, they are something else."""
    assert rules_of(limit(an_account(other), "100"))[-1].ceiling == "100"


@pytest.mark.parametrize("ceiling", ["", "-1", "1e3", "nan", "0.0000000000001"])
def test_what_is_no_amount_is_refused(ceiling: str) -> None:
    """A plain decimal, at most twelve places."""
    with pytest.raises(InvalidField, match="ceiling"):
        limit(an_account(), ceiling)


def test_what_the_operator_sets_leaves_it() -> None:
    """The operator replaces the operator's own."""
    (event,) = accounts.set_limits(an_account(THEIRS, OWN), (KEYS,), by="operator")
    assert isinstance(event, e.AccountLimitsSet)
    assert event.limits == (KEYS, OWN)


def test_only_an_account_that_is_there_may() -> None:
    """None, and none that is closed."""
    with pytest.raises(NoSuchAccount):
        limit(None, "1")
    with pytest.raises(AccountIsClosed):
        limit(an_account(status="closed"), "1")


def test_its_bytes_are_frozen() -> None:
    """Promise 12: a rule of its own is written so; one of the operator's as it ever was."""
    event = e.AccountLimitsSet(by="member:ann", limits=(THEIRS, OWN))
    assert encode(event) == (
        b'{"by":"member:ann","limits":['
        b'{"kind":"spend","window":"rolling:3600","ceiling":"5","assets":["CAD"]},'
        b'{"kind":"spend","window":"rolling:3600","ceiling":"2","assets":["CAD"],"own":true}]}'
    )
    assert decode(event.type, encode(event)) == event
