"""The OpenAPI 3.1 document of a surface.

Litestar writes paths, operations and answers from the handlers themselves. What it cannot say of
them is added here: parameters read by ``Ask``, refusals in the surface's envelope, examples; and
schemas by msgspec, whose names are the same and which leave out nothing that the types say.
"""

import importlib.metadata
import re
from collections.abc import Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

import msgspec
from litestar import Litestar
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import License, SecurityScheme, Server
from msgspec import UnsetType

from api.http.asking import Ask, Strict
from api.http.handlers import Contract, Handler, Rendered
from api.http.surface import Surface
from api.http.wording import TITLES

VERSION = importlib.metadata.version("keyledger")
WITH_BODY = (413, 415)
TEXT = {"type": "string", "minLength": 1, "maxLength": 255}
SCHEMES: Mapping[str, SecurityScheme] = {
    "operator": SecurityScheme(type="http", scheme="bearer", description="The operator's secret."),
    "member": SecurityScheme(
        type="http",
        scheme="bearer",
        bearer_format="JWT",
        description="A member's token, valid for 15 minutes: for their own account, by role.",
    ),
    "key": SecurityScheme(type="http", scheme="bearer", description="A key's secret."),
    "api_key": SecurityScheme(
        type="apiKey",
        security_scheme_in="header",
        name="X-API-Key",
        description="A key's secret.",
    ),
    "session": SecurityScheme(
        type="http", scheme="bearer", bearer_format="JWT", description="The token of a login."
    ),
}
"""Security schemes by the names that guards use."""
WRITTEN_AS = "x-written-as"
"""Member of a type's extra schema: the JSON type it is written as, where msgspec assumes
another."""


def document(surface: Surface, request_class: type[Ask[Any]]) -> bytes:
    """Write the document of a surface."""
    by_id: dict[str, Handler] = {}
    made = _by_litestar(surface, request_class, by_id)
    # Sorted, because Litestar visits the methods of a path in any order.
    types = [kind for name in sorted(by_id) for kind in _types(by_id[name])]
    known = list({repr(kind): kind for kind in (*types, surface.error)}.values())
    schemas, components = msgspec.json.schema_components(
        known, schema_hook=_anything, ref_template="#/components/schemas/{name}"
    )
    _mend(components)
    described = dict(zip(map(repr, known), schemas, strict=True))
    for path, methods in made["paths"].items():
        for operation in methods.values():
            handler = by_id[operation["operationId"]]
            _complete(surface, path, operation, handler, described)
            if surface.describe is not None:
                surface.describe(path, operation, handler)
    made["components"] = {**made["components"], **surface.components, "schemas": components}
    return msgspec.json.encode(made)


def _by_litestar(
    surface: Surface, request_class: type[Ask[Any]], by_id: dict[str, Handler]
) -> dict[str, Any]:
    """Have Litestar write the document; ``by_id`` receives each operation's handler."""
    used: set[str] = set()

    def name(handler: Any, _method: Any, _components: Any) -> str:  # noqa: ANN401
        known = str(handler.handler_name)
        found, count = known, 1
        while found in by_id:  # served under several paths
            count += 1
            found = f"{known}_{count}"
        by_id[found] = handler
        used.update(*(handler.security or ()))
        return found

    config = OpenAPIConfig(
        title=surface.title,
        version=VERSION,
        description=surface.description or None,
        license=License(name="Apache-2.0", identifier="Apache-2.0"),
        servers=[Server(url="/")],
        operation_id_creator=name,
        render_plugins=[JsonRenderPlugin()],
    )
    app = Litestar(
        list(surface.handlers),
        request_class=request_class,
        dto=Strict,
        return_dto=None,
        openapi_config=config,
    )
    made: dict[str, Any] = app.openapi_schema.to_schema()
    schemes = {each: SCHEMES[each].to_schema() for each in SCHEMES if each in used}
    made["components"] = {"securitySchemes": schemes}
    return made


def _types(handler: Handler) -> Iterator[Any]:
    """Yield the types of a handler's body and answers."""
    data = handler.parsed_fn_signature.parameters.get("data")
    if data is not None:
        yield data.annotation
    yield from _gives(handler)


def _gives(handler: Handler) -> Sequence[Any]:
    """Return the type of a handler's answer; for a union of structs, each of them."""
    found = handler.parsed_fn_signature.return_type.annotation
    origin = get_origin(found)
    if isinstance(origin, type) and issubclass(origin, Rendered):
        (found,) = get_args(found)
    if get_origin(found) is UnionType and UnsetType not in get_args(found):
        return get_args(found)
    return () if found is NoneType else (found,)


def _anything(kind: type) -> dict[str, Any]:
    """Describe what msgspec cannot: any JSON value."""
    if kind in {object, msgspec.Raw}:
        return {"description": "Any JSON value."}
    raise NotImplementedError


def _mend(schema: Any) -> None:  # noqa: ANN401 - any part of a schema
    """Correct the type of whatever is written as another type, throughout a schema."""
    if isinstance(schema, dict):
        if WRITTEN_AS in schema:
            schema["type"] = schema.pop(WRITTEN_AS)
            schema.pop("format", None)
        schema = list(schema.values())
    if isinstance(schema, list):
        for part in schema:
            _mend(part)


def _complete(
    surface: Surface,
    path: str,
    operation: dict[str, Any],
    handler: Handler,
    schemas: Mapping[str, Any],
) -> None:
    """Add what Litestar cannot know about an operation."""
    contract: Contract = handler.opt["contract"]
    operation["parameters"] = [*_parameters(path, contract, once="once" in handler.opt)]
    data = handler.parsed_fn_signature.parameters.get("data")
    if data is not None:
        operation["requestBody"] = _body(contract, schemas[repr(data.annotation)], data.is_optional)
    success = operation["responses"][str(handler.status_code)]
    operation["responses"] = {str(handler.status_code): success}
    gives = [schemas[repr(kind)] for kind in _gives(handler)]
    success.pop("content", None)
    if gives:
        schema = gives[0] if len(gives) == 1 else {"anyOf": gives}
        content = {"application/json": {"schema": schema}}
        content.update((kind, {"schema": {"type": "string"}}) for kind in contract.other_types)
        success["content"] = content
    statuses = {*surface.always, *contract.refusals}
    statuses.update(WITH_BODY if data is not None else ())
    statuses.update({409} if "once" in handler.opt else ())
    schema = schemas[repr(surface.error)]
    for status in sorted(statuses - {handler.status_code}):
        operation["responses"][str(status)] = _refusal(status, surface.error_type, schema)


def _parameters(path: str, contract: Contract, *, once: bool) -> Iterator[dict[str, Any]]:
    for name in re.findall(r"{(\w+)}", path):
        yield {"name": name, "in": "path", "required": True, "schema": TEXT}
    for name in contract.query:
        required = name in contract.required
        yield {"name": name, "in": "query", "required": required, "schema": TEXT}
    if once:
        yield {"name": "Idempotency-Key", "in": "header", "schema": TEXT}


def _body(contract: Contract, schema: Any, optional: bool) -> dict[str, Any]:  # noqa: ANN401, FBT001
    first, *others = contract.body_types
    content: dict[str, Any] = {first: {"schema": schema}}
    content.update((kind, {"schema": {}}) for kind in others)
    if contract.example is not None:
        content[first]["example"] = contract.example
    return {"required": not optional, "content": content}


def _refusal(status: int, media_type: str, schema: Any) -> dict[str, Any]:  # noqa: ANN401
    made: dict[str, Any] = {
        "description": TITLES[status],
        "content": {media_type: {"schema": schema}},
    }
    if status == 401:  # noqa: PLR2004
        made["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
    elif status in {429, 503}:
        made["headers"] = {"Retry-After": {"schema": {"type": "integer"}}}
    return made
