"""What accounts are called: rows beside the events, because a name may be a person's.

Written with the account's events; in `ledger`, because reports show names too.
"""

from sqlalchemy import (
    ARRAY,
    Column,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
    any_,
    bindparam,
    or_,
    select,
)
from sqlalchemy.dialects.postgresql import insert

from ledger.ids import AccountId
from ledger.server.tables import BoundStatement, compiled, metadata

ACCOUNT_PROFILES = Table(
    "account_profiles",
    metadata,
    Column("account_id", Uuid, nullable=False),
    Column("lane", SmallInteger, nullable=False),
    Column("name", Text, nullable=False),
    PrimaryKeyConstraint("account_id", name="account_has_one_profile"),
)
_profile = ACCOUNT_PROFILES.c

_saved = insert(ACCOUNT_PROFILES)
_SAVE = compiled(
    _saved.on_conflict_do_update(
        constraint=ACCOUNT_PROFILES.primary_key, set_={"name": _saved.excluded.name}
    )
)
_ids = bindparam("account_ids", type_=ARRAY(Uuid))
FIND = compiled(select(_profile.account_id, _profile.name).where(_profile.account_id == any_(_ids)))
_after = bindparam("after", type_=Uuid)
PAGE = compiled(
    select(_profile.account_id, _profile.lane)
    .where(
        or_(_after.is_(None), _profile.account_id < _after),
        _profile.account_id != bindparam("operator"),
    )
    .order_by(_profile.account_id.desc())
    .limit(bindparam("most"))
)
"""Accounts but the operator's own, newest first."""


def save(account_id: AccountId, lane: int, name: str) -> BoundStatement:
    """Return the statement that gives an account its name."""
    return _SAVE, {"account_id": account_id, "lane": lane, "name": name}
