"""Peers that are measured in PostgreSQL itself: pgbench's TPC-B, pgledger, ``eventsourcing``."""

import importlib.metadata
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psycopg

from api.tools.bench import saving
from api.tools.bench.processes import environment
from ledger.server import embedded
from ledger.server.embedded import EmbeddedDatabaseError

COMMAND_SECONDS = 600
NONE: Mapping[str, str] = {}
PGLEDGER_ACCOUNTS = 50
"""As many as pgledger's own performance check has where accounts are not contended."""
PGLEDGER_CLIENTS = 20
PGLEDGER_BYTES = 743
"""Per transfer, as pgledger's README gives it, after VACUUM FULL."""

CREATE_ACCOUNTS = "SELECT pgledger_create_account('acct', 'USD') FROM generate_series(1, %s)"
# Ids that a script can name; there are no transfers yet that refer to the old ones.
NAME_ACCOUNTS = (
    "UPDATE pgledger_accounts SET id = 'pgla_' || n.number"
    " FROM (SELECT id, row_number() OVER () AS number FROM pgledger_accounts) AS n"
    " WHERE n.id = pgledger_accounts.id"
)
TRANSFER = """\\set payer random(1, :accounts)
\\set payee 1 + (:payer + random(0, :accounts - 2)) % :accounts
\\set amount random(1, 4294967295)
SELECT id FROM pgledger_create_transfer(
    'pgla_' || :payer::text, 'pgla_' || :payee::text, :amount::numeric);
"""
PGLEDGER_SIZE = (
    "SELECT pg_total_relation_size('pgledger_transfers')"
    " + pg_total_relation_size('pgledger_entries'), (SELECT count(*) FROM pgledger_transfers)"
)
VACUUM = "VACUUM FULL pgledger_transfers, pgledger_entries"


class PeerFailed(RuntimeError):
    """A peer could not be measured."""


def pgbench() -> str:
    """Find pgbench: the wheel's, else the system's.

    Raises:
        PeerFailed: There is none.
    """
    try:
        return str(embedded.binary("pgbench"))
    except EmbeddedDatabaseError:
        found = shutil.which("pgbench")
        if found is None:
            raise PeerFailed("There is no pgbench.") from None
        return found


def _run(
    command: Sequence[str],
    *,
    seconds: float = 0,
    cwd: Path | None = None,
    more: Mapping[str, str] = NONE,
) -> str:
    done = subprocess.run(  # noqa: S603 - our own programs
        command,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds + COMMAND_SECONDS,
        env=environment(**more),
        cwd=cwd,
        check=False,
    )
    if done.returncode:
        raise PeerFailed(f"{command[0]}: {done.stderr[-2_000:]}")
    return done.stdout


class TpcB:
    """pgbench's own transaction, loosely TPC-B, by one client."""

    def __init__(self, conninfo: str, scale: int, directory: Path) -> None:
        """Fill its tables."""
        self._conninfo = conninfo
        self._directory = directory
        _run([pgbench(), "-i", "-q", "-s", str(scale), conninfo])

    def median_seconds(self, seconds: int) -> float:
        """Return the median of its transactions' latencies."""
        prefix = "tpcb"
        log = ["-l", f"--log-prefix={prefix}"]
        command = [pgbench(), "-n", "-M", "prepared", "-c", "1", "-T", str(seconds), *log]
        _run([*command, self._conninfo], seconds=seconds, cwd=self._directory)
        latencies: list[int] = []
        for place in self._directory.glob(f"{prefix}.*"):
            # client, transaction, microseconds, script, second, microsecond
            latencies += [int(line.split()[2]) for line in place.read_text().splitlines()]
            place.unlink()
        return statistics.median(latencies) / 1e6


class PgLedger:
    """pgledger's transfers by pgbench."""

    def __init__(self, conninfo: str, sources: Path, directory: Path) -> None:
        """Install its SQL and open accounts."""
        self._conninfo = conninfo
        self._script = directory / "transfer.sql"
        self._script.write_text(TRANSFER)
        with psycopg.connect(conninfo, autocommit=True) as connection:
            for place in sql_files(sources):
                connection.execute(place.read_bytes())
            connection.execute(CREATE_ACCOUNTS, (PGLEDGER_ACCOUNTS,))
            connection.execute(NAME_ACCOUNTS)

    def per_second(self, seconds: int) -> float:
        """Return transfers per second."""
        clients = ["-c", str(PGLEDGER_CLIENTS), "-j", "2", "-T", str(seconds)]
        script = ["-f", str(self._script), "-D", f"accounts={PGLEDGER_ACCOUNTS}"]
        command = [pgbench(), "-n", "-M", "prepared", *clients, *script, self._conninfo]
        output = _run(command, seconds=seconds)
        for line in output.splitlines():
            if line.startswith("tps ="):
                return float(line.split()[2])
        raise PeerFailed(output)

    def bytes_per_transfer(self) -> float:
        """Return what a transfer takes with its entries and indexes, after VACUUM FULL."""
        with psycopg.connect(self._conninfo, autocommit=True) as connection:
            connection.execute(VACUUM)
            row = connection.execute(PGLEDGER_SIZE).fetchone()
        assert row is not None
        return float(row[0]) / float(row[1])


def sql_files(sources: Path) -> list[Path]:
    """Find the SQL of a checkout of pgledger, given it or its ``pgledger.sql``.

    Raises:
        PeerFailed: It is not there.
    """
    root = sources if sources.is_dir() else sources.parent
    main = root / "pgledger.sql" if sources.is_dir() else sources
    ulid = root / "vendor" / "scoville-pgsql-ulid" / "uuid-to-ulid.sql"
    for place in (main, ulid):
        if not place.is_file():
            raise PeerFailed(f"{place} is missing: give a checkout of pgledger.")
    return [ulid, main]


class EventSourcing:
    """The package ``eventsourcing`` saving one event."""

    def __init__(self, conninfo: str) -> None:
        """Take where to save.

        Raises:
            PeerFailed: It is not installed.
        """
        try:
            self.version = importlib.metadata.version("eventsourcing")
        except importlib.metadata.PackageNotFoundError:
            raise PeerFailed(
                "eventsourcing is not installed: pip install keyledger[bench]"
            ) from None
        self._variables = saving.variables(conninfo)

    def per_second(self, seconds: float, threads: int) -> float:
        """Return saves per second."""
        command = [sys.executable, "-m", "api.tools.bench.saving", str(seconds), str(threads)]
        return float(_run(command, seconds=seconds, more=self._variables))
