"""Who asks on reverie's routes: a key as Bearer, or a login's token, which is the web chat."""

from typing import Any, NamedTuple

from api.http import shown
from api.http.failure import Failure, Kind
from api.identity.auth import Caller, may
from api.identity.credentials import KeyCaller
from api.services import Ask
from ledger.ids import AccountId
from ledger.state import Key

DIALECT = "reverie"
SHARED = "/v1/"
"""Where other dialects' keys are shown too, so that two headers may not differ."""


class Visitor(NamedTuple):
    """Who asks for something that costs nothing."""

    account_id: AccountId
    key: Key | None
    """None: a login."""

    @property
    def default_character(self) -> str:
        """Return whom requests without a model are for; empty: nobody in particular."""
        return "" if self.key is None else self.key.default_character

    def may_use(self, model: str) -> bool:
        """Return whether the key's terms allow a model."""
        return self.key is None or self.key.may_use(model)


async def caller(ask: Ask[Any]) -> KeyCaller:
    """Find who asks; the lane decides whether a key may."""

    def require(member: Caller) -> None:
        _require(ask, member)

    return await ask.services.credentials.acting(_shown(ask), DIALECT, require=require)


async def visitor(ask: Ask[Any]) -> Visitor:
    """Find who asks, if they may act now."""
    credentials = ask.services.credentials
    found = await credentials.shown(_shown(ask), DIALECT)
    if isinstance(found, KeyCaller):
        return visitor_of(await credentials.usable(found))
    _require(ask, found)
    assert found.account_id is not None
    return Visitor(found.account_id, None)


def visitor_of(found: KeyCaller) -> Visitor:
    """Return a caller whose key's state was read."""
    return Visitor(found.account_id, found.key)


def _require(ask: Ask[Any], member: Caller) -> None:
    """Refuse a member whose role does not allow what the route does."""
    if not may(member, ask.route_handler.opt["contract"].permission):
        raise Failure(Kind.ROLE_IS_DENIED, f"The role {member.role} does not allow this")


def _shown(ask: Ask[Any]) -> str:
    if ask.scope["path"].startswith(SHARED):
        # Of the two headers one counts here, and still both may not differ (RFC 6750 §2).
        shown.bearer_or_api_key(ask)
    return shown.bearer(ask)
