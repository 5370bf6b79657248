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

from ledger.clock import EPOCH, TICK
from ledger.errors import LedgerCorrupt
from ledger.events import AnyEvent, Envelope, Event

GENESIS = bytes(32)
"""Stands before the first event of every chain."""

_ENVELOPE_FORMAT = 1
_NO_KEY = bytes(16)
# Every field is preceded by its length, so that no two envelopes share their bytes.
_pack = struct.Struct(">B HH HQ H16s HQ Hq Hq H16s HH H").pack
_TYPES: dict[str, type[Event]] = {event.type: event for event in get_args(AnyEvent)}
_DECODERS = {tag: msgspec.json.Decoder(event) for tag, event in _TYPES.items()}
_encoder = msgspec.json.Encoder(order="deterministic")

type_names = tuple(_TYPES)
"""Every stored ``type``, in the order of ``AnyEvent``."""

Upcaster = Callable[[dict[str, object]], dict[str, object]]
UPCASTERS: dict[tuple[str, int], Upcaster] = {}
"""(type, schema version) → how to read that version as the next one."""


class Recorded(NamedTuple):
    """An event as it is stored."""

    envelope: Envelope
    body: AnyEvent
    payload: bytes
    hash: bytes
    """SHA-256 over the account's previous hash, the envelope and the payload."""


def encode(body: Event) -> bytes:
    """Give the canonical payload."""
    return _encoder.encode(body)


def decode(tag: str, schema_version: int, payload: bytes | str) -> AnyEvent:
    """Read a payload of any schema version ever written as today's struct.

    Raises:
        LedgerCorrupt: An unknown type or version, or bytes that are no such event.
    """
    decoder = _DECODERS.get(tag)
    if decoder is None:
        message = f"Unknown event type {tag!r}: written by a newer version?"
        raise LedgerCorrupt(message)
    current = _TYPES[tag].schema_version
    try:
        if schema_version == current:
            return cast("AnyEvent", decoder.decode(payload))
        return _upcast(tag, schema_version, current, payload)
    except msgspec.MsgspecError as error:
        message = f"The payload is no {tag}: {error}"
        raise LedgerCorrupt(message) from error


def _upcast(tag: str, version: int, current: int, payload: bytes | str) -> AnyEvent:
    fields = msgspec.json.decode(payload, type=dict[str, object])
    while version < current:
        upcaster = UPCASTERS.get((tag, version))
        if upcaster is None:
            message = f"{tag} never had schema version {version}."
            raise LedgerCorrupt(message)
        fields = upcaster(fields)
        version += 1
    if version != current:
        message = f"{tag} has schema version {version}, newer than {current}."
        raise LedgerCorrupt(message)
    return cast("AnyEvent", msgspec.convert(fields, _TYPES[tag]))


def envelope_bytes(envelope: Envelope, tag: str, schema_version: int) -> bytes:
    """Give the envelope as length-prefixed big-endian fields, instants in µs since 1970."""
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
        schema_version,
        tag.encode(),
    )


def pack_envelope(  # noqa: PLR0917 (the fields in the order they are hashed)
    lane: int,
    lane_seq: int,
    account_id: bytes,
    version: int,
    recorded_at: int,
    occurred_at: int,
    key_id: bytes,
    schema_version: int,
    name: bytes,
) -> bytes:
    """Give the bytes of an envelope from bare columns, as the checker reads them."""
    # fmt: off
    fields = _pack(
        _ENVELOPE_FORMAT, 2, lane, 8, lane_seq, 16, account_id, 8, version,
        8, recorded_at, 8, occurred_at, 16, key_id, 2, schema_version, len(name),
    )
    # fmt: on
    return fields + name


def event_hash(previous: bytes, envelope: bytes, payload: bytes) -> bytes:
    """Chain an event to the account's previous one."""
    prefix = len(envelope).to_bytes(2)
    return hashlib.sha256(previous + prefix + envelope + payload).digest()


def chain(previous: bytes, hashed: bytes) -> bytes:
    """Fold one event's hash into the lane's chain."""
    return hashlib.sha256(previous + hashed).digest()


def record(envelope: Envelope, body: AnyEvent, previous: bytes) -> Recorded:
    """Turn a decided event into what is stored."""
    payload = _encoder.encode(body)
    hashed = event_hash(previous, envelope_bytes(envelope, body.type, body.schema_version), payload)
    return Recorded(envelope, body, payload, hashed)
