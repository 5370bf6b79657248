"""Decisions about accounts and members: each does, refuses, or stays quiet."""

import pytest

from ledger import accounts
from ledger import events as e
from ledger.errors import (
    AccountIsClosed,
    AccountIsOpen,
    AccountIsSuspended,
    InvalidField,
    LastOwnerStays,
    NoSuchAccount,
    NoSuchMember,
)
from ledger.state import Account
from tests.properties.core import START, Core, account_id, change, open_account

A = account_id("a")


def an_account(**changes) -> Account:
    """Make an account as it stands."""
    return Account(account_id=A, opened_at=START, **changes)


SUSPENDED, CLOSED = an_account(status="suspended"), an_account(status="closed")
TEAM = an_account(members={"ann": "owner", "bob": "owner", "cy": "member"})


def test_an_account_opens_on_its_terms() -> None:
    """Opening records the terms as they were given."""
    terms = e.AccountOpened(by="operator", pays_with=("CREDIT", "USD"), overdraft={"USD": "5"})
    assert accounts.open_account(None, terms) == [terms]


def test_an_account_opens_once() -> None:
    """A second opening of one id is refused."""
    with pytest.raises(AccountIsOpen):
        accounts.open_account(CLOSED, e.AccountOpened(by="operator"))


@pytest.mark.parametrize(
    ("field", "terms"),
    [
        ("pays_with", {"pays_with": ()}),
        ("pays_with", {"pays_with": ("USD", "USD")}),
        ("pays_with", {"pays_with": tuple(f"A{n}" for n in range(9))}),
        ("pays_with", {"pays_with": ("usd",)}),
        ("overdraft", {"overdraft": {"usd": "1"}}),
        ("overdraft.USD", {"overdraft": {"USD": "-1"}}),
        ("overdraft.USD", {"overdraft": {"USD": "1e3"}}),
        ("overdraft.USD", {"overdraft": {"USD": "infinite"}}),
        ("unpriced", {"unpriced": "free"}),
        ("max_output_tokens", {"max_output_tokens": -1}),
        ("max_output_tokens", {"max_output_tokens": 10**9 + 1}),
        ("kind", {"limits": (e.LimitRule(kind="wishes", window="day", ceiling="1"),)}),
    ],
)
def test_terms_that_make_no_sense_are_refused(field, terms) -> None:
    """The refusal names the field; nothing is accepted and then ignored (F6)."""
    with pytest.raises(InvalidField) as refused:
        accounts.open_account(None, e.AccountOpened(by="operator", **terms))
    assert refused.value.field == field


def test_policy_and_limits_are_replaced_as_a_whole() -> None:
    """Both decisions record the new terms; a closed or unknown account has none."""
    terms = e.AccountPolicySet(by="operator", pays_with=("USD",), rate_card="standard")
    rules = (e.LimitRule(kind="requests", window="day", ceiling="1"),)
    assert accounts.set_policy(SUSPENDED, terms) == [terms]
    assert accounts.set_limits(SUSPENDED, rules, by="x") == [
        e.AccountLimitsSet(by="x", limits=rules)
    ]
    for account, why in ((None, NoSuchAccount), (CLOSED, AccountIsClosed)):
        with pytest.raises(why):
            accounts.set_policy(account, terms)
        with pytest.raises(why):
            accounts.set_limits(account, rules, by="x")


def test_suspending_stops_an_account_and_resuming_starts_it() -> None:
    """Suspend and resume do, and stay quiet where it is so already."""
    assert accounts.suspend(an_account(), by="x", reason="unpaid") == [
        e.AccountSuspended(by="x", reason="unpaid")
    ]
    assert accounts.suspend(SUSPENDED, by="x") == []
    assert accounts.resume(SUSPENDED, by="x") == [e.AccountResumed(by="x")]
    assert accounts.resume(an_account(), by="x") == []


def test_closing_is_for_good() -> None:
    """Close does once, stays quiet then; nothing opens the account again."""
    assert accounts.close(SUSPENDED, by="x", reason="left") == [
        e.AccountClosed(by="x", reason="left")
    ]
    assert accounts.close(CLOSED, by="x") == []
    for decide in (accounts.suspend, accounts.resume):
        with pytest.raises(AccountIsClosed):
            decide(CLOSED, by="x")


@pytest.mark.parametrize("decide", [accounts.suspend, accounts.resume, accounts.close])
def test_what_was_never_opened_cannot_change(decide) -> None:
    """An unknown account is refused as such."""
    with pytest.raises(NoSuchAccount):
        decide(None, by="x")


def test_who_may_act_is_asked_in_one_place() -> None:
    """Unknown, closed, suspended: each has its own refusal."""
    assert accounts.require_open(TEAM) is TEAM
    assert accounts.require_not_closed(SUSPENDED) is SUSPENDED
    for account, why in (
        (None, NoSuchAccount),
        (CLOSED, AccountIsClosed),
        (SUSPENDED, AccountIsSuspended),
    ):
        with pytest.raises(why):
            accounts.require_open(account)


def test_a_member_joins_with_a_role() -> None:
    """Adding does; the same again is quiet; an unknown role or a crowd is refused."""
    assert accounts.add_member(TEAM, "dan", "finance", by="x") == [
        e.MemberAdded(by="x", member_id="dan", role="finance")
    ]
    assert accounts.add_member(TEAM, "cy", "member", by="x") == []
    crowd = an_account(members={str(n): "member" for n in range(accounts.MEMBERS_MAX)})
    for account, role in ((TEAM, "king"), (crowd, "member")):
        with pytest.raises(InvalidField):
            accounts.add_member(account, "eve", role, by="x")


def test_joining_again_is_no_way_around_the_last_owner() -> None:
    """A member is not added again with a lesser role: that is a change of role, with its rule."""
    alone = an_account(members={"ann": "owner"})
    with pytest.raises(InvalidField) as refused:
        accounts.add_member(alone, "ann", "member", by="x")
    assert refused.value.field == "member_id"


def test_a_role_changes() -> None:
    """Changing does, stays quiet at the same role, refuses a stranger."""
    assert accounts.change_role(TEAM, "ann", "auditor", by="x") == [
        e.MemberRoleChanged(by="x", member_id="ann", role="auditor")
    ]
    assert accounts.change_role(TEAM, "cy", "member", by="x") == []
    with pytest.raises(NoSuchMember):
        accounts.change_role(TEAM, "eve", "member", by="x")


def test_the_last_owner_stays() -> None:
    """Somebody is always answerable for the account."""
    alone = an_account(members={"ann": "owner", "cy": "member"})
    with pytest.raises(LastOwnerStays):
        accounts.change_role(alone, "ann", "member", by="x")
    with pytest.raises(LastOwnerStays):
        accounts.remove_member(alone, "ann", by="x")
    assert accounts.remove_member(alone, "cy", by="x") == [e.MemberRemoved(by="x", member_id="cy")]
    with pytest.raises(NoSuchMember):
        accounts.remove_member(alone, "eve", by="x")


def test_the_state_follows_the_events() -> None:
    """Terms, status and members of an account are the fold of its events."""
    core = Core()
    core.do(open_account(A))
    core.do(change(A, lambda f, at: accounts.add_member(f.account, "ann", "owner", by="x")))  # noqa: ARG005
    core.do(change(A, lambda f, at: accounts.add_member(f.account, "bob", "member", by="x")))  # noqa: ARG005
    core.do(change(A, lambda f, at: accounts.change_role(f.account, "bob", "owner", by="x")))  # noqa: ARG005
    core.do(change(A, lambda f, at: accounts.remove_member(f.account, "ann", by="x")))  # noqa: ARG005
    policy = e.AccountPolicySet(
        by="x", pays_with=("CREDIT",), rate_card="other", overdraft={"USD": "1"}, unpriced="record"
    )
    core.do(change(A, lambda f, at: accounts.set_policy(f.account, policy)))  # noqa: ARG005
    core.do(change(A, lambda f, at: accounts.suspend(f.account, by="x")))  # noqa: ARG005
    account = core.state.accounts[A]
    assert account.members == {"bob": "owner"}
    assert (account.pays_with, account.rate_card) == (("CREDIT",), "other")
    assert (account.overdraft, account.unpriced) == ({"USD": "1"}, "record")
    assert (account.status, account.version) == ("suspended", 7)
