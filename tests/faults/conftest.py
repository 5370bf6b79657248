"""One external PostgreSQL for all fault tests, with a database that is furnished already."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import rig


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[rig.Postgres]:
    """Yield a server with the furnished database that others are copied from."""
    home = tmp_path_factory.mktemp("external")
    for parent in home.parents[:3]:
        if parent.stat().st_uid == home.stat().st_uid and parent != Path("/tmp"):  # noqa: S108
            parent.chmod(parent.stat().st_mode | 0o011)
    server = rig.Postgres(home)
    server.make()
    server.start()
    server.create(rig.TEMPLATE)
    with rig.Service(home / "k", KEYLEDGER_DATABASE_URL=server.url(rig.TEMPLATE)):
        pass
    yield server
    server.stop()


@pytest.fixture
def database(server: rig.Postgres) -> Callable[[], str]:
    """Return a way to make furnished databases."""
    made: list[str] = []

    def make() -> str:
        name = f"d{server.port}_{len(made)}_{rig.free_port()}"
        server.create(name, rig.TEMPLATE)
        made.append(name)
        return name

    return make
