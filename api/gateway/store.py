"""The built-in upstream: the sample model, and a small store of what accounts keep.

Knowledge bases with their documents, agents and memories are ordinary rows of their account. Every
look-up names the account, so another account's rows do not exist for it (promise 15).
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, NoReturn
from urllib.parse import parse_qs
from uuid import UUID

import msgspec

from api.beside.resources import KEPT_MAX, NoSuchResource, Resource, Resources, TooMany
from api.gateway import sample
from api.gateway.sample import Made, SampleRefusal
from api.gateway.upstream import Outgoing
from api.http import reading
from api.http.failure import Failure
from ledger import secrets
from ledger.clock import format_instant

PAGE_DEFAULT, PAGE_MAX = 20, 100
NAME_MAX = 255
DESCRIPTION_MAX = 4 * 1024
INSTRUCTIONS_MAX = 32 * 1024
MEMORY_MAX = 16 * 1024
TEXT_MAX = 1024 * 1024
METADATA_MAX = 16

_encode = msgspec.json.Encoder().encode


class ResourceBody(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Fields that a resource may have; each kind has some of them."""

    name: str = ""
    description: str = ""
    instructions: str = ""
    model: str = ""
    text: str = ""
    metadata: dict[str, str] = {}


_decoder = msgspec.json.Decoder(ResourceBody)
_kept = msgspec.json.Decoder(ResourceBody)


class ResourceKind(NamedTuple):
    """A kind of resource."""

    name: str
    fields: Mapping[str, int]
    """Its fields, and how many characters each may have; the first is required."""
    parent: str = ""


_META = {"description": DESCRIPTION_MAX, "metadata": METADATA_MAX}
KNOWLEDGE_BASE = ResourceKind("knowledge_base", {"name": NAME_MAX, **_META})
DOCUMENT = ResourceKind(
    "document",
    {"text": TEXT_MAX, "name": NAME_MAX, "metadata": METADATA_MAX},
    parent=KNOWLEDGE_BASE.name,
)
AGENT = ResourceKind(
    "agent", {"name": NAME_MAX, "instructions": INSTRUCTIONS_MAX, "model": NAME_MAX, **_META}
)
MEMORY = ResourceKind("memory", {"text": MEMORY_MAX, "metadata": METADATA_MAX})


def _view(kind: ResourceKind, found: Resource) -> dict[str, Any]:
    """Show a resource, but not a document's text, which may be long and which its owner sent."""
    body = _kept.decode(found.body)
    shown = {
        name: getattr(body, name) for name in kind.fields if kind is not DOCUMENT or name != "text"
    }
    return {
        "id": str(found.resource_id),
        "object": kind.name,
        "created_at": format_instant(found.created_at),
        **shown,
    }


def _refuse(param: str, problem: str) -> NoReturn:
    raise SampleRefusal(400, f"{param} {problem}", param, "invalid_value")


def _read(kind: ResourceKind, outgoing: Outgoing) -> str:
    """Read the body of something to be kept, and return it in the form that is kept."""
    body = _body(outgoing)
    for name in ResourceBody.__struct_fields__:
        value = getattr(body, name)
        if value and name not in kind.fields:
            _refuse(name, f"is not a field of a {kind.name}")
        if len(value) > kind.fields.get(name, 0):
            _refuse(name, "is too long")
    if any(len(name) > NAME_MAX or len(each) > NAME_MAX for name, each in body.metadata.items()):
        _refuse("metadata", "is too long")
    required = next(iter(kind.fields))
    if not getattr(body, required):
        _refuse(required, "is required")
    return secrets.redacted(_encode(body).decode())


def _body(outgoing: Outgoing) -> ResourceBody:
    kind = outgoing.content_type.partition(";")[0].strip().lower()
    if kind == "text/plain":
        return ResourceBody(text=_plain(outgoing.body))
    if kind not in {"", "application/json"}:
        message = "Send the body as application/json, or a document as text/plain"
        raise SampleRefusal(415, message, None, "unsupported_media_type")
    try:
        return reading.decode(_decoder, outgoing.body)
    except Failure as failure:
        raise SampleRefusal(400, failure.said, None, failure.code or failure.kind) from failure


def _plain(body: bytes) -> str:
    try:
        text = body.decode()
    except UnicodeDecodeError:
        _refuse("body", "is not UTF-8")
    if "\0" in text:
        _refuse("body", "holds NUL")
    return text


def _id(outgoing: Outgoing, kind: ResourceKind) -> UUID:
    try:
        return UUID(outgoing.parameters["id"])
    except ValueError:
        raise _absent(kind.name) from None


def _absent(kind: str) -> SampleRefusal:
    return SampleRefusal(404, f"No such {kind.replace('_', ' ')}", "id", "not_found")


class BuiltIn:
    """The upstream where none is configured."""

    name = "built-in"

    def __init__(self, resources: Resources) -> None:
        """Take where accounts' resources are kept."""
        self._resources = resources
        self._answers: Mapping[str, Callable[[Outgoing], Awaitable[Made]]] = {
            **self._routes(KNOWLEDGE_BASE, "knowledge_base"),
            **self._routes(AGENT, "agent"),
            **self._routes(MEMORY, "memory", "memories"),
            "list_documents": lambda outgoing: self._list(outgoing, DOCUMENT),
            "upload_document": lambda outgoing: self._create(outgoing, DOCUMENT),
        }

    def _routes(
        self, kind: ResourceKind, one: str, many: str = ""
    ) -> Mapping[str, Callable[[Outgoing], Awaitable[Made]]]:
        return {
            f"list_{many or one + 's'}": lambda outgoing: self._list(outgoing, kind),
            f"create_{one}": lambda outgoing: self._create(outgoing, kind),
            f"get_{one}": lambda outgoing: self._get(outgoing, kind),
            f"delete_{one}": lambda outgoing: self._delete(outgoing, kind),
        }

    async def ask(self, outgoing: Outgoing) -> Made:
        """Answer."""
        name = outgoing.entry.name
        try:
            if name in sample.ANSWERS:
                return sample.ANSWERS[name](outgoing)
            return await self._answers[name](outgoing)
        except SampleRefusal as refusal:
            return Made(refusal.body, status=refusal.status)

    def scrub(self, text: bytes) -> bytes:
        """Return it unchanged: there is nothing to hide."""
        return text

    async def close(self) -> None:
        """Do nothing: the pool is not ours."""

    async def _list(self, outgoing: Outgoing, kind: ResourceKind) -> Made:
        most, after = _page(outgoing)
        account = outgoing.account_id
        parent = _id(outgoing, KNOWLEDGE_BASE) if kind.parent else None
        if parent is not None:
            await self._find(outgoing, KNOWLEDGE_BASE)
        found = await self._resources.page(
            account, kind.name, parent=parent, after=after, most=most
        )
        data = [_view(kind, each) for each in found[:most]]
        return Made(
            _encode(
                {
                    "object": "list",
                    "data": data,
                    "first_id": data[0]["id"] if data else None,
                    "last_id": data[-1]["id"] if data else None,
                    "has_more": len(found) > most,
                }
            )
        )

    async def _find(self, outgoing: Outgoing, kind: ResourceKind) -> Resource:
        try:
            return await self._resources.find(outgoing.account_id, kind.name, _id(outgoing, kind))
        except NoSuchResource:
            raise _absent(kind.name) from None

    async def _create(self, outgoing: Outgoing, kind: ResourceKind) -> Made:
        body = _read(kind, outgoing)
        parent = _id(outgoing, KNOWLEDGE_BASE) if kind.parent else None
        try:
            made = await self._resources.add(
                outgoing.account_id, kind.name, body, parent=parent, parent_kind=kind.parent
            )
        except NoSuchResource:
            raise _absent(kind.parent) from None
        except TooMany:
            message = f"An account keeps at most {KEPT_MAX} resources here; delete one first"
            raise SampleRefusal(400, message, None, "too_many_resources") from None
        return Made(_encode(_view(kind, made)), status=201)

    async def _get(self, outgoing: Outgoing, kind: ResourceKind) -> Made:
        return Made(_encode(_view(kind, await self._find(outgoing, kind))))

    async def _delete(self, outgoing: Outgoing, kind: ResourceKind) -> Made:
        resource_id = _id(outgoing, kind)
        try:
            await self._resources.delete(outgoing.account_id, kind.name, resource_id)
        except NoSuchResource:
            raise _absent(kind.name) from None
        view = {"id": str(resource_id), "object": f"{kind.name}.deleted", "deleted": True}
        return Made(_encode(view))


def _page(outgoing: Outgoing) -> tuple[int, UUID | None]:
    query = {name: values[-1] for name, values in parse_qs(outgoing.query).items()}
    for name in query.keys() - {"limit", "after"}:
        _refuse(name, "is not a query parameter of this route")
    limit = query.get("limit", str(PAGE_DEFAULT))
    if not (limit.isascii() and limit.isdecimal()) or not 1 <= int(limit[:9]) <= PAGE_MAX:
        _refuse("limit", f"must be a whole number, 1 to {PAGE_MAX}")
    try:
        return int(limit), UUID(query["after"]) if "after" in query else None
    except ValueError:
        _refuse("after", "is not an id from this list")
