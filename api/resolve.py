"""From a secret or a key id to its account: facts that never change, so they may be cached.

Whether a key is any good is never cached: that is decided in the lane (promise 6). What is
unknown is not cached either, for it may come to be.
"""

from collections import OrderedDict
from typing import Generic, NamedTuple, TypeVar
from uuid import UUID

from psycopg_pool import AsyncConnectionPool

from ledger import secrets
from ledger.errors import NoSuchKey
from ledger.ids import AccountId, KeyId, lane_of_key
from projections import reads

CACHE_MAX = 100_000

Name = TypeVar("Name")
Fact = TypeVar("Fact")


class Proof(NamedTuple):
    """What a secret proves, provided that the lane agrees."""

    account_id: AccountId
    key_id: KeyId
    secret: int


class Lru(Generic[Name, Fact]):
    """A bounded memory of immutable facts: the least recently used goes first."""

    def __init__(self, most: int) -> None:
        """Remember at most so many."""
        self._facts: OrderedDict[Name, Fact] = OrderedDict()
        self._most = most

    def __len__(self) -> int:
        """Count what is remembered."""
        return len(self._facts)

    def get(self, name: Name) -> Fact | None:
        """Give a fact; None: it is not remembered."""
        fact = self._facts.get(name)
        if fact is not None:
            self._facts.move_to_end(name)
        return fact

    def put(self, name: Name, fact: Fact) -> None:
        """Remember a fact."""
        self._facts[name] = fact
        if len(self._facts) > self._most:
            self._facts.popitem(last=False)


class Resolver:
    """Finds whose a secret or a key id is."""

    def __init__(
        self, pool: AsyncConnectionPool, peppers: secrets.Peppers, lanes: int, most: int = CACHE_MAX
    ) -> None:
        """Take where to look up."""
        self._pool = pool
        self._peppers = peppers
        self._lanes = lanes
        self._proofs: Lru[bytes, Proof] = Lru(most)
        self._accounts: Lru[UUID, AccountId] = Lru(most)

    async def secret(self, text: str) -> Proof:
        """Find what a secret proves. A mistyped one costs no look-up.

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
        async with self._pool.connection() as connection:
            rows = await connection.execute(reads.FIND_SECRET, (hashes,))
            row = await rows.fetchone()
        if row is None:
            raise NoSuchKey
        proof = Proof(AccountId(row[1]), KeyId(row[2]), row[3])
        self._proofs.put(bytes(row[0]), proof)
        return proof

    async def account_of(self, key_id: KeyId) -> AccountId:
        """Find the account of a key.

        Raises:
            NoSuchKey: It was never issued.
        """
        account = self._accounts.get(key_id)
        if account is not None:
            return account
        lane = lane_of_key(key_id)
        if lane >= self._lanes:
            raise NoSuchKey
        async with self._pool.connection() as connection:
            rows = await connection.execute(reads.FIND_KEY, (lane, key_id))
            row = await rows.fetchone()
        if row is None:
            raise NoSuchKey
        self.remember(key_id, AccountId(row[0]))
        return AccountId(row[0])

    def remember(self, key_id: KeyId, account_id: AccountId) -> None:
        """Take in whose a key is that was just issued."""
        self._accounts.put(key_id, account_id)
