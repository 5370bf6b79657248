"""What the native API's document adds: roles, positions, what parameters mean."""

from typing import Any

from api.http.handlers import Handler
from api.identity.auth import PERMISSIONS
from api.queries import MOVEMENT_TYPES

PAGES = {
    "limit": ("How many: 1 to 1,000, by default 100.", {"type": "integer", "minimum": 1}),
    "after": ("Where to continue: `next` of the previous page.", {"type": "string"}),
    "group_by": ("One or more of integration,model,day,key.", {"type": "string"}),
    "from": ("From this UTC day, instant or version on.", {"type": "string"}),
    "to": ("Up to this UTC day or instant, exclusive; or this version.", {"type": "string"}),
    "as_of": ("An instant, RFC 3339.", {"type": "string", "format": "date-time"}),
    "known_at": (
        "As known at this instant, RFC 3339.",
        {"type": "string", "format": "date-time"},
    ),
    "account_id": ("An account.", {"type": "string"}),
    "key_id": ("A key.", {"type": "string"}),
    "type": (
        "Kind of movement.",
        {"type": "string", "enum": list(MOVEMENT_TYPES)},
    ),
    "character": ("Slug of a character.", {"type": "string"}),
    "model": ("Name that a model was booked under.", {"type": "string"}),
    "key": ("Id of a key.", {"type": "string"}),
    "asset": ("An asset such as CREDIT.", {"type": "string"}),
    "scope": (
        "own: the account's characters; usable: those it may talk to.",
        {"type": "string", "enum": ["own", "usable"]},
    ),
}


def describe(path: str, operation: dict[str, Any], handler: Handler) -> None:
    """Add what only this surface says about an operation."""
    name = str(handler.handler_name)
    operation["tags"] = [path.split("/")[3]]
    for parameter in operation["parameters"]:
        if parameter["name"] in PAGES:
            parameter["description"], parameter["schema"] = PAGES[parameter["name"]]
    success = operation["responses"][str(handler.status_code)]
    success["headers"] = {"Ledger-Position": {"$ref": "#/components/headers/Ledger-Position"}}
    if name == "get_key":
        success["headers"]["ETag"] = {"schema": {"type": "string"}}
    if not handler.guards:
        return
    roles = sorted(PERMISSIONS[name])
    operation["description"] = f"Roles: {', '.join(['operator', *roles])}."
    if not roles:
        operation["security"] = [{"operator": []}]
    (method,) = handler.http_methods
    if method != "GET":
        schema = {"type": "string", "minLength": 1, "maxLength": 255}
        operation["parameters"].append(
            {"name": "Idempotency-Key", "in": "header", "schema": schema}
        )
    if method == "PATCH":
        schema = {"type": "string"}
        operation["parameters"].append({"name": "If-Match", "in": "header", "schema": schema})


COMPONENTS = {
    "headers": {
        "Ledger-Position": {
            "description": "Lane and position that the answer reflects, such as 1:4711.",
            "schema": {"type": "string"},
        }
    }
}
