"""Limits as headers of a reply: OpenAI's own, and the IETF's ``RateLimit`` (draft 11).

OpenAI's resets are durations in Go's notation. The IETF has no registered unit for tokens, so its
fields cover requests only. ``Retry-After`` goes on refusals where waiting helps, not here.
"""

from datetime import timedelta
from functools import lru_cache

from ledger.clock import Instant
from ledger.errors import LimitIsReached
from ledger.standing import Measured, Standing

SECOND = timedelta(seconds=1)
MILLISECOND = timedelta(milliseconds=1)
_NAMES = tuple(
    (kind, *(f"x-ratelimit-{what}-{kind}" for what in ("limit", "remaining", "reset")))
    for kind in ("requests", "tokens")
)


def openai(standing: Standing) -> dict[str, str]:
    """Return ``x-ratelimit-*`` for the tightest limit on requests, and for the one on tokens."""
    found = {}
    for kind, most, left, reset in _NAMES:
        limit = standing.tightest(kind)
        if limit is not None:
            found[most] = str(limit.ceiling)
            found[left] = str(limit.remaining)
            if limit.resets_at is not None:
                found[reset] = duration(limit.resets_at - standing.at)
    return found


def duration(span: timedelta) -> str:
    """Write a span as Go does, rounded up to a millisecond: ``12ms``, ``1.5s``, ``6m0s``."""
    milliseconds = max(-(-span // MILLISECOND), 0)
    if milliseconds < 1_000:  # noqa: PLR2004
        return f"{milliseconds}ms" if milliseconds else "0s"
    whole, rest = divmod(milliseconds, 1_000)
    minutes, seconds = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{seconds}.{rest:03}".rstrip("0") if rest else str(seconds)
    if hours:
        return f"{hours}h{minutes}m{text}s"
    return f"{minutes}m{text}s" if minutes else f"{text}s"


def ietf(standing: Standing) -> dict[str, str]:
    """Return ``RateLimit-Policy`` and ``RateLimit`` for every limit on requests."""
    limits = [limit for limit in standing.limits if limit.kind == "requests"]
    if not limits:
        return {}
    return {
        "RateLimit-Policy": ", ".join(map(_policy, limits)),
        "RateLimit": ", ".join(_left(limit, standing.at) for limit in limits),
    }


def _policy(limit: Measured) -> str:
    return _policy_of(limit.scope, limit.limit_id, limit.ceiling, limit.window_seconds)


@lru_cache(maxsize=4_096)
def _policy_of(scope: str, limit_id: str, ceiling: int, window_seconds: int | None) -> str:
    window = "" if window_seconds is None else f";w={window_seconds}"
    return f"{_name(scope, limit_id)};q={ceiling}{window}"


def _left(limit: Measured, at: Instant) -> str:
    reset = "" if limit.resets_at is None else f";t={seconds_until(limit.resets_at, at)}"
    return f"{_name(limit.scope, limit.limit_id)};r={limit.remaining}{reset}"


def seconds_until(later: Instant, at: Instant) -> int:
    """Return whole seconds, rounded up, so that waiting that long is enough."""
    return max(-(-(later - at) // SECOND), 0)


@lru_cache(maxsize=4_096)
def _name(scope: str, limit_id: str) -> str:
    """Write a limit's name as a String of RFC 9651: printable ASCII, quotes escaped."""
    text = f"{scope}:{limit_id}".encode("ascii", "replace").decode()
    shown = "".join(sign if " " <= sign <= "~" else "?" for sign in text)
    return '"' + shown.replace("\\", "\\\\").replace('"', '\\"') + '"'


def refused(limit: LimitIsReached) -> dict[str, str]:
    """Return the header of a refusal by a limit on requests: what is left, and when it resets."""
    if limit.kind != "requests":
        return {}
    left = max(limit.left, 0)
    resets_at, at = limit.resets_at, limit.decided_at
    reset = f";t={seconds_until(resets_at, at)}" if resets_at and at else ""
    return {"RateLimit": f"{_name(limit.scope, limit.limit_id)};r={left}{reset}"}


def limits(standing: Standing) -> dict[str, str]:
    """Return both kinds."""
    return openai(standing) | ietf(standing)
