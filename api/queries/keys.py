"""Keys: one, an account's, and whether a secret opens one."""

from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from api.queries.reader import PAGE_MAX, Found, Part, Reader, each, head_of
from ledger import secrets
from ledger.clock import Instant
from ledger.errors import NoSuchKey, Refused
from ledger.events import Utc
from ledger.ids import AccountId, KeyId, Position, lane_of_key
from ledger.keys import require_allowed
from ledger.state import Account, Key
from projections.inline import keys


class Verdict(NamedTuple):
    """The key that a secret belongs to, and the refusal that a request by it would get."""

    key_id: KeyId
    account_id: AccountId
    name: str
    dialect: str
    scopes: Sequence[str]
    expires_at: Instant | None
    refusal: Refused | None
    """None: the key may act."""


class KeyQueries:
    """Reads of keys."""

    def __init__(self, reader: Reader, peppers: secrets.Peppers) -> None:
        """Take the reader, and how secrets are hashed."""
        self._reader = reader
        self._peppers = peppers

    async def one(self, key_id: KeyId, *, only_of: str = "") -> Found[Key]:
        """Find a key as decisions see it. ``only_of``: a member who sees only their own.

        Raises:
            NoSuchKey: There is none, or it is another member's.
        """
        number = lane_of_key(key_id)
        if number >= self._reader.lanes:
            raise NoSuchKey
        async with self._reader.at(number) as lane:
            key = (await lane.state(keys=[key_id])).keys.get(key_id)
            position = lane.position
        if key is None or (only_of and key.settings.get("member") != only_of):
            raise NoSuchKey
        return Found(key, position)

    async def page(
        self, account_id: AccountId, *, after: UUID | None, most: int, only_of: str = ""
    ) -> Found[Part[Key]]:
        """List an account's keys, newest first.

        Raises:
            NoSuchAccount: There is no such account.
        """
        async with self._reader.of(account_id) as lane:
            await head_of(lane, account_id)
            parameters = {
                "lane": lane.lane,
                "account": account_id,
                "after": after,
                "most": most + 1,
                "member": only_of or None,
            }
            ids = [row[0] for row in await lane.rows(keys.PAGE, parameters)]
            state = await lane.state(keys=ids[:most])
            position = lane.position
        return Found(Part([state.keys[found] for found in ids[:most]], len(ids) > most), position)

    def each(self, account_id: AccountId, *, only_of: str = "") -> AsyncIterator[Key]:
        """Yield all of an account's keys, newest first."""

        async def page(after: KeyId | None) -> Part[Key]:
            found = await self.page(account_id, after=after, most=PAGE_MAX, only_of=only_of)
            return found.facts

        return each(page, lambda key: key.key_id)

    async def verify(
        self, secret: str, *, scope: str = "", model: str = ""
    ) -> Found[Verdict] | None:
        """Return whether a secret opens a key now: one statement, no cache. None: no key's."""
        if len(secret) > secrets.SECRET_MAX or secrets.recognise(secret) is None:
            return None
        async with self._reader.pool.connection() as connection:
            hashes = self._peppers.candidates(secret)
            rows = await connection.execute(keys.VERIFY, {"hashes": hashes}, binary=True)
            row = await rows.fetchone()
        if row is None:
            return None
        verdict = _verdict(row, self._reader.clock.now(), scope, model)
        return Found(verdict, Position(row[3], row[4]))


_ends = msgspec.json.Decoder(dict[int, Utc | None])


def _verdict(row: Sequence[Any], at: Instant, scope: str, model: str) -> Verdict:
    """Turn a row of ``keys.VERIFY`` into what the ledger would say about a request."""
    key_id, account_id, number, _, _, name, dialect, status, expires_at, scopes, ends, *rest = row
    account_status, models = rest
    account = Account(account_id=account_id, opened_at=at, status=account_status)
    key = Key(
        key_id=key_id,
        account_id=account_id,
        name=name,
        dialect=dialect,
        created_at=at,
        updated_at=at,
        status=status,
        scopes=tuple(scopes),
        allowed_models=None if models is None else tuple(models),
        expires_at=expires_at,
        secrets=_ends.decode(ends),
    )
    refusal = None
    try:
        require_allowed(key, account, at, secret=number, scope=scope, model=model)
    except Refused as error:
        refusal = error
    return Verdict(key_id, account_id, name, dialect, scopes, expires_at, refusal)
