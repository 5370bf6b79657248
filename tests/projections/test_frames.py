"""Frames give the sums that there are, of the days and the account that are asked for."""

from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pandas as pd
import psycopg
import pytest

from ledger.ids import lane_of_account
from ledger.server import database
from projections.reports import frames
from tests.projections.story import LANES, NAMES, Ledger

DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def ledger(databases: Any, migrated_template: str) -> Iterator[Ledger]:
    """Yield a ledger in which everything happened, in both lanes."""
    name = databases.create(migrated_template)
    ledger = Ledger(databases.url(name))
    ledger.tell_everything()
    yield ledger
    databases.drop(name)


@pytest.fixture
def connection(ledger: Ledger) -> Iterator[psycopg.Connection[Any]]:
    """Yield a connection that may only read."""
    with psycopg.connect(database.conninfo(ledger.url, database.READER)) as connection:
        yield connection


def days(connection: psycopg.Connection[Any]) -> list[date]:
    """Return the days on which anything was spent."""
    return sorted(frames.spend(connection, ("day",))["day"])


def total(frame: pd.DataFrame) -> Decimal:
    """Sum a frame. A minute counts in the asset of its price, a day in those that paid."""
    return sum(frames.totals(frame, ["asset"]).values(), Decimal(0))


def test_minutes_add_up_to_what_was_spent(connection: psycopg.Connection[Any]) -> None:
    """Promise 7: of all days together, and of some of them alone."""
    first, *_, last = [*days(connection), *days(connection)]
    everything = frames.cost_per_minute(connection, start=first)
    assert total(everything) == total(frames.spend(connection)) > 0
    of_a_day = frames.cost_per_minute(connection, start=last, end=last + DAY)
    assert total(of_a_day) == total(frames.spend(connection, start=last, end=last + DAY))
    assert len(frames.cost_per_minute(connection, start=last + DAY)) == 0
    assert len(frames.cost_per_minute(connection, start=first - DAY, end=first)) == 0


def test_minutes_of_an_account_are_read_in_its_lane(
    ledger: Ledger, connection: psycopg.Connection[Any]
) -> None:
    """Promise 15: nobody else's are among them, whichever lane it is in."""
    first = days(connection)[0]
    accounts = [ledger.account(name) for name in NAMES]
    assert {lane_of_account(account, LANES) for account in accounts} == set(range(LANES))
    for account in accounts:
        minutes = frames.cost_per_minute(connection, start=first, account_id=account)
        assert total(minutes) == total(frames.spend(connection, account_id=account))
