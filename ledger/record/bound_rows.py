"""Rows beside the events that decide: key secrets, logins, wallets, daily allowances.

None may stand in an event, so the event that makes or changes one binds it, mostly by a digest
(``secrets.digest``). A row is written in the transaction of its event, by the statements here and
by no others; ``side_rows`` checks it. The statements that read one stand beside their readers.

These four tables are owned here and not in ``api``, because the checker reads what the service
writes and each column is named once.
"""

from datetime import date
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Date,
    Index,
    LargeBinary,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
    bindparam,
    delete,
    func,
    literal,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from ledger import secrets
from ledger.clock import Instant
from ledger.ids import AccountId, KeyId
from ledger.server.tables import INSTANT, BoundStatement, compiled, metadata

KEY_SECRETS = Table(
    "key_secrets",
    metadata,
    Column("secret_hash", LargeBinary, nullable=False),
    Column("key_id", Uuid, nullable=False),
    Column("account_id", Uuid, nullable=False),
    Column("lane", SmallInteger, nullable=False),
    Column("number", SmallInteger, nullable=False),
    Column("pepper_version", SmallInteger, nullable=False),
    PrimaryKeyConstraint("secret_hash", name="secret_opens_one_key"),
)
_secret = KEY_SECRETS.c
_INSERT_SECRET = compiled(insert(KEY_SECRETS))
_renewed = (
    update(KEY_SECRETS)
    .where(_secret.secret_hash == bindparam("old"))
    .values(secret_hash=bindparam("hashed"), pepper_version=bindparam("pepper"))
    .returning(_secret.number)
    .cte("renewed")
)
# Of two renewals at once, under different peppers, the later one finds no row: its event must not
# stand, so the division fails it.
_RENEW_SECRET = compiled(select(literal(1) // func.count()).select_from(_renewed))


class SecretRow(NamedTuple):
    """The row by which a key's secret is found."""

    key_id: KeyId
    number: int
    hashed: bytes
    pepper: int
    """Version of the pepper it is hashed under."""

    @property
    def digest(self) -> str:
        """Return what binds the row to its event."""
        key = self.key_id.bytes
        return secrets.digest("key_secret", key, self.number, self.hashed, self.pepper)

    def insert(self, account_id: AccountId, lane: int) -> BoundStatement:
        """Return the statement that adds the row."""
        return _INSERT_SECRET, {
            "secret_hash": self.hashed,
            "key_id": self.key_id,
            "account_id": account_id,
            "lane": lane,
            "number": self.number,
            "pepper_version": self.pepper,
        }

    def renew(self, old: bytes) -> BoundStatement:
        """Return the statement that puts it in place of the row under an older pepper."""
        return _RENEW_SECRET, {"hashed": self.hashed, "pepper": self.pepper, "old": old}


LOGINS = Table(
    "logins",
    metadata,
    Column("email", Text, nullable=False),
    Column("member_id", Uuid, nullable=False),
    Column("account_id", Uuid, nullable=False),
    Column("name", Text, nullable=False),
    Column("password_hash", Text, nullable=False),
    Column("active", Boolean, nullable=False, server_default=text("false")),
    Column("created_at", INSTANT, nullable=False),
    Column(
        "salt",
        LargeBinary,
        nullable=False,
        comment="Of the digest in the event login_set: gone with the row, it tells nothing of the"
        " person",
    ),
    PrimaryKeyConstraint("email", name="email_logs_in_once"),
    Index("logins_by_account", "account_id"),
)
_INSERT_LOGIN = compiled(insert(LOGINS))
_DELETE_LOGIN = compiled(delete(LOGINS).where(LOGINS.c.member_id == bindparam("member_id")))


class LoginRow(NamedTuple):
    """The row by which a person logs in. Nothing of it but its digest stands in an event."""

    salt: bytes
    account_id: AccountId
    member_id: UUID
    email: str
    name: str
    password_hash: str

    @property
    def digest(self) -> str:
        """Return what binds the row to its event; it tells nothing to anyone without the salt."""
        salt, account_id, member_id, *texts = self
        active = True
        return secrets.digest("login", salt, account_id.bytes, member_id.bytes, *texts, active)

    def insert(self, at: Instant) -> BoundStatement:
        """Return the statement that adds the row."""
        return _INSERT_LOGIN, {**self._asdict(), "active": True, "created_at": at}


def delete_login(member_id: UUID) -> BoundStatement:
    """Return the statement that takes a person's login away."""
    return _DELETE_LOGIN, {"member_id": member_id}


WALLETS = Table(
    "wallets",
    metadata,
    Column("address", LargeBinary, nullable=False),
    Column("account_id", Uuid, nullable=False),
    Column("created_at", INSTANT, nullable=False),
    Column("salt", LargeBinary, nullable=False, comment="Of the digest in the event wallet_linked"),
    PrimaryKeyConstraint("address", name="wallet_has_one_account"),
    CheckConstraint("octet_length(address) = 20", name="address_has_20_bytes"),
    Index("wallets_by_account", "account_id"),
)
_INSERT_WALLET = compiled(insert(WALLETS))


class WalletRow(NamedTuple):
    """The row by which a wallet's account is found. Only its digest stands in an event."""

    salt: bytes
    account_id: AccountId
    address: bytes

    @property
    def digest(self) -> str:
        """Return what binds the row to its event; it tells nothing to anyone without the salt."""
        return secrets.digest("wallet", self.salt, self.account_id.bytes, self.address)

    def insert(self, at: Instant) -> BoundStatement:
        """Return the statement that adds the row."""
        return _INSERT_WALLET, {**self._asdict(), "created_at": at}


ALLOWANCES = Table(
    "allowances",
    metadata,
    Column("account_id", Uuid, nullable=False),
    Column("lane", SmallInteger, nullable=False),
    Column("asset", Text, nullable=False),
    Column("amount", Text, nullable=False, comment="Granted anew each day of UTC; plain decimal"),
    Column("granted_through", Date, nullable=False, comment="The last day whose lot is granted"),
    PrimaryKeyConstraint(
        "lane", "account_id", "asset", name="account_has_one_allowance_of_an_asset"
    ),
)
_allowance = ALLOWANCES.c
_of_asset = (
    _allowance.lane == bindparam("lane"),
    _allowance.account_id == bindparam("account_id"),
    _allowance.asset == bindparam("asset"),
)
_saved = insert(ALLOWANCES)
# Never back: a day that is granted is granted.
_SAVE_ALLOWANCE = compiled(
    _saved.on_conflict_do_update(
        constraint=ALLOWANCES.primary_key,
        set_={
            "amount": _saved.excluded.amount,
            "granted_through": func.greatest(
                _allowance.granted_through, _saved.excluded.granted_through
            ),
        },
    )
)
_DELETE_ALLOWANCE = compiled(delete(ALLOWANCES).where(*_of_asset))
_day = bindparam("day", type_=Date)
_MARK_ALLOWANCE = compiled(
    update(ALLOWANCES)
    .where(*_of_asset)
    .values(granted_through=func.greatest(_allowance.granted_through, _day))
)


class AllowanceRow(NamedTuple):
    """What an account is granted anew each day. The newest ``allowance_set`` says the amount."""

    lane: int
    account_id: AccountId
    asset: str

    def save(self, amount: str, day: date) -> BoundStatement:
        """Return the statement that sets an allowance which is granted for a day."""
        return _SAVE_ALLOWANCE, {**self._asdict(), "amount": amount, "granted_through": day}

    def delete(self) -> BoundStatement:
        """Return the statement that ends an allowance."""
        return _DELETE_ALLOWANCE, self._asdict()

    def mark(self, day: date) -> BoundStatement:
        """Return the statement that notes up to which day an allowance is granted."""
        return _MARK_ALLOWANCE, {**self._asdict(), "day": day}
