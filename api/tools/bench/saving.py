"""The peer ``eventsourcing``: an application saves aggregates, each save one event, durably.

``python -m api.tools.bench.saving SECONDS THREADS`` with the package's own ``POSTGRES_*``
variables; writes saves per second. The package's defaults throughout: its PostgreSQL module with a
connection pool and an application recorder, JSON states, no snapshots.
"""

import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from psycopg.conninfo import conninfo_to_dict

MODULE = "eventsourcing.postgres"
AGGREGATES = 100
"""Per thread: each save takes the next, as requests of different accounts would."""


def variables(conninfo: str) -> dict[str, str]:
    """Return the environment in which the package finds a database."""
    known: Mapping[str, object] = conninfo_to_dict(conninfo)
    named = {
        "POSTGRES_DBNAME": known.get("dbname"),
        "POSTGRES_HOST": known.get("host", "127.0.0.1"),
        "POSTGRES_PORT": known.get("port", "5432"),
        "POSTGRES_USER": known.get("user", ""),
        # A password is required even where the server asks for none.
        "POSTGRES_PASSWORD": known.get("password", "none"),
    }
    return {"PERSISTENCE_MODULE": MODULE, **{name: str(value) for name, value in named.items()}}


def main() -> None:
    """Save for so many seconds on so many threads."""
    from eventsourcing.application import Application  # noqa: PLC0415 - of an extra
    from eventsourcing.domain import Aggregate, event  # noqa: PLC0415

    class UsageMeter(Aggregate):
        """What a request adds to."""

        @event("Recorded")
        def record(self, request_id: str, model: str, usage: dict[str, int], charge: str) -> None:
            """Add one request."""
            self.last = (request_id, model, usage, charge)

    seconds, threads = float(sys.argv[1]), int(sys.argv[2])
    usage = {"input": 812, "cache_read": 1024, "output": 96}
    application: Application[Any] = Application()
    counts = [0] * threads
    ready, gate = threading.Barrier(threads + 1), threading.Event()
    ends = [0.0]

    def work(thread: int) -> None:
        meters = [UsageMeter() for _ in range(AGGREGATES)]
        application.save(*meters)
        ready.wait()
        gate.wait()
        while time.perf_counter() < ends[0]:
            meter = meters[counts[thread] % AGGREGATES]
            meter.record(f"r-{thread}-{counts[thread]}", "house-1", usage, "0.000257")
            application.save(meter)
            counts[thread] += 1

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    ready.wait()
    began = time.perf_counter()
    ends[0] = began + seconds
    gate.set()
    for worker in workers:
        worker.join()
    took = time.perf_counter() - began
    application.close()
    sys.stdout.write(f"{sum(counts) / took}\n")


if __name__ == "__main__":
    main()
