"""Columns of a batch as PostgreSQL arrays in the binary format, for ``unnest``.

psycopg's own list adapter asks each element for its type; a batch knows its columns' types, and
a commit of a thousand events carries some twenty thousand elements.
"""

import struct
from collections.abc import Iterable
from datetime import date
from functools import lru_cache
from itertools import repeat
from uuid import UUID

from psycopg.abc import AdaptContext
from psycopg.adapt import Dumper
from psycopg.pq import Format

from ledger.clock import TICK, Instant, from_microseconds

_POSTGRES_EPOCH = from_microseconds(946_684_800_000_000)
_HEADER = struct.Struct(">iiIii")
_LENGTH = struct.Struct(">i").pack
_INT2 = struct.Struct(">ih").pack
_INT4 = struct.Struct(">ii").pack
_INT8 = struct.Struct(">iq").pack
_NULL = _LENGTH(-1)
_SIXTEEN = _LENGTH(16)


class Array:
    """An encoded array. Subclasses differ in their type only."""

    __slots__ = ("data",)
    oid: int
    element_oid: int

    def __init__(self, elements: list[bytes]) -> None:
        """Take elements that carry their lengths already."""
        count = len(elements)
        has_null = int(_NULL in elements)
        header = _HEADER.pack(1, has_null, self.element_oid, count, 1) if count else None
        self.data = (
            header + b"".join(elements) if header else struct.pack(">iiI", 0, 0, self.element_oid)
        )


class Int2s(Array):
    """``int2[]``."""

    __slots__ = ()
    oid, element_oid = 1005, 21

    def __init__(self, values: Iterable[int]) -> None:
        """Encode whole numbers."""
        super().__init__(list(map(_INT2, repeat(2), values)))


class Int4s(Array):
    """``int4[]``."""

    __slots__ = ()
    oid, element_oid = 1007, 23

    def __init__(self, values: Iterable[int]) -> None:
        """Encode whole numbers."""
        super().__init__(list(map(_INT4, repeat(4), values)))


class Int8s(Array):
    """``int8[]``."""

    __slots__ = ()
    oid, element_oid = 1016, 20

    def __init__(self, values: Iterable[int]) -> None:
        """Encode whole numbers."""
        super().__init__(list(map(_INT8, repeat(8), values)))


class Instants(Array):
    """``timestamptz[]``; None is NULL."""

    __slots__ = ()
    oid, element_oid = 1185, 1184

    def __init__(self, values: Iterable[Instant | None]) -> None:
        """Encode instants as microseconds since 2000."""
        epoch, tick = _POSTGRES_EPOCH, TICK
        super().__init__([_NULL if at is None else _INT8(8, (at - epoch) // tick) for at in values])


def instant_bytes(at: Instant) -> bytes:
    """Return one ``timestamptz``."""
    return ((at - _POSTGRES_EPOCH) // TICK).to_bytes(8, signed=True)


class Dates(Array):
    """``date[]``."""

    __slots__ = ()
    oid, element_oid = 1182, 1082

    def __init__(self, values: Iterable[date]) -> None:
        """Encode days as their distance from 2000-01-01."""
        zero = _POSTGRES_EPOCH.toordinal()
        super().__init__([_INT4(4, day.toordinal() - zero) for day in values])


class Uuids(Array):
    """``uuid[]``; None is NULL."""

    __slots__ = ()
    oid, element_oid = 2951, 2950

    def __init__(self, values: Iterable[UUID | None]) -> None:
        """Encode UUIDs."""
        super().__init__(
            [_NULL if value is None else _SIXTEEN + value.int.to_bytes(16) for value in values]
        )


class Texts(Array):
    """``text[]``; None is NULL. Cast it in SQL where the column is json, numeric or an enum."""

    __slots__ = ()
    oid, element_oid = 1009, 25

    def __init__(self, values: Iterable[str | bytes | None]) -> None:
        """Encode text; bytes are UTF-8 already."""
        super().__init__(
            [
                _element(value) if isinstance(value, str) else _element_of_bytes(value)
                for value in values
            ]
        )


@lru_cache(maxsize=16_384)
def _element(value: str) -> bytes:
    # The same names of types, models and integrations come over and over.
    return _element_of_bytes(value.encode())


def _element_of_bytes(value: bytes | None) -> bytes:
    return _NULL if value is None else _LENGTH(len(value)) + value


def text_of(values: Iterable[str]) -> str:
    """Return texts as PostgreSQL writes a ``text[]``: one element of a column of arrays."""
    quoted = (value.replace("\\", r"\\").replace('"', r"\"") for value in values)
    return "{" + ",".join(f'"{value}"' for value in quoted) + "}"


class Byteas(Array):
    """``bytea[]``."""

    __slots__ = ()
    oid, element_oid = 1001, 17

    def __init__(self, values: Iterable[bytes]) -> None:
        """Encode bytes."""
        super().__init__([_LENGTH(len(value)) + value for value in values])


class _ArrayDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Array) -> bytes:
        return obj.data


def register(context: AdaptContext) -> None:
    """Let a connection take these arrays as parameters."""
    for kind in (Int2s, Int4s, Int8s, Dates, Instants, Uuids, Texts, Byteas):
        dumper = type(f"{kind.__name__}Dumper", (_ArrayDumper,), {"oid": kind.oid})
        context.adapters.register_dumper(kind, dumper)
