"""The README's commands, pasted one block after another into a shell, print what it shows.

A block fenced as ``sh`` is commands; one fenced as ``text`` right below is what they print. There
``…`` stands for any text within a line, and a line of ``…`` alone for any lines; spaces at ends of
lines do not count. A block is left out only below a comment that says why: ``<!-- not run: … -->``.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.faults.rig import free_port

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<why>.+?) -->\n)?```sh\n(?P<commands>.*?)```\n"
    r"(?:```text\n(?P<shown>.*?)```\n)?",
    re.DOTALL,
)
ADDRESS = "localhost:8321"
END = "\0"
"""Printed after each block, so that one shell runs them all and each output stands alone."""


class Block(NamedTuple):
    """Commands, and what the README says that they print."""

    commands: str
    shown: str

    @property
    def pattern(self) -> str:
        """Return the pattern that the output has to match."""
        lines = [re.escape(line.rstrip()) for line in self.shown.splitlines()]
        anything = [".*" if line == "…" else line.replace("…", "[^\n]+") for line in lines]
        return "\n".join(anything)


def blocks() -> list[Block]:
    """Return the blocks that are run, in the README's order."""
    found = [match for match in BLOCK.finditer(README) if match["why"] is None]
    return [Block(match["commands"], match["shown"] or "") for match in found]


@pytest.fixture(scope="module")
def shell() -> Iterator[tuple[Path, dict[str, str]]]:
    """Make a fresh directory, and an environment in which nothing is set but a free port."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("KEYLEDGER_")}
    port = free_port()
    env |= {
        "COLUMNS": "100",
        "KEYLEDGER_PORT": str(port),
        "KEYLEDGER_URL": f"http://localhost:{port}",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    # Not among pytest's directories: another run of pytest closes those to the database's user.
    with tempfile.TemporaryDirectory(prefix="keyledger-tests-") as made:
        Path(made).chmod(0o711)
        yield Path(made), env


@pytest.mark.processes
def test_every_command_prints_what_the_readme_shows(shell: tuple[Path, dict[str, str]]) -> None:
    """From an empty directory: a service, a customer, a key, a call, its charge, a backup."""
    home, env = shell
    told = [
        block._replace(commands=block.commands.replace(ADDRESS, env["KEYLEDGER_URL"][7:]))
        for block in blocks()
    ]
    script = "set -eu\ntrap 'kill $(jobs -p) 2>/dev/null || :; wait' EXIT\n" + "".join(
        f"{block.commands}printf '\\0'\n" for block in told
    )
    # What runs too long is ended with all that it started.
    command = ["timeout", "--kill-after=30", "300", "bash", "-c", script]
    done = subprocess.run(command, check=False, cwd=home, env=env, capture_output=True, text=True)
    printed = done.stdout.split(END)
    for block, output in zip(told, printed, strict=False):
        lines = "\n".join(line.rstrip() for line in output.strip("\n").splitlines())
        assert re.fullmatch(block.pattern, lines, re.DOTALL), f"{block.commands}\n{lines}"
    assert done.returncode == 0, done.stderr
    assert len(printed) == len(told) + 1


def test_commands_are_shown_to_be_run() -> None:
    """Every fenced block is commands that are run or say why not, what they print, or a picture."""
    fences = re.findall(r"^```(\w+)$", README, re.MULTILINE)
    assert set(fences) <= {"sh", "text"}
    assert fences.count("sh") == len(list(BLOCK.finditer(README)))
    assert all("…" not in block.commands for block in blocks())
