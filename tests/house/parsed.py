"""Source files as trees, parsed once for all rules of a process."""

import ast
from functools import cache
from pathlib import Path


@cache
def tree_of(path: Path) -> ast.Module:
    """Parse a file. Rules share the tree and leave it as it is."""
    return ast.parse(path.read_text("utf-8"), str(path))
