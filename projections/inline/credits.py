"""Lots of credit and the balance per asset. Inline: what pays is decided from them."""

from psycopg.rows import TupleRow
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Index,
    Integer,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
    and_,
    any_,
    bindparam,
    func,
    or_,
    select,
)

from ledger.record.arrays import Uuids
from ledger.record.batch import BatchChanges, StateQuery, Wanted
from ledger.record.due import Due
from ledger.record.profiles import ACCOUNT_PROFILES
from ledger.record.rows import InsertRows, SelectRows
from ledger.record.store import Statement
from ledger.server.tables import INSTANT, PICO, compiled, metadata
from ledger.state import Account, LaneState, Lot
from projections.base import Inline
from projections.inline.accounts import ACCOUNTS

LOTS = Table(
    "lots",
    metadata,
    Column("account_id", Uuid, nullable=False),
    Column("granted_at", INSTANT, nullable=False),
    Column("effective_at", INSTANT, nullable=False),
    Column("takes_effect_at", INSTANT),
    Column("expires_at", INSTANT),
    Column("number", Integer, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("lane", SmallInteger, nullable=False),
    Column("asset", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("amount", PICO, nullable=False),
    Column("remaining", PICO, nullable=False),
    Column("held", PICO, nullable=False),
    Column("reason", Text, nullable=False),
    Column("cost", Text, nullable=False),
    Column("currency", Text, nullable=False),
    Column("payment_reference", Text, nullable=False),
    PrimaryKeyConstraint("lane", "account_id", "number", name="lot_is_numbered_once"),
    CheckConstraint("remaining >= held AND held >= 0", name="lot_is_never_overspent"),
    postgresql_with={"fillfactor": 50},
)
_MAY_EXPIRE = and_(LOTS.c.status == "open", LOTS.c.expires_at.is_not(None))
Index("lots_to_expire", LOTS.c.lane, LOTS.c.expires_at, postgresql_where=_MAY_EXPIRE)
_IS_FOR_LATER = LOTS.c.takes_effect_at.is_not(None)
Index("lots_to_take_effect", LOTS.c.lane, LOTS.c.takes_effect_at, postgresql_where=_IS_FOR_LATER)
_DUE = (
    Due("lot", LOTS.c.expires_at, _MAY_EXPIRE),
    Due("lot", LOTS.c.takes_effect_at, _IS_FOR_LATER),
)
BALANCES = Table(
    "balances",
    metadata,
    Column("account_id", Uuid, nullable=False),
    Column("lane", SmallInteger, nullable=False),
    Column("asset", Text, nullable=False),
    Column("posted", PICO, nullable=False),
    Column("pending", PICO, nullable=False),
    Column("overdrawn", PICO, nullable=False),
    Column("overdraft_held", PICO, nullable=False),
    PrimaryKeyConstraint("lane", "account_id", "asset", name="asset_has_one_balance"),
    postgresql_with={"fillfactor": 50},
)

_L, _B = LOTS.c, BALANCES.c
_ACCOUNT = bindparam("of_account", type_=Uuid)
PAGE = compiled(
    select(
        _L.number,
        _L.asset,
        _L.kind,
        _L.status,
        _L.priority,
        _L.amount,
        _L.remaining,
        _L.held,
        _L.granted_at,
        _L.effective_at,
        _L.expires_at,
        _L.reason,
        _L.cost,
        _L.currency,
        _L.payment_reference,
    )
    .where(_L.lane == bindparam("lane"), _L.account_id == bindparam("account"))
    .where(_L.number < bindparam("before", type_=BigInteger))
    .order_by(_L.number.desc())
    .limit(bindparam("most"))
)
"""An account's grants, newest first."""
ASSETS = compiled(
    select(_L.number, _L.asset).where(
        _L.lane == bindparam("lane"),
        _L.account_id == bindparam("account"),
        _L.number == any_(bindparam("lots")),
    )
)
"""What some lots of an account are of."""
OF_ACCOUNT = compiled(
    select(_B.asset, _B.posted, _B.pending, _B.overdrawn, _B.overdraft_held)
    .where(_B.lane == bindparam("lane"), _B.account_id == bindparam("account"))
    .order_by(_B.asset)
)
"""The balances of an account."""

REPORT = compiled(
    select(
        *(_B.account_id, func.coalesce(ACCOUNT_PROFILES.c.name, "").label("account_name")),
        *(ACCOUNTS.c.status, _B.asset, _B.posted, _B.pending),
    )
    .select_from(
        BALANCES.join(
            ACCOUNTS, and_(ACCOUNTS.c.lane == _B.lane, ACCOUNTS.c.account_id == _B.account_id)
        ).outerjoin(ACCOUNT_PROFILES, ACCOUNT_PROFILES.c.account_id == _B.account_id)
    )
    .where(or_(_ACCOUNT.is_(None), _B.account_id == _ACCOUNT))
    .order_by("account_name", _B.account_id, _B.asset)
)
"""The balances of every account or one."""
OF_DAY = compiled(
    select(func.coalesce(func.sum(_L.amount), 0)).where(
        _L.lane == bindparam("lane"),
        _L.account_id == bindparam("account"),
        _L.asset == bindparam("asset"),
        _L.effective_at <= bindparam("at"),
        _L.expires_at == bindparam("end"),
    )
)
"""What was granted for a day: lots that end with it, spent ones too."""

_LOAD_LOTS = SelectRows(
    LOTS, LOTS.c.account_id, LOTS.c.remaining > 0, order=(LOTS.c.account_id, LOTS.c.number)
)
_SAVE_LOTS = InsertRows(LOTS, replaces=("remaining", "held", "status", "takes_effect_at"))
_LOAD_BALANCES = SelectRows(
    BALANCES,
    BALANCES.c.account_id,
    or_(BALANCES.c.overdrawn != 0, BALANCES.c.overdraft_held != 0),
)
_SAVE_BALANCES = InsertRows(BALANCES, replaces=("posted", "pending", "overdrawn", "overdraft_held"))


def _absorb_lots(state: LaneState, rows: list[TupleRow]) -> None:
    for row in _LOAD_LOTS.named(rows):
        number, status, account = row["number"], row["status"], state.accounts[row["account_id"]]
        if row["takes_effect_at"] is not None:
            account.waiting[number] = row["takes_effect_at"]
        account.lots[number] = Lot(
            number=number,
            asset=row["asset"],
            kind=row["kind"],
            priority=row["priority"],
            amount=int(row["amount"]),
            remaining=int(row["remaining"]),
            held=int(row["held"]),
            granted_at=row["granted_at"],
            effective_at=row["effective_at"],
            expires_at=row["expires_at"],
            reason=row["reason"],
            closed="" if status == "open" else status,
            cost=row["cost"],
            currency=row["currency"],
            payment_reference=row["payment_reference"],
        )


def _absorb_balances(state: LaneState, rows: list[TupleRow]) -> None:
    for row in _LOAD_BALANCES.named(rows):
        account, asset = state.accounts[row["account_id"]], row["asset"]
        account.overdrawn[asset] = int(row["overdrawn"])
        account.overdraft_held[asset] = int(row["overdraft_held"])


def load(lane: int, wanted: Wanted) -> list[StateQuery]:
    """Read lots with something left, and what is overdrawn."""
    if not wanted.accounts:
        return []
    ids = Uuids(wanted.accounts)
    return [
        StateQuery(_LOAD_LOTS.sql, (lane, ids), _absorb_lots),
        StateQuery(_LOAD_BALANCES.sql, (lane, ids), _absorb_balances),
    ]


def save(lane: int, state: LaneState, changes: BatchChanges) -> list[Statement]:
    """Write lots that changed, and the balances of their accounts."""
    changed = [account for found in changes.accounts if (account := state.accounts[found]).touched]
    if not changed:
        return []
    lots = [(account, lot) for account in changed for lot in _changed_lots(account)]
    statements = [_save_lots(lane, lots)] if lots else []
    statements.append(_save_balances(lane, changed))
    return statements


def _changed_lots(account: Account) -> list[Lot]:
    found = {**account.drained, **account.lots}
    return [found[number] for number in sorted(account.touched) if number in found]


def _status(lot: Lot) -> str:
    return lot.closed or ("open" if lot.remaining else "spent")


def _save_lots(lane: int, pairs: list[tuple[Account, Lot]]) -> Statement:
    lots = [lot for _, lot in pairs]
    return _SAVE_LOTS.of(
        lane,
        account_id=(account.account_id for account, _ in pairs),
        granted_at=(lot.granted_at for lot in lots),
        effective_at=(lot.effective_at for lot in lots),
        takes_effect_at=(account.waiting.get(lot.number) for account, lot in pairs),
        expires_at=(lot.expires_at for lot in lots),
        number=(lot.number for lot in lots),
        priority=(lot.priority for lot in lots),
        asset=(lot.asset for lot in lots),
        kind=(lot.kind for lot in lots),
        status=(_status(lot) for lot in lots),
        amount=(str(lot.amount) for lot in lots),
        remaining=(str(lot.remaining) for lot in lots),
        held=(str(lot.held) for lot in lots),
        reason=(lot.reason for lot in lots),
        cost=(lot.cost for lot in lots),
        currency=(lot.currency for lot in lots),
        payment_reference=(lot.payment_reference for lot in lots),
    )


def _save_balances(lane: int, accounts: list[Account]) -> Statement:
    rows = [(account, asset) for account in accounts for asset in _assets(account)]
    return _SAVE_BALANCES.of(
        lane,
        account_id=(account.account_id for account, _ in rows),
        asset=(asset for _, asset in rows),
        posted=(str(account.balance(asset)) for account, asset in rows),
        pending=(str(account.pending(asset)) for account, asset in rows),
        overdrawn=(str(account.overdrawn.get(asset, 0)) for account, asset in rows),
        overdraft_held=(str(account.overdraft_held.get(asset, 0)) for account, asset in rows),
    )


def _assets(account: Account) -> list[str]:
    lots = (*account.lots.values(), *account.drained.values())
    return sorted(
        {lot.asset for lot in lots} | account.overdrawn.keys() | account.overdraft_held.keys()
    )


PROJECTION = Inline("credits", (LOTS, BALANCES), save, load, _DUE, is_state=True)
