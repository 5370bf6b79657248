"""Key state: names, terms, status, which secrets still work. Inline: every decision reads it."""

from typing import get_args

import msgspec
from psycopg.rows import TupleRow
from sqlalchemy import (
    JSON,
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
    cast,
    or_,
    select,
    tuple_,
)

from ledger import events as e
from ledger.limits import compile_rules
from ledger.record.arrays import Uuids, text_of
from ledger.record.batch import BatchChanges, StateQuery, Wanted
from ledger.record.bound_rows import KEY_SECRETS
from ledger.record.due import Due
from ledger.record.rows import InsertRows, SelectRows
from ledger.record.store import LANE_HEADS, Statement
from ledger.server.tables import INSTANT, TEXTS, compiled, metadata, text_at
from ledger.state import Key, KeyEvent, LaneState
from projections.base import Inline
from projections.inline.accounts import ACCOUNTS

KEYS = Table(
    "keys",
    metadata,
    Column("lane", SmallInteger, nullable=False),
    Column("key_id", Uuid, nullable=False),
    Column("account_id", Uuid, nullable=False),
    Column("created_at", INSTANT, nullable=False),
    Column("updated_at", INSTANT, nullable=False),
    Column("expires_at", INSTANT),
    Column("revoked_at", INSTANT),
    Column("suspended_at", INSTANT),
    Column("name", Text, nullable=False),
    Column("dialect", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("hint", Text, nullable=False),
    Column("scopes", TEXTS, nullable=False),
    Column("allowed_models", TEXTS),
    Column("default_character", Text, nullable=False),
    Column("rate_card", Text, nullable=False),
    Column("limits", JSON, nullable=False),
    Column("settings", JSON, nullable=False),
    Column("secrets", JSON, nullable=False),
    Column("version", Integer, nullable=False),
    Column("parent", Text, nullable=False),
    PrimaryKeyConstraint("lane", "key_id", name="key_is_unique"),
    Index("keys_by_account", "lane", "account_id", "created_at", "key_id"),
)
_MAY_EXPIRE = and_(KEYS.c.status.in_(["active", "suspended"]), KEYS.c.expires_at.is_not(None))
Index("keys_to_expire", KEYS.c.lane, KEYS.c.expires_at, postgresql_where=_MAY_EXPIRE)
_EXPIRES = Due("key", KEYS.c.expires_at, _MAY_EXPIRE, key=KEYS.c.key_id)

_K = KEYS.c
_IS_OF_ACCOUNT = (_K.lane == bindparam("lane"), _K.account_id == bindparam("account"))
_AMONG = (_K.lane == bindparam("lane"), _K.key_id == any_(bindparam("keys")))
_SESSION = text_at(_K.settings, "session")
_AFTER, _MEMBER = bindparam("after", type_=Uuid), bindparam("member", type_=Text)
_OTHER = KEYS.alias("other").c
_place_after = (
    select(_OTHER.created_at, _OTHER.key_id)
    .where(_OTHER.lane == bindparam("lane"), _OTHER.account_id == bindparam("account"))
    .where(_OTHER.key_id == _AFTER)
    .scalar_subquery()
)
PAGE = compiled(
    select(_K.key_id)
    .where(*_IS_OF_ACCOUNT)
    .where(or_(_AFTER.is_(None), tuple_(_K.created_at, _K.key_id) < _place_after))
    .where(or_(_MEMBER.is_(None), text_at(_K.settings, "member") == _MEMBER))
    .order_by(_K.created_at.desc(), _K.key_id.desc())
    .limit(bindparam("most"))
)
"""An account's, newest first: after one of them, of one member alone, or without either."""
OWNERS = compiled(select(_K.key_id, _K.account_id).where(*_AMONG))
FIND_SESSION = compiled(
    select(_K.key_id)
    .where(*_IS_OF_ACCOUNT, bindparam("dialect") == _SESSION)
    .order_by(_K.created_at, _K.key_id)
    .limit(1)
)
"""The key that stands for login sessions of an account in a dialect."""
TERMS = compiled(select(_K.key_id, _K.dialect, _SESSION.is_not(None)).where(*_AMONG))

_PROOF = KEY_SECRETS.c
VERIFY = compiled(
    select(
        *(_PROOF.key_id, _PROOF.account_id, _PROOF.number, _PROOF.lane, LANE_HEADS.c.seq),
        *(_K.name, _K.dialect, _K.status, _K.expires_at, _K.scopes, cast(_K.secrets, Text)),
        *(ACCOUNTS.c.status, _K.allowed_models),
    )
    .select_from(KEY_SECRETS)
    .join(KEYS, and_(_K.lane == _PROOF.lane, _K.key_id == _PROOF.key_id))
    .join(
        ACCOUNTS,
        and_(ACCOUNTS.c.lane == _PROOF.lane, ACCOUNTS.c.account_id == _PROOF.account_id),
    )
    .join(LANE_HEADS, LANE_HEADS.c.lane == _PROOF.lane)
    .where(_PROOF.secret_hash == any_(bindparam("hashes")))
    .limit(1)
)
"""The key that a secret is of, with its account and the lane's position."""

_FIXED = {"lane", "key_id", "account_id", "created_at", "dialect", "rate_card", "parent"}
_LOAD = SelectRows(KEYS, KEYS.c.key_id)
_SAVE = InsertRows(KEYS, replaces=[column.name for column in KEYS.c if column.name not in _FIXED])

_CHANGES = (e.KeyIssued, *get_args(KeyEvent))
_rules = msgspec.json.Decoder(tuple[e.LimitRule, ...])
_texts = msgspec.json.Decoder(dict[str, str])
_secrets = msgspec.json.Decoder(dict[int, e.Utc | None])
# In a fixed order, so that a rebuild from canonical payloads gives the same bytes.
_json = msgspec.json.Encoder(order="deterministic").encode


def _absorb(state: LaneState, rows: list[TupleRow]) -> None:
    for row in _LOAD.named(rows):
        rules = _rules.decode(row["limits"])
        models = row["allowed_models"]
        state.keys[row["key_id"]] = Key(
            key_id=row["key_id"],
            account_id=row["account_id"],
            name=row["name"],
            dialect=row["dialect"],
            created_at=row["created_at"],
            updated_at=row["updated_at"],
            status=row["status"],
            hint=row["hint"],
            scopes=tuple(row["scopes"]),
            allowed_models=None if models is None else tuple(models),
            default_character=row["default_character"],
            expires_at=row["expires_at"],
            revoked_at=row["revoked_at"],
            rate_card=row["rate_card"],
            rules=rules,
            limits=compile_rules(rules),
            settings=_texts.decode(row["settings"]),
            secrets=_secrets.decode(row["secrets"]),
            version=row["version"],
            parent=row["parent"],
            suspended_at=row["suspended_at"],
        )


def load(lane: int, wanted: Wanted) -> list[StateQuery]:
    """Read keys."""
    if not wanted.keys:
        return []
    return [StateQuery(_LOAD.sql, (lane, Uuids(wanted.keys)), _absorb)]


def save(lane: int, state: LaneState, changes: BatchChanges) -> list[Statement]:
    """Write the keys whose terms or status changed."""
    changed = {
        event.envelope.key_id
        for event in changes.of(*_CHANGES)
        if event.envelope.key_id is not None
    }
    if not changed:
        return []
    keys = [state.keys[found] for found in changed]
    return [
        _SAVE.of(
            lane,
            key_id=(key.key_id for key in keys),
            account_id=(key.account_id for key in keys),
            created_at=(key.created_at for key in keys),
            updated_at=(key.updated_at for key in keys),
            expires_at=(key.expires_at for key in keys),
            revoked_at=(key.revoked_at for key in keys),
            suspended_at=(key.suspended_at for key in keys),
            name=(key.name for key in keys),
            dialect=(key.dialect for key in keys),
            status=(key.status for key in keys),
            hint=(key.hint for key in keys),
            scopes=(text_of(key.scopes) for key in keys),
            allowed_models=(
                None if key.allowed_models is None else text_of(key.allowed_models) for key in keys
            ),
            default_character=(key.default_character for key in keys),
            rate_card=(key.rate_card for key in keys),
            limits=(_json(key.rules) for key in keys),
            settings=(_json(key.settings) for key in keys),
            secrets=(_json({str(n): end for n, end in key.secrets.items()}) for key in keys),
            version=(key.version for key in keys),
            parent=(key.parent for key in keys),
        )
    ]


PROJECTION = Inline("keys", (KEYS,), save, load, (_EXPIRES,), is_state=True)
