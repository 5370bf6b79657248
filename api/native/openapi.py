"""The OpenAPI 3.1 document, made from the same table that serves."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from api.http.wording import TITLES
from api.identity.auth import PERMISSIONS
from api.native.errors import CONTENT_TYPE, TYPE
from api.native.routing import Route
from api.queries import MOVEMENT_TYPES
from ledger.limits import LimitId

VERSION = "0.1.0"
ALWAYS = (400, 401, 403, 503)
PAGES = {
    "limit": ("How many: 1 to 1,000, by default 100.", {"type": "integer", "minimum": 1}),
    "after": ("Where to go on: `next` of the page before.", {"type": "string"}),
    "group_by": ("Some of integration,model,day,key.", {"type": "string"}),
    "from": ("From this day of UTC on, this instant, or this version.", {"type": "string"}),
    "to": ("Up to this day of UTC or instant, exclusive; or this version.", {"type": "string"}),
    "as_of": ("An instant, RFC 3339.", {"type": "string", "format": "date-time"}),
    "known_at": (
        "As known at this instant, RFC 3339.",
        {"type": "string", "format": "date-time"},
    ),
    "account_id": ("An account.", {"type": "string"}),
    "key_id": ("A key.", {"type": "string"}),
    "type": (
        "What kind of movement.",
        {"type": "string", "enum": list(MOVEMENT_TYPES)},
    ),
    "character": ("Slug of a character.", {"type": "string"}),
    "model": ("A model as it was booked.", {"type": "string"}),
    "key": ("Id of a key.", {"type": "string"}),
    "asset": ("An asset such as CREDIT.", {"type": "string"}),
    "scope": (
        "own: the account's characters; usable: those it may talk to.",
        {"type": "string", "enum": ["own", "usable"]},
    ),
}


def document(routes: Sequence[Route]) -> bytes:
    """Write the document."""
    types = [
        kind for route in routes for kind in (route.body, *_answers(route)) if kind is not None
    ]
    schemas, components = msgspec.json.schema_components(
        types, schema_hook=_anything, ref_template="#/components/schemas/{name}"
    )
    described = dict(zip(map(repr, types), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, described)
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "Keyledger",
                "version": VERSION,
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
                "description": "A usage and billing ledger for platforms that sell an AI API.",
            },
            "servers": [{"url": "/"}],
            "security": [{"operator": []}, {"member": []}],
            "paths": paths,
            "components": {
                "schemas": {**components, "Problem": _PROBLEM},
                "headers": _HEADERS,
                "securitySchemes": _SECURITY,
            },
        }
    )


def _answers(route: Route) -> tuple[Any, ...]:
    return route.answer if isinstance(route.answer, tuple) else (route.answer,)


def _anything(kind: type) -> dict[str, Any]:
    """Describe what msgspec cannot: any JSON value."""
    if kind in {object, msgspec.Raw}:
        return {"description": "Any JSON value."}
    raise NotImplementedError


def _operation(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "operationId": route.operation,
        "summary": route.summary,
        "tags": [_tag(route)],
        "parameters": _parameters(route),
        "responses": _responses(route, schemas),
    }
    if route.body is not None:
        made["requestBody"] = _body(route, schemas)
    if route.public:
        made["security"] = []
    else:
        if not PERMISSIONS[route.operation]:
            made["security"] = [{"operator": []}]
        made["description"] = f"Roles: {', '.join(_roles(route.operation))}."
    return made


def _roles(operation: str) -> list[str]:
    return ["operator", *sorted(PERMISSIONS[operation])]


def _tag(route: Route) -> str:
    return route.path.split("/")[3]


def _parameters(route: Route) -> list[dict[str, Any]]:
    found = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", route.path)
    ]
    for name in route.query:
        description, schema = PAGES[name]
        found.append({"name": name, "in": "query", "description": description, "schema": schema})
    if route.method != "GET" and not route.public:
        schema = {"type": "string", "minLength": 1, "maxLength": 255}
        found.append({"name": "Idempotency-Key", "in": "header", "schema": schema})
    if route.method == "PATCH":
        found.append({"name": "If-Match", "in": "header", "schema": {"type": "string"}})
    return found


def _body(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {
        kind: {"schema": schemas[repr(route.body)]} for kind in route.content_types[:1]
    }
    for kind in route.content_types[1:]:
        content[kind] = {"schema": {}}
    if route.example is not None:
        content["application/json"]["example"] = route.example
    return {"required": route.decoder is not None, "content": content}


def _responses(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    answers = [schemas[repr(kind)] for kind in _answers(route)]
    success: dict[str, Any] = {
        "description": route.summary,
        "headers": {"Ledger-Position": {"$ref": "#/components/headers/Ledger-Position"}},
        "content": {
            "application/json": {"schema": answers[0] if len(answers) == 1 else {"anyOf": answers}}
        },
    }
    found = {str(route.status): success}
    if route.operation == "get_key":
        success["headers"]["ETag"] = {"schema": {"type": "string"}}
    statuses = {*ALWAYS, *route.refusals, *((413,) if route.body is not None else ())}
    for status in sorted(statuses):
        found[str(status)] = _problem(status)
    return found


def _problem(status: int) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    made: dict[str, Any] = {
        "description": TITLES[status],
        "content": {CONTENT_TYPE.decode(): {"schema": schema}},
    }
    if status in {429, 503}:
        made["headers"] = {"Retry-After": {"$ref": "#/components/headers/Retry-After"}}
    if status == 401:  # noqa: PLR2004
        made["headers"] = {"WWW-Authenticate": {"$ref": "#/components/headers/WWW-Authenticate"}}
    return made


_PROBLEM = {
    "title": "Problem",
    "description": "RFC 9457. A limit's refusal also says scope, limit, ceiling, used, pending,"
    " requested, resets_at and the position it was decided at.",
    "type": "object",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "problem": {"type": "string"}},
            },
        },
        "scope": {"type": "string"},
        "limit": {"type": "object"},
        "ceiling": {"type": "string"},
        "used": {"type": "string"},
        "pending": {"type": "string"},
        "available": {"type": "string"},
        "requested": {"type": "string"},
        "resets_at": {"type": ["string", "null"], "format": "date-time"},
        "position": {
            "type": "object",
            "properties": {"lane": {"type": "integer"}, "seq": {"type": "integer"}},
        },
    },
    "examples": [
        {
            "type": TYPE + "limit_is_reached",
            "title": TITLES[429],
            "status": 429,
            "detail": "A limit leaves no room for the request.",
            "code": "limit_is_reached",
            "scope": "key",
            "limit": {
                "id": LimitId("requests", "rolling:60").text,
                "kind": "requests",
                "window": "rolling:60",
            },
            "ceiling": "60",
            "used": "60",
            "pending": "0",
            "requested": "1",
            "resets_at": "2026-11-21T02:01:02Z",
            "position": {"lane": 1, "seq": 4711},
        }
    ],
}
_HEADERS = {
    "Ledger-Position": {
        "description": "Lane and position that the answer reflects, such as 1:4711.",
        "schema": {"type": "string"},
    },
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}},
    "WWW-Authenticate": {"description": "RFC 6750.", "schema": {"type": "string"}},
}
_SECURITY = {
    "operator": {
        "type": "http",
        "scheme": "bearer",
        "description": "The operator's secret: everything.",
    },
    "member": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "A member's token, 15 minutes: the member's own account, by role.",
    },
}
