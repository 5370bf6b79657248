"""Fixtures of the gateway's tests: a scripted upstream, and a gateway before it."""

from collections.abc import Iterator

import pytest

from tests.gateway.rig import Rig, Thin, rig
from tests.gateway.scripted import KEY, Scripted


@pytest.fixture(scope="module")
def upstream() -> Iterator[Scripted]:
    """Yield a scripted upstream for one module."""
    found = Scripted()
    yield found
    found.stop()


@pytest.fixture(scope="module")
def gateway(
    upstream: Scripted, ledger_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Rig]:
    """Serve a gateway before the scripted upstream, for one module."""
    app = Thin(
        tmp_path_factory.mktemp("home"),
        ledger_url,
        upstream_url=upstream.url,
        upstream_key=KEY,
        upstream_read_seconds=2,
    )
    with rig(app) as found:
        yield found


@pytest.fixture(scope="module")
def built_in(dialects_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """Serve a gateway without an upstream, for one module."""
    with rig(Thin(tmp_path_factory.mktemp("home"), dialects_url)) as found:
        yield found
