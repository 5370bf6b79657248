"""Cursors of the usage history: they stand alone, hold the filters, and are signed.

A cursor names a place in the account's own history, never a count of lines, so that pages stay what
they are while usage is written.
"""

import base64
import hashlib
import hmac

import msgspec

from api.http.failure import invalid
from ledger.events import Utc

_SIGNATURE_BYTES = 16
_PURPOSE = b"venice/usage-history"


class HistoryCursor(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True
):
    """A place in the history, and the filters of the list."""

    account: str
    version: int
    """Events up to this version are shown whole."""
    shown: int = 0
    """Entries of the next event that are shown already."""
    page_size: int = 1_000
    currency: str = ""
    """Empty: every one."""
    start: Utc | None = None
    end: Utc | None = None
    """Exclusive."""


_decoder = msgspec.json.Decoder(HistoryCursor)


def _signature(secret: str, content: bytes) -> bytes:
    key = hashlib.sha256(_PURPOSE + b"\0" + secret.encode()).digest()
    return hmac.new(key, content, hashlib.sha256).digest()[:_SIGNATURE_BYTES]


def write(walk: HistoryCursor, secret: str) -> str:
    """Write a cursor as text."""
    content = msgspec.json.encode(walk)
    return base64.urlsafe_b64encode(_signature(secret, content) + content).decode().rstrip("=")


def read(text: str, secret: str, account: str) -> HistoryCursor:
    """Read a cursor that was given to this account.

    Raises:
        Failure: It was not.
    """
    problem = invalid("cursor", "is no cursor of this list")
    try:
        found = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError as error:
        raise problem from error
    signature, content = found[:_SIGNATURE_BYTES], found[_SIGNATURE_BYTES:]
    if not hmac.compare_digest(signature, _signature(secret, content)):
        raise problem
    walk = _decoder.decode(content)
    if walk.account != account:
        raise problem
    return walk
