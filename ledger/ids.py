"""The one place that makes ids, and the rules by which an id shows its lane.

Ids are UUIDs (version 7: time-ordered, RFC 9562) with a prefix that names the thing. An account's
lane is a stable hash of its id; a key's id carries the lane of its account in its last two bytes,
so that a key id alone finds the lane.
"""

import hashlib
import os
import re
from functools import lru_cache
from typing import NamedTuple, NewType
from uuid import UUID

from ledger import clock

AccountId = NewType("AccountId", UUID)
KeyId = NewType("KeyId", UUID)
MemberId = NewType("MemberId", UUID)

OPERATOR_ACCOUNT = AccountId(UUID("00000000-0000-7000-8000-000000000001"))
"""The account of whoever runs the service. Rate cards and bve keys belong to it."""


class Position(NamedTuple):
    """A place in a lane: that of an event, or the one that an answer reflects."""

    lane: int
    seq: int

    def __str__(self) -> str:
        """Write it as ``lane:seq``."""
        return f"{self.lane}:{self.seq}"


LANES_MAX = 4096
REQUEST_ID_MAX = 255
REQUEST_HASH_BYTES = 13

_ID = re.compile(r"(acct|key|mbr)_([0-9a-f]{32})", re.ASCII)


class InvalidId(ValueError):
    """The id is not of the expected form."""


def _uuid7(last_two_bytes: int | None = None) -> UUID:
    return UUID(int=_uuid7_number(last_two_bytes))


def _uuid7_number(last_two_bytes: int | None = None) -> int:
    milliseconds = clock.microseconds(clock.now()) // 1000
    random = int.from_bytes(os.urandom(10))
    if last_two_bytes is not None:
        random = (random >> 16 << 16) | last_two_bytes
    value = (milliseconds << 80) | random
    value = value & ~(0xF << 76) | (7 << 76)
    return value & ~(3 << 62) | (2 << 62)


def new_account_id() -> AccountId:
    """Make an account id."""
    return AccountId(_uuid7())


def new_key_id(lane: int) -> KeyId:
    """Make a key id that carries its account's lane (0 to 4095)."""
    return KeyId(_uuid7(lane))


def new_member_id() -> MemberId:
    """Make a member id."""
    return MemberId(_uuid7())


def new_row_id() -> UUID:
    """Make an id for what is beside the ledger: a character, a session, a message."""
    return _uuid7()


def new_request_id() -> str:
    """Make a request id for a caller who sent none."""
    return f"req_{_uuid7_number():032x}"


@lru_cache(maxsize=65_536)
def lane_of_account(account_id: UUID, lanes: int) -> int:
    """Return the lane of an account: a stable hash of its id modulo the number of lanes."""
    digest = hashlib.sha256(account_id.bytes).digest()
    return int.from_bytes(digest[:8]) % lanes


def lane_of_key(key_id: UUID) -> int:
    """Return the lane that a key id carries."""
    return int.from_bytes(key_id.bytes[-2:])


def request_hash(account_id: UUID, request_id: str) -> bytes:
    """Return the 104 bits under which a request id of an account is unique for ever.

    So many, because a row and its index entry then fill whole words. Whoever finds two ids of one
    hash is refused the second: the event says whose id it was.
    """
    material = account_id.bytes + request_id.encode()
    return hashlib.sha256(material).digest()[:REQUEST_HASH_BYTES]


def rating_id(rated_seq: int) -> str:
    """Return the request id under which a rating of the event at a position happens once.

    No caller can send it: it begins with NUL.
    """
    return f"\0rate/{rated_seq}"


def format_id(prefix: str, value: UUID) -> str:
    """Write an id as ``key_0190…``: prefix, underscore, 32 hexadecimal digits."""
    return f"{prefix}_{value.hex}"


def parse_id(prefix: str, text: str) -> UUID:
    """Read an id of the given prefix.

    Raises:
        InvalidId: Another prefix or another shape.
    """
    match = _ID.fullmatch(text)
    if match is None or match[1] != prefix:
        raise InvalidId
    return UUID(match[2])
