"""Decisions about credit: which lots pay, what is left, grants and what becomes of them.

Spending order: assets as the account orders them, then lots by priority, expiry, age. What lots do
not cover is drawn from the declared overdraft of the asset the price is in. Free lots that may pay
for what is overdrawn repay it, in the event that brings the two together.
"""

from collections.abc import Sequence
from typing import TypeVar, get_args

import msgspec

from ledger import events as e
from ledger.accounts import REASON_MAX, require_not_closed
from ledger.clock import Instant
from ledger.errors import CreditIsExhausted, InvalidField, NoSuchGrant, TooManyGrants
from ledger.ids import AccountId
from ledger.money import Amount, InvalidAmount, format_pico, parse_asset, parse_pico
from ledger.state import (
    OVERDRAFT_LOT,
    OVERDRAFT_UNLIMITED,
    Account,
    Lot,
    Reservation,
    move_credit,
    replica,
)

LOTS_MAX = 1_000
"""Open lots an account may have."""
PRIORITY_MAX = 1_000_000
REFERENCE_MAX = 255
KINDS = ("paid", "promotional", "adjustment")

Parts = list[tuple[int, int]]
"""Lot number and pico, in paying order."""


def spendable(account: Account, assets: tuple[str, ...], at: Instant) -> list[Lot]:
    """Return the lots that can pay now, in paying order."""
    if len(account.lots) == 1:
        # Nearly every account: nothing to sort.
        (lot,) = account.lots.values()
        return [lot] if lot.asset in assets and _usable(lot, at) else []
    lots = [lot for lot in account.lots.values() if lot.asset in assets and _usable(lot, at)]
    lots.sort(key=lambda lot: (assets.index(lot.asset), *_order(lot)))
    return lots


def _usable(lot: Lot, at: Instant) -> bool:
    return (
        not lot.closed
        and lot.effective_at <= at
        and (lot.expires_at is None or at < lot.expires_at)
        and lot.remaining > lot.held
    )


def _order(lot: Lot) -> tuple[int, bool, Instant, int]:
    return (lot.priority, lot.expires_at is None, lot.expires_at or lot.granted_at, lot.number)


def overdraft_left(account: Account, asset: str) -> int | None:
    """Return how much overdraft of an asset is left in pico; None: no bound."""
    declared = account.overdraft.get(asset, "0")
    if declared == OVERDRAFT_UNLIMITED:
        return None
    used = account.overdrawn.get(asset, 0) + account.overdraft_held.get(asset, 0)
    return parse_pico(declared) - used


def plan(account: Account, asset: str, pico: int, at: Instant) -> Parts:
    """Choose the lots that pay an amount priced in ``asset``.

    What they do not cover is drawn from the overdraft, within its bound or beyond:
    ``require_covered`` checks that.
    """
    parts: Parts = []
    left = pico
    if left == 0:
        return parts
    if account.status == "closed":
        # What is reported afterwards is owed: its credit was dealt with when it was closed.
        return [(OVERDRAFT_LOT, left)]
    for lot in spendable(account, paying(account, asset), at):
        take = min(left, lot.remaining - lot.held)
        parts.append((lot.number, take))
        left -= take
        if left == 0:
            return parts
    parts.append((OVERDRAFT_LOT, left))
    return parts


def repay(account: Account, at: Instant) -> e.Repaid:
    """Return what free lots repay of what is overdrawn, in paying order; in a closed account, none.

    Assets are repaid in the order in which the account pays with them, then by name. A lot that is
    yet to take effect repays by its own event.
    """
    if account.status == "closed" or not account.lots:
        return ()
    order = {asset: place for place, asset in enumerate(account.pays_with)}
    owed = sorted(
        (order.get(asset, len(order)), asset) for asset, pico in account.overdrawn.items() if pico
    )
    repaid: list[tuple[int, str, str]] = []
    taken: dict[int, int] = {}
    for _, asset in owed:
        left = account.overdrawn[asset]
        for lot in spendable(account, paying(account, asset), at):
            take = min(left, lot.remaining - lot.held - taken.get(lot.number, 0))
            if take and lot.number not in account.waiting:
                repaid.append((lot.number, asset, format_pico(take)))
                taken[lot.number] = taken.get(lot.number, 0) + take
                left -= take
            if not left:
                break
    return tuple(repaid)


_REPAYING = get_args(e.Repaying)
Told = TypeVar("Told", bound=e.Event)


def with_repaid(account: Account, body: Told, reservation: Reservation | None, at: Instant) -> Told:
    """Return a decided event, completed with what is repaid once it has happened.

    ``reservation``: the open one that the event ends.
    """
    if not isinstance(body, _REPAYING) or not _may_repay(account, body):
        return body
    after = replica(account)
    move_credit(after, body, reservation, at)
    repaid = repay(after, at)
    return msgspec.structs.replace(body, repaid=repaid) if repaid else body


def _may_repay(account: Account, body: e.Repaying) -> bool:
    """Return whether an event may leave both overdraft and free lots; nearly none does."""
    if not (account.lots or isinstance(body, e.CreditGranted)):
        return False
    draws = isinstance(body, e.RequestSettled) and OVERDRAFT_LOT in body.lots
    return draws or any(account.overdrawn.values())


def take_effect(account: Account, *, at: Instant) -> e.GrantTookEffect | None:
    """Record the first grant whose effective instant has come; None: there is none.

    One at a time, because each may repay what the account owes.
    """
    due = [(effective_at, number) for number, effective_at in account.waiting.items()]
    if not due or min(due)[0] > at:
        return None
    effective_at, number = min(due)
    event = e.GrantTookEffect(
        lot=number, asset=account.lots[number].asset, effective_at=effective_at
    )
    return with_repaid(account, event, None, at)


def lasts(account: Account, parts: Parts, at: Instant, until: Instant) -> bool:
    """Return whether a plan made at an instant would be the same until a later one."""
    if any(at < lot.effective_at <= until for lot in account.lots.values()):
        return False
    lots = [account.lots[number] for number, _ in parts if number != OVERDRAFT_LOT]
    return all(lot.expires_at is None or until < lot.expires_at for lot in lots)


def paying(account: Account, asset: str) -> tuple[str, ...]:
    """Return the assets that can pay a price in ``asset``, in paying order."""
    assets = account.pays_with
    return assets if asset in assets else (asset,)


def require_covered(account: Account, asset: str, parts: Parts) -> None:
    """Refuse a plan that draws more overdraft than is left.

    Raises:
        CreditIsExhausted: Lots and overdraft do not cover it.
    """
    if not parts or parts[-1][0] != OVERDRAFT_LOT:
        return
    drawn = parts[-1][1]
    left = overdraft_left(account, asset)
    if left is None or drawn <= left:
        return
    requested = sum(pico for _, pico in parts)
    raise CreditIsExhausted(
        asset=asset,
        available=requested - drawn + max(left, 0),
        pending=sum(map(account.pending, paying(account, asset))),
        requested=requested,
    )


def uncovered(account: Account, asset: str, parts: Parts) -> int:
    """Return how much of a plan neither lots nor declared overdraft cover, in pico."""
    if not parts or parts[-1][0] != OVERDRAFT_LOT:
        return 0
    left = overdraft_left(account, asset)
    return 0 if left is None else max(parts[-1][1] - max(left, 0), 0)


def settled_parts(account: Account, held: Parts, asset: str, pico: int, at: Instant) -> Parts:
    """Choose what pays a settled charge: first what was held for it, then what is free."""
    parts: Parts = []
    left = pico
    for number, amount in held:
        take = min(left, amount)
        if take:
            parts.append((number, take))
            left -= take
    if left == 0:
        return parts
    # Overage: what is still free pays next; the held parts are taken already.
    more = plan(account, asset, left, at)
    return _summed([*parts, *more])


def _summed(parts: Parts) -> Parts:
    sums: dict[int, int] = {}
    for number, pico in parts:
        sums[number] = sums.get(number, 0) + pico
    return list(sums.items())


def written(parts: Parts) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Write parts as an event holds them: amounts only where there is more than one."""
    if len(parts) == 1:
        return (parts[0][0],), ()
    return tuple(lot for lot, _ in parts), tuple(format_pico(pico) for _, pico in parts)


def grant(account: Account | None, terms: e.CreditGranted, *, at: Instant) -> list[e.AnyEvent]:
    """Add a lot of credit.

    ``terms.lot`` is assigned here, whatever it says; ``with_repaid`` adds what the lot repays.

    Raises:
        NoSuchAccount, AccountIsClosed: There is no account to grant to.
        InvalidField: A term is wrong.
        TooManyGrants: The account has 1,000 open lots.
    """
    return [_granted(require_not_closed(account), terms, at)]


def _granted(account: Account, terms: e.CreditGranted, at: Instant) -> e.CreditGranted:
    amount = _check_amount(terms.asset, terms.amount)
    if terms.kind not in KINDS:
        raise InvalidField("kind", "must be one of " + ", ".join(KINDS))
    _check_reason(terms.reason)
    cost = _check_payment(terms)
    if not 0 <= terms.priority <= PRIORITY_MAX:
        raise InvalidField("priority", f"0 to {PRIORITY_MAX}")
    effective_at = terms.effective_at or at
    if terms.expires_at is not None and terms.expires_at <= max(effective_at, at):
        raise InvalidField("expires_at", "must be later than now and than effective_at")
    if len(account.lots) >= LOTS_MAX:
        raise TooManyGrants
    return e.CreditGranted(
        by=terms.by,
        lot=account.next_lot,
        asset=terms.asset,
        amount=format_pico(amount),
        kind=terms.kind,
        priority=terms.priority,
        effective_at=terms.effective_at,
        expires_at=terms.expires_at,
        reason=terms.reason,
        cost=cost,
        currency=terms.currency,
        payment_reference=terms.payment_reference,
    )


def welcome(
    account_id: AccountId, gifts: Sequence[Amount], *, at: Instant
) -> list[e.CreditGranted]:
    """Grant the lots that an account about to be opened begins with.

    Raises:
        InvalidField: A gift could not be granted.
    """
    account = Account(account_id=account_id, opened_at=at)
    made = []
    for gift in gifts:
        terms = e.CreditGranted(
            by="system",
            lot=account.next_lot,
            asset=gift.asset,
            amount=format_pico(gift.pico),
            kind="promotional",
            reason="Welcome",
        )
        granted = _granted(account, terms, at)
        move_credit(account, granted, None, at)
        made.append(granted)
    return made


def _check_amount(asset: str, text: str) -> int:
    try:
        parse_asset(asset)
    except InvalidAmount as error:
        raise InvalidField("asset", "2 to 24 upper-case letters, digits, underscores") from error
    try:
        amount = parse_pico(text)
    except InvalidAmount as error:
        problem = "a plain decimal string, at most 12 places, no sign, no exponent"
        raise InvalidField("amount", problem) from error
    if amount == 0:
        raise InvalidField("amount", "must be more than zero")
    return amount


def _check_payment(terms: e.CreditGranted) -> str:
    """Check what was paid for a grant; return the cost as it is written."""
    if bool(terms.cost) != bool(terms.currency):
        raise InvalidField("currency" if terms.cost else "cost", "cost and currency go together")
    if len(terms.payment_reference) > REFERENCE_MAX:
        raise InvalidField("payment_reference", f"at most {REFERENCE_MAX} characters")
    if not terms.cost:
        return ""
    try:
        parse_asset(terms.currency)
    except InvalidAmount as error:
        raise InvalidField("currency", "must be a currency code such as EUR") from error
    try:
        return format_pico(parse_pico(terms.cost))
    except InvalidAmount as error:
        problem = "a plain decimal string, at most 12 places, no sign, no exponent"
        raise InvalidField("cost", problem) from error


def _check_reason(reason: str, *, required: bool = False) -> None:
    if len(reason) > REASON_MAX or (required and not reason.strip()):
        raise InvalidField("reason", f"{int(required)} to {REASON_MAX} characters")


def void(account: Account | None, lot_number: int, *, by: str, reason: str) -> list[e.AnyEvent]:
    """Withdraw what is left of a grant; what reservations hold of it lapses when they end.

    Raises:
        NoSuchAccount, AccountIsClosed, NoSuchGrant: There is nothing to withdraw.
    """
    account = require_not_closed(account)
    _check_reason(reason)
    lot = account.lots.get(lot_number)
    if lot is None or lot.closed:
        raise NoSuchGrant
    amount = format_pico(lot.remaining - lot.held)
    return [e.GrantVoided(by=by, lot=lot.number, asset=lot.asset, amount=amount, reason=reason)]


def reduce(
    account: Account | None, asset: str, amount: str, *, by: str, reason: str, at: Instant
) -> list[e.AnyEvent]:
    """Take credit away by hand, from the lots that would have paid next.

    Raises:
        NoSuchAccount, AccountIsClosed, InvalidField: It cannot be.
        CreditIsExhausted: There is less than that.
    """
    account = require_not_closed(account)
    pico = _check_amount(asset, amount)
    _check_reason(reason, required=True)
    lots = spendable(account, (asset,), at)
    parts: Parts = []
    left = pico
    for lot in lots:
        take = min(left, lot.remaining - lot.held)
        if take:
            parts.append((lot.number, take))
            left -= take
    if left:
        raise CreditIsExhausted(
            asset=asset,
            available=pico - left,
            pending=account.pending(asset),
            requested=pico,
        )
    numbers, amounts = written(parts)
    text = format_pico(pico)
    return [
        e.BalanceReduced(
            by=by, asset=asset, amount=text, reason=reason, lots=numbers, parts=amounts
        )
    ]


def expire(account: Account, *, at: Instant) -> list[e.AnyEvent]:
    """Record each grant whose expiry has passed; quiet when there is none."""
    return [
        e.GrantExpired(
            lot=lot.number,
            asset=lot.asset,
            amount=format_pico(lot.remaining - lot.held),
            expired_at=lot.expires_at,
        )
        for lot in account.lots.values()
        if not lot.closed and lot.expires_at is not None and lot.expires_at <= at
    ]


def lapse(account: Account, held: Parts, taken: Parts) -> tuple[tuple[int, str], ...]:
    """Return which freed parts of a hold vanish, because their lot was voided or has expired."""
    spent = dict(taken)
    lapsed = []
    for number, pico in held:
        lot = account.lots.get(number)
        freed = pico - spent.get(number, 0)
        if lot is not None and lot.closed and freed > 0:
            lapsed.append((number, format_pico(freed)))
    return tuple(lapsed)
