"""How each use of the service is metered, route by route (A9).

A route acts for a key where who asks is a ``KeyCaller``; nothing else gets through the gateway. The
process does not start where such a route is not named here, or one is named that is not there.
"""

from collections.abc import Mapping
from typing import Any, get_args, get_type_hints

from api.gateway import table
from api.http.routing import Route, Surface
from api.identity.credentials import KeyCaller

COUNTED = "counted"
"""The handler counts a request itself, and answers without the gateway."""
FREE = "free"
"""What is read is the service's own catalogue or the key's own limits: it uses nothing up."""

METERS: Mapping[str, Mapping[str, str]] = {
    "reverie": {"create_chat_completion": "chat"},
    "foil": {
        "send_message": "chat",
        "stream_message": "chat",
        "list_personas": COUNTED,
        "init_session": COUNTED,
        "get_session": COUNTED,
        "get_history": COUNTED,
        "reset_session": COUNTED,
        "list_machines": COUNTED,
    },
    "bve": {
        "create_chat_completion": "chat",
        "create_completion": "completions",
        "create_embedding": "embeddings",
        "create_response": "responses",
        "list_models": "list_models",
        "get_model": "get_model",
    },
    "ryvion": {name: name for name in table.BY_NAME},
    "venice": {
        "create_chat_completion": "chat",
        "create_embeddings": "embeddings",
        "list_models": FREE,
        "list_model_traits": FREE,
        "list_model_compatibility": FREE,
        "get_model": FREE,
        "list_characters": FREE,
        "get_character": FREE,
        "get_rate_limits": FREE,
    },
}
"""Dialect → operation → a row of the gateway's table, ``COUNTED`` or ``FREE``."""

_KNOWN = table.BY_NAME.keys() | {COUNTED, FREE}


def metered(dialect: str) -> frozenset[str]:
    """Name the operations of a dialect that use something up."""
    return frozenset(name for name, how in METERS[dialect].items() if how != FREE)


def acts_for_a_key(route: Route) -> bool:
    """Tell whether what the route does is done for a key."""
    found: Any = get_type_hints(route.who)["return"]
    return KeyCaller in (found, *get_args(found))


def require_meters(surface: Surface, meters: Mapping[str, str]) -> None:
    """Make sure that all use of a dialect is metered in a way that there is."""
    acting = {route.operation for route in surface.routes if acts_for_a_key(route)}
    wrong = acting ^ meters.keys() | {name for name in meters if meters[name] not in _KNOWN}
    assert not wrong, f"{surface.name}: how are these metered? {', '.join(sorted(wrong))}"
