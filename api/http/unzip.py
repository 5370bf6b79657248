"""Decodes bodies that come compressed: a client's within its bound, an upstream's as it streams."""

import zlib
from collections.abc import Iterator

ZIPPED = frozenset({b"gzip", b"x-gzip", b"deflate"})
"""Content codings that are read (RFC 9110, 8.4.1)."""
PIECE_BYTES = 64 * 1024
_EITHER_HEAD = zlib.MAX_WBITS | 32
"""zlib finds out which of the two heads there is."""


class NotZipped(ValueError):
    """The bytes are not encoded so, or are cut."""


class Unzip:
    """Decodes gzip and zlib piece by piece, however much a few bytes come to."""

    def __init__(self) -> None:
        """Begin."""
        self._inner = zlib.decompressobj(_EITHER_HEAD)

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Take a chunk and yield what it says, in pieces of ``PIECE_BYTES`` at most.

        Raises:
            NotZipped: It is not encoded so.
        """
        while chunk:
            if self._inner.eof:
                # One may follow another: together they are one body (RFC 1952, 2.2).
                self._inner = zlib.decompressobj(_EITHER_HEAD)
            try:
                piece = self._inner.decompress(chunk, PIECE_BYTES)
                while piece:
                    yield piece
                    rest = self._inner.unconsumed_tail
                    piece = self._inner.decompress(rest, PIECE_BYTES)
            except zlib.error as error:
                raise NotZipped("encoded wrongly") from error
            chunk = self._inner.unused_data if self._inner.eof else b""

    def end(self) -> None:
        """Take note that nothing follows.

        Raises:
            NotZipped: Something was to follow.
        """
        if not self._inner.eof:
            raise NotZipped("encoded, and cut")
