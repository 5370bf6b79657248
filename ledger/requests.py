"""What is asked of a request, and what is known of it: commands and facts, no decision."""

import hashlib
from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple, Self

import msgspec

from ledger import events as e
from ledger.clock import Instant
from ledger.codec import Recorded
from ledger.errors import (
    InvalidField,
)
from ledger.fitting import Alike
from ledger.ids import REQUEST_ID_MAX
from ledger.keys import require_no_secret
from ledger.lines import (
    ModelLines,
    units_of,
    unpriced_lines,
    usage_of,
)
from ledger.ratecards import RateCards
from ledger.reports import Reading
from ledger.secrets import redacted
from ledger.state import (
    Account,
    Key,
    Reservation,
)
from ledger.usage import Usage, tokens

OCCURRED_BEFORE_MAX = timedelta(hours=72)
OCCURRED_AFTER_MAX = timedelta(minutes=5)
KEY = "key"
"""Actor of a request: the key itself, proven by a secret."""
OPERATOR = "operator"
SYSTEM = "system"
BATCH = "batch"
"""The condition that is not a service tier: replies to a batch name the usual tier."""
TTL_SECONDS_DEFAULT = 600
TTL_SECONDS_MAX = 86_400
MODEL_MAX = 255


class KnownRequest(NamedTuple):
    """What the ledger holds about a request id that was used before."""

    first: Recorded
    """RequestRecorded or RequestReserved."""
    last: Recorded | None = None
    """RequestSettled, RequestReleased or RequestExpired; None: still open, or one step."""
    rated: tuple[Recorded, ...] = ()
    """RequestRated, one after another, where what had no price got it since."""


class Facts(NamedTuple):
    """What a decision about a request reads."""

    account: Account | None
    key: Key | None
    cards: RateCards
    known: KnownRequest | None
    reservation: Reservation | None


class OtherUse(NamedTuple):
    """What another model used inside a request."""

    model: str
    usage: Usage


class ProviderReport(NamedTuple):
    """What a provider reported, unchanged: evidence for anyone who reconciles."""

    text: str
    """Bounded, and without text of any message."""
    provider_request_id: str = ""

    @property
    def kept(self) -> Self:
        """As it is kept: without the secrets that somebody's report may repeat (promise 11)."""
        return self._replace(
            text=redacted(self.text), provider_request_id=redacted(self.provider_request_id)
        )

    @property
    def digest(self) -> str:
        """SHA-256 of the text as it is kept, hexadecimal."""
        return hashlib.sha256(self.kept.text.encode()).hexdigest()


def others_of(used: Reading) -> tuple[OtherUse, ...]:
    """Return what other models used, as a command holds it."""
    return tuple(OtherUse(model, usage) for model, usage in used.others)


def report_of(used: Reading) -> ProviderReport | None:
    """Return the report that a reading is of; None: there is none."""
    return ProviderReport(used.raw.decode(), used.provider_id) if used.raw else None


class Notes(NamedTuple):
    """What the caller notes about a request. Text that may be a person's: events hold digests."""

    salt: bytes
    metadata: str = ""
    """A JSON object as text; empty: none."""
    end_user: str = ""

    def digest(self, text: str) -> str:
        """SHA-256 over salt and text, hexadecimal; empty: there is no text."""
        return hashlib.sha256(self.salt + text.encode()).hexdigest() if text else ""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One metered request in one step."""

    request_id: str
    model: str
    usage: Usage
    others: tuple[OtherUse, ...] = ()
    by: str = OPERATOR
    category: str = ""
    condition: str = ""
    scope: str = ""
    secret: int | None = None
    """Number of the secret that proved the key; None: ``by`` vouches for it."""
    occurred_at: Instant | None = None
    """The service instant, as reported; None: now."""
    delivered: bool = False
    """The service was rendered already: record it whatever limits and credit say."""
    estimated: bool = False
    doubts: tuple[str, ...] = ()
    served_condition: str | None = None
    """As the provider says, where the card has a price for that; None: ``condition`` counts."""
    served_model: str = ""
    """What the provider says it served; empty: nothing, or the one that is named."""
    report: ProviderReport | None = None
    notes: Notes | None = None


class Reserve(msgspec.Struct, frozen=True, kw_only=True):
    """The worst case of a request about to be made."""

    request_id: str
    model: str
    usage: Usage
    choices: tuple[str, ...] = ()
    """Further models that may serve it: the dearest is held."""
    by: str = OPERATOR
    category: str = ""
    condition: str = ""
    conditions: tuple[str, ...] = ()
    """Further price conditions that may come to hold: the dearest is held."""
    alike: Alike = {}
    """Classes as which the same units may be charged: the dearest is held."""
    scope: str = ""
    secret: int | None = None
    ttl_seconds: int = TTL_SECONDS_DEFAULT
    notes: Notes | None = None


class Settle(msgspec.Struct, frozen=True, kw_only=True):
    """What a reserved request really used."""

    request_id: str
    usage: Usage
    others: tuple[OtherUse, ...] = ()
    by: str = SYSTEM
    model: str = ""
    """Must be the reserved one, or one of its choices, where it is given (A6)."""
    condition: str | None = None
    """As it was served, where the card has a price for that; None: as it was reserved."""
    served_model: str = ""
    """What the upstream says it served; empty: nothing, or the one it was asked for."""
    estimated: bool = False
    interrupted: bool = False
    doubts: tuple[str, ...] = ()
    report: ProviderReport | None = None


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """A reserved request that was not made, or failed."""

    request_id: str
    by: str = SYSTEM
    reason: str = ""
    failed: bool = False
    """It was made and failed: it counts against limits on failures."""


Made = tuple[list[e.AnyEvent], Recorded | None]
"""The events decided, and the stored event that answers instead where it was done before."""


def service_at(told: Instant | None, at: Instant) -> Instant:
    """Return the instant whose prices and day count for a request recorded at ``at``.

    What is reported too far ahead of time counts as of now.
    """
    return at if told is None or told > at + OCCURRED_AFTER_MAX else told


def told_at(told: Instant | None, was_at: Instant) -> Instant | None:
    """Return the service instant as reported, where another one counts."""
    return None if told is None or told == was_at else told


def require_writable(command: Record | Reserve) -> None:
    """Refuse what an event could not hold.

    Raises:
        InvalidField: A text is too long, missing, or holds a secret.
    """
    if not 1 <= len(command.request_id) <= REQUEST_ID_MAX:
        raise InvalidField("request_id", f"1 to {REQUEST_ID_MAX} characters")
    if not 1 <= len(command.model) <= MODEL_MAX:
        raise InvalidField("model", f"1 to {MODEL_MAX} characters")
    # What enters the event is searched for secrets as a whole; these stand beside it.
    if command.notes is not None:
        require_no_secret("metadata", command.notes.metadata)
        require_no_secret("end_user", command.notes.end_user)


def units_asked(command: Record | Reserve) -> dict[str, int]:
    """Return what a request uses, or may use at most, by class; other models' included."""
    units = units_of(unpriced_lines(command.usage))
    for other in command.others if isinstance(command, Record) else ():
        for name, more in units_of(unpriced_lines(other.usage)).items():
            units[name] = units.get(name, 0) + more
    return units


def tokens_asked(command: Record | Reserve) -> int:
    """Count the tokens that a request uses, or may use at most; other models' included."""
    count = tokens(command.usage)
    if isinstance(command, Record) and command.others:
        count += sum(tokens(other.usage) for other in command.others)
    return count


def flags_of(command: Record, at: Instant, *, after_end: bool = False) -> tuple[str, ...]:
    """Return what an event says about how and when a request was reported."""
    told = command.occurred_at
    if told is None and not (command.delivered or command.estimated or command.served_model):
        return ()
    raised = {
        "late": told is not None and told < at - OCCURRED_BEFORE_MAX,
        "early": told is not None and told > at + OCCURRED_AFTER_MAX,
        "delivered": command.delivered,
        "after_end": after_end,
        "estimated": command.estimated,
        "other_model": bool(command.served_model),
    }
    return tuple(name for name, holds in raised.items() if holds)


def uses_of(others: Sequence[ModelLines]) -> tuple[OtherUse, ...]:
    """Return what other models used, from an event."""
    return tuple(OtherUse(other.model, usage_of(other.lines)) for other in others)
