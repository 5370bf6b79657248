"""Decisions about credit: what pays first, grants, voiding, expiry, overdraft."""

from datetime import timedelta

import pytest

from ledger import credits as credit
from ledger import events as e
from ledger.errors import (
    AccountIsClosed,
    CreditIsExhausted,
    InvalidField,
    NoSuchAccount,
    NoSuchGrant,
    TooManyGrants,
)
from ledger.money import PICO_PER_UNIT, Amount
from ledger.state import Account, Lot
from tests.properties import core
from tests.properties.core import START, account_id

A = account_id("a")
DAY = timedelta(days=1)
ONE = PICO_PER_UNIT


def a_lot(number, **changes) -> Lot:
    """Make a lot of one unit."""
    return Lot(
        **{
            "number": number,
            "asset": "USD",
            "kind": "paid",
            "priority": 100,
            "amount": ONE,
            "remaining": ONE,
            "held": 0,
            "granted_at": START,
            "effective_at": START,
            "expires_at": None,
            **changes,
        }
    )


def an_account(*lots, **changes) -> Account:
    """Make an account with lots."""
    found = {lot.number: lot for lot in lots}
    return Account(account_id=A, opened_at=START, lots=found, next_lot=len(lots) + 1, **changes)


def test_lots_pay_by_asset_priority_expiry_and_age() -> None:
    """First the account's order of assets, then priority, then what expires, then the oldest."""
    account = an_account(
        a_lot(1),
        a_lot(2, priority=10),
        a_lot(3, expires_at=START + 2 * DAY),
        a_lot(4, expires_at=START + DAY),
        a_lot(5, asset="CREDIT"),
        a_lot(6, granted_at=START - DAY),
        a_lot(7, asset="CAD"),
        pays_with=("CREDIT", "USD"),
    )
    parts = credit.plan(account, "USD", 6 * ONE, START)
    assert [number for number, _ in parts] == [5, 2, 4, 3, 6, 1]


def test_what_cannot_pay_now_does_not() -> None:
    """Not yet effective, expired, closed, wholly held, another asset: none of them pays."""
    account = an_account(
        a_lot(1, effective_at=START + DAY),
        a_lot(2, expires_at=START),
        a_lot(3, closed="voided"),
        a_lot(4, held=ONE),
        a_lot(5, asset="CAD"),
        a_lot(6, held=ONE - 1),
    )
    assert [lot.number for lot in credit.spendable(account, ("USD",), START)] == [6]
    for lot in account.lots.values():
        alone = an_account(lot)
        found = credit.spendable(alone, ("USD",), START)
        assert [one.number for one in found] == ([6] if lot.number == 6 else [])


def test_an_exact_cover_takes_no_overdraft() -> None:
    """The last pico of a lot pays; zero costs nobody anything."""
    account = an_account(a_lot(1), a_lot(2))
    assert credit.plan(account, "USD", 2 * ONE, START) == [(1, ONE), (2, ONE)]
    assert credit.plan(account, "USD", 0, START) == []
    credit.require_covered(account, "USD", [(1, ONE), (2, ONE)])


def test_the_overdraft_pays_what_is_left() -> None:
    """What lots do not cover is drawn from the declared overdraft, to its last pico."""
    account = an_account(a_lot(1), overdraft={"USD": "0.5"}, overdrawn={"USD": ONE // 4})
    parts = credit.plan(account, "USD", ONE + ONE // 4, START)
    assert parts == [(1, ONE), (0, ONE // 4)]
    credit.require_covered(account, "USD", parts)
    unbounded = an_account(overdraft={"USD": "unlimited"})
    credit.require_covered(unbounded, "USD", [(0, 10**9 * ONE)])


def test_a_refusal_for_credit_tells_its_numbers() -> None:
    """Asset, what could be spent, what is held, what was asked (Promise 14, B8)."""
    account = an_account(
        a_lot(1, held=ONE // 4),
        a_lot(2, asset="CREDIT"),
        overdraft={"USD": "0.5"},
        overdraft_held={"USD": ONE // 8},
        pays_with=("CREDIT", "USD"),
    )
    parts = credit.plan(account, "USD", 5 * ONE, START)
    with pytest.raises(CreditIsExhausted) as refused:
        credit.require_covered(account, "USD", parts)
    said = refused.value
    assert said.asset == "USD"
    assert said.available == ONE - ONE // 4 + ONE + ONE // 2 - ONE // 8
    assert said.pending == ONE // 4 + ONE // 8
    assert said.requested == 5 * ONE
    with pytest.raises(CreditIsExhausted):
        credit.require_covered(
            account, "USD", credit.plan(account, "USD", said.available + 1, START)
        )
    credit.require_covered(account, "USD", credit.plan(account, "USD", said.available, START))


def terms(**changes) -> e.CreditGranted:
    """Return the terms of a grant."""
    return e.CreditGranted(**{"by": "x", "lot": 99, "asset": "USD", "amount": "5.00", **changes})


def test_a_grant_is_numbered_and_written_shortest() -> None:
    """The lot's number is decided here, whatever was said; the amount is canonical."""
    made = credit.grant(an_account(a_lot(1)), terms(repaid=((1, "USD", "3"),)), at=START)
    assert made == [e.CreditGranted(by="x", lot=2, asset="USD", amount="5")]


def test_a_new_account_is_welcomed_by_the_rules_of_grants() -> None:
    """Its lots are numbered from 1 as any account's are; what could not be granted is refused."""
    gifts = [Amount(5 * PICO_PER_UNIT, "USD"), Amount(PICO_PER_UNIT, "CREDIT")]
    made = credit.welcome(A, gifts, at=START)
    assert [(each.lot, each.asset, each.amount) for each in made] == [
        (1, "USD", "5"),
        (2, "CREDIT", "1"),
    ]
    assert {(each.by, each.kind, each.reason) for each in made} == {
        ("system", "promotional", "Welcome")
    }
    with pytest.raises(InvalidField):
        credit.welcome(A, [Amount(0, "USD")], at=START)


def test_a_grant_repays_what_is_overdrawn_first() -> None:
    """What its asset may pay for, at once, and no more than there is."""
    owing = {"overdrawn": {"USD": 2 * ONE, "CAD": ONE}}

    def repaid(account=None, **changes):
        account = account or an_account(**owing)
        (made,) = credit.grant(account, terms(**changes), at=START)
        return credit.with_repaid(account, made, None, START).repaid

    assert repaid() == ((1, "USD", "2"),)
    assert repaid(amount="1.5") == ((1, "USD", "1.5"),)
    assert repaid(asset="EUR") == ()
    assert repaid(effective_at=START + DAY) == ()
    both = an_account(**owing, pays_with=("CAD", "EUR", "USD"))
    assert repaid(both, asset="EUR") == ((1, "CAD", "1"), (1, "USD", "2"))
    assert repaid(both, asset="CREDIT") == ()


def test_grants_that_take_effect_at_once_repay_one_after_another() -> None:
    """Each by its own event, though either alone would repay the whole; then all is quiet."""
    world = core.Core()
    world.do(core.open_account(A, overdraft={"USD": "unlimited"}))
    for _ in range(2):
        world.do(core.grant(A, "5", effective_at=START + DAY))
    account = world.state.accounts[A]
    account.overdrawn["USD"] = 7 * ONE
    world.at += DAY
    world.do(core.set_paying(A, "USD"))
    told = [event.body for event in world.log[-3:]]
    assert [(body.type, body.repaid) for body in told] == [
        ("grant_took_effect", ((1, "USD", "5"),)),
        ("grant_took_effect", ((2, "USD", "2"),)),
        ("account_policy_set", ()),
    ]
    assert credit.take_effect(account, at=world.at) is None


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("asset", {"asset": "usd"}),
        ("amount", {"amount": "0"}),
        ("amount", {"amount": "-1"}),
        ("amount", {"amount": "1e9"}),
        ("amount", {"amount": "0.0000000000001"}),
        ("kind", {"kind": "gift"}),
        ("priority", {"priority": -1}),
        ("priority", {"priority": 1_000_001}),
        ("reason", {"reason": "x" * 501}),
        ("expires_at", {"expires_at": START}),
        ("expires_at", {"effective_at": START + DAY, "expires_at": START + DAY}),
    ],
)
def test_a_grant_that_makes_no_sense_is_refused(field, changes) -> None:
    """The refusal names the field."""
    with pytest.raises(InvalidField) as refused:
        credit.grant(an_account(), terms(**changes), at=START)
    assert refused.value.field == field


def test_nobody_to_grant_to() -> None:
    """No account, a closed one, one with a thousand lots: refused. A suspended one may be paid."""
    closed = Account(account_id=A, opened_at=START, status="closed")
    for account, why in (
        (None, NoSuchAccount),
        (closed, AccountIsClosed),
        (an_account(*map(a_lot, range(1, 1_001))), TooManyGrants),
    ):
        with pytest.raises(why):
            credit.grant(account, terms(), at=START)
    assert credit.grant(an_account(status="suspended"), terms(), at=START)


def test_voiding_takes_what_nobody_holds() -> None:
    """Void withdraws what is left but for what reservations hold, and refuses what is gone."""
    account = an_account(a_lot(1, held=ONE // 4), a_lot(2, closed="expired", held=ONE))
    (made,) = credit.void(account, 1, by="x", reason="fraud")
    assert made == e.GrantVoided(by="x", lot=1, asset="USD", amount="0.75", reason="fraud")
    for lot in (2, 3):
        with pytest.raises(NoSuchGrant):
            credit.void(account, lot, by="x", reason="")


def test_a_reduction_takes_from_what_would_have_paid_next() -> None:
    """Reduce names its lots, needs a reason, and takes no overdraft."""
    account = an_account(a_lot(1), a_lot(2, priority=1), overdraft={"USD": "unlimited"})
    (made,) = credit.reduce(account, "USD", "1.5", by="x", reason="mistake", at=START)
    assert (made.lots, made.parts, made.amount) == ((2, 1), ("1", "0.5"), "1.5")
    (made,) = credit.reduce(account, "USD", "0.5", by="x", reason="mistake", at=START)
    assert (made.lots, made.parts) == ((2,), ())
    with pytest.raises(InvalidField):
        credit.reduce(account, "USD", "1", by="x", reason=" ", at=START)
    with pytest.raises(CreditIsExhausted) as refused:
        credit.reduce(account, "USD", "3", by="x", reason="mistake", at=START)
    assert (refused.value.available, refused.value.requested) == (2 * ONE, 3 * ONE)


def test_expiry_is_recorded_for_each_lot_it_passed() -> None:
    """Expire does from the instant on for open lots, and stays quiet otherwise."""
    account = an_account(
        a_lot(1, expires_at=START, held=ONE // 4),
        a_lot(2, expires_at=START + DAY),
        a_lot(3, expires_at=START, closed="voided", held=ONE),
        a_lot(4),
    )
    assert credit.expire(account, at=START) == [
        e.GrantExpired(lot=1, asset="USD", amount="0.75", expired_at=START)
    ]
    assert credit.expire(an_account(a_lot(1)), at=START) == []


def test_what_is_freed_of_a_closed_lot_lapses() -> None:
    """A hold's unspent part of an expired or voided lot is not given back."""
    account = an_account(
        a_lot(1, closed="expired", held=ONE), a_lot(2, held=ONE), a_lot(3, closed="voided", held=5)
    )
    held = [(1, ONE), (2, ONE), (3, 5), (0, 7)]
    assert credit.lapse(account, held, [(1, ONE // 2), (3, 5)]) == ((1, "0.5"),)
    assert credit.lapse(account, held, []) == ((1, "1"), (3, "0.000000000005"))


def test_parts_are_written_only_where_there_are_several() -> None:
    """One lot pays all: its amount is the charge and not said twice."""
    assert credit.written([]) == ((), ())
    assert credit.written([(4, ONE)]) == ((4,), ())
    assert credit.written([(4, ONE), (0, 1)]) == ((4, 0), ("1", "0.000000000001"))


def test_one_grant_more_than_may_be_open_has_a_refusal_of_its_own() -> None:
    """The 1,001st waits until one is spent, expired or void; nothing about the request is wrong."""
    world = core.Core(core.a_card())
    world.do(core.open_account(A))
    for _ in range(credit.LOTS_MAX):
        world.do(core.grant(A, "1"))
    refused = world.submit(core.grant(A, "1"))
    assert isinstance(refused, TooManyGrants)
    assert refused.code == "too_many_grants"
    world.do(core.void(A, 1))
    world.do(core.grant(A, "1"))
    assert isinstance(world.submit(core.grant(A, "1")), TooManyGrants)
