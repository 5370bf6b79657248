"""The route table: what is forwarded, what scope it needs, what limits count it, how it is metered.

A dialect serves the rows that its page names, on its own paths, and says which of its scopes allow
which *operation*. Every row has a meter (A9): there is no other way through the gateway.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from api.gateway import meters
from api.gateway.meters import Meter


class RouteEntry(NamedTuple):
    """One gatewayed route."""

    name: str
    method: str
    path: str
    """Below the dialect's base path; parameters in braces."""
    operation: str
    """The operation that a scope has to allow."""
    category: str
    """Category whose limits count it; calls that name no model are booked under it."""
    meter: Meter
    upstream_path: str
    """Below the upstream's base URL."""
    of_account: bool = False
    """Whether it reads or changes an account's own resources, so that the upstream is told
    whose."""


def _inference(name: str, path: str, category: str, meter: Meter) -> RouteEntry:
    return RouteEntry(name, "POST", path, "inference", category, meter, path)


def _call(name: str, method: str, path: str, operation: str) -> RouteEntry:
    category = path.split("/")[1]
    own = category != "models"
    return RouteEntry(name, method, path, operation, category, meters.CALL, path, of_account=own)


ENTRIES: tuple[RouteEntry, ...] = (
    _inference("chat", "/chat/completions", "chat", meters.CHAT),
    _inference("completions", "/completions", "chat", meters.COMPLETION),
    _inference("responses", "/responses", "chat", meters.RESPONSE),
    _inference("messages", "/messages", "chat", meters.MESSAGES),
    _inference("embeddings", "/embeddings", "embeddings", meters.EMBEDDING),
    _call("list_models", "GET", "/models", "models:read"),
    _call("get_model", "GET", "/models/{model}", "models:read"),
    _call("list_knowledge_bases", "GET", "/knowledge-bases", "knowledge-bases:read"),
    _call("create_knowledge_base", "POST", "/knowledge-bases", "knowledge-bases:manage"),
    _call("get_knowledge_base", "GET", "/knowledge-bases/{id}", "knowledge-bases:read"),
    _call("delete_knowledge_base", "DELETE", "/knowledge-bases/{id}", "knowledge-bases:manage"),
    _call("list_documents", "GET", "/knowledge-bases/{id}/documents", "knowledge-bases:read"),
    _call("upload_document", "POST", "/knowledge-bases/{id}/documents", "knowledge-bases:upload"),
    _call("list_agents", "GET", "/agents", "agents"),
    _call("create_agent", "POST", "/agents", "agents"),
    _call("get_agent", "GET", "/agents/{id}", "agents"),
    _call("delete_agent", "DELETE", "/agents/{id}", "agents"),
    _call("list_memories", "GET", "/memories", "memories:read"),
    _call("create_memory", "POST", "/memories", "memories:manage"),
    _call("get_memory", "GET", "/memories/{id}", "memories:read"),
    _call("delete_memory", "DELETE", "/memories/{id}", "memories:manage"),
)

BY_NAME: Mapping[str, RouteEntry] = {entry.name: entry for entry in ENTRIES}

PARAMETER = re.compile(r"\{(\w+)\}")
