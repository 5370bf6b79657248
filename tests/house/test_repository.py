"""House rules over every file of the repository: nothing ties it to one machine."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Put together here, so that this file keeps its own rule.
MACHINE_PATHS = [f"/{name}/" for name in ("work", "root", "tmp/v")]
REGISTRIES = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("deb", "debian", "org"),
        ("npmjs", ""),
    )
]


@pytest.fixture(scope="module")
def files() -> list[Path]:
    """Every file that is committed, or would be."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    return [ROOT / name for name in listed if name and (ROOT / name).is_file()]


def naming(files: list[Path], words: list[str]) -> list[str]:
    """Return the files that hold one of the words, with the word."""
    return [
        f"{path.relative_to(ROOT)}: {word}"
        for path in files
        for content in [path.read_bytes()]
        for word in words
        if word.encode() in content
    ]


def test_no_file_names_a_path_of_one_machine(files: list[Path]) -> None:
    """Nothing depends on where it was written."""
    assert naming(files, MACHINE_PATHS) == []


def test_no_file_names_a_registry(files: list[Path]) -> None:
    """Where packages come from is the machine's own setting."""
    assert naming(files, REGISTRIES) == []


def test_constraints_are_names_and_versions_only() -> None:
    """Every line of constraints.txt is `name==version` or a comment: no URL, no path."""
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines():
        assert re.fullmatch(r"#.*|[\w.-]+==[\w.!+-]+", line), line
