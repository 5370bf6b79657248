"""What a route of the native API is, and what its handler is given."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar
from uuid import UUID

import msgspec

from api.http import reading
from api.http.exchange import Answer, Call
from api.http.failure import invalid
from api.identity.auth import Caller
from api.native import views
from api.operations import Asked, Done, fingerprint
from api.queries import Found, Part
from api.queries.resolve import Owned
from api.services import Services
from ledger.clock import Instant
from ledger.codec import Recorded
from ledger.errors import InvalidField, NoSuchAccount, NoSuchKey, NoSuchMember
from ledger.ids import AccountId, InvalidId, KeyId, Position, parse_id

PREFIX = "/ledger/v1"
PAGE_DEFAULT = 100
PAGE_MAX = 1_000

B = TypeVar("B")
F = TypeVar("F")
View = Callable[[F, Sequence[Recorded], Instant], Any]
"""Shows what a change led to: given that, its events, and when it was."""

encode = msgspec.json.Encoder().encode


class Ask(Generic[B]):
    """One authenticated request: who asks what of whom."""

    __slots__ = ("body", "call", "caller", "lane", "operation", "raw", "services")

    def __init__(self, services: Services, caller: Caller, call: Call, operation: str) -> None:
        """Begin; the body comes later."""
        self.services = services
        self.caller = caller
        self.call = call
        self.operation = operation
        self.body: B
        self.raw = b""
        self.lane: int | None = None
        """Lane that refusals of this request were decided in."""

    def asked(self, view: View[F], *, body: Any = None) -> Asked[F]:  # noqa: ANN401
        """Say who asks and how to show them what it led to."""

        def render(facts: F, recorded: Sequence[Recorded], at: Instant) -> bytes:
            return encode(view(facts, recorded, at))

        return Asked(self.caller.actor, *self.once(body=body), render)

    def once(self, *, body: Any = None) -> tuple[str, bytes]:  # noqa: ANN401
        """Return the ``Idempotency-Key`` with the request's fingerprint; empty: there is none."""
        key = self.call.idempotency_key
        if not key:
            return "", b""
        content = self.body if body is None and hasattr(self, "body") else body
        params = [str(value) for value in self.call.scope["path_params"].values()]
        return key, fingerprint(self.operation, *params, body=content)

    def account_id(self) -> AccountId:
        """Give the account in the path, if the caller may know of it.

        Raises:
            NoSuchAccount: It is another's: the same words as where there is none (promise 15).
        """
        return self.allowed_account(self.call.path("account_id"))

    def allowed_account(self, text: str) -> AccountId:
        """Read an account id that the caller may know of.

        Raises:
            NoSuchAccount: It is another's, or none.
        """
        try:
            account_id = AccountId(parse_id("acct", text))
        except InvalidId as error:
            raise NoSuchAccount from error
        if self.caller.account_id not in {None, account_id}:
            raise NoSuchAccount
        self.lane = self.services.ledger.lane_of(account_id)
        return account_id

    async def key_id(self) -> KeyId:
        """Give the key in the path, if the caller may know of it.

        Raises:
            NoSuchKey: It is another account's: the same words as where there is none.
        """
        key_id, _ = await self.allowed_key(self.call.path("key_id"))
        return key_id

    async def allowed_key(self, text: str) -> tuple[KeyId, AccountId]:
        """Read a key id that the caller may know of, and find its account.

        Raises:
            NoSuchKey: It is another's, or none.
        """
        return self.owned(await self.services.resolver.key(text))[:2]

    def owned(self, found: Owned) -> Owned:
        """Hide a key of another account from the caller (promise 15).

        Raises:
            NoSuchKey: It is another's: the same words as where there is none.
        """
        own = self.caller.account_id
        if own is not None and own != found.account_id:
            raise NoSuchKey
        self.lane = found.lane
        return found

    def member_id(self) -> str:
        """Give the member in the path.

        Raises:
            NoSuchMember: It is no member's id.
        """
        text = self.call.path("member_id")
        try:
            parse_id("mbr", text)
        except InvalidId as error:
            raise NoSuchMember from error
        return text

    def whole(self, field: str, text: str, *, most: int = 2**62) -> int:
        """Read a whole number of a query or path.

        Raises:
            Failure: It is none, or too large.
        """
        if not (text.isascii() and text.isdecimal()) or len(text) > 19 or int(text) > most:  # noqa: PLR2004
            raise invalid(field, f"a whole number, at most {most}")
        return int(text)

    def page_size(self) -> int:
        """Read ``limit``: 1 to 1,000, by default 100.

        Raises:
            Failure: It is not.
        """
        text = self.call.query.get("limit")
        if text is None:
            return PAGE_DEFAULT
        size = self.whole("limit", text, most=PAGE_MAX)
        if not size:
            raise invalid("limit", f"1 to {PAGE_MAX}")
        return size

    def after(self, prefix: str) -> UUID | None:
        """Read ``after``: the last id already read, of the given prefix; None: from the start.

        Raises:
            InvalidField: It is no such id.
        """
        text = self.call.query.get("after")
        if text is None:
            return None
        try:
            return parse_id(prefix, text)
        except InvalidId as error:
            raise InvalidField("after", "is no cursor of this list") from error


def done_answer(done: Done[Any], *, status: int = 200) -> Answer:
    """Answer what a change led to."""
    return decided_answer(done.reply, done.position, replayed=done.replayed, status=status)


def decided_answer(
    body: bytes, position: Position, *, replayed: bool = False, status: int = 200
) -> Answer:
    """Answer what a lane decided. A replayed answer says so (Idempotency-Key draft)."""
    made = Answer(body, status=status, position=position)
    if replayed:
        made.headers.append((b"idempotent-replayed", b"true"))
    return made


def found_answer(view: Any, position: Position | None = None, etag: int | None = None) -> Answer:  # noqa: ANN401
    """Answer what was read."""
    headers = {} if etag is None else {"ETag": f'"{etag}"'}
    return Answer(encode(view), position=position, headers=headers)


def page_answer(
    found: Found[Part[F]], view: Callable[[F], Any], cursor: Callable[[F], object]
) -> Answer:
    """Answer part of a list, each item shown; ``cursor`` says where the next part begins."""
    items, has_more = found.facts
    following = str(cursor(items[-1])) if has_more and items else None
    page = views.Page(data=[view(item) for item in items], has_more=has_more, next=following)
    return found_answer(page, found.position)


Handler = Callable[[Any], Awaitable[Answer]]


class Route(NamedTuple):
    """One operation of the API: what is served and what is documented."""

    method: str
    path: str
    """With ``{parameters}``, the prefix included."""
    operation: str
    """Its name: in ``auth.PERMISSIONS`` and in the OpenAPI document."""
    handler: Handler
    summary: str
    body: Any
    """Struct of the body; None: it has none, or reads it itself."""
    answer: Any
    """Type of the answer; of several, a tuple."""
    status: int
    example: Any
    """A body that works."""
    query: Sequence[str]
    refusals: Sequence[int]
    """Statuses it may answer beside 400, 401, 403, 503."""
    public: bool
    decoder: msgspec.json.Decoder[Any] | None
    content_types: Sequence[str]
    body_max: int
    """Bytes of body that it takes."""


ROUTES: list[Route] = []
"""Every route of the native API, filled as the modules are imported."""


def route(
    method: str,
    path: str,
    *,
    body: Any = None,  # noqa: ANN401
    optional_body: bool = False,
    answer: Any,  # noqa: ANN401
    status: int = 200,
    example: Any = None,  # noqa: ANN401
    query: Sequence[str] = (),
    refusals: Sequence[int] = (404,),
    public: bool = False,
    raw: bool = False,
    large: bool = False,
    content_types: Sequence[str] = ("application/json",),
) -> Callable[[Handler], Handler]:
    """Register a handler. Its name is the operation, its docstring the summary.

    ``raw``: the handler decodes the body itself; ``body`` is what the document says of it.
    ``large``: the body may be as large as any.
    """
    decoder = None if body is None or raw else msgspec.json.Decoder(body)

    def register(handler: Handler) -> Handler:
        summary = (handler.__doc__ or "").strip().partition("\n")[0]
        ROUTES.append(
            Route(
                method,
                PREFIX + path,
                handler.__name__,
                _with_empty(handler, decoder) if optional_body else handler,
                summary,
                body,
                answer,
                status,
                example,
                query,
                refusals,
                public,
                None if optional_body else decoder,
                content_types,
                reading.body_max(large=large, public=public),
            )
        )
        return handler

    return register


def _with_empty(handler: Handler, decoder: msgspec.json.Decoder[Any] | None) -> Handler:
    """Let a body be left out."""
    assert decoder is not None

    async def handle(ask: Ask[Any]) -> Answer:
        raw = await ask.call.body()
        ask.body = reading.decode(decoder, raw or b"{}")
        return await handler(ask)

    return handle
