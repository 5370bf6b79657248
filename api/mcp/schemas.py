"""JSON Schemas of structs, in the one form that every client reads: an object at the root."""

from typing import Any

import msgspec


def schema(form: type[msgspec.Struct]) -> dict[str, Any]:
    """Return a struct's schema; what it refers to stands in its own ``$defs``."""
    _, parts = msgspec.json.schema_components([form], ref_template="#/$defs/{name}")
    root: dict[str, Any] = parts.pop(form.__name__)
    return {**root, "$defs": parts} if parts else root
