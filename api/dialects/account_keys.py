"""What dialects do with an account's keys of their own: list, find, issue, revoke."""

from collections.abc import Callable
from uuid import UUID

from api.http.failure import Failure, Kind
from api.operations import SETTING_MEMBER, SETTING_SESSION, Asked, Issuer
from api.services import Services
from ledger import events as e
from ledger.clock import Instant
from ledger.errors import KeyIsExpired, NoSuchKey
from ledger.ids import AccountId, KeyId
from ledger.state import Key

LISTED_MAX = 10_000
"""Most keys that one answer lists: a bare array has no pages."""


async def keys_of(
    services: Services,
    account_id: AccountId,
    dialect: str,
    *,
    only_of: str = "",
    where: Callable[[Key], bool] | None = None,
) -> list[Key]:
    """Return an account's keys of a dialect, newest first, revoked and expired ones too.

    ``where``: only these, however many others there are. ``only_of``: only this member's.
    """
    found: list[Key] = []
    async for key in services.queries.keys.each(account_id, only_of=only_of):
        if len(found) == LISTED_MAX:
            break
        if _is_shown(key, dialect) and (where is None or where(key)):
            found.append(key)
    return found


async def key_of(
    services: Services,
    account_id: AccountId,
    dialect: str,
    text: str,
    *,
    missing: str,
    only_of: str = "",
) -> Key:
    """Find a key of an account and dialect by its UUID. ``only_of``: only this member's.

    Raises:
        Failure: There is none, or it is another's; both in the same words (promise 15).
    """
    absent = Failure(Kind.NOT_FOUND, missing)
    try:
        key, _ = await services.queries.keys.one(KeyId(UUID(text)))
    except (ValueError, NoSuchKey) as error:
        raise absent from error
    if key.account_id != account_id or not _is_shown(key, dialect):
        raise absent
    if only_of and key.settings.get(SETTING_MEMBER) != only_of:
        raise absent
    return key


async def revoke(services: Services, key: Key, *, by: str) -> Instant:
    """Withdraw a key for good; return since when it is refused. Again, it changes nothing."""
    try:
        done = await services.ledger.keys.revoke(Asked(by), key.key_id)
    except KeyIsExpired:
        assert key.expires_at is not None
        return key.expires_at
    assert done.facts is not None
    assert done.facts.revoked_at is not None
    return done.facts.revoked_at


def _is_shown(key: Key, dialect: str) -> bool:
    return key.dialect == dialect and SETTING_SESSION not in key.settings


async def issue(
    services: Services, account_id: AccountId, terms: e.KeyIssued, issuer: Issuer
) -> tuple[Key, str]:
    """Issue a key; return it with its secret, which is nowhere else."""
    issued = await services.ledger.keys.issue(Asked(terms.by), account_id, terms, issuer)
    assert issued.secret is not None
    return issued.key, issued.secret
