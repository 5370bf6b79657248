"""What the service refuses to start on: in clear words, with an exit code, changing nothing."""

import hashlib
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import rig

from ledger.server.embedded import MAJOR_VERSION, EmbeddedPostgres, binary

pytestmark = pytest.mark.faults

Database = Callable[[], str]


def refused(service: rig.Service) -> str:
    """Start a service that must not start; return its words."""
    service.spawn()
    try:
        code = service.process.wait(timeout=rig.READY_SECONDS)
    except subprocess.TimeoutExpired:
        service.kill_all()
        pytest.fail(f"it started: {service.words()}")
    words = service.words()
    assert code == 1, words
    assert "Traceback" not in words, words
    return words


def dump(server: rig.Postgres, database: str) -> str:
    """Return a digest of everything in a database."""
    words = [str(binary("pg_dump")), "--no-sync", "--restrict-key=same", server.url(database)]
    done = subprocess.run(words, capture_output=True, check=True)
    return hashlib.sha256(done.stdout).hexdigest()


def leaves_alone(server: rig.Postgres, name: str, home: Path, **environment: str) -> str:
    """See that a start is refused and leaves the database as it was; return the words."""
    before = dump(server, name)
    environment = {"KEYLEDGER_DATABASE_URL": server.url(name), **environment}
    words = refused(rig.Service(home / "k", **environment))
    assert dump(server, name) == before
    return words


def test_another_pepper_is_refused(
    server: rig.Postgres, database: Database, tmp_path: Path
) -> None:
    """Promise 11: under another pepper no key would be recognised, so nothing starts."""
    words = leaves_alone(server, database(), tmp_path, KEYLEDGER_PEPPER="another")
    assert "KEYLEDGER_PEPPER" in words


HASHED_UNDER_THE_FIRST = (
    "INSERT INTO key_secrets (secret_hash, key_id, account_id, lane, number, pepper_version)"
    " VALUES (decode(repeat('00', 32), 'hex'), gen_random_uuid(), gen_random_uuid(), 0, 1, 1)"
)


@pytest.mark.parametrize("pepper", ["2:a-new-one", "1:another,2:a-new-one"])
def test_a_pepper_that_leaves_the_old_one_out_is_refused(
    server: rig.Postgres, database: Database, tmp_path: Path, pepper: str
) -> None:
    """While a secret is hashed under the old one it stays beside the new; a wrong one is none."""
    name = database()
    server.ask(name, HASHED_UNDER_THE_FIRST)
    words = leaves_alone(server, name, tmp_path, KEYLEDGER_PEPPER=pepper)
    assert "KEYLEDGER_PEPPER" in words


def test_a_newer_schema_is_refused(
    server: rig.Postgres, database: Database, tmp_path: Path
) -> None:
    """A database that a newer version migrated is left to it."""
    name = database()
    server.ask(name, "UPDATE schema_version SET version_num = '9999'")
    words = leaves_alone(server, name, tmp_path)
    assert "9999" in words
    assert "newer" in words


def test_a_schema_from_before_formats_were_frozen_is_refused(
    server: rig.Postgres, database: Database, tmp_path: Path
) -> None:
    """What an unreleased version made is left alone, and one line says what to do."""
    name = database()
    server.ask(name, "UPDATE schema_version SET version_num = '0007'")
    words = leaves_alone(server, name, tmp_path)
    assert "0007" in words
    assert "empty database" in words


def test_a_schema_with_a_table_missing_is_refused(
    server: rig.Postgres, database: Database, tmp_path: Path
) -> None:
    """A half-restored database, whose version is there and a table is not, is named as such."""
    name = database()
    server.ask(name, "DROP TABLE limit_counters")
    words = leaves_alone(server, name, tmp_path)
    assert "limit_counters" in words


def test_a_schema_without_its_version_is_refused(
    server: rig.Postgres, database: Database, tmp_path: Path
) -> None:
    """Tables without a version row are no empty database: nothing is migrated over them."""
    name = database()
    server.ask(name, "DROP TABLE schema_version")
    words = leaves_alone(server, name, tmp_path)
    assert "no version" in words


def test_an_encoding_that_is_not_utf_8_is_refused(server: rig.Postgres, tmp_path: Path) -> None:
    """SQL_ASCII would take bytes that no payload may hold."""
    with server.connect("postgres") as connection:
        connection.execute("CREATE DATABASE ascii TEMPLATE template0 ENCODING 'SQL_ASCII'")
    words = leaves_alone(server, "ascii", tmp_path)
    assert "UTF8" in words


def test_a_server_that_is_away_is_named(tmp_path: Path) -> None:
    """Without its database a first start ends in words, not in a trace."""
    url = f"postgresql://keyledger@127.0.0.1:{rig.free_port()}/none"
    words = refused(rig.Service(tmp_path / "k", KEYLEDGER_DATABASE_URL=url))
    assert "The database cannot be used" in words


def test_a_data_directory_of_another_major_version_is_refused(tmp_path: Path) -> None:
    """The words name both versions and pg_upgrade; the directory stays as it is."""
    home = tmp_path / "k"
    home.mkdir(mode=0o711)
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(parent.stat().st_mode | 0o011)
    with EmbeddedPostgres(home / "postgres", settings={"shared_buffers": "16MB"}):
        pass
    version = home / "postgres" / "data" / "PG_VERSION"
    version.write_text("15\n")
    before = {path: path.stat().st_mtime_ns for path in (home / "postgres" / "data").rglob("*")}
    words = refused(rig.Service(home))
    assert "PostgreSQL 15" in words
    assert f"PostgreSQL {MAJOR_VERSION}" in words
    assert "pg_upgrade" in words
    after = {path: path.stat().st_mtime_ns for path in (home / "postgres" / "data").rglob("*")}
    assert after == before
    shutil.rmtree(home)


def test_an_address_in_use_is_named(
    server: rig.Postgres, database: Database, tmp_path: Path
) -> None:
    """Two services on one port: the second says which address it could not have."""
    service = rig.Service(tmp_path / "k", KEYLEDGER_DATABASE_URL=server.url(database()))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", service.port))
        taken.listen()
        words = refused(service)
    assert str(service.port) in words


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    """A setting that is wrong is named before anything is made."""
    words = refused(rig.Service(tmp_path / "k", KEYLEDGER_WORKERS="many"))
    assert "KEYLEDGER_WORKERS" in words
    assert not (tmp_path / "k").exists()


def test_an_orphaned_worker_ends_at_once(
    server: rig.Postgres, database: Database, tmp_path: Path
) -> None:
    """After `kill -9` of the supervisor its workers end, so that the address is free again."""
    url = server.url(database())
    with rig.Service(tmp_path / "k", workers=2, KEYLEDGER_DATABASE_URL=url) as service:
        service.kill()
        began = time.monotonic()
        rig.until(lambda: not any(map(rig.lives, service.orphans)), within=10)
        assert time.monotonic() - began < 5
        service.start()
        with rig.subject(service) as (client, _, key):
            rig.answered(client.post("/usage", json=rig.usage(key, "after")))


def test_a_database_that_does_not_come_up_is_tried_again(tmp_path: Path) -> None:
    """Promise 13: while the embedded server cannot start the service refuses; then it goes on."""
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(parent.stat().st_mode | 0o011)
    with rig.Service(tmp_path / "k") as service, rig.subject(service) as (client, _, key):
        server = EmbeddedPostgres(service.home / "postgres")
        version = service.home / "postgres" / "data" / "PG_VERSION"
        pid = server._postmaster()
        assert pid is not None
        version.rename(version.with_name("away"))
        rig.end(pid)
        time.sleep(3)
        assert rig.is_refused_for_now(client.post("/usage", json=rig.usage(key, "down")))
        version.with_name("away").rename(version)
        body = rig.usage(key, "up")
        rig.until(lambda: client.post("/usage", json=body).status_code == 200, within=20)
    assert service.process.returncode == 0
