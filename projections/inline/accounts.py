"""Account state: status, terms, limits, roles. Inline, because every decision reads it."""

from typing import LiteralString

import msgspec
from psycopg.rows import TupleRow

from ledger import events as e
from ledger.limits import compile_rules
from ledger.record import store
from ledger.record.arrays import Instants, Int4s, Texts, Uuids
from ledger.record.batch import Changes, Load, Wanted
from ledger.record.store import Statement
from ledger.state import Account, LaneState

LOAD: LiteralString = (
    "SELECT account_id, opened_at, status, pays_with, rate_card, overdraft::text, unpriced,"
    " limits::text, members::text, next_lot, active_keys, test, internal, ended_at,"
    " max_output_tokens FROM accounts"
    " WHERE lane = %s AND account_id = ANY(%s)"
)
SAVE: LiteralString = (
    "INSERT INTO accounts (lane, account_id, opened_at, status, pays_with, rate_card, overdraft,"
    " unpriced, limits, members, next_lot, active_keys, test, internal, ended_at,"
    " max_output_tokens)"
    " SELECT %s, a.account_id, a.opened_at, a.status,"
    " ARRAY(SELECT json_array_elements_text(a.pays_with::json)), a.rate_card,"
    " a.overdraft::json, a.unpriced, a.limits::json, a.members::json, a.next_lot, a.active_keys,"
    " a.test <> 0, a.internal <> 0, a.ended_at, a.max_output_tokens"
    " FROM unnest(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) AS a(account_id,"
    " opened_at, status, pays_with, rate_card, overdraft, unpriced, limits, members, next_lot,"
    " active_keys, test, internal, ended_at, max_output_tokens)"
    " ON CONFLICT ON CONSTRAINT account_is_unique DO UPDATE SET status = EXCLUDED.status,"
    " pays_with = EXCLUDED.pays_with, rate_card = EXCLUDED.rate_card,"
    " overdraft = EXCLUDED.overdraft, unpriced = EXCLUDED.unpriced, limits = EXCLUDED.limits,"
    " members = EXCLUDED.members, next_lot = EXCLUDED.next_lot,"
    " active_keys = EXCLUDED.active_keys, ended_at = EXCLUDED.ended_at,"
    " max_output_tokens = EXCLUDED.max_output_tokens"
)
TABLES = ("accounts",)

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
    for row in rows:
        rules = _rules.decode(row[7])
        state.accounts[row[0]] = Account(
            account_id=row[0],
            opened_at=row[1],
            status=row[2],
            pays_with=tuple(row[3]),
            rate_card=row[4],
            overdraft=_texts.decode(row[5]),
            unpriced=row[6],
            rules=rules,
            limits=compile_rules(rules),
            members=_texts.decode(row[8]),
            next_lot=row[9],
            active_keys=row[10],
            test=row[11],
            internal=row[12],
            ended_at=row[13],
            max_output_tokens=row[14],
        )


def _absorb_heads(state: LaneState, rows: list[TupleRow]) -> None:
    for account_id, version, last_seq, hashed in rows:
        account = state.accounts[account_id]
        account.version, account.last_seq, account.hash = version, last_seq, bytes(hashed)


def load(lane: int, wanted: Wanted) -> list[Load]:
    """Read accounts and where their chains stand."""
    if not wanted.accounts:
        return []
    ids = Uuids(wanted.accounts)
    return [
        Load(LOAD, (lane, ids), _absorb),
        Load(store.LOAD_ACCOUNT_HEADS, (lane, ids), _absorb_heads),
    ]


def save(lane: int, state: LaneState, changes: Changes) -> list[Statement]:
    """Write the accounts whose terms, members, grants or keys changed."""
    kinds = [kind for kind in changes.kinds if kind not in _HOT]
    changed = {event.envelope.account_id for event in changes.of(*kinds)}
    if not changed:
        return []
    accounts = [state.accounts[found] for found in changed]
    return [
        (
            SAVE,
            (
                lane,
                Uuids(account.account_id for account in accounts),
                Instants(account.opened_at for account in accounts),
                Texts(account.status for account in accounts),
                Texts(_json(account.pays_with) for account in accounts),
                Texts(account.rate_card for account in accounts),
                Texts(_json(account.overdraft) for account in accounts),
                Texts(account.unpriced for account in accounts),
                Texts(_json(account.rules) for account in accounts),
                Texts(_json(account.members) for account in accounts),
                Int4s(account.next_lot for account in accounts),
                Int4s(account.active_keys for account in accounts),
                Int4s(account.test for account in accounts),
                Int4s(account.internal for account in accounts),
                Instants(account.ended_at for account in accounts),
                Int4s(account.max_output_tokens for account in accounts),
            ),
        )
    ]
