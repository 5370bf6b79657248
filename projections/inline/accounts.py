"""Account state: status, terms, limits, roles. Inline, because every decision reads it."""

import msgspec
from psycopg.rows import TupleRow
from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Integer,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
    bindparam,
    select,
)

from ledger import events as e
from ledger.limits import compile_rules
from ledger.record import store
from ledger.record.arrays import Uuids, text_of
from ledger.record.batch import BatchChanges, StateQuery, Wanted
from ledger.record.rows import InsertRows, SelectRows
from ledger.record.store import Statement
from ledger.server.tables import INSTANT, TEXTS, compiled, metadata, text_at
from ledger.state import Account, LaneState
from projections.base import Inline

ACCOUNTS = Table(
    "accounts",
    metadata,
    Column("lane", SmallInteger, nullable=False),
    Column("account_id", Uuid, nullable=False),
    Column("opened_at", INSTANT, nullable=False),
    Column("ended_at", INSTANT),
    Column("status", Text, nullable=False),
    Column("pays_with", TEXTS, nullable=False),
    Column("rate_card", Text, nullable=False),
    Column("overdraft", JSON, nullable=False),
    Column("unpriced", Text, nullable=False),
    Column("limits", JSON, nullable=False),
    Column("members", JSON, nullable=False),
    Column("next_lot", Integer, nullable=False),
    Column("active_keys", Integer, nullable=False),
    Column("test", Boolean, nullable=False),
    Column("internal", Boolean, nullable=False),
    Column("max_output_tokens", Integer, nullable=False),
    PrimaryKeyConstraint("lane", "account_id", name="account_is_unique"),
)

ROLE = compiled(
    select(text_at(ACCOUNTS.c.members, bindparam("member", type_=Text))).where(
        ACCOUNTS.c.lane == bindparam("lane"),
        ACCOUNTS.c.account_id == bindparam("account"),
        ACCOUNTS.c.status != "closed",
    )
)
"""The role of a member, in an account that is not closed."""

_FIXED = {"lane", "account_id", "opened_at", "test", "internal"}
_LOAD = SelectRows(ACCOUNTS, ACCOUNTS.c.account_id)
_SAVE = InsertRows(
    ACCOUNTS, replaces=[column.name for column in ACCOUNTS.c if column.name not in _FIXED]
)

_HOT = (
    e.RequestRecorded,
    e.RequestReserved,
    e.RequestSettled,
    e.RequestReleased,
    e.RequestExpired,
    e.RequestRefused,
)
_rules = msgspec.json.Decoder(tuple[e.LimitRule, ...])
_texts = msgspec.json.Decoder(dict[str, str])
# In a fixed order, so that a rebuild from canonical payloads gives the same bytes.
_json = msgspec.json.Encoder(order="deterministic").encode


def _absorb(state: LaneState, rows: list[TupleRow]) -> None:
    for row in _LOAD.named(rows):
        rules = _rules.decode(row["limits"])
        state.accounts[row["account_id"]] = Account(
            account_id=row["account_id"],
            opened_at=row["opened_at"],
            status=row["status"],
            pays_with=tuple(row["pays_with"]),
            rate_card=row["rate_card"],
            overdraft=_texts.decode(row["overdraft"]),
            unpriced=row["unpriced"],
            rules=rules,
            limits=compile_rules(rules),
            members=_texts.decode(row["members"]),
            next_lot=row["next_lot"],
            active_keys=row["active_keys"],
            test=row["test"],
            internal=row["internal"],
            ended_at=row["ended_at"],
            max_output_tokens=row["max_output_tokens"],
        )


def _absorb_heads(state: LaneState, rows: list[TupleRow]) -> None:
    for row in store.LOAD_ACCOUNT_HEADS.named(rows):
        account = state.accounts[row["account_id"]]
        account.version, account.last_seq = row["version"], row["last_seq"]
        account.hash = bytes(row["hash"])


def load(lane: int, wanted: Wanted) -> list[StateQuery]:
    """Read accounts and where their chains stand."""
    if not wanted.accounts:
        return []
    ids = Uuids(wanted.accounts)
    return [
        StateQuery(_LOAD.sql, (lane, ids), _absorb),
        StateQuery(store.LOAD_ACCOUNT_HEADS.sql, (lane, ids), _absorb_heads),
    ]


def save(lane: int, state: LaneState, changes: BatchChanges) -> list[Statement]:
    """Write the accounts whose terms, members, grants or keys changed."""
    kinds = [kind for kind in changes.kinds if kind not in _HOT]
    changed = {event.envelope.account_id for event in changes.of(*kinds)}
    if not changed:
        return []
    accounts = [state.accounts[found] for found in changed]
    return [
        _SAVE.of(
            lane,
            account_id=(account.account_id for account in accounts),
            opened_at=(account.opened_at for account in accounts),
            ended_at=(account.ended_at for account in accounts),
            status=(account.status for account in accounts),
            pays_with=(text_of(account.pays_with) for account in accounts),
            rate_card=(account.rate_card for account in accounts),
            overdraft=(_json(account.overdraft) for account in accounts),
            unpriced=(account.unpriced for account in accounts),
            limits=(_json(account.rules) for account in accounts),
            members=(_json(account.members) for account in accounts),
            next_lot=(account.next_lot for account in accounts),
            active_keys=(account.active_keys for account in accounts),
            test=(account.test for account in accounts),
            internal=(account.internal for account in accounts),
            max_output_tokens=(account.max_output_tokens for account in accounts),
        )
    ]


PROJECTION = Inline("accounts", (ACCOUNTS,), save, load, is_state=True)
