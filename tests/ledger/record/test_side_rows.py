"""Rows beside the events are those that their events made: the checker names any other."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
import pytest

from api import services as wiring
from api.operations import Asked, new_person
from ledger import clock
from ledger import events as e
from ledger.ids import AccountId, lane_of_account, new_account_id
from ledger.record import verify
from ledger.server import database
from tests.conftest import settings_for

BY = "operator"
ADDRESS = "0x" + "ab" * 20
OLD, BOTH = "1:pepper-of-tests", "1:pepper-of-tests,2:another"


class Told(NamedTuple):
    """A database in which every kind of side row was made and changed."""

    url: str
    account: AccountId
    secret: str

    def rows(self, query: str, *terms: Any, role: str = database.APP) -> list[tuple[Any, ...]]:
        """Ask something, as the service does."""
        with psycopg.connect(database.conninfo(self.url, role)) as connection:
            return connection.execute(query, terms).fetchall()

    def change(self, statement: str, *terms: Any) -> None:
        """Change rows as the service's own role can."""
        with psycopg.connect(database.conninfo(self.url, database.APP)) as connection:
            assert connection.execute(statement, terms).rowcount, statement

    def found(self) -> list[tuple[str, str]]:
        """Verify; return what was found, and in which table."""
        return [(each.what, each.column) for each in verify.verify(self.url).findings]


async def run(
    url: str, home: Path, story: Callable[[wiring.Services], Awaitable[Any]], pepper: str = OLD
) -> Any:
    """Let a process live as long as a story."""
    services = await wiring.Services.open(settings_for(home, pepper=pepper), url)
    try:
        return await story(services)
    finally:
        await services.close()


@pytest.fixture
def told(furnished_url: str, tmp_path: Path) -> Told:
    """Make every kind of side row: two of each, some changed, some taken away."""
    account = new_account_id()

    async def story(services: wiring.Services) -> str:
        ledger, asked = services.ledger, Asked(BY)
        terms = e.AccountOpened(by=BY)
        owner = new_person("ada@example.com", "Ada Lovelace", "hash of hers")
        await ledger.accounts.open(asked, terms, name="A", account_id=account, owner=owner)
        for name in ("bob", "eve"):
            person = new_person(f"{name}@example.com", name, "hash")
            await ledger.members.add(asked, account, person, "member")
        await ledger.members.remove(asked, account, person.member_id)
        key = e.KeyIssued(by=BY, name="k", dialect="ryvion")
        issued = [await ledger.keys.issue(asked, account, key) for _ in range(3)]
        await ledger.keys.rotate(asked, issued[0].key.key_id, grace=clock.TICK)
        await ledger.keys.for_sessions(account, "ryvion")
        for address in (ADDRESS, "0x" + "cd" * 20):
            await services.wallets.account_for(address)
        for asset, amount in (("DIEM", "1"), ("DIEM", "2.5"), ("USD", "3"), ("USD", "0")):
            await services.allowances.set(asked.by, account, asset, amount)
        assert issued[1].secret
        return issued[1].secret

    secret = asyncio.run(run(furnished_url, tmp_path, story))
    return Told(furnished_url, account, secret)


def test_rows_made_by_the_service_are_those_of_their_events(told: Told) -> None:
    """Every operation that writes a row appends the event that binds it."""
    assert told.found() == []
    counts = "SELECT kind, count(*) FROM side_rows GROUP BY 1 ORDER BY 1"
    assert told.rows(counts) == [("key_secret", 4), ("login", 2), ("wallet", 2)]


def test_the_reader_checks_without_seeing_anything(told: Told) -> None:
    """The checker's role reads digests: no hash, no person, no salt."""
    assert told.rows("SELECT count(digest) FROM side_rows", role=database.READER) == [(8,)]
    for column in ("logins.email", "logins.salt", "wallets.salt", "key_secrets.secret_hash"):
        table, _, name = column.partition(".")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            told.rows(f"SELECT {name} FROM {table}", role=database.READER)


def test_a_pepper_is_renewed_by_an_event(told: Told, tmp_path: Path) -> None:
    """A secret hashed anew is bound anew, once, however many look at it at once."""

    async def use(services: wiring.Services) -> None:
        await asyncio.gather(*(services.resolver.secret(told.secret) for _ in range(5)))

    async def twice(services: wiring.Services) -> None:
        await asyncio.gather(use(services), run(told.url, tmp_path, use, BOTH))

    asyncio.run(run(told.url, tmp_path, twice, BOTH))
    found = "SELECT payload->>'by', key_id FROM events WHERE type = 'key_secret_rehashed'"
    ((by, key_id),) = told.rows(found)
    assert by == "system"
    kept = "SELECT pepper_version FROM key_secrets WHERE key_id = %s"
    assert told.rows(kept, key_id) == [(2,)]
    assert told.found() == []


KEY = "(SELECT min(secret_hash) FROM key_secrets)"
DIFFERS, MISSING, NO_EVENT = "differs", "is_missing", "is_of_no_event"
CHANGES = [
    pytest.param(
        f"UPDATE key_secrets SET account_id = %s WHERE secret_hash = {KEY}",
        "key_secrets",
        {NO_EVENT, MISSING},
        id="a secret repointed to another account",
    ),
    pytest.param(
        f"UPDATE key_secrets SET key_id = (SELECT max(key_id::text)::uuid FROM keys)"
        f" WHERE secret_hash = {KEY} AND %s::uuid IS NOT NULL",
        "key_secrets",
        {NO_EVENT, MISSING},
        id="a secret repointed to another key",
    ),
    pytest.param(
        "UPDATE key_secrets SET secret_hash = decode(repeat('07', 32), 'hex')"
        f" WHERE secret_hash = {KEY} AND %s::uuid IS NOT NULL",
        "key_secrets",
        {DIFFERS},
        id="another secret of a key",
    ),
    pytest.param(
        f"UPDATE key_secrets SET lane = 1 - lane WHERE secret_hash = {KEY}"
        " AND %s::uuid IS NOT NULL",
        "key_secrets",
        {DIFFERS},
        id="a secret in another lane",
    ),
    pytest.param(
        f"DELETE FROM key_secrets WHERE secret_hash = {KEY} AND %s::uuid IS NOT NULL",
        "key_secrets",
        {MISSING},
        id="a secret taken away",
    ),
    pytest.param(
        "INSERT INTO key_secrets SELECT decode(repeat('07', 32), 'hex'), key_id, account_id, lane,"
        " 1, 1 FROM keys WHERE settings ->> 'session' IS NOT NULL AND %s::uuid IS NOT NULL",
        "key_secrets",
        {NO_EVENT},
        id="a secret for the key of sessions",
    ),
    pytest.param(
        "UPDATE logins SET password_hash = 'of mine'"
        " WHERE email = 'ada@example.com' AND %s::uuid IS NOT NULL",
        "logins",
        {DIFFERS},
        id="another password",
    ),
    pytest.param(
        "UPDATE logins SET account_id = %s WHERE email = 'ada@example.com'",
        "logins",
        {NO_EVENT, MISSING},
        id="a login to another account",
    ),
    pytest.param(
        "UPDATE logins SET email = 'mine@example.com'"
        " WHERE email = 'ada@example.com' AND %s::uuid IS NOT NULL",
        "logins",
        {DIFFERS},
        id="another address",
    ),
    pytest.param(
        "UPDATE logins SET active = false WHERE email = 'ada@example.com' AND %s::uuid IS NOT NULL",
        "logins",
        {DIFFERS},
        id="a login switched off",
    ),
    pytest.param(
        "INSERT INTO logins SELECT 'eve@example.com', gen_random_uuid(), %s, 'Eve', 'h', true,"
        " now(), ''",
        "logins",
        {NO_EVENT},
        id="a login of no event",
    ),
    pytest.param(
        "DELETE FROM logins WHERE email = 'ada@example.com' AND %s::uuid IS NOT NULL",
        "logins",
        {MISSING},
        id="a login taken away",
    ),
    pytest.param(
        "INSERT INTO wallets VALUES (decode(repeat('07', 20), 'hex'), %s, now(), '')",
        "wallets",
        {NO_EVENT},
        id="a wallet of no event",
    ),
    pytest.param(
        "UPDATE allowances SET amount = '1000' WHERE %s::uuid IS NOT NULL",
        "allowances",
        {DIFFERS},
        id="another allowance",
    ),
    pytest.param(
        "UPDATE allowances SET granted_through = granted_through + 9 WHERE %s::uuid IS NOT NULL",
        "allowances",
        {DIFFERS},
        id="an allowance that is held back",
    ),
    pytest.param(
        "DELETE FROM allowances WHERE %s::uuid IS NOT NULL",
        "allowances",
        {MISSING},
        id="an allowance taken away",
    ),
    pytest.param(
        "INSERT INTO allowances SELECT account_id, lane, 'CREDIT', '5', granted_through"
        " FROM allowances WHERE %s::uuid IS NOT NULL",
        "allowances",
        {NO_EVENT, DIFFERS},
        id="an allowance of no event",
    ),
]
"""What the service's own role can do by SQL; the parameter is another account."""


def another(told: Told) -> UUID:
    """Return an account that was never opened, of the same lane."""
    lane = lane_of_account(told.account, 2)
    return next(one for n in range(99) if lane_of_account(one := UUID(int=n), 2) == lane)


@pytest.mark.parametrize(("statement", "table", "whats"), CHANGES)
def test_a_row_changed_by_the_services_own_role_is_found(
    told: Told, statement: str, table: str, whats: set[str]
) -> None:
    """Promise 12: a side row that is changed, taken away or made without its event is named."""
    told.change(statement, another(told))
    assert set(told.found()) == {(f"side_row_{what}", table) for what in whats}


def test_a_finding_names_the_row_and_the_event(told: Told) -> None:
    """Whoever mends it is told which key, and which event says otherwise."""
    other = another(told)
    told.change(f"UPDATE key_secrets SET account_id = %s WHERE secret_hash = {KEY}", other)
    found = {each.what: each for each in verify.verify(told.url).findings}
    missing = found["side_row_is_missing"]
    ((type_,),) = told.rows(
        "SELECT type::text FROM events WHERE lane = %s AND lane_seq = %s",
        missing.lane,
        missing.seq,
    )
    assert type_ in {"key_issued", "key_rotated"}
    assert missing.expected.startswith(f"acct_{told.account.hex} key_")
    assert f"acct_{other.hex} key_" in found["side_row_is_of_no_event"].stored


def test_an_erased_person_leaves_a_digest_that_tells_nothing(told: Told) -> None:
    """The salt goes with the row: two digests of one person have nothing in common."""
    digests = "SELECT payload->>'digest' FROM events WHERE type = 'login_set'"
    found = {digest for (digest,) in told.rows(digests)}
    assert len(found) == 3
    assert told.rows("SELECT count(DISTINCT salt), min(length(salt)) FROM logins") == [(2, 16)]
    assert told.rows("SELECT count(DISTINCT salt), min(length(salt)) FROM wallets") == [(2, 16)]


def test_no_event_tells_whose_an_account_is(told: Told) -> None:
    """Events hold no name and no address of a person, nor what follows from one."""
    payloads = b"\n".join(
        row[0].encode() for row in told.rows("SELECT payload::text FROM events")
    ).lower()
    for personal in ("lovelace", "ada@", "bob@", "eve@", "example.com", "ab" * 20, "cd" * 20):
        assert personal.encode() not in payloads


def test_rows_and_their_events_are_written_by_one_transaction(told: Told) -> None:
    """A crash anywhere leaves a row with its event, or neither."""
    owned = "WHERE e.account_id = %s AND e.type::text = ANY(%s)"
    for table, types in (
        ("allowances", ["allowance_set"]),
        ("logins", ["login_set"]),
        ("key_secrets", ["key_issued", "key_rotated"]),
    ):
        rows = told.rows(f"SELECT xmin::text FROM {table} WHERE account_id = %s", told.account)
        events = told.rows(f"SELECT xmin::text FROM events e {owned}", told.account, types)
        assert rows
        assert set(rows) <= set(events), table
    wallets = set(told.rows("SELECT xmin::text FROM wallets"))
    assert wallets <= set(told.rows("SELECT xmin::text FROM events WHERE type = 'wallet_linked'"))


def break_table(told: Told, table: str) -> None:
    """Let every write to a table fail, as a crash at that moment would."""
    with psycopg.connect(told.url) as connection:
        connection.execute(
            "CREATE FUNCTION keyledger.fail() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'broken'; END $$"
        )
        connection.execute(
            f"CREATE TRIGGER broken BEFORE INSERT OR UPDATE OR DELETE ON keyledger.{table}"
            " FOR EACH ROW EXECUTE FUNCTION keyledger.fail()"
        )


@pytest.mark.parametrize("table", ["allowances", "wallets", "logins", "key_secrets", "lots"])
def test_where_the_row_fails_there_is_no_event(told: Told, tmp_path: Path, table: str) -> None:
    """Allowance, wallet, login, secret: both or none, and the day's grant with its allowance."""
    everything = "SELECT count(*), (SELECT count(*) FROM lots) FROM events"
    before = told.rows(everything)
    break_table(told, table)

    async def story(services: wiring.Services) -> None:
        ledger, asked = services.ledger, Asked(BY)
        if table in {"allowances", "lots"}:
            await services.allowances.set(asked.by, told.account, "CREDIT", "1")
        elif table == "wallets":
            await services.wallets.account_for("0x" + "ef" * 20)
        elif table == "logins":
            person = new_person("new@example.com", "New", "hash")
            await ledger.members.add(asked, told.account, person, "member")
        else:
            key = e.KeyIssued(by=BY, name="k", dialect="bve")
            await ledger.keys.issue(asked, told.account, key)

    with pytest.raises(psycopg.errors.RaiseException):
        asyncio.run(run(told.url, tmp_path, story))
    assert told.rows(everything) == before
    assert told.found() == []


def test_the_daily_job_marks_a_day_with_its_grant(told: Told, tmp_path: Path) -> None:
    """One command per account and day: where its row fails nothing is granted, and later once."""
    break_table(told, "allowances")
    noon = clock.now().replace(hour=12) + clock.TICK
    late = noon.replace(hour=23)

    async def story(services: wiring.Services) -> int:
        return await services.allowances.grant_due(late)

    grants = "SELECT count(*) FROM lots WHERE asset = 'DIEM'"
    assert told.rows(grants) == [(1,)]
    with pytest.raises(psycopg.errors.RaiseException):
        asyncio.run(run(told.url, tmp_path, story))
    assert told.rows(grants) == [(1,)]
    with psycopg.connect(told.url) as connection:
        connection.execute("DROP TRIGGER broken ON keyledger.allowances")
    assert asyncio.run(run(told.url, tmp_path, story)) == 1
    assert asyncio.run(run(told.url, tmp_path, story)) == 0
    assert told.rows(grants) == [(2,)]
    same = "SELECT count(*) FROM allowances a JOIN lots l ON l.xmin = a.xmin AND l.asset = a.asset"
    assert told.rows(same) == [(1,)]
    assert told.found() == []
