"""Who asks on venice's routes: a key as Bearer, or the token of a login where a key may stand."""

import functools
from typing import Any, NamedTuple

from api.http.failure import Failure, Kind, of_error
from api.http.handlers import guard
from api.http.shown import bearer, is_token, presented
from api.identity.auth import KEY_MANAGERS, Caller, may
from api.identity.credentials import KeyCaller
from api.operations import ADMIN_TYPE, SETTING_TYPE
from api.services import Ask
from ledger import keys
from ledger.errors import LimitIsReached, Refused
from ledger.ids import AccountId

DIALECT = "venice"

_NOT_COUNTED = frozenset(
    {
        Kind.CREDENTIAL_IS_MISSING,
        Kind.CREDENTIAL_IS_MALFORMED,
        Kind.CREDENTIAL_IS_UNKNOWN,
        Kind.KEY_IS_REVOKED,
        Kind.KEY_IS_SUSPENDED,
        Kind.KEY_IS_EXPIRED,
        Kind.ACCOUNT_IS_BARRED,
        Kind.UNAVAILABLE,
    }
)
"""Failures that belong to no key, or that cannot be recorded."""


class Principal(NamedTuple):
    """Whoever manages keys: an ADMIN key, or a member of the account."""

    account_id: AccountId
    actor: str
    member_id: str = ""
    """The session's member, or the one who issued the ADMIN key; empty: the operator did."""
    only_own_keys: str = ""
    """The member whose keys alone are shown; empty: all of the account's are."""


@guard("key", "session")
async def admin_key_or_session(ask: Ask[Any]) -> Principal:
    """Let an ADMIN key pass, and a member whose role may do this.

    Raises:
        Failure: 403 for a member whose role may not, 401 in any other case.
    """
    found = await ask.services.credentials.shown(bearer(ask), DIALECT)
    if isinstance(found, KeyCaller):
        return await _admin(ask, found)
    _require_role(ask, found)
    assert found.account_id is not None
    return Principal(found.account_id, found.actor, found.member_id, found.only_own_keys)


@guard("key")
async def admin_key(ask: Ask[Any]) -> Principal:
    """Let an ADMIN key pass.

    Raises:
        Failure: 401 in any other case.
    """
    return await _admin(ask, await ask.services.credentials.proven(bearer(ask), DIALECT))


@guard("key", "session")
async def key_or_session(ask: Ask[Any]) -> KeyCaller:
    """Find the key that is shown, about which the lane decides; or a session's own key.

    Raises:
        Failure: Nothing good is shown, or the session's role may not do this.
    """
    return await _key_or_session(ask)


@guard("key", "session")
async def usable_key_or_session(ask: Ask[Any]) -> KeyCaller:
    """Find the key that is shown, or a session's own, if it may act now; with its state.

    Raises:
        Failure: It may not act, or the session's role may not do this.
    """
    return await _usable(ask, await _key_or_session(ask))


@guard("", "key", "session")
async def anyone(ask: Ask[Any]) -> KeyCaller | None:
    """Find who asks where anybody may; a credential that is shown must be good all the same."""
    if ask.header(b"authorization") is None:
        return None
    found = await _key_or_session(ask)
    return found if found.secret is None else await _usable(ask, found)


async def _key_or_session(ask: Ask[Any]) -> KeyCaller:
    return await ask.services.credentials.acting(
        bearer(ask), DIALECT, require=functools.partial(_require_role, ask)
    )


def _require_role(ask: Ask[Any], member: Caller) -> None:
    """Refuse a member whose role may not do what the route does.

    Raises:
        Failure: It may not.
    """
    if not may(member, ask.route_handler.opt["contract"].permission):
        # Not ``ROLE_IS_DENIED``: no other credential is asked for, and no key would help.
        raise Failure(Kind.ACCESS_IS_DENIED)


async def _usable(ask: Ask[Any], caller: KeyCaller) -> KeyCaller:
    """Return the key with its state, if it may act now and not too many of its requests failed.

    Raises:
        Failure: It may not act.
        LimitIsReached: Too many failed; the refusal is recorded.
    """
    caller = await ask.services.credentials.usable(caller)
    assert caller.key is not None
    try:
        keys.require_failures_left(caller.key, None, ask.services.clock.now())
    except LimitIsReached:
        # Decided anew in the lane, where refusals are written down.
        await note_failure(ask, caller)
    return caller


async def _admin(ask: Ask[Any], caller: KeyCaller) -> Principal:
    caller = await _usable(ask, caller)
    assert caller.key is not None
    if caller.key.settings.get(SETTING_TYPE) != ADMIN_TYPE:
        raise Failure(Kind.ROLE_IS_DENIED)
    issuer, role = await ask.services.credentials.issuer_of(caller)
    if issuer and role not in KEY_MANAGERS:
        # Otherwise a member who may no longer manage keys could go on with a key made before.
        raise Failure(Kind.ACCESS_IS_DENIED)
    return Principal(caller.account_id, caller.actor, issuer)


async def count_failure(ask: Ask[Any], failure: Failure) -> Failure:
    """Count a failed request against its key; return the refusal where too many have failed.

    What the lane wrote down is counted there already.
    """
    if failure.kind in _NOT_COUNTED or _is_counted(failure):
        return failure
    shown = presented(ask).bearer
    if shown is None or is_token(shown):
        return failure
    try:
        caller = await ask.services.credentials.proven(shown, DIALECT)
        await note_failure(ask, caller)
    except LimitIsReached as refusal:
        return of_error(refusal)
    except Failure:
        return failure
    return failure


def _is_counted(failure: Failure) -> bool:
    if failure.limit is not None and failure.limit.kind == "failures":
        return True
    match failure.error:
        case Failure() as cause:
            return _is_counted(cause)
        case Refused() as refusal:
            return refusal.is_noted
        case _:
            return failure.counted


async def note_failure(ask: Ask[Any], caller: KeyCaller, model: str = "") -> None:
    """Count a failed request of a key.

    Raises:
        LimitIsReached: Too many failed before.
    """
    await ask.services.ledger.calls.note_failure(
        caller.account_id, caller.key_id, by=caller.by, secret=caller.secret, model=model
    )
