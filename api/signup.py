"""People open their own accounts: how often an address may, and the account with its owner's login.

The count is a row per address in the database, so that it holds over processes and restarts; an
in-process one would not, and a limit of an account's has nobody to belong to yet. Attempts count,
not successes, so that nobody finds out by trying whose addresses are known here.
"""

import hashlib
import hmac
from datetime import timedelta
from ipaddress import IPv6Address, ip_address, ip_network
from typing import NamedTuple

from psycopg_pool import AsyncConnectionPool

from api.auth import Logins, address
from api.opening import own_terms
from api.operations import Asked, Ledger, new_person
from api.problems import wait_seconds
from api.surface.failure import Failure, Kind
from ledger.clock import Instant
from ledger.ids import AccountId, new_account_id
from ledger.keys import require_no_secret
from projections import signups

WINDOW = timedelta(hours=1)
PREFIX_OF_A_SITE = 64
"""Bits of an IPv6 address that stand for one client, which has all the others to itself."""


class Opened(NamedTuple):
    """An account that somebody opened."""

    account_id: AccountId
    member_id: str
    email: str
    name: str


class Signups:
    """Lets people in."""

    def __init__(
        self,
        pool: AsyncConnectionPool,
        ledger: Ledger,
        logins: Logins,
        *,
        secret: str,
        per_hour: int,
    ) -> None:
        """Take how many accounts an address may open in any hour; 0: nobody may."""
        self._pool = pool
        self._ledger = ledger
        self._logins = logins
        self._secret = secret.encode()
        self._per_hour = per_hour

    async def open(
        self, *, email: str, password: str, name: str, client: str, at: Instant
    ) -> Opened:
        """Open an account with the welcome grant and its owner's login, in one command.

        Raises:
            Failure: Sign-up is switched off, or this client's address had its share.
            Problem: Address or password are none.
            InvalidField: The name holds a key's secret.
            LoginIsTaken: Somebody logs in with this address.
        """
        if not self._per_hour:
            raise Failure(Kind.ACCESS_IS_DENIED, "Sign-up is switched off.")
        kept = address(email)
        self._logins.check_password(password)
        require_no_secret("name", name)
        await self.admit(client, at)
        await self._logins.require_unknown(kept)
        person = new_person(kept, name, await self._logins.hash(password))
        account_id, by = new_account_id(), f"member:{person.member_id}"
        await self._ledger.open_account(
            Asked(by), own_terms(by), name=name, account_id=account_id, owner=person
        )
        return Opened(account_id, person.member_id, kept, name)

    async def admit(self, client: str, at: Instant) -> None:
        """Count an attempt of a client's address.

        Raises:
            Failure: It made as many in the last hour as it may.
        """
        terms = {
            "address": self._hash(client),
            "at": at,
            "since": at - WINDOW,
            "most": self._per_hour,
        }
        async with self._pool.connection() as connection:
            admitted = await (await connection.execute(signups.ADMIT, terms)).fetchone()
            if admitted is not None:
                return
            rows = await (await connection.execute(signups.RECENT, terms)).fetchall()
        # As many have to be over as leave room for one.
        last = rows[-self._per_hour][0] if len(rows) >= self._per_hour else at
        headers = {"Retry-After": str(wait_seconds(last + WINDOW, at))}
        detail = "Too many sign-ups from this address. Try again later."
        raise Failure(Kind.RATE_IS_LIMITED, detail, headers=headers)

    def _hash(self, client: str) -> bytes:
        material = b"signup/" + site_of(client).encode()
        return hmac.new(self._secret, material, hashlib.sha256).digest()

    async def forget(self, at: Instant) -> int:
        """Delete what counts no more; give how many rows."""
        async with self._pool.connection() as connection:
            done = await connection.execute(signups.FORGET, (at - WINDOW,))
        return done.rowcount


def site_of(client: str) -> str:
    """Give what counts as one client: an IPv4 address, or the network of an IPv6 one."""
    try:
        found = ip_address(client)
    except ValueError:
        return client
    if not isinstance(found, IPv6Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ip_network((found, PREFIX_OF_A_SITE), strict=False))
