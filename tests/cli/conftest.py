"""The command line against a served ledger."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from api.cli import main


class Done(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Read the output."""
        return json.loads(self.out)


class Keyledger:
    """Runs commands as the operator of a served ledger."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Take what captures the output."""
        self._capsys = capsys

    def __call__(self, *words: str, code: int = 0) -> Done:
        """Run a command and expect its exit code."""
        self._capsys.readouterr()
        found = main(words)
        said = self._capsys.readouterr()
        assert found == code, f"{words}: {said.out}{said.err}"
        return Done(found, said.out, said.err)


@pytest.fixture
def keyledger(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Keyledger:
    """Run commands with an environment in which there is no service and no database yet."""
    for name in ("DATABASE_URL", "ADMIN_SECRET", "URL", "PORT", "HOST"):
        monkeypatch.delenv(f"KEYLEDGER_{name}", raising=False)
    monkeypatch.setenv("KEYLEDGER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "100")
    return Keyledger(capsys)


@pytest.fixture
def served_keyledger(
    keyledger: Keyledger, served: Any, ledger_url: str, monkeypatch: pytest.MonkeyPatch
) -> Keyledger:
    """Run commands as the operator of the module's served ledger."""
    monkeypatch.setenv("KEYLEDGER_URL", served.url)
    monkeypatch.setenv("KEYLEDGER_DATABASE_URL", ledger_url)
    monkeypatch.setenv("KEYLEDGER_ADMIN_SECRET", "operator-secret-of-tests")
    return keyledger
