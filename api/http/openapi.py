"""The OpenAPI 3.1 document of a dialect, made from the same table that serves."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec

from api.http.routing import Route, Surface
from api.http.wording import TITLES

VERSION = "0.1.0"
ALWAYS = (400, 401, 403, 429, 503)
WITH_BODY = (413, 415)
SCHEMES: Mapping[str, Any] = {
    "operator": {"type": "http", "scheme": "bearer", "description": "The operator's secret."},
    "key": {"type": "http", "scheme": "bearer", "description": "A key's secret."},
    "api_key": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "A key's secret.",
    },
    "session": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "The token of a login.",
    },
}
"""What ``secured`` names."""
WRITTEN_AS = "x-written-as"
"""In a type's extra schema: the JSON type that it is written as where msgspec assumes another."""


def document(surface: Surface) -> bytes:
    """Write the document of a dialect."""
    routes = [route for route in surface.routes if route.documented]
    types = [kind for route in routes for kind in (route.body, route.answer)]
    known = [kind for kind in (*types, surface.error) if kind is not None]
    schemas, components = msgspec.json.schema_components(
        known, schema_hook=_anything, ref_template="#/components/schemas/{name}"
    )
    _mend(components)
    described = dict(zip(map(repr, known), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    counts: Counter[str] = Counter()
    for route in routes:
        path = route.path.replace("*}", "}")
        made = _operation(surface, route, described)
        counts[route.operation] += 1
        if counts[route.operation] > 1:  # served under several paths
            made["operationId"] = f"{route.operation}_{counts[route.operation]}"
        paths.setdefault(path, {})[route.method.lower()] = made
    used = {name for route in routes for name in route.security}
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": f"Keyledger: {surface.name}",
                "version": VERSION,
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "/"}],
            "paths": paths,
            "components": {
                "schemas": components,
                "securitySchemes": {name: SCHEMES[name] for name in SCHEMES if name in used},
            },
        }
    )


def _anything(kind: type) -> dict[str, Any]:
    """Describe what msgspec cannot: any JSON value."""
    if kind in {object, msgspec.Raw}:
        return {"description": "Any JSON value."}
    raise NotImplementedError


def _mend(schema: Any) -> None:  # noqa: ANN401 - any part of a schema
    """Let what is written as another type say so, wherever it stands."""
    if isinstance(schema, dict):
        if WRITTEN_AS in schema:
            schema["type"] = schema.pop(WRITTEN_AS)
            schema.pop("format", None)
        schema = list(schema.values())
    if isinstance(schema, list):
        for part in schema:
            _mend(part)


def _operation(surface: Surface, route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "operationId": route.operation,
        "summary": route.summary,
        "parameters": _parameters(route),
        "responses": _responses(surface, route, schemas),
        # An empty name: nothing need be shown.
        "security": [{name: []} if name else {} for name in route.security],
    }
    if route.body is not None:
        content: dict[str, Any] = {"schema": schemas[repr(route.body)]}
        if route.example is not None:
            content["example"] = route.example
        made["requestBody"] = {"required": True, "content": {"application/json": content}}
    return made


def _parameters(route: Route) -> list[dict[str, Any]]:
    text = {"type": "string", "minLength": 1, "maxLength": 255}
    found = [
        {"name": name, "in": "path", "required": True, "schema": text}
        for name in re.findall(r"{(\w+)\*?}", route.path)
    ]
    found += [
        {"name": name, "in": "query", "required": name in route.required, "schema": text}
        for name in route.query
    ]
    if route.once:
        found.append({"name": "Idempotency-Key", "in": "header", "schema": text})
    return found


def _responses(surface: Surface, route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    success: dict[str, Any] = {"description": route.summary}
    if route.answer is not None:
        content = {"application/json": {"schema": schemas[repr(route.answer)]}}
        for kind in route.other_types:
            content[kind] = {"schema": {"type": "string"}}
        success["content"] = content
    found = {str(route.status): success}
    body = WITH_BODY if route.method in {"POST", "PUT", "PATCH"} else ()
    once = (409,) if route.once else ()
    for status in sorted({*ALWAYS, *body, *once, *route.refusals} - {route.status}):
        found[str(status)] = _failure(status, schemas[repr(surface.error)])
    return found


def _failure(status: int, schema: Any) -> dict[str, Any]:  # noqa: ANN401
    made: dict[str, Any] = {
        "description": TITLES.get(status, "Error"),
        "content": {"application/json": {"schema": schema}},
    }
    if status == 401:  # noqa: PLR2004
        made["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
    return made
