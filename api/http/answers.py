"""Whole answers, encoded already."""

from collections.abc import Mapping
from typing import Any

import msgspec
from litestar.types import Send

from ledger.ids import Position

JSON = b"application/json"
encode = msgspec.json.Encoder().encode


class Answer:
    """A whole answer."""

    __slots__ = ("body", "content_type", "headers", "status")

    def __init__(
        self,
        body: bytes,
        *,
        status: int = 200,
        content_type: bytes = JSON,
        position: Position | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Take an encoded body."""
        self.body = body
        self.status = status
        self.content_type = content_type
        self.headers: list[tuple[bytes, bytes]] = []
        if position is not None:
            self.headers.append((b"ledger-position", b"%d:%d" % position))
        if headers:
            self.add(headers)

    def add(self, headers: Mapping[str, str]) -> None:
        """Add headers."""
        self.headers.extend(
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in headers.items()
        )

    async def send(self, send: Send, *, head: bool = False) -> None:
        """Send it."""
        headers = self.headers
        if self.status != 204:  # noqa: PLR2004 - RFC 9110 §8.6: no length where there is no content
            headers = [
                (b"content-type", self.content_type),
                (b"content-length", b"%d" % len(self.body)),
                *headers,
            ]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        body = b"" if head else self.body
        await send({"type": "http.response.body", "body": body, "more_body": False})


def answer(
    view: Any,  # noqa: ANN401 - whatever msgspec encodes
    *,
    status: int = 200,
    position: Position | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Encode a view as an answer."""
    return Answer(encode(view), status=status, position=position, headers=headers)
