"""How often something free may be tried: signing up, a wrong password.

The count is a row per subject in the database, so that it holds over processes and restarts; an
in-process count would not, and there is no account yet whose limit it could be. Subjects are kept
as HMACs, so that no network address or e-mail address can be read from them.
"""

import hmac
from collections.abc import Sequence
from datetime import timedelta
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any, NamedTuple

from psycopg import AsyncConnection, Rollback
from psycopg_pool import AsyncConnectionPool
from sqlalchemy import (
    ARRAY,
    Column,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    bindparam,
    delete,
    func,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import array, insert

from api.http.failure import Failure, Kind, wait_seconds
from ledger.clock import Instant
from ledger.server.tables import INSTANT, compiled, metadata

ATTEMPTS = Table(
    "attempts",
    metadata,
    Column(
        "subject_hash",
        LargeBinary,
        nullable=False,
        comment="HMAC of what is tried and by whom, never itself",
    ),
    Column("recent", ARRAY(INSTANT), nullable=False, comment="Attempts that still count"),
    PrimaryKeyConstraint("subject_hash", name="subject_has_one_row_of_attempts"),
    postgresql_with={"fillfactor": 50},
)
_subject, _at = bindparam("subject", type_=LargeBinary), bindparam("at", type_=INSTANT)
_each = func.unnest(ATTEMPTS.c.recent).column_valued("each")
_counts = _each > bindparam("since", type_=INSTANT)
_adding = insert(ATTEMPTS).values(subject_hash=_subject, recent=array([_at]))
# One statement under the row's own lock: exact, however many processes ask at once.
ADMIT = compiled(
    _adding.on_conflict_do_update(
        constraint=ATTEMPTS.primary_key,
        set_={
            "recent": func.array(
                select(_each).where(_counts).scalar_subquery(), type_=ARRAY(INSTANT)
            )
            + _adding.excluded.recent
        },
        where=select(func.count(_each)).where(_counts).scalar_subquery() < bindparam("most"),
    ).returning(true())
)
RECENT = compiled(
    select(_each)
    .select_from(ATTEMPTS)
    .where(ATTEMPTS.c.subject_hash == _subject, _counts)
    .order_by(_each)
)
_newest = select(func.max(_each)).scalar_subquery()
FORGET = compiled(delete(ATTEMPTS).where(_newest <= bindparam("before", type_=INSTANT)))

PREFIX_OF_A_SITE = 64
"""Leading bits of an IPv6 address that identify one client, who owns all the rest."""
KEPT = timedelta(hours=1)
"""The longest window: older attempts count nowhere."""


class AttemptLimit(NamedTuple):
    """How often a subject may try."""

    subject: str
    """What is tried and by whom: ``signup/192.0.2.7``."""
    most: int
    window: timedelta
    """At most ``KEPT``."""


class Attempts:
    """Counts attempts over all processes."""

    def __init__(self, pool: AsyncConnectionPool, *, secret: str) -> None:
        """Take where counts are kept, and what subjects are hashed with."""
        self._pool = pool
        self._secret = secret.encode()

    async def count(self, bounds: Sequence[AttemptLimit], at: Instant, *, refusal: str) -> None:
        """Count an attempt against every bound, or refuse it and count none.

        Raises:
            Failure: 429: one of the bounds is used up.
        """
        # Sorted, so that two attempts cannot lock the same rows in opposite order.
        parameters = sorted(
            (self._parameters(bound, at) for bound in bounds), key=lambda each: each["subject"]
        )
        async with self._pool.connection() as connection:
            async with connection.transaction():
                for each in parameters:
                    if await (await connection.execute(ADMIT, each)).fetchone() is None:
                        raise Rollback
                return
            free_at = await self._free_at(connection, bounds, at)
        raise _refused(refusal, free_at or at, at)

    async def require_room(
        self, bounds: Sequence[AttemptLimit], at: Instant, *, refusal: str
    ) -> None:
        """Refuse what ``count`` would refuse, without counting anything.

        Raises:
            Failure: 429: one of the bounds is used up.
        """
        async with self._pool.connection() as connection:
            free_at = await self._free_at(connection, bounds, at)
        if free_at is not None:
            raise _refused(refusal, free_at, at)

    async def _free_at(
        self, connection: AsyncConnection, bounds: Sequence[AttemptLimit], at: Instant
    ) -> Instant | None:
        """Return when every bound has room for one more; None: now."""
        found = []
        for bound in bounds:
            parameters = self._parameters(bound, at)
            rows = await (await connection.execute(RECENT, parameters)).fetchall()
            if len(rows) >= bound.most:
                # So many attempts have to pass out of the window to make room for one.
                found.append(rows[-bound.most][0] + bound.window)
        return max(found, default=None)

    def _parameters(self, bound: AttemptLimit, at: Instant) -> dict[str, Any]:
        hashed = hmac.digest(self._secret, bound.subject.encode(), "sha256")
        return {"subject": hashed, "at": at, "since": at - bound.window, "most": bound.most}

    async def forget(self, at: Instant) -> int:
        """Delete what no longer counts; return how many rows."""
        async with self._pool.connection() as connection:
            done = await connection.execute(FORGET, {"before": at - KEPT})
        return done.rowcount


def _refused(refusal: str, free_at: Instant, at: Instant) -> Failure:
    headers = {"Retry-After": str(wait_seconds(free_at, at))}
    return Failure(Kind.RATE_IS_LIMITED, refusal, code="too_many_attempts", headers=headers)


def site_of(client: str) -> str:
    """Return what counts as one client: an IPv4 address, or the network of an IPv6 one."""
    try:
        found = ip_address(client)
    except ValueError:
        return client
    if not isinstance(found, IPv6Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ip_network((found, PREFIX_OF_A_SITE), strict=False))
