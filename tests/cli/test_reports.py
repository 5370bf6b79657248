"""Commands that read the database: reports, audit, state."""

import csv
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def traffic(world: Any) -> str:
    """Record three requests of two integrations."""
    account = world.account(name="Reports")
    for name, count in (("bot", 2), ("search", 1)):
        key = world.key(account, name=name)
        for number in range(count):
            world.record(key, f"{name}-{number}", usage={"input": 1001, "output": 7})
    return account


def test_spend_is_summed_by_what_is_asked(served_keyledger: Any, traffic: str) -> None:
    """One row per integration, exact amounts as plain decimals."""
    words = ("report", "spend", "--by", "integration,model", "--account", traffic)
    rows = served_keyledger(*words, "--json").json
    assert [(v["integration"], v["model"], v["requests"], v["amount"]) for v in rows] == [
        ("bot", "m", 2, "0.00203"),
        ("search", "m", 1, "0.001015"),
    ]
    said = served_keyledger(*words).out
    assert "0.003045" in said
    assert "bot" in said


def test_spend_of_other_days_is_left_out(served_keyledger: Any, traffic: str) -> None:
    """--to is exclusive, --from inclusive."""
    words = ("report", "spend", "--by", "day", "--account", traffic)
    day = served_keyledger(*words, "--json").json[0]["day"]
    assert served_keyledger(*words, "--from", day, "--json").json
    assert served_keyledger(*words, "--to", day).out == "Nothing was spent.\n"


def test_spend_is_written_as_csv_exactly(
    served_keyledger: Any, traffic: str, tmp_path: Path
) -> None:
    """The file adds up to the report."""
    file = tmp_path / "spend.csv"
    words = ("report", "spend", "--by", "key,day", "--account", traffic, "--csv", str(file))
    rows = served_keyledger(*words, "--json").json
    with file.open(newline="") as opened:
        written = [Decimal(row["amount"]) for row in csv.DictReader(opened)]
    assert written == [Decimal(row["amount"]) for row in rows]
    assert sum(written) == Decimal("0.003045")


def test_balances_are_what_grants_less_spend_leave(served_keyledger: Any, traffic: str) -> None:
    """5 USD of welcome less what was charged."""
    rows = served_keyledger("report", "balances", "--account", traffic, "--json").json
    assert [(row["asset"], row["balance"]) for row in rows] == [("USD", "4.996955")]
    assert traffic in served_keyledger("report", "balances").out


def test_the_ledger_is_found_intact(served_keyledger: Any) -> None:
    """Hashes and positions are recomputed, charges and movements of credit decided again."""
    document = served_keyledger("audit", "verify", "--json").json
    assert document["intact"]
    assert document["charges_priced_again"] > 0
    assert document["movements_decided_again"] > document["charges_priced_again"]
    assert document["events"] == sum(lane["seq"] for lane in document["lanes"])
    assert "Intact." in served_keyledger("audit", "verify").out


def test_projections_made_anew_equal_the_live_ones(served_keyledger: Any) -> None:
    """Row for row, digest for digest."""
    words = ("audit", "rebuild", "--projection", "spend", "--projection", "credits")
    tables = served_keyledger(*words, "--json").json
    assert {table["table"] for table in tables} == {"spend", "lots", "balances"}
    assert all(table["equal"] for table in tables)
    assert "equal" in served_keyledger(*words).out


def test_an_unknown_projection_is_a_wrong_use(served_keyledger: Any) -> None:
    """The known ones are listed."""
    done = served_keyledger("audit", "rebuild", "--projection", "horoscope", code=2)
    assert "limit_counters" in done.err


def test_the_state_of_the_database_is_told(served_keyledger: Any) -> None:
    """Version, size, lanes."""
    document = served_keyledger("db", "status", "--json").json
    assert document["schema"]
    assert [lane["lane"] for lane in document["lanes"]] == [0, 1]
    assert "PostgreSQL" in served_keyledger("db", "status").out
    assert served_keyledger("db", "upgrade", "--json").json["lanes"] == 2
