"""Who asks on a dialect's path: a key by its secret, a member by a token, or the operator.

Which headers count and which of the three a route takes is the dialect's to say; what a secret
proves is found in one way for all. Nothing positive is cached: a key's state is read anew for each
request, and metered ones are decided in the lane besides (promise 6).
"""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import structlog

from api.http.exchange import Call
from api.http.failure import Failure, Kind
from api.http.routing import Ask
from api.identity.auth import Caller
from api.operations import SETTING_MEMBER, actor_of_key
from api.services import Services
from ledger import keys, secrets
from ledger.errors import LedgerError, NoSuchKey
from ledger.ids import AccountId, KeyId
from ledger.requests import KEY
from ledger.state import Key

log = structlog.get_logger("keyledger.api")

JWT_DOTS = 2
"""Header, claims and signature."""


class KeyCaller(NamedTuple):
    """A key, proven by one of its secrets; or a session that acts through its own key."""

    account_id: AccountId
    key_id: KeyId
    secret: int | None
    """Number of the secret; None: a session."""
    actor: str
    """As events name it."""
    scopes: tuple[str, ...] = ()
    key: Key | None = None
    """State as read for this request; None: the lane decides."""

    @property
    def by(self) -> str:
        """Name who makes a request as its events do: the key itself where a secret proved it."""
        return self.actor if self.secret is None else KEY


class Presented(NamedTuple):
    """What the headers show."""

    bearer: str | None
    api_key: str | None
    other_scheme: bool
    """There is an ``Authorization`` and it is no Bearer."""

    @property
    def any(self) -> str | None:
        """Give the credential, whichever header shows it.

        Raises:
            Failure: Two headers show different ones (RFC 6750 §2), of whatever scheme.
        """
        disagree = self.other_scheme or self.bearer not in {None, self.api_key}
        if self.api_key is not None and disagree:
            raise Failure(Kind.CREDENTIALS_DISAGREE, "Two headers show different credentials.")
        return self.bearer if self.bearer is not None else self.api_key


def presented(call: Call) -> Presented:
    """Read ``Authorization`` and ``X-API-Key``."""
    authorization = call.header(b"authorization")
    scheme, _, rest = (authorization or "").partition(" ")
    is_bearer = scheme.lower() == "bearer"
    shown = rest.strip() if is_bearer else ""
    api_key = call.header(b"x-api-key")
    return Presented(
        bearer=shown or None,
        api_key=api_key.strip() or None if api_key is not None else None,
        other_scheme=bool(authorization) and not shown,
    )


def bearer(call: Call) -> str:
    """Give what ``Authorization: Bearer`` shows.

    Raises:
        Failure: There is none, or another scheme.
    """
    found = presented(call)
    return _required(found, found.bearer)


def bearer_or_api_key(call: Call) -> str:
    """Give what either header shows; equal values twice are harmless.

    Raises:
        Failure: There is none, or they disagree.
    """
    found = presented(call)
    return _required(found, found.any)


def api_key(call: Call) -> str:
    """Give what ``X-API-Key`` shows.

    Raises:
        Failure: There is none.
    """
    text = presented(call).api_key
    if text is None:
        raise Failure(Kind.CREDENTIAL_IS_MISSING)
    return text


def _required(found: Presented, text: str | None) -> str:
    if text is None:
        missing = not found.other_scheme
        raise Failure(Kind.CREDENTIAL_IS_MISSING if missing else Kind.CREDENTIAL_IS_MALFORMED)
    return text


def is_token(text: str) -> bool:
    """Tell whether a credential has the shape of a member's token."""
    return text.count(".") == JWT_DOTS


async def proven(services: Services, text: str, dialect: str) -> KeyCaller:
    """Find the key that a secret of this dialect proves; whether it is any good is not asked yet.

    Raises:
        Failure: It is mistyped, of another dialect, or unknown.
    """
    form = secrets.recognise(text) if len(text) <= secrets.SECRET_MAX else None
    if form is None or form.dialect != dialect:
        raise Failure(Kind.CREDENTIAL_IS_MALFORMED)
    try:
        proof = await services.resolver.secret(text)
    except NoSuchKey as error:
        log.info("credential_unknown", dialect=dialect, hint=secrets.hint_of(text))
        raise Failure(Kind.CREDENTIAL_IS_UNKNOWN, error=error) from error
    actor = actor_of_key(proof.key_id)
    return KeyCaller(proof.account_id, proof.key_id, proof.secret, actor)


async def usable(services: Services, caller: KeyCaller) -> KeyCaller:
    """Give the caller with the key's state, provided that it may act now.

    Raises:
        Failure: It is revoked, suspended, expired, or its account is barred. The refusal is
            recorded, because the caller is not told all of it.
    """
    key, _ = await services.queries.keys.one(caller.key_id)
    account, _ = await services.queries.accounts.one(caller.account_id)
    try:
        keys.require_allowed(key, account, services.clock.now(), secret=caller.secret)
    except LedgerError:
        # Decided anew in the lane, where refusals are written down.
        await services.ledger.calls.admit(
            caller.account_id, caller.key_id, by=caller.by, secret=caller.secret
        )
        raise
    return caller._replace(key=key, scopes=key.scopes)


async def issuer_of(services: Services, caller: KeyCaller) -> tuple[str, str]:
    """Give the member who issued a key whose state was read, and the role they have by now.

    Both empty: the operator did. No role: they have left.
    """
    assert caller.key is not None
    issuer = caller.key.settings.get(SETTING_MEMBER, "")
    if not issuer:
        return "", ""
    account, _ = await services.queries.accounts.one(caller.account_id)
    return issuer, account.members.get(issuer, "")


async def member(services: Services, token: str) -> Caller:
    """Find the member whose token it is.

    Raises:
        Failure: It is no valid token.
    """
    try:
        found = await services.gate.caller(f"Bearer {token}")
    except Failure as error:
        raise Failure(Kind.CREDENTIAL_IS_UNKNOWN, error=error) from error
    if found.account_id is None:
        raise Failure(Kind.CREDENTIAL_IS_UNKNOWN)
    return found


async def operator(services: Services, text: str) -> Caller:
    """Tell whether it is the operator's secret.

    Raises:
        Failure: It is not.
    """
    try:
        await services.gate.require_operator(f"Bearer {text}")
    except Failure as error:
        raise Failure(Kind.CREDENTIAL_IS_UNKNOWN, error=error) from error
    return await services.gate.caller(f"Bearer {text}")


Who = Callable[[Ask[Any, Any]], Awaitable[Any]]


def secured(*schemes: str) -> Callable[[Who], Who]:
    """Name the security schemes of a way to tell who asks, for the OpenAPI document."""

    def mark(who: Who) -> Who:
        who.security = schemes  # type: ignore[attr-defined]
        return who

    return mark
