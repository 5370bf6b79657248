"""From a secret or a key id to its account: facts that never change, so they may be cached.

Whether a key may act is never cached: that is decided in the lane (promise 6). What is
unknown is not cached either, because it may come to exist.
"""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from typing import Generic, NamedTuple, TypeVar
from uuid import UUID

import psycopg
from psycopg_pool import AsyncConnectionPool
from sqlalchemy import ARRAY, LargeBinary, any_, bindparam, func, select

from ledger import secrets
from ledger.errors import LedgerUnavailable, NoSuchKey
from ledger.ids import (
    AccountId,
    InvalidId,
    KeyId,
    format_id,
    lane_of_account,
    lane_of_key,
    parse_id,
)
from ledger.record.bound_rows import KEY_SECRETS
from ledger.server.tables import compiled
from projections.inline.keys import FIND_SESSION, OWNERS

CACHE_MAX = 100_000

_secret = KEY_SECRETS.c
_hashes = bindparam("hashes", type_=ARRAY(LargeBinary))
FIND_SECRETS = compiled(
    select(_secret.secret_hash, _secret.account_id, _secret.key_id, _secret.number).where(
        _secret.secret_hash == any_(_hashes)
    )
)
COUNT_SECRETS = compiled(
    select(func.count())
    .select_from(KEY_SECRETS)
    .where(_secret.pepper_version == bindparam("version"))
)
"""How many secrets are hashed under a pepper."""

Name = TypeVar("Name")
Fact = TypeVar("Fact")


class Proof(NamedTuple):
    """What a secret proves, subject to the lane's decision."""

    account_id: AccountId
    key_id: KeyId
    secret: int
    """Its number."""


class Owned(NamedTuple):
    """A key and its account, which never changes."""

    key_id: KeyId
    account_id: AccountId
    lane: int

    @property
    def secret(self) -> None:
        """Return None: no secret proved it, but whoever named the key vouches for it."""


class Lru(Generic[Name, Fact]):
    """A bounded cache of immutable facts: the least recently used goes first."""

    def __init__(self, most: int) -> None:
        """Take how many facts to remember at most."""
        self._facts: OrderedDict[Name, Fact] = OrderedDict()
        self._most = most

    def __len__(self) -> int:
        """Count the remembered facts."""
        return len(self._facts)

    def __contains__(self, name: object) -> bool:
        """Return whether a fact is remembered, without counting as a use."""
        return name in self._facts

    def get(self, name: Name) -> Fact | None:
        """Return a fact; None: it is not remembered."""
        fact = self._facts.get(name)
        if fact is not None:
            self._facts.move_to_end(name)
        return fact

    def put(self, name: Name, fact: Fact) -> None:
        """Remember a fact."""
        self._facts[name] = fact
        if len(self._facts) > self._most:
            self._facts.popitem(last=False)


class BatchedLookup(Generic[Name, Fact]):
    """Look-ups that arrive while one is under way form the next, as commands form a batch.

    A thousand callers take one connection, and none waits for the pool.
    """

    def __init__(self, ask: Callable[[list[Name]], Awaitable[dict[Name, Fact]]]) -> None:
        """Take how to look up many at once."""
        self._ask = ask
        self._waiting: dict[Name, asyncio.Future[Fact | None]] = {}
        self._task: asyncio.Task[None] | None = None

    async def find(self, name: Name) -> Fact | None:
        """Look one up; None: it does not exist."""
        future = self._waiting.get(name)
        if future is None:
            future = self._waiting[name] = asyncio.get_running_loop().create_future()
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        # A caller that gives up must not take the answer from the others.
        return await asyncio.shield(future)

    async def _run(self) -> None:
        try:
            while self._waiting:
                asked, self._waiting = self._waiting, {}
                await self._answer(asked)
        finally:
            self._task = None

    async def _answer(self, asked: "dict[Name, asyncio.Future[Fact | None]]") -> None:
        try:
            found = await self._ask(list(asked))
        except Exception as error:  # last-resort: every caller is told
            for future in asked.values():
                future.set_exception(error)
                # Retrieved here, because a caller may have gone away meanwhile.
                future.exception()
            return
        for name, future in asked.items():
            future.set_result(found.get(name))


class Resolver:
    """Finds the account and key of a secret or a key id."""

    def __init__(
        self, pool: AsyncConnectionPool, peppers: secrets.Peppers, lanes: int, most: int = CACHE_MAX
    ) -> None:
        """Take where to look up."""
        self._pool = pool
        self._peppers = peppers
        self._lanes = lanes
        self._proofs: Lru[bytes, Proof] = Lru(most)
        self._keys: Lru[str, Owned] = Lru(most)
        """By the id as callers write it, so that it need not be parsed again."""
        self.rehashes: Callable[[Proof, str, bytes], Awaitable[object]]
        """Renews the stored hash of a secret. Set by the operations on keys, which append."""
        self._find_proof = BatchedLookup(self._ask_proofs)
        self._find_account = BatchedLookup(self._ask_accounts)

    async def secret(self, text: str) -> Proof:
        """Find what a secret proves. A mistyped one takes no look-up.

        Raises:
            NoSuchKey: It proves nothing.
        """
        if len(text) > secrets.SECRET_MAX or secrets.recognise(text) is None:
            raise NoSuchKey
        hashes = self._peppers.candidates(text)
        for hashed in hashes:
            proof = self._proofs.get(hashed)
            if proof is not None:
                return proof
        for hashed in hashes:
            proof = await self._find_proof.find(hashed)
            if proof is not None:
                if hashed != hashes[0]:
                    await self._rehash(proof, text, hashed)
                self._proofs.put(hashes[0], proof)
                return proof
        raise NoSuchKey

    async def _rehash(self, proof: Proof, text: str, old: bytes) -> None:
        """Hash a secret under the newest pepper, so that the older one can be retired."""
        # The proof is valid all the same; another worker's next use tries again.
        with contextlib.suppress(psycopg.Error, LedgerUnavailable):
            await self.rehashes(proof, text, old)

    async def _ask_proofs(self, hashes: list[bytes]) -> dict[bytes, Proof]:
        async with self._pool.connection() as connection:
            rows = await connection.execute(FIND_SECRETS, {"hashes": hashes})
            return {
                bytes(row[0]): Proof(AccountId(row[1]), KeyId(row[2]), row[3])
                for row in await rows.fetchall()
            }

    def known_key(self, text: str) -> Owned | None:
        """Find a key's account in memory; None: it has to be looked up."""
        return self._keys.get(text)

    async def key(self, text: str) -> Owned:
        """Find the account of a key by its id, as callers write it.

        Raises:
            NoSuchKey: It is not a key's id, or was never issued.
        """
        known = self._keys.get(text)
        if known is not None:
            return known
        try:
            key_id = KeyId(parse_id("key", text))
        except InvalidId as error:
            raise NoSuchKey from error
        if lane_of_key(key_id) >= self._lanes:
            raise NoSuchKey
        account_id = await self._find_account.find(key_id)
        if account_id is None:
            raise NoSuchKey
        return self._remember(text, key_id, account_id)

    async def learn(self, texts: Iterable[str]) -> None:
        """Look up many keys at once; failures are left for ``key`` to report."""
        unknown = {text for text in texts if text not in self._keys}
        if unknown:
            await asyncio.gather(*map(self.key, unknown), return_exceptions=True)

    async def account_of(self, key_id: KeyId) -> AccountId:
        """Find the account of a key.

        Raises:
            NoSuchKey: It was never issued.
        """
        return (await self.key(format_id("key", key_id))).account_id

    async def _ask_accounts(self, keys: list[UUID]) -> dict[UUID, AccountId]:
        lanes: dict[int, list[UUID]] = {}
        for key_id in keys:
            lanes.setdefault(lane_of_key(key_id), []).append(key_id)
        found: dict[UUID, AccountId] = {}
        async with self._pool.connection() as connection:
            for lane, asked in lanes.items():
                rows = await connection.execute(OWNERS, {"lane": lane, "keys": asked})
                found.update((row[0], AccountId(row[1])) for row in await rows.fetchall())
        return found

    async def session_key(self, account_id: AccountId, dialect: str) -> KeyId:
        """Find the key that stands for login sessions of an account in a dialect.

        Raises:
            NoSuchKey: None was issued yet.
        """
        lane = lane_of_account(account_id, self._lanes)
        parameters = {"lane": lane, "account": account_id, "dialect": dialect}
        async with self._pool.connection() as connection:
            row = await (await connection.execute(FIND_SESSION, parameters)).fetchone()
        if row is None:
            raise NoSuchKey
        return KeyId(row[0])

    def remember(self, key_id: KeyId, account_id: AccountId) -> None:
        """Remember the account of a key that was just issued."""
        self._remember(format_id("key", key_id), key_id, account_id)

    def _remember(self, text: str, key_id: KeyId, account_id: AccountId) -> Owned:
        owned = Owned(key_id, account_id, lane_of_account(account_id, self._lanes))
        self._keys.put(text, owned)
        return owned
