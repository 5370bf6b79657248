"""The demo does the main job in one go, and once."""

import tempfile
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.processes


@pytest.fixture
def home(keyledger: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:  # noqa: ARG001
    """Yield a data directory that no other run of pytest closes to the database's user."""
    with tempfile.TemporaryDirectory(prefix="keyledger-tests-") as made:
        place = Path(made) / "home"
        Path(made).chmod(0o711)
        monkeypatch.setenv("KEYLEDGER_HOME", str(place))
        yield place


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Return 300 recorded requests."""
    file = tmp_path / "short.csv"
    rows = [
        f"2023-11-16 18:{n // 60:02}:{n % 60:02}.1234567,{300 + n},{20 + n % 7}\n"
        for n in range(300)
    ]
    file.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(rows))
    return file


def test_the_demo_runs_from_nothing_and_charges_once(
    keyledger: Any, home: Path, trace: Path
) -> None:
    """On an empty home: a database, keys, traffic, spend, a verdict; a second run adds nothing."""
    assert not home.exists()
    first = keyledger("demo", "--trace", str(trace), "--exit", "--json").json
    assert first["replay"]["sent"] == 300
    assert first["replay"]["replayed"] == 0
    assert first["audit"]["intact"]
    charged = Decimal(first["replay"]["total"]["USD"])
    assert sum(Decimal(row["amount"]) for row in first["spend"]) == charged
    assert {row["dialect"] for row in first["spend"]} == {
        *("reverie", "foil", "bve", "ryvion", "venice")
    }
    second = keyledger("demo", "--trace", str(trace), "--exit")
    assert "Charged in this run: nothing" in second.out
    assert "Intact." in second.out
    assert "five dialects" in second.out
    assert "dashboard" not in second.out + second.err
    # Without any service, the reports read the database that the demo made.
    rows = keyledger("report", "spend", "--by", "account", "--json").json
    assert sum(Decimal(row["amount"]) for row in rows) == charged


def test_a_missing_trace_is_named_before_anything_starts(keyledger: Any, home: Path) -> None:
    """Exit code 2, and no home was made."""
    assert "no such file" in keyledger("demo", "--trace", "nowhere.csv", code=2).err
    assert not home.exists()
