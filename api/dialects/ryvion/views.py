"""What ryvion's routes answer. Times are milliseconds ``Z``; ids are UUIDs."""

import msgspec

from api.dialects.ryvion.scopes import BUYER
from ledger.clock import format_milliseconds
from ledger.state import Key


class SignedIn(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who signed up or logged in."""

    token: str
    """A JWT, good for 15 minutes wherever a key is."""
    buyer_id: str
    email: str
    name: str


class Me(msgspec.Struct, frozen=True, kw_only=True):
    """Whose credential it is."""

    buyer_id: str
    email: str | None
    """The session's member's, or the key holder's; null where nobody logs in."""
    name: str


class CreatedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key with its secret, shown once."""

    id: str
    name: str
    key: str
    scope: str
    created_at: str


class ListedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key as lists show it."""

    id: str
    name: str
    scope: str
    prefix: str
    created_at: str
    last_used_at: str | None


class KeySpend(msgspec.Struct, frozen=True, kw_only=True):
    """What a key spent."""

    id: str
    name: str
    """What it was called in that time."""
    requests: int
    amount: str


class OwnLimit(msgspec.Struct, frozen=True, kw_only=True):
    """What may be spent in any hour."""

    ceiling: str | None
    """The operator's; null: there is none."""
    own: str | None
    """The account's own, never above the operator's."""
    remaining: str | None
    """Under both; null: there is no limit."""


class Billing(msgspec.Struct, frozen=True, kw_only=True):
    """What an account has and spends."""

    currency: str
    balance: str
    """Unspent."""
    pending: str
    """Held for requests under way."""
    hourly_limit: OwnLimit
    since: str
    """First day of the month, UTC."""
    spend: list[KeySpend]
    """Since then, by key."""


def scope_of(key: Key) -> str:
    """Return a key's scope as it is shown."""
    return " ".join(key.scopes) or BUYER


def created(key: Key, secret: str) -> CreatedKey:
    """Show a key just made."""
    return CreatedKey(
        id=str(key.key_id),
        name=key.name,
        key=secret,
        scope=scope_of(key),
        created_at=format_milliseconds(key.created_at),
    )


def listed(key: Key) -> ListedKey:
    """Show a key without its secret."""
    used = key.last_used_at
    return ListedKey(
        id=str(key.key_id),
        name=key.name,
        scope=scope_of(key),
        prefix=key.hint.partition("…")[0],
        created_at=format_milliseconds(key.created_at),
        last_used_at=None if used is None else format_milliseconds(used),
    )
