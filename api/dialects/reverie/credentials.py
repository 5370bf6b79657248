"""Who asks on reverie's routes: a key, or the token of a login (the web chat); both as Bearer."""

from typing import Any, NamedTuple

from api.http import shown
from api.http.failure import Failure, Kind
from api.http.handlers import guard
from api.identity.auth import Caller, may
from api.identity.credentials import KeyCaller
from api.services import Ask
from ledger.ids import AccountId
from ledger.state import Key

DIALECT = "reverie"


class Principal(NamedTuple):
    """Whoever asks for something that costs nothing."""

    account_id: AccountId
    key: Key | None
    """None: a session."""

    @property
    def default_character(self) -> str:
        """Return the character that requests without a model are for; empty: none."""
        return "" if self.key is None else self.key.default_character

    def may_use(self, model: str) -> bool:
        """Return whether the key's terms allow a model."""
        return self.key is None or self.key.may_use(model)


@guard("key", "session")
async def key_or_session(ask: Ask[Any]) -> KeyCaller:
    """Find the key that is shown, which the lane decides about; or a session's own key."""

    def require(member: Caller) -> None:
        _require_role(ask, member)

    return await ask.services.credentials.acting(shown.bearer(ask), DIALECT, require=require)


@guard("key")
async def key(ask: Ask[Any]) -> KeyCaller:
    """Find the key that is shown; the lane decides whether it may act."""
    return await _key(ask)


@guard("key", "session")
async def usable_key_or_session(ask: Ask[Any]) -> Principal:
    """Find the key that is shown, if it may act now; or the session."""
    credentials = ask.services.credentials
    found = await credentials.shown(shown.bearer(ask), DIALECT)
    if isinstance(found, KeyCaller):
        return principal_of(await credentials.usable(found))
    _require_role(ask, found)
    assert found.account_id is not None
    return Principal(found.account_id, None)


@guard("key")
async def usable_key(ask: Ask[Any]) -> Principal:
    """Find the key that is shown, if it may act now."""
    return principal_of(await ask.services.credentials.usable(await _key(ask)))


def principal_of(found: KeyCaller) -> Principal:
    """Return a key whose state was read as whoever asks."""
    return Principal(found.account_id, found.key)


async def _key(ask: Ask[Any]) -> KeyCaller:
    # Only one of the two headers counts here, but they may not differ (RFC 6750 §2).
    shown.bearer_or_api_key(ask)
    return await ask.services.credentials.proven(shown.bearer(ask), DIALECT)


def _require_role(ask: Ask[Any], member: Caller) -> None:
    """Refuse a member whose role does not allow what the route does."""
    if not may(member, ask.route_handler.opt["contract"].permission):
        raise Failure(Kind.ROLE_IS_DENIED, f"The role {member.role} does not allow this")
