"""Pages of other origins that may call: all that show a key, on every surface without a cookie."""

from collections.abc import Sequence

from litestar.config.cors import CORSConfig
from litestar.types import ASGIApp, Receive, Scope, Send

EXPOSED = (
    "ETag",
    "Idempotent-Replayed",
    "Keyledger-Output-Bound",
    "Ledger-Position",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "WWW-Authenticate",
    "X-Next-Cursor",
    "X-Request-Id",
    "X-Should-Retry",
    *(
        f"x-ratelimit-{what}-{of}"
        for what in ("limit", "remaining", "reset")
        for of in ("requests", "tokens")
    ),
    "x-venice-balance-diem",
    "x-venice-balance-usd",
)
"""Headers of replies that a page may read."""


def shared_with(origins: Sequence[str]) -> CORSConfig:
    """Return what lets pages of these origins call, with whatever headers their clients send."""
    return CORSConfig(
        allow_origins=list(origins), allow_headers=["*"], expose_headers=list(EXPOSED)
    )


class WithOrigin:
    """Asks Litestar's middleware only about requests of a page: it reads all headers anew."""

    def __init__(self, cors: ASGIApp, plain: ASGIApp) -> None:
        """Take the middleware, and what it stands around."""
        self._cors = cors
        self._plain = plain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        for name, _ in scope["headers"]:
            if name == b"origin":
                await self._cors(scope, receive, send)
                return
        await self._plain(scope, receive, send)
