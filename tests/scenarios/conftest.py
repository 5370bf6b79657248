"""Databases for stories: one lane, so that events are the same to the byte as in memory."""

from collections.abc import Iterator

import pytest

from ledger.server import database
from tests.properties.postgres import create_partitions

MONTHS = ("2026-09-01", "2026-10-01", "2026-11-01", "2026-12-01", "2027-01-01", "2027-02-01")
"""Months that stories play in, whenever they are told."""


@pytest.fixture(scope="session")
def one_lane_template(databases) -> Iterator[str]:
    """Yield the name of an empty database with one lane."""
    name = databases.create()
    database.upgrade(databases.url(name), lanes=1, for_tests=True)
    create_partitions(databases.url(name), *MONTHS)
    yield name
    databases.drop(name)


@pytest.fixture
def one_lane_url(databases, one_lane_template) -> Iterator[str]:
    """Yield a fresh database with one lane for one story."""
    name = databases.create(one_lane_template)
    yield databases.url(name)
    databases.drop(name)
