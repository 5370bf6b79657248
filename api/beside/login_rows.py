"""Rows of logins: how they are found, and their refresh tokens.

Only a token's SHA-256 is kept. Logins themselves are written with events, by ``ledger``.
"""

from sqlalchemy import (
    Column,
    Index,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    bindparam,
    delete,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from ledger.record.bound_rows import LOGINS
from ledger.server.tables import INSTANT, compiled, metadata

_login = LOGINS.c
FIND_LOGIN = compiled(
    select(
        _login.member_id, _login.account_id, _login.password_hash, _login.active, _login.name
    ).where(_login.email == bindparam("email"))
)
FIND_PEOPLE = compiled(
    select(_login.member_id, _login.email, _login.name).where(
        _login.account_id == bindparam("account_id")
    )
)

REFRESH_TOKENS = Table(
    "refresh_tokens",
    metadata,
    Column("token_hash", LargeBinary, nullable=False),
    Column("family", Uuid, nullable=False),
    Column("email", Text, nullable=False),
    Column("expires_at", INSTANT, nullable=False),
    Column("used_at", INSTANT),
    PrimaryKeyConstraint("token_hash", name="refresh_token_is_unique"),
    Index("refresh_tokens_by_family", "family"),
)
_token = REFRESH_TOKENS.c
_is_shown = _token.token_hash == bindparam("hashed")

INSERT_REFRESH = compiled(
    insert(REFRESH_TOKENS).values(
        token_hash=bindparam("hashed"),
        family=bindparam("family"),
        email=bindparam("email"),
        expires_at=bindparam("expires_at"),
    )
)
USE_REFRESH = compiled(
    update(REFRESH_TOKENS)
    .where(_is_shown, _token.used_at.is_(None))
    .values(used_at=bindparam("at"))
    .returning(_token.family, _token.email, _token.expires_at)
)
"""Used once: if two come at a time, one updates the row and the other finds it used."""
FIND_REFRESH = compiled(select(_token.family).where(_is_shown))
REVOKE_FAMILY = compiled(delete(REFRESH_TOKENS).where(_token.family == bindparam("family")))
FORGET_REFRESH = compiled(delete(REFRESH_TOKENS).where(_token.expires_at < bindparam("at")))
