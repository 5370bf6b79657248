"""Puts a process together: connections, peppers, rate cards, writer; and takes it apart again."""

import asyncio
import contextlib
import hmac
import secrets as random
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Generic, NamedTuple, Self, TypeVar

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from api import settings as configured
from api.beside.conversations import Conversations
from api.beside.resources import Resources
from api.beside.shelf import Characters
from api.gateway.answers import Answers
from api.gateway.bounds import BoundDefaults
from api.gateway.forward import Bounds, Gateway
from api.gateway.once import Once
from api.gateway.sample import SMALL
from api.gateway.store import BuiltIn
from api.gateway.upstream import Upstream
from api.http import asking
from api.identity.attempts import Attempts
from api.identity.auth import Gate, Logins
from api.identity.credentials import Credentials
from api.identity.signup import Signups
from api.identity.wallet import Wallets
from api.operations import CONSTRAINTS, Allowances, Calls, Ledger, Opening
from api.queries import Queries, Reader
from api.queries.resolve import COUNT_SECRETS, Resolver
from api.settings import Settings
from ledger.clock import DatabaseClock
from ledger.errors import IncompatibleDatabase
from ledger.events import LimitRule
from ledger.ratecards import RateCards
from ledger.record import arrays, card_rows
from ledger.record.lanes import Writer
from ledger.secrets import OPERATOR_PREFIX, Peppers, keep_out
from ledger.server import database, database_facts
from ledger.server.database import Watched
from projections import snapshot
from projections.registry import INLINE

POOL_MAX = 8
"""Connections for reads per process; each lane has one more for writing."""
POOL_WAITING_MAX = 200
START_ATTEMPTS = 3
"""Attempts at a first connection, five seconds each."""
RECONNECT_SECONDS = 5
"""After this long a connection is given up; the next read tries again, without back-off."""
CHECK_SILENCE_SECONDS = 2
BATCH_SILENCE_SECONDS = 15
"""Longer than ``lock_timeout``: a batch that hears nothing for this long is given up."""


class OfDialects(NamedTuple):
    """What the dialects say and others decide by; passed in by whoever opens ``Services``."""

    key_limits: Mapping[str, tuple[LimitRule, ...]] = MappingProxyType({})
    """Dialect → limits of keys that are issued without any."""
    opening: Opening = Opening()
    """Terms of new accounts."""
    with_characters: frozenset[str] = frozenset()
    """Dialects whose models are characters."""


NO_DIALECTS = OfDialects()


@dataclass(kw_only=True)
class Services:
    """What routes and jobs use."""

    settings: Settings
    dialects: OfDialects
    url: str
    pool: AsyncConnectionPool
    writer: Writer
    cards: RateCards
    peppers: Peppers
    resolver: Resolver
    ledger: Ledger
    queries: Queries
    gate: Gate
    credentials: Credentials
    attempts: Attempts
    logins: Logins
    signups: Signups
    allowances: Allowances
    characters: Characters
    conversations: Conversations
    wallets: Wallets
    gateway: Gateway
    answers: Answers
    once: Once
    schema: str
    """Schema revision this version was written for."""
    stopping: bool = False

    @property
    def lanes(self) -> int:
        """Return the number of lanes."""
        return len(self.writer.lanes)

    @property
    def clock(self) -> DatabaseClock:
        """Return the ledger's clock, for decisions that no lane takes."""
        return self.writer.clock

    @classmethod
    async def open(cls, settings: Settings, url: str, dialects: OfDialects = NO_DIALECTS) -> Self:
        """Connect, check that settings and database belong together, start the writer.

        Raises:
            IncompatibleDatabase: The schema or the pepper does not fit; the message says what to
                do.
        """
        info = database.conninfo(url, database.APP)
        pool: AsyncConnectionPool = AsyncConnectionPool(
            info,
            min_size=1,
            max_size=POOL_MAX,
            timeout=5,
            reconnect_timeout=RECONNECT_SECONDS,
            max_waiting=POOL_WAITING_MAX,
            connection_class=Watched,
            configure=snapshot.prepare,
            kwargs={"autocommit": True, "prepare_threshold": 1},
            check=_check,
            open=False,
        )
        await pool.open()
        try:
            await _reach(pool)
            return await cls._open(settings, url, pool, dialects)
        except BaseException:
            await pool.close()
            raise

    @classmethod
    async def _open(
        cls, settings: Settings, url: str, pool: AsyncConnectionPool, dialects: OfDialects
    ) -> Self:
        await asyncio.to_thread(database.require_current, url)
        peppers = configured.peppers(settings)
        keep_out([*configured.secrets(settings), *peppers.texts])
        schema = await schema_of(pool)
        facts = await facts_of(pool)
        lanes = int(facts["lanes"])
        await check_peppers(pool, peppers)
        digest = await operator_digest(pool, settings)
        cards = RateCards()
        async with pool.connection() as connection:
            await card_rows.load(connection, cards)

        async def connect() -> AsyncConnection:
            connection = await Watched.connect(database.lane_conninfo(url), autocommit=True)
            connection.silence_seconds = BATCH_SILENCE_SECONDS
            connection.prepare_threshold = 1
            arrays.register(connection)
            return connection

        writer = Writer(lanes, connect, INLINE, cards, CONSTRAINTS)
        clock = writer.clock
        async with pool.connection() as connection:
            await hear(clock, connection)
        resolver = Resolver(pool, peppers, lanes)
        reader = Reader(pool, INLINE, lanes, clock)
        queries = Queries(reader, peppers, cards, dialects.with_characters)
        gate = Gate(pool, digest, configured.jwt_secret(settings), lanes, clock)
        ledger = Ledger(
            writer,
            resolver,
            peppers,
            settings.welcome,
            assets=settings.known_assets,
            key_limits=dialects.key_limits,
            opening=dialects.opening,
        )
        attempts = Attempts(pool, secret=configured.jwt_secret(settings))
        logins = Logins(pool, gate, attempts)
        answers = Answers(pool, lanes, seconds=settings.answer_seconds)
        writer.start()
        return cls(
            settings=settings,
            dialects=dialects,
            url=url,
            pool=pool,
            writer=writer,
            cards=cards,
            peppers=peppers,
            resolver=resolver,
            ledger=ledger,
            queries=queries,
            gate=gate,
            credentials=Credentials(resolver, queries, ledger, gate, clock),
            attempts=attempts,
            logins=logins,
            signups=Signups(ledger, logins, attempts, per_hour=settings.signups_per_hour),
            allowances=Allowances(pool, ledger, clock),
            characters=Characters(pool, lanes, clock),
            conversations=Conversations(pool, settings.retention_days, clock),
            wallets=Wallets(pool, ledger, settings, configured.jwt_secret(settings), clock),
            gateway=_gateway(settings, ledger.calls, Resources(pool, lanes, clock)),
            answers=answers,
            once=Once(answers, ledger, seconds=settings.upstream_total_seconds),
            schema=schema,
        )

    async def close(self) -> None:
        """Answer everything accepted, then close the database connections."""
        self.stopping = True
        # First, because what was delivered has yet to be settled.
        await self.gateway.close()
        await self.writer.stop()
        await self.answers.close()
        await self.wallets.close()
        await self.pool.close()


C = TypeVar("C")
SERVICES = "services"
"""Name under which an application's state holds them."""


class Ask(asking.Ask[C], Generic[C]):
    """One request of a surface, and what its handlers work with."""

    __slots__ = ()

    @property
    def services(self) -> Services:
        """Return the services that handlers use."""
        found: Services = self.app.state[SERVICES]
        return found


def _gateway(settings: Settings, calls: Calls, resources: Resources) -> Gateway:
    """Open the gateway to the upstreams in the settings, or to the built-in one."""
    upstreams = _remote(settings) if settings.upstreams else [BuiltIn(resources)]
    bounds = Bounds(total_seconds=settings.upstream_total_seconds)
    figures = BoundDefaults(
        output_tokens=settings.max_output_tokens,
        context_tokens=settings.context_tokens,
        tool_uses=settings.tool_uses,
    )
    model = settings.upstream_model or SMALL
    return Gateway(calls, upstreams, bounds=bounds, figures=figures, default_model=model)


def _remote(settings: Settings) -> list[Upstream]:
    # Imported only if needed: the HTTP client takes memory that others need not pay for.
    from api.gateway.remote import Connections, HttpUpstream  # noqa: PLC0415

    connections = Connections(
        connect_seconds=settings.upstream_connect_seconds,
        read_seconds=settings.upstream_read_seconds,
    )
    return [
        HttpUpstream(url, key, connections, number=number)
        for number, (url, key) in enumerate(settings.upstreams)
    ]


async def _reach(pool: AsyncConnectionPool) -> None:
    """Wait for a first connection: the database may be starting."""
    for _ in range(START_ATTEMPTS):
        with contextlib.suppress(PoolTimeout):
            async with pool.connection():
                return
    raise IncompatibleDatabase("The database cannot be reached; check KEYLEDGER_DATABASE_URL.")


async def _check(connection: AsyncConnection) -> None:
    """Find out quickly whether a connection that was idle still works."""
    assert isinstance(connection, Watched)
    usual, connection.silence_seconds = connection.silence_seconds, CHECK_SILENCE_SECONDS
    await AsyncConnectionPool.check_connection(connection)
    connection.silence_seconds = usual


async def hear(clock: DatabaseClock, connection: AsyncConnection) -> None:
    """Ask the database for its time."""
    row = await (await connection.execute(database_facts.CLOCK)).fetchone()
    assert row is not None
    clock.hear(row[0])


async def facts_of(pool: AsyncConnectionPool) -> dict[str, str]:
    """Read the facts that the database holds about itself."""
    async with pool.connection() as connection:
        rows = await connection.execute(database_facts.LIST)
        return dict(await rows.fetchall())


async def schema_of(pool: AsyncConnectionPool) -> str:
    """Read which schema revision the database has."""
    async with pool.connection() as connection:
        row = await (await connection.execute(database_facts.SCHEMA_VERSION)).fetchone()
    assert row is not None
    found: str = row[0]
    return found


async def settle_fact(pool: AsyncConnectionPool, name: str, value: str) -> str:
    """Insert a fact unless there is one; return the one that holds."""
    async with pool.connection() as connection:
        await connection.execute(database_facts.SETTLE, {"name": name, "value": value})
        rows = await connection.execute(database_facts.FIND, {"name": name})
        row = await rows.fetchone()
    assert row is not None
    found: str = row[0]
    return found


async def check_peppers(pool: AsyncConnectionPool, peppers: Peppers) -> None:
    """Refuse to start with a pepper other than the one that the database's keys were hashed under.

    Raises:
        IncompatibleDatabase: It is another one.
    """
    prints = {f"pepper:{v}": made.hex() for v, made in peppers.fingerprints().items()}
    facts = await facts_of(pool)
    known = {name: value for name, value in facts.items() if name.startswith("pepper:")}
    for name in known.keys() - prints.keys():
        version = name.removeprefix("pepper:")
        async with pool.connection() as connection:
            rows = await connection.execute(COUNT_SECRETS, {"version": int(version)})
            row = await rows.fetchone()
        if row is not None and row[0]:
            message = (
                f"KEYLEDGER_PEPPER lacks version {version}, under which {row[0]} secrets of this"
                " database are hashed. Set all of them, 1:<text>,2:<text>, until each secret was"
                " used once or rotated."
            )
            raise IncompatibleDatabase(message)
    # All are compared before a new one is inserted: a start that is refused changes nothing.
    for name, found in sorted(prints.items(), key=lambda each: each[0] not in known):
        settled = known.get(name) or await settle_fact(pool, name, found)
        if not hmac.compare_digest(settled, found):
            version = name.removeprefix("pepper:")
            message = (
                f"KEYLEDGER_PEPPER (version {version}) is not the one this database's keys were"
                " hashed under, so no key would be recognised. Set the one it was made with; it"
                " may be in the file `pepper` of the data directory of the first host."
            )
            raise IncompatibleDatabase(message)


OPERATOR_FACT = "operator_secret_sha256"


async def operator_digest(pool: AsyncConnectionPool, settings: Settings) -> bytes:
    """Return what the operator's secret is compared by."""
    if settings.admin_secret:
        return configured.digest(settings.admin_secret)
    known = (await facts_of(pool)).get(OPERATOR_FACT)
    if known is None:
        message = "There is no operator's secret: set KEYLEDGER_ADMIN_SECRET, or run `serve` first."
        raise IncompatibleDatabase(message)
    return bytes.fromhex(known)


async def make_operator_secret(pool: AsyncConnectionPool) -> str | None:
    """Make the operator's secret at the first start; None: it exists already."""
    secret = OPERATOR_PREFIX + random.token_urlsafe(32)
    value = configured.digest(secret).hex()
    return secret if await settle_fact(pool, OPERATOR_FACT, value) == value else None
