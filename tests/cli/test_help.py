"""What the command line says of itself, and how it fails."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import click
import pytest

from api.cli import cli
from api.settings import VARIABLES

SLOW = ("pandas", "pyarrow", "matplotlib", "litestar", "psycopg", "rich", "httpx", "genai_prices")
WITHOUT_JSON = {"serve"}


def imported_by(statement: str) -> set[str]:
    """Return the slow packages that a fresh process has imported after a statement."""
    script = f"import sys; {statement}; print(*(n for n in {SLOW!r} if n in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.splitlines()[-1].split())


def commands(
    command: click.Command = cli, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Walk every command that runs something."""
    if not isinstance(command, click.Group):
        yield words, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from commands(found, (*words, name))


def test_the_help_imports_nothing_slow() -> None:
    """`keyledger --help` answers at once."""
    assert imported_by("from api.cli import main; main(['--help'])") == set()


def test_a_worker_imports_no_pandas() -> None:
    """Frames are for reports; a process that answers requests has none."""
    found = imported_by("import api.process.app, api.process.jobs, api.process.serve")
    assert found.isdisjoint({"pandas", "pyarrow", "matplotlib", "genai_prices"})


def test_the_help_lists_every_command(keyledger: Any) -> None:
    """Each command stands in the help with what it is for."""
    said = keyledger("--help").out
    for name in ("serve", "demo", "replay", "account", "key", "grant", "price", "report"):
        assert f"  {name} " in said
    assert "audit" in said
    assert "db" in said


def test_the_help_of_serve_lists_every_variable(keyledger: Any) -> None:
    """Every environment variable is named with its meaning and default."""
    said = " ".join(keyledger("serve", "--help").out.split())
    for name, meaning in VARIABLES.items():
        assert f"{name} {meaning}" in said.replace("- ", "-")


@pytest.mark.parametrize("words", [words for words, _ in commands()], ids=" ".join)
def test_every_command_prints_json_on_demand(words: tuple[str, ...], keyledger: Any) -> None:
    """A script can read every answer."""
    said = keyledger(*words, "--help").out
    assert ("--json" in said) is (words[0] not in WITHOUT_JSON)


@pytest.mark.parametrize(
    "words",
    [
        ("nothing",),
        ("key", "issue"),
        ("key", "issue", "acct_1", "bot", "--dialect", "klingon"),
        ("key", "issue", "acct_1", "bot", "--dialect", "bve", "--limit", "requests:60"),
        ("grant", "add", "acct_1", "25"),
        ("report", "spend", "--by", "colour"),
        ("report", "spend", "--account", "acme"),
        ("replay", "no-such-trace.csv"),
        ("replay", "generated", "--speed", "fast"),
    ],
    ids=" ".join,
)
def test_a_wrong_use_is_told_in_one_line(words: tuple[str, ...], keyledger: Any) -> None:
    """Exit code 2, one line on standard error that says where the help is, nothing else."""
    done = keyledger(*words, code=2)
    assert done.out == ""
    assert len(done.err.splitlines()) == 1
    assert "--help" in done.err


def test_a_wrong_setting_names_its_variable(
    keyledger: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2 and the variable's name."""
    monkeypatch.setenv("KEYLEDGER_LANES", "many")
    assert "KEYLEDGER_LANES" in keyledger("db", "status", code=2).err


def test_without_a_service_one_line_says_so(
    keyledger: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 1, and what to do."""
    monkeypatch.setenv("KEYLEDGER_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("KEYLEDGER_ADMIN_SECRET", "anything")
    assert keyledger("account", "list", code=1).err == (
        "keyledger: No service answers at http://127.0.0.1:9. Start one by: keyledger serve\n"
    )


def test_without_the_secret_one_line_says_so(keyledger: Any) -> None:
    """Exit code 1, and which variable is missing."""
    assert "KEYLEDGER_ADMIN_SECRET" in keyledger("account", "list", code=1).err


def test_without_a_database_one_line_says_so(keyledger: Any) -> None:
    """A report makes no database by accident."""
    assert "There is no database" in keyledger("report", "spend", code=1).err
