"""Cursors that hold more than a position: signed, so that their contents can be trusted."""

import base64
import hashlib
import hmac
from typing import TypeVar

import msgspec

from ledger.errors import InvalidField

_SIGNATURE_BYTES = 16

Held = TypeVar("Held")


def write(held: msgspec.Struct, purpose: str, secret: str) -> str:
    """Write a cursor with contents."""
    content = msgspec.json.encode(held)
    signed = _signature(content, purpose, secret) + content
    return base64.urlsafe_b64encode(signed).decode().rstrip("=")


def read(text: str, form: type[Held], purpose: str, secret: str) -> Held:
    """Return the contents of a cursor of ours.

    Raises:
        InvalidField: ``after`` is not a cursor for this purpose.
    """
    problem = InvalidField("after", "is not a cursor of this list")
    try:
        found = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError as error:
        raise problem from error
    signature, content = found[:_SIGNATURE_BYTES], found[_SIGNATURE_BYTES:]
    if not hmac.compare_digest(signature, _signature(content, purpose, secret)):
        raise problem
    return msgspec.json.decode(content, type=form)


def _signature(content: bytes, purpose: str, secret: str) -> bytes:
    # Derived, so that a signature made here is valid nowhere else.
    key = hashlib.sha256(f"cursor/{purpose}\0{secret}".encode()).digest()
    return hmac.new(key, content, hashlib.sha256).digest()[:_SIGNATURE_BYTES]
