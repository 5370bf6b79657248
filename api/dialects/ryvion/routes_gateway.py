"""ryvion's routes through the gateway: OpenAI's under ``/v1``, the account's own under ``/api/v1``.

All are rows of the gateway's table. The lane decides about key, scope, limits and credit in the
step that holds the worst case; a session is booked on the account's own key for sessions.
"""

from collections.abc import Callable, Mapping
from typing import Any

from api.dialects.forwarding import forward
from api.dialects.ryvion import credentials, scopes
from api.gateway.table import ENTRIES, PARAMETER, RouteEntry
from api.http.handlers import Handler, Reply, hot
from api.identity.credentials import KeyCaller
from api.services import Ask
from ledger.clock import Instant
from ledger.errors import ScopeIsDenied
from ledger.state import Account, Key

PAGED = ("limit", "after")
_CHAT = {
    "model": "keyledger-small",
    "messages": [{"role": "user", "content": "What is a ledger?"}],
}
_EXAMPLES: Mapping[str, Any] = {
    "chat": _CHAT,
    "completions": {"model": "keyledger-small", "prompt": "A ledger is"},
    "responses": {"model": "keyledger-small", "input": "What is a ledger?"},
    "messages": {**_CHAT, "max_tokens": 256},
    "embeddings": {"model": "keyledger-embedding", "input": "A ledger"},
    "create_knowledge_base": {"name": "Handbook"},
    "upload_document": {"text": "Keys are shown once.", "name": "keys.txt"},
    "create_agent": {"name": "Clerk", "instructions": "Be brief."},
    "create_memory": {"text": "Ada likes tables."},
}


def _permits(operation: str) -> Callable[[Account, Key, Instant], None]:
    def permits(_account: Account, key: Key, _at: Instant) -> None:
        if not scopes.allows(key.scopes, operation):
            raise ScopeIsDenied

    return permits


def _handler(entry: RouteEntry) -> Handler:
    """Serve a row of the table."""
    permits = _permits(entry.operation)

    async def serve(ask: Ask[KeyCaller]) -> Reply:
        return await forward(ask, entry.name, permits=permits, own_errors=True)

    serve.__name__ = entry.name
    serve.__doc__ = _summary(entry)
    shared = entry.meter.format or entry.category == "models"
    is_list = entry.of_account and entry.name.startswith("list_")
    return hot(
        entry.method,
        ("/v1" if shared else "/api/v1") + PARAMETER.sub(r"{\1:str}", entry.path),
        guards=[credentials.key_or_session(entry.operation)],
        large=True,
        takes=dict[str, Any] if entry.method == "POST" else None,
        status=201 if entry.name.startswith(("create_", "upload_")) else 200,
        query=PAGED if is_list else (),
        refusals=(402, 404, 502, 504),
        example=_EXAMPLES.get(entry.name),
        other_types=("text/event-stream",) if entry.meter.format else (),
    )(serve)


def _summary(entry: RouteEntry) -> str:
    if entry.meter.format:
        return f"Answer a request of OpenAI's or Anthropic's API: {entry.path}."
    verb, _, thing = entry.name.partition("_")
    return f"{verb.capitalize()} {thing.replace('_', ' ')}."


HANDLERS = tuple(map(_handler, ENTRIES))
