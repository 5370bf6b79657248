"""Who asks on venice's routes: a key as Bearer, or the token of a login where a key may stand."""

from typing import Any, NamedTuple

from api.http.failure import Failure, Kind, of_error
from api.http.routing import Ask
from api.identity import credentials
from api.identity.auth import KEY_MANAGERS, Caller, may
from api.identity.credentials import KeyCaller, secured
from api.operations import ADMIN_TYPE, SETTING_TYPE
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
"""Failures that are no key's, or that cannot be written down."""


class Manager(NamedTuple):
    """Who manages keys: an ADMIN key, or a member of the account."""

    account_id: AccountId
    actor: str
    member_id: str = ""
    """Of a login, or who issued the ADMIN key where a member did."""
    only_own_keys: str = ""
    """The member whose keys alone are in sight; empty: all of the account."""


@secured("key", "session")
async def manager(ask: Ask[Any, Any]) -> Manager:
    """Let an ADMIN key pass, and a member whose role may do this.

    Raises:
        Failure: 403 for a member whose role may not, 401 in any other case.
    """
    shown = credentials.bearer(ask.call)
    if not credentials.is_token(shown):
        return await _admin(ask)
    member = await _member(ask, shown)
    assert member.account_id is not None
    return Manager(member.account_id, member.actor, member.member_id, member.only_own_keys)


async def _member(ask: Ask[Any, Any], token: str) -> Caller:
    """Find the member whose token is shown, if their role may do what the route does.

    Raises:
        Failure: It is no valid token, or the role may not.
    """
    member = await credentials.member(ask.services, token)
    if not may(member, ask.route.permission):
        # Not ``ROLE_IS_DENIED``: no other credential is asked for, and no key would help.
        raise Failure(Kind.ACCESS_IS_DENIED)
    return member


@secured("key")
async def admin(ask: Ask[Any, Any]) -> Manager:
    """Let an ADMIN key pass.

    Raises:
        Failure: 401 in any other case.
    """
    return await _admin(ask)


async def _admin(ask: Ask[Any, Any]) -> Manager:
    caller = await _usable_key(ask)
    assert caller.key is not None
    if caller.key.settings.get(SETTING_TYPE) != ADMIN_TYPE:
        raise Failure(Kind.ROLE_IS_DENIED)
    issuer, role = await credentials.issuer_of(ask.services, caller)
    if issuer and role not in KEY_MANAGERS:
        # Else who may not manage keys any more would go on by a key made before.
        raise Failure(Kind.ACCESS_IS_DENIED)
    return Manager(caller.account_id, caller.actor, issuer)


@secured("key")
async def usable_key(ask: Ask[Any, Any]) -> KeyCaller:
    """Find the key that is shown, if it may act now and not too many of its requests failed.

    Raises:
        Failure: It may not act.
        LimitIsReached: Too many failed; the refusal is recorded.
    """
    return await _usable_key(ask)


async def _usable_key(ask: Ask[Any, Any]) -> KeyCaller:
    services = ask.services
    caller = await credentials.proven(services, credentials.bearer(ask.call), DIALECT)
    caller = await credentials.usable(services, caller)
    assert caller.key is not None
    try:
        keys.require_failures_left(caller.key, None, services.clock.now())
    except LimitIsReached:
        # Decided anew in the lane, where refusals are written down.
        await note_failure(ask, caller)
    return caller


@secured("key", "session")
async def client(ask: Ask[Any, Any]) -> KeyCaller:
    """Find the key that is shown, which the lane decides about; or a login's own key.

    Raises:
        Failure: Nobody shows anything good, or the login's role may not do this.
    """
    shown = credentials.bearer(ask.call)
    if not credentials.is_token(shown):
        return await credentials.proven(ask.services, shown, DIALECT)
    return await _session(ask, shown)


@secured("key", "session")
async def usable_client(ask: Ask[Any, Any]) -> KeyCaller:
    """Find the key that is shown, or a login's own, if it may act now; with its state.

    Raises:
        Failure: It may not act, or the login's role may not do this.
    """
    if credentials.is_token(credentials.bearer(ask.call)):
        caller = await _session(ask, credentials.bearer(ask.call))
        return await credentials.usable(ask.services, caller)
    return await _usable_key(ask)


async def _session(ask: Ask[Any, Any], token: str) -> KeyCaller:
    member = await _member(ask, token)
    assert member.account_id is not None
    key_id = await ask.services.ledger.keys.for_sessions(member.account_id, DIALECT)
    return KeyCaller(member.account_id, key_id, None, member.actor)


@secured("", "key", "session")
async def perhaps(ask: Ask[Any, Any]) -> KeyCaller | None:
    """Find who asks where anybody may; a credential that is shown must be good all the same."""
    if ask.call.header(b"authorization") is None:
        return None
    shown = credentials.bearer(ask.call)
    if credentials.is_token(shown):
        return await _session(ask, shown)
    return await _usable_key(ask)


async def count_failure(ask: Ask[Any, Any], failure: Failure) -> Failure:
    """Count a failed request against its key; give the refusal where too many have failed.

    What the lane wrote down is counted there already.
    """
    if failure.kind in _NOT_COUNTED or _is_counted(failure):
        return failure
    shown = credentials.presented(ask.call).bearer
    if shown is None or credentials.is_token(shown):
        return failure
    try:
        caller = await credentials.proven(ask.services, shown, DIALECT)
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


async def note_failure(ask: Ask[Any, Any], caller: KeyCaller, model: str = "") -> None:
    """Count a failed request of a key.

    Raises:
        LimitIsReached: Too many failed before.
    """
    await ask.services.ledger.calls.note_failure(
        caller.account_id, caller.key_id, by=caller.by, secret=caller.secret, model=model
    )
