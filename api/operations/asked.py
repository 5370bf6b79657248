"""What is asked and what is answered, the same for all operations."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from ledger.accounts import REASON_MAX
from ledger.clock import Instant
from ledger.codec import Recorded
from ledger.errors import InvalidField
from ledger.ids import AccountId, KeyId, Position, format_id, request_hash
from ledger.record.batch import Idempotency

_canonical = msgspec.json.Encoder(order="deterministic").encode


F = TypeVar("F")
Render = Callable[[F, Sequence[Recorded], Instant], bytes]
"""Writes a reply as JSON without secrets, from what a change led to, its events and its time."""

UNRENDERED = b"null"
"""What is stored as the reply where the caller reads facts."""


class Asked(NamedTuple, Generic[F]):
    """Who asks, and under which ``Idempotency-Key`` for which request."""

    by: str
    """``operator``, ``<role>:<member id>``, ``key:<key id>`` or ``system``."""
    idempotency_key: str = ""
    fingerprint: bytes = b""
    render: Render[F] | None = None
    """Writes the reply in the words of the calling door; a repeat gets what it wrote first."""


class Done(NamedTuple, Generic[F]):
    """What became of a change."""

    facts: F | None
    """State that it led to, as of its own position. None: it was answered before."""
    position: Position
    at: Instant
    """When its last event was recorded; without events, when that was found."""
    recorded: Sequence[Recorded] = ()
    reply: bytes = UNRENDERED
    """What ``Asked.render`` wrote, now or the first time."""

    @property
    def replayed(self) -> bool:
        """Return whether a stored reply is the answer."""
        return self.facts is None


_KEY = "key:"


def actor_of_key(key_id: KeyId) -> str:
    """Return how events name a key as an actor."""
    return _KEY + format_id("key", key_id)


def key_of_actor(by: str) -> str:
    """Return the id of the key that acts; empty: the actor is not a key."""
    return by.removeprefix(_KEY) if by.startswith(_KEY) else ""


def fingerprint(operation: str, *parts: str, body: Any = None) -> bytes:  # noqa: ANN401
    """Return the hash of a request in its canonical form. Passwords are left out."""
    if isinstance(body, msgspec.Struct) and "password" in body.__struct_fields__:
        body = msgspec.structs.replace(body, password="")
    material = "\n".join((operation, *parts)).encode() + b"\n" + _canonical(body)
    return hashlib.sha256(material).digest()


def idempotency(
    asked: Asked[Any], account_id: AccountId, reply: Callable[[list[Recorded]], bytes]
) -> Idempotency | None:
    """Return the terms on which a repeat gets the stored reply; None: there is no idempotency key.

    ``reply`` returns what is stored.
    """
    if not asked.idempotency_key:
        return None
    key_hash = request_hash(account_id, "idempotency/" + asked.idempotency_key)
    return Idempotency(key_hash, asked.fingerprint, reply)


def check_reason(reason: str) -> None:
    """Refuse a reason that is too long for an event.

    Raises:
        InvalidField: It is too long.
    """
    if len(reason) > REASON_MAX:
        raise InvalidField("reason", f"must have at most {REASON_MAX} characters")
