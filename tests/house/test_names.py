"""House rule over names: one public class name, one meaning."""

import ast
from collections import defaultdict
from pathlib import Path

from tests.house.parsed import tree_of

ROOT = Path(__file__).parents[2]
VIEWS = "api/mcp/forms.py"
"""Views of what the ledger calls the same."""
LAYERS = {"Ask"}
"""One thing in three layers: what every request carries, with accounts, with the native guard."""


def definitions() -> dict[str, list[str]]:
    """Return the modules that define each public class name."""
    found: dict[str, list[str]] = defaultdict(list)
    for package in ("ledger", "projections", "api"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(tree_of(path)):
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    found[node.name].append(path.relative_to(ROOT).as_posix())
    return found


def place_of(module: str) -> str:
    """Return where a module may not define what another does; every dialect is one such place."""
    parts = module.split("/")
    return "api/dialects" if parts[:2] == ["api", "dialects"] and len(parts) > 3 else module


def is_doubled(modules: list[str]) -> bool:
    """Return whether one name is defined twice: in two places, or twice in one dialect."""
    others = [module for module in modules if module != VIEWS]
    folders = [module.rpartition("/")[0] for module in others]
    same = any(
        folders.count(folder) > 1 for folder in folders if folder.startswith("api/dialects/")
    )
    return same or len({place_of(module) for module in others}) > 1


def test_the_rule_bites() -> None:
    """Two places are two, each dialect's own of the same kind are one, views are none."""
    assert is_doubled(["ledger/keys.py", "api/beside/shelf.py"])
    assert is_doubled(["api/dialects/foil/views.py", "ledger/keys.py"])
    assert is_doubled(["api/dialects/foil/views.py", "api/dialects/foil/bodies.py"])
    assert not is_doubled(["api/dialects/foil/views.py", "api/dialects/bve/bodies.py"])
    assert not is_doubled(["ledger/usage.py", VIEWS])


def test_one_class_name_has_one_meaning() -> None:
    """No public class name is defined twice."""
    doubled = {
        name: modules
        for name, modules in definitions().items()
        if name not in LAYERS and is_doubled(modules)
    }
    assert not doubled, f"Name one of each after what it is: {doubled}"
