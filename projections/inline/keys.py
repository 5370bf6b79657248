"""Key state: names, terms, status, which secrets still work. Inline: every decision reads it."""

from typing import LiteralString, get_args

import msgspec
from psycopg.rows import TupleRow

from ledger import events as e
from ledger.limits import compile_rules
from ledger.record.arrays import Instants, Int4s, Texts, Uuids
from ledger.record.batch import Changes, Load, Wanted
from ledger.record.store import Statement
from ledger.state import Key, KeyEvent, LaneState

LOAD: LiteralString = (
    "SELECT key_id, account_id, name, dialect, created_at, updated_at, status, hint, scopes,"
    " allowed_models, default_character, expires_at, revoked_at, rate_card, limits::text,"
    " settings::text, secrets::text, version, parent, suspended_at FROM keys"
    " WHERE lane = %s AND key_id = ANY(%s)"
)
SAVE: LiteralString = (
    "INSERT INTO keys (lane, key_id, account_id, created_at, updated_at, expires_at, revoked_at,"
    " name, dialect, status, hint, scopes, allowed_models, default_character, rate_card, limits,"
    " settings, secrets, version, parent, suspended_at)"
    " SELECT %s, k.key_id, k.account_id, k.created_at, k.updated_at, k.expires_at, k.revoked_at,"
    " k.name, k.dialect, k.status, k.hint, ARRAY(SELECT json_array_elements_text(k.scopes::json)),"
    " CASE WHEN k.allowed_models IS NOT NULL"
    " THEN ARRAY(SELECT json_array_elements_text(k.allowed_models::json)) END,"
    " k.default_character, k.rate_card, k.limits::json, k.settings::json, k.secrets::json,"
    " k.version, k.parent, k.suspended_at FROM unnest("
    " %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
    " AS k(key_id, account_id, created_at, updated_at, expires_at, revoked_at, name, dialect,"
    " status, hint, scopes, allowed_models, default_character, rate_card, limits, settings,"
    " secrets, version, parent, suspended_at)"
    " ON CONFLICT ON CONSTRAINT key_is_unique DO UPDATE SET updated_at = EXCLUDED.updated_at,"
    " expires_at = EXCLUDED.expires_at, revoked_at = EXCLUDED.revoked_at, name = EXCLUDED.name,"
    " status = EXCLUDED.status, hint = EXCLUDED.hint, scopes = EXCLUDED.scopes,"
    " allowed_models = EXCLUDED.allowed_models,"
    " default_character = EXCLUDED.default_character, limits = EXCLUDED.limits,"
    " settings = EXCLUDED.settings, secrets = EXCLUDED.secrets, version = EXCLUDED.version,"
    " suspended_at = EXCLUDED.suspended_at"
)
TABLES = ("keys",)

_CHANGES = (e.KeyIssued, *get_args(KeyEvent))
_rules = msgspec.json.Decoder(tuple[e.LimitRule, ...])
_texts = msgspec.json.Decoder(dict[str, str])
_secrets = msgspec.json.Decoder(dict[int, e.Utc | None])
# In a fixed order, so that a rebuild from canonical payloads gives the same bytes.
_json = msgspec.json.Encoder(order="deterministic").encode


def _absorb(state: LaneState, rows: list[TupleRow]) -> None:
    for row in rows:
        rules = _rules.decode(row[14])
        state.keys[row[0]] = Key(
            key_id=row[0],
            account_id=row[1],
            name=row[2],
            dialect=row[3],
            created_at=row[4],
            updated_at=row[5],
            status=row[6],
            hint=row[7],
            scopes=tuple(row[8]),
            allowed_models=None if row[9] is None else tuple(row[9]),
            default_character=row[10],
            expires_at=row[11],
            revoked_at=row[12],
            rate_card=row[13],
            rules=rules,
            limits=compile_rules(rules),
            settings=_texts.decode(row[15]),
            secrets=_secrets.decode(row[16]),
            version=row[17],
            parent=row[18],
            suspended_at=row[19],
        )


def load(lane: int, wanted: Wanted) -> list[Load]:
    """Read keys."""
    if not wanted.keys:
        return []
    return [Load(LOAD, (lane, Uuids(wanted.keys)), _absorb)]


def save(lane: int, state: LaneState, changes: Changes) -> list[Statement]:
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
        (
            SAVE,
            (
                lane,
                Uuids(key.key_id for key in keys),
                Uuids(key.account_id for key in keys),
                Instants(key.created_at for key in keys),
                Instants(key.updated_at for key in keys),
                Instants(key.expires_at for key in keys),
                Instants(key.revoked_at for key in keys),
                Texts(key.name for key in keys),
                Texts(key.dialect for key in keys),
                Texts(key.status for key in keys),
                Texts(key.hint for key in keys),
                Texts(_json(key.scopes) for key in keys),
                Texts(
                    None if key.allowed_models is None else _json(key.allowed_models)
                    for key in keys
                ),
                Texts(key.default_character for key in keys),
                Texts(key.rate_card for key in keys),
                Texts(_json(key.rules) for key in keys),
                Texts(_json(key.settings) for key in keys),
                Texts(_json({str(n): end for n, end in key.secrets.items()}) for key in keys),
                Int4s(key.version for key in keys),
                Texts(key.parent for key in keys),
                Instants(key.suspended_at for key in keys),
            ),
        )
    ]
