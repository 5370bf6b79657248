"""A ledger in a real database with something of everything in it, for tests of what follows."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import timedelta
from itertools import count
from typing import Any

import psycopg

from ledger import accounts, keys
from ledger import events as e
from ledger.clock import Instant
from ledger.codec import Recorded
from ledger.ids import OPERATOR_ACCOUNT, AccountId, KeyId, lane_of_account
from ledger.ratecards import RateCards
from ledger.record.batch import Command, Outcome
from ledger.record.lanes import Writer
from ledger.server import database
from ledger.usage import Usage
from projections.registry import INLINE
from tests.properties import core

LANES = 2
NAMES = ("ada", "bob", "gus", "hal")
"""Of accounts: two in each lane."""
SMALL = Usage(input=1_000_000)
"""Costs 0.15 of the card's asset."""


def publish(*models: str, version: int = 1) -> Command:
    """Publish a version of the rate card, with the row that prices are read from."""
    card = core.a_card(dict.fromkeys(("mini", *models), core.PRICES), version=version)
    return core.publish(card)


class Ledger:
    """Writes to a database as a worker does."""

    def __init__(self, url: str) -> None:
        """Take a migrated database."""
        self.url = url
        self._numbers = count(1)

    def start_ids_at(self, number: int) -> None:
        """Begin the ids of requests with this one, in a database that has those before it."""
        self._numbers = count(number)

    def now(self) -> Instant:
        """Read the ledger's clock."""
        ((at,),) = self.rows("SELECT ledger_clock()")
        return at

    def connect(self, role: str = database.READER) -> psycopg.Connection[Any]:
        """Connect as a role, each statement its own transaction."""
        return psycopg.connect(database.conninfo(self.url, role), autocommit=True)

    def superuser(self) -> psycopg.Connection[Any]:
        """Connect as who may do everything."""
        return psycopg.connect(self.url, autocommit=True, options="-c search_path=keyledger")

    def run(self, main: Callable[[Writer], Coroutine[Any, Any, Any]]) -> Any:
        """Run a coroutine with a writer."""

        async def with_writer() -> Any:
            async def connect() -> psycopg.AsyncConnection[Any]:
                info = database.lane_conninfo(self.url)
                return await psycopg.AsyncConnection.connect(info, autocommit=True)

            writer = Writer(LANES, connect, INLINE, RateCards())
            writer.start()
            try:
                return await main(writer)
            finally:
                await writer.stop()

        return asyncio.run(with_writer())

    def submit(self, *commands: Command) -> list[Outcome | Exception]:
        """Submit commands in one go; return their outcomes."""
        return self.run(lambda writer: writer.submit(commands))

    def do(self, *commands: Command) -> list[Recorded]:
        """Submit commands one after another that must not be refused; return their events."""

        async def each(writer: Writer) -> list[Recorded]:
            outcomes = [await writer.submit_one(command) for command in commands]
            return [event for outcome in outcomes for event in outcome.events]

        return self.run(each)

    def account(self, name: str) -> AccountId:
        """Return the account id of a name."""
        return core.account_id(name)

    def key(self, account: AccountId, name: str) -> KeyId:
        """Return the key id of a name, in the account's lane."""
        return core.key_id(name, lane_of_account(account, LANES))

    def request_id(self) -> str:
        """Return a request id that was not used before."""
        return f"r{next(self._numbers)}"

    def record(self, account: AccountId, key: KeyId, **terms: Any) -> Command:
        """Record a request of a new id."""
        return core.record(account, key, self.request_id(), SMALL, **terms)

    def heads(self) -> dict[int, int]:
        """Return each lane's head."""
        with self.connect() as connection:
            return dict(connection.execute("SELECT lane, seq FROM lane_heads").fetchall())

    def rows(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Read as a person would."""
        with self.connect() as connection:
            return connection.execute(query, parameters).fetchall()

    def start(self) -> tuple[AccountId, KeyId]:
        """Begin with a price, an account of 100 USD and a key of it."""
        account = self.account("acme")
        key = self.key(account, "bot")
        self.do(
            core.open_account(OPERATOR_ACCOUNT, overdraft={"USD": "unlimited"}),
            publish(),
            core.open_account(account),
            core.grant(account, "100"),
            core.issue(account, key),
        )
        return account, key

    def tell_everything(self) -> None:
        """Let every kind of thing happen, in both lanes."""
        self.start()
        unpriced = [self._tell(name) for name in NAMES]
        self.do(publish("unknown", version=2))
        for event in unpriced:
            self.do(core.rate(event.envelope.account_id, event.envelope.key_id, event))
        self.owe()
        # Reservations, keys and grants of the stories run out before this.
        database.set_clock_offset(self.url, timedelta(hours=1))
        for name in NAMES:
            account = self.account(name)
            self.do(core.set_account_limits(account, *_limits("1000")))

    def owe(self) -> AccountId:
        """Let credit that comes free, now and within the hour, repay what was overdrawn."""
        account = self.account("debtor")
        key = self.key(account, "debtor")
        ids = [self.request_id() for _ in range(3)]
        self.do(
            core.open_account(account, overdraft={"USD": "unlimited"}),
            core.grant(account, "0.15", "CAD"),
            core.grant(account, "0.15"),
            core.issue(account, key),
            *(core.reserve(account, key, each, SMALL) for each in ids),
            *(self.record(account, key) for _ in range(9)),
            core.settle(account, key, ids[0], Usage(input=1)),
            core.release(account, key, ids[1]),
            core.set_paying(account, "CAD", "USD"),
            core.grant(account, "0.15", effective_at=self.now() + timedelta(seconds=60)),
        )
        return account

    def _tell(self, name: str) -> Recorded:
        account = self.account(name)
        bot, cli = self.key(account, f"{name}-bot"), self.key(account, f"{name}-cli")
        soon = self.now() + timedelta(seconds=60)
        self.do(
            core.open_account(
                account,
                pays_with=("CAD", "USD"),
                # Not in order of the alphabet, so that it shows whether somebody sorts.
                overdraft={"USD": "1", "CAD": "0.5"},
                unpriced="record",
                limits=_limits("1000"),
            ),
            core.grant(account, "0.1", "CAD"),
            core.grant(account, "20", expires_at=soon, kind="promotional", priority=5),
            core.grant(account, "50"),
            core.grant(account, "3"),
            core.issue(
                account, bot, name="bot", settings={"z": "1", "a": "2"}, limits=_limits("6")
            ),
            core.issue(account, cli, name="cli", expires_at=soon),
            core.change(
                account, lambda f, _: accounts.add_member(f.account, "m2", "owner", by="o")
            ),
            core.change(
                account, lambda f, _: accounts.add_member(f.account, "m1", "member", by="o")
            ),
            core.change(
                account, lambda f, _: accounts.change_role(f.account, "m1", "auditor", by="o")
            ),
        )
        # In one batch: a lot of another asset is emptied by the request it pays in part.
        self.submit(*(self.record(account, bot) for _ in range(9)))
        events = self.do(self.record(account, cli, model="unknown"), core.void(account, 4))
        open_ids = [self.request_id() for _ in range(4)]
        self.do(*(core.reserve(account, cli, each, SMALL) for each in open_ids))
        self.do(
            core.settle(account, cli, open_ids[0], Usage(input=2_000_000)),
            core.release(account, cli, open_ids[1]),
            core.reduce(account, "0.25"),
            core.rotate(account, bot, 60),
            core.set_key_limits(
                account, cli, e.LimitRule(kind="tokens", window="day", ceiling="9")
            ),
            core.change(
                account,
                lambda f, at: keys.change(f.account, f.key, keys.KeyPatch(name="b"), by="o", at=at),
                bot,
            ),
        )
        self.submit(self.record(account, cli), self.record(account, cli), self.record(account, bot))
        self.do(core.revoke(account, bot))
        return events[0]


def _limits(ceiling: str) -> tuple[e.LimitRule, ...]:
    return (
        e.LimitRule(kind="requests", window="rolling:60", ceiling=ceiling),
        e.LimitRule(kind="spend", window="month", ceiling="1000", assets=("USD", "CAD")),
        e.LimitRule(kind="failures", window="day", ceiling="1000"),
        e.LimitRule(kind="tokens", window="day", ceiling="1000000000", each_model=True),
    )
