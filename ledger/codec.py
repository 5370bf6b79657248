"""Canonical bytes: how an event is written, hashed and read back.

Frozen by golden vectors in the tests. ``payload`` is JSON with fields in the order of the struct,
defaults left out, mapping keys sorted, amounts as strings, instants as UTC with ``Z``. The hash
covers exactly the bytes that are stored; nothing is ever re-encoded to check it.
"""

import hashlib
import struct
from collections.abc import Callable
from typing import NamedTuple, cast, get_args

import msgspec

from ledger import secrets
from ledger.clock import EPOCH, TICK
from ledger.errors import InvalidField, LedgerCorrupt
from ledger.events import AnyEvent, Envelope, Event, RequestRefused

GENESIS = bytes(32)
"""Stands before the first event of every chain."""

_ENVELOPE_FORMAT = 1
_NO_KEY = bytes(16)
# Every field is preceded by its length, so that no two envelopes share their bytes.
_pack = struct.Struct(">B HH HQ H16s HQ Hq Hq H16s H").pack


def label_of(kind: type[Event]) -> str:
    """Return how ``events.type`` names a type as it is written today.

    The bare ``type`` in schema version 1, ``type@2`` in the second, and so on.
    """
    return kind.type if kind.schema_version == 1 else f"{kind.type}@{kind.schema_version}"


_DECODERS = {label_of(kind): msgspec.json.Decoder(kind) for kind in get_args(AnyEvent)}
_LABELS: dict[type[Event], str] = {kind: label_of(kind) for kind in get_args(AnyEvent)}
_encoder = msgspec.json.Encoder(order="deterministic")

Upcaster = Callable[[dict[str, object]], dict[str, object]]
UPCASTERS: dict[str, tuple[str, Upcaster]] = {}
"""Label of an earlier version → the next version's label, and how to make its fields."""

labels = (*_DECODERS, *UPCASTERS)
"""Every label ever stored, today's in the order of ``AnyEvent``."""


class Recorded(NamedTuple):
    """An event as it is stored."""

    envelope: Envelope
    body: AnyEvent
    payload: bytes
    hash: bytes
    """SHA-256 over the account's previous hash, the envelope and the payload."""


def encode(body: Event) -> bytes:
    """Return the canonical payload."""
    return _encoder.encode(body)


IS_SECRET = "holds a secret, which would be written down for ever"  # noqa: S105 - it says so


def sealed(body: AnyEvent) -> bytes:
    """Return the canonical payload of what was decided, as the last gate before the record.

    Raises:
        InvalidField: One of its texts holds a secret (promise 11). The field is named, not the
            text: ``model``, ``settings``, ``limits.0.category``.
    """
    payload = _encoder.encode(body)
    if secrets.is_in(payload.decode()):
        raise InvalidField(_place_of_secret(msgspec.to_builtins(body)), IS_SECRET)
    return payload


def _place_of_secret(value: object) -> str:
    """Name where a secret stands, without quoting it: keys of a mapping are texts too."""
    if isinstance(value, str):
        return ""
    pairs = value.items() if isinstance(value, dict) else enumerate(cast("list[object]", value))
    for name, part in pairs:
        if isinstance(name, str) and secrets.is_in(name):
            return ""
        if isinstance(part, str | dict | list | tuple) and secrets.is_in(str(part)):
            return f"{name}.{_place_of_secret(part)}".rstrip(".")
    return ""


def redacted(body: RequestRefused) -> RequestRefused:
    """Return a refusal's event without the secrets that one of its texts may hold."""
    payload = _encoder.encode(body).decode()
    if not secrets.is_in(payload):
        return body
    return msgspec.json.decode(secrets.redacted(payload), type=RequestRefused)


def label(body: Event) -> str:
    """Return how an event is labelled when it is written today."""
    return _LABELS[type(body)]


def decode(labelled: str, payload: bytes | str) -> AnyEvent:
    """Read a payload of any schema version ever written as today's struct.

    Raises:
        LedgerCorrupt: An unknown label, or bytes that are not such an event.
    """
    decoder = _DECODERS.get(labelled)
    try:
        if decoder is not None:
            return cast("AnyEvent", decoder.decode(payload))
        return _upcast(labelled, payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        message = f"The payload is not a {labelled}: {error}"
        raise LedgerCorrupt(message) from error


def _upcast(labelled: str, payload: bytes | str) -> AnyEvent:
    if labelled not in UPCASTERS:
        message = f"Unknown event type {labelled!r}: written by a newer version?"
        raise LedgerCorrupt(message)
    fields = msgspec.json.decode(payload, type=dict[str, object])
    while labelled in UPCASTERS:
        labelled, upcaster = UPCASTERS[labelled]
        fields = upcaster(fields)
    decoder = _DECODERS[labelled]
    return cast("AnyEvent", decoder.decode(msgspec.json.encode(fields)))


def envelope_bytes(envelope: Envelope, labelled: str) -> bytes:
    """Return the envelope as length-prefixed big-endian fields, instants in µs since 1970."""
    lane, lane_seq, account_id, version, recorded_at, occurred_at, key_id = envelope
    recorded = occurred = (recorded_at - EPOCH) // TICK
    if occurred_at is not recorded_at:
        occurred = (occurred_at - EPOCH) // TICK
    return pack_envelope(
        lane,
        lane_seq,
        account_id.int.to_bytes(16),
        version,
        recorded,
        occurred,
        _NO_KEY if key_id is None else key_id.int.to_bytes(16),
        labelled.encode(),
    )


def pack_envelope(  # noqa: PLR0917 (the fields in the order they are hashed)
    lane: int,
    lane_seq: int,
    account_id: bytes,
    version: int,
    recorded_at: int,
    occurred_at: int,
    key_id: bytes,
    labelled: bytes,
) -> bytes:
    """Return the bytes of an envelope from bare columns, as the checker reads them."""
    # fmt: off
    fields = _pack(
        _ENVELOPE_FORMAT, 2, lane, 8, lane_seq, 16, account_id, 8, version,
        8, recorded_at, 8, occurred_at, 16, key_id, len(labelled),
    )
    # fmt: on
    return fields + labelled


def event_hash(previous: bytes, envelope: bytes, payload: bytes) -> bytes:
    """Chain an event to the account's previous one."""
    prefix = len(envelope).to_bytes(2)
    return hashlib.sha256(previous + prefix + envelope + payload).digest()


def chain(previous: bytes, hashed: bytes) -> bytes:
    """Fold one event's hash into the lane's chain."""
    return hashlib.sha256(previous + hashed).digest()


def record(
    envelope: Envelope, body: AnyEvent, previous: bytes, payload: bytes | None = None
) -> Recorded:
    """Turn a decided event into what is stored. ``payload``: as ``sealed`` wrote it."""
    if payload is None:
        payload = _encoder.encode(body)
    hashed = event_hash(previous, envelope_bytes(envelope, label(body)), payload)
    return Recorded(envelope, body, payload, hashed)
