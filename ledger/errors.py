"""Everything that can go wrong, in three families by what the caller does next.

``Refused``: answer it; a decision said no. ``AppendConflict``: retry it; the store could not take
it now. ``LedgerCorrupt``: stop; what is stored contradicts itself. No HTTP status lives here.

The first docstring line of each is its message; data go into attributes. ``code`` is stored in
events and therefore for ever.
"""

from typing import ClassVar

from ledger.clock import Instant


class LedgerError(Exception):
    """An error that the ledger raises on purpose."""

    def __str__(self) -> str:
        """Return the first line of the class's docstring, or the message passed in."""
        own = super().__str__()
        return own or (type(self).__doc__ or "").partition("\n")[0]


class Refused(LedgerError):
    """The request is refused."""

    code: ClassVar[str] = "refused"
    lane: int = 0
    position: int = 0
    """Lane position the refusal was decided at: state after that many events of the lane."""
    decided_at: Instant | None = None
    """The ledger's clock at that position; None: no lane decided it."""
    is_noted: bool = False
    """Whether it is recorded among the key's refusals, and so counts as one of its failures."""
    room: int | None = None
    """Tokens of an answer that would fit, where its length was left open; None: it was not."""
    least: int = 0
    """Tokens of the shortest answer that was still worth making."""

    def __str__(self) -> str:
        """Return the message, and what would fit where that is known."""
        text = super().__str__()
        if self.room is None:
            return text
        return f"{text} An answer of {self.room} tokens would fit, and {self.least} are the least."


class NoSuchAccount(Refused):
    """No such account."""

    code = "no_such_account"


class AccountIsOpen(Refused):
    """The account is open already."""

    code = "account_is_open"


class AccountIsSuspended(Refused):
    """The account is suspended."""

    code = "account_is_suspended"


class AccountIsClosed(Refused):
    """The account is closed."""

    code = "account_is_closed"


class NoSuchMember(Refused):
    """No such member."""

    code = "no_such_member"


class LoginIsTaken(Refused):
    """The address cannot be used to log in here."""

    code = "login_is_taken"


class LastOwnerStays(Refused):
    """An account keeps at least one owner."""

    code = "last_owner_stays"


class NoSuchKey(Refused):
    """No such key."""

    code = "no_such_key"


class KeyIsRevoked(Refused):
    """The key is revoked."""

    code = "key_is_revoked"


class KeyIsSuspended(Refused):
    """The key is suspended."""

    code = "key_is_suspended"


class KeyIsNotSuspended(Refused):
    """The key is not suspended."""

    code = "key_is_not_suspended"


class KeyIsExpired(Refused):
    """The key is expired."""

    code = "key_is_expired"


class SecretIsRetired(Refused):
    """The secret was replaced by a rotation and its grace period is over."""

    code = "secret_is_retired"


class ScopeIsDenied(Refused):
    """The key's scopes do not allow this."""

    code = "scope_is_denied"


class ModelIsDenied(Refused):
    """The key may not use this model."""

    code = "model_is_denied"


class ModelIsUnpriced(Refused):
    """The rate card has no price for this model and usage."""

    code = "model_is_unpriced"


class NoSuchGrant(Refused):
    """No such open grant."""

    code = "no_such_grant"


class TooManyGrants(Refused):
    """The account has 1,000 open grants; void one, or wait until one is spent or expires."""

    code = "too_many_grants"


class NoSuchRequest(Refused):
    """No such request."""

    code = "no_such_request"


class RequestIsClosed(Refused):
    """The reservation was released already."""

    code = "request_is_closed"


class RequestIdIsTaken(Refused):
    """The request id was used before with other content."""

    code = "request_id_is_taken"


class IdempotencyKeyIsTaken(Refused):
    """The idempotency key was used before with another request."""

    code = "idempotency_key_is_taken"


class RequestFailed(Refused):
    """The request failed outside the ledger."""

    code = "request_failed"


class VersionIsOutdated(Refused):
    """The resource changed since it was read."""

    code = "version_is_outdated"


class NoSuchRateCard(Refused):
    """No such version of a rate card."""

    code = "no_such_rate_card"


class NoSuchLane(Refused):
    """No such lane."""

    code = "no_such_lane"


class NoSuchEvent(Refused):
    """No event at this position."""

    code = "no_such_event"


class RateCardIsInForce(Refused):
    """The version has taken effect and stays; changing past prices is a re-rating."""

    code = "rate_card_is_in_force"


class PricesAreSuspicious(Refused):
    """The prices look like a mistake; confirm them to publish."""

    code = "prices_are_suspicious"

    def __init__(self, reasons: tuple[str, ...]) -> None:
        super().__init__()
        self.reasons = reasons
        """Everything that looks so, as sentences."""


class InvalidField(Refused):
    """A field is invalid."""

    code = "invalid_field"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}" if field else problem)
        self.field = field
        self.problem = problem


class CreditIsExhausted(Refused):
    """The account's credit does not cover the request."""

    code = "credit_is_exhausted"

    def __init__(self, *, asset: str, available: int, pending: int, requested: int) -> None:
        super().__init__()
        self.asset = asset
        """The asset that would have paid."""
        self.available = available
        """Pico that could still be spent, overdraft included, reservations taken off."""
        self.pending = pending
        """Pico held by open reservations."""
        self.requested = requested
        """Pico that the request would cost."""

    @property
    def left(self) -> int:
        """What there was room for."""
        return self.available


class LimitIsReached(Refused):
    """A limit leaves no room for the request."""

    code = "limit_is_reached"

    def __init__(
        self,
        *,
        scope: str,
        limit_id: str,
        kind: str,
        window: str,
        assets: tuple[str, ...] = (),
        category: str = "",
        model: str = "",
        each_model: bool = False,
        ceiling: int,
        used: int,
        pending: int,
        requested: int,
        resets_at: Instant | None,
    ) -> None:
        super().__init__()
        self.scope = scope
        """``key`` or ``account``."""
        self.limit_id = limit_id
        """The name of the counter that refused, such as ``requests/rolling:60``; whoever wants to
        know what it counts reads the fields below."""
        self.kind = kind
        self.window = window
        """As the rule names it: ``day``, ``rolling:60``."""
        self.assets = assets
        """Those whose spending it counts; empty: all, or it does not limit spending."""
        self.category = category
        """Of the requests that it counts; empty: all."""
        self.model = model
        """Of the requests that it counts; empty: every model. Of a per-model limit, the one whose
        own counter this is; empty: the one that models share."""
        self.each_model = each_model
        self.ceiling = ceiling
        self.used = used
        self.pending = pending
        self.requested = requested
        self.resets_at = resets_at
        """When the request would fit if nothing else came; None: waiting does not help."""

    @property
    def left(self) -> int:
        """What there was room for; negative where more counts than may."""
        return self.ceiling - self.used - self.pending


class RequestExceedsLimit(LimitIsReached):
    """The request alone is larger than the limit."""

    code = "request_exceeds_limit"


class AppendConflict(LedgerError):
    """The store could not take the change now; the same call may succeed later."""


class LedgerUnavailable(AppendConflict):
    """The ledger cannot decide now."""

    retry_after_seconds: int = 1


class QueueIsFull(LedgerUnavailable):
    """The lane's queue is full."""


class ClockIsOff(LedgerUnavailable):
    """The database's clock is off; nothing is recorded until it is right again."""

    retry_after_seconds: int = 5


class OutcomeIsUnknown(LedgerUnavailable):
    """The connection broke while committing; repeat the request with the same id."""


class LedgerCorrupt(LedgerError):
    """What is stored contradicts itself."""

    def __init__(self, message: str, *, lane: int | None = None, seq: int | None = None) -> None:
        super().__init__(message)
        self.lane = lane
        self.seq = seq


class IncompatibleDatabase(LedgerError):
    """The database or data directory does not fit this version; the message says what to do."""
