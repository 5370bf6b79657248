"""Lots of credit and the balance per asset. Inline: what pays is decided from them."""

from typing import LiteralString

from psycopg.rows import TupleRow

from ledger.record.arrays import Instants, Int4s, Texts, Uuids
from ledger.record.batch import Changes, Load, Wanted
from ledger.record.store import Statement
from ledger.state import Account, LaneState, Lot

LOAD_LOTS: LiteralString = (
    "SELECT account_id, number, asset, kind, priority, amount, remaining, held, granted_at,"
    " effective_at, expires_at, reason, status, cost, currency, payment_reference,"
    " takes_effect_at FROM lots"
    " WHERE lane = %s AND account_id = ANY(%s) AND remaining > 0 ORDER BY account_id, number"
)
LOAD_BALANCES: LiteralString = (
    "SELECT account_id, asset, overdrawn, overdraft_held FROM balances"
    " WHERE lane = %s AND account_id = ANY(%s) AND (overdrawn <> 0 OR overdraft_held <> 0)"
)
SAVE_LOTS: LiteralString = (
    "INSERT INTO lots (lane, account_id, number, asset, kind, priority, amount, remaining, held,"
    " granted_at, effective_at, expires_at, reason, status, cost, currency, payment_reference,"
    " takes_effect_at)"
    " SELECT %s, l.account_id, l.number, l.asset, l.kind, l.priority, l.amount::numeric,"
    " l.remaining::numeric, l.held::numeric, l.granted_at, l.effective_at, l.expires_at,"
    " l.reason, l.status, l.cost, l.currency, l.payment_reference, l.takes_effect_at"
    " FROM unnest(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
    " AS l(account_id, number, asset, kind, priority, amount, remaining, held, granted_at,"
    " effective_at, expires_at, reason, status, cost, currency, payment_reference,"
    " takes_effect_at) ON CONFLICT ON CONSTRAINT lot_is_numbered_once DO UPDATE"
    " SET remaining = EXCLUDED.remaining, held = EXCLUDED.held, status = EXCLUDED.status,"
    " takes_effect_at = EXCLUDED.takes_effect_at"
)
SAVE_BALANCES: LiteralString = (
    "INSERT INTO balances (lane, account_id, asset, posted, pending, overdrawn, overdraft_held)"
    " SELECT %s, b.account_id, b.asset, b.posted::numeric, b.pending::numeric,"
    " b.overdrawn::numeric, b.overdraft_held::numeric"
    " FROM unnest(%s, %s, %s, %s, %s, %s)"
    " AS b(account_id, asset, posted, pending, overdrawn, overdraft_held)"
    " ON CONFLICT ON CONSTRAINT asset_has_one_balance DO UPDATE"
    " SET posted = EXCLUDED.posted, pending = EXCLUDED.pending,"
    " overdrawn = EXCLUDED.overdrawn, overdraft_held = EXCLUDED.overdraft_held"
)
TABLES = ("lots", "balances")


def _absorb_lots(state: LaneState, rows: list[TupleRow]) -> None:
    for row in rows:
        status, account = row[12], state.accounts[row[0]]
        if row[16] is not None:
            account.waiting[row[1]] = row[16]
        account.lots[row[1]] = Lot(
            number=row[1],
            asset=row[2],
            kind=row[3],
            priority=row[4],
            amount=int(row[5]),
            remaining=int(row[6]),
            held=int(row[7]),
            granted_at=row[8],
            effective_at=row[9],
            expires_at=row[10],
            reason=row[11],
            closed="" if status == "open" else status,
            cost=row[13],
            currency=row[14],
            payment_reference=row[15],
        )


def _absorb_balances(state: LaneState, rows: list[TupleRow]) -> None:
    for account_id, asset, overdrawn, overdraft_held in rows:
        account = state.accounts[account_id]
        account.overdrawn[asset] = int(overdrawn)
        account.overdraft_held[asset] = int(overdraft_held)


def load(lane: int, wanted: Wanted) -> list[Load]:
    """Read lots with something left, and what is overdrawn."""
    if not wanted.accounts:
        return []
    ids = Uuids(wanted.accounts)
    return [
        Load(LOAD_LOTS, (lane, ids), _absorb_lots),
        Load(LOAD_BALANCES, (lane, ids), _absorb_balances),
    ]


def save(lane: int, state: LaneState, changes: Changes) -> list[Statement]:
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
    return SAVE_LOTS, (
        lane,
        Uuids(account.account_id for account, _ in pairs),
        Int4s(lot.number for lot in lots),
        Texts(lot.asset for lot in lots),
        Texts(lot.kind for lot in lots),
        Int4s(lot.priority for lot in lots),
        Texts(str(lot.amount) for lot in lots),
        Texts(str(lot.remaining) for lot in lots),
        Texts(str(lot.held) for lot in lots),
        Instants(lot.granted_at for lot in lots),
        Instants(lot.effective_at for lot in lots),
        Instants(lot.expires_at for lot in lots),
        Texts(lot.reason for lot in lots),
        Texts(_status(lot) for lot in lots),
        Texts(lot.cost for lot in lots),
        Texts(lot.currency for lot in lots),
        Texts(lot.payment_reference for lot in lots),
        Instants(account.waiting.get(lot.number) for account, lot in pairs),
    )


def _save_balances(lane: int, accounts: list[Account]) -> Statement:
    rows = [(account, asset) for account in accounts for asset in _assets(account)]
    return SAVE_BALANCES, (
        lane,
        Uuids(account.account_id for account, _ in rows),
        Texts(asset for _, asset in rows),
        Texts(str(account.balance(asset)) for account, asset in rows),
        Texts(str(account.pending(asset)) for account, asset in rows),
        Texts(str(account.overdrawn.get(asset, 0)) for account, asset in rows),
        Texts(str(account.overdraft_held.get(asset, 0)) for account, asset in rows),
    )


def _assets(account: Account) -> list[str]:
    lots = (*account.lots.values(), *account.drained.values())
    return sorted(
        {lot.asset for lot in lots} | account.overdrawn.keys() | account.overdraft_held.keys()
    )
