"""What a native handler receives, and how it answers."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from uuid import UUID

from api import services
from api.http.answers import Answer, encode
from api.http.failure import forbidden, invalid
from api.http.handlers import Passed, guard
from api.identity.auth import Caller, may
from api.native import views
from api.operations import Asked, Done, fingerprint
from api.queries import Found, Part
from api.queries.resolve import Owned
from ledger.clock import Instant
from ledger.codec import Recorded
from ledger.errors import InvalidField, NoSuchAccount, NoSuchKey, NoSuchMember
from ledger.ids import AccountId, InvalidId, KeyId, Position, parse_id

PAGE_DEFAULT = 100
PAGE_MAX = 1_000

F = TypeVar("F")
View = Callable[[F, Sequence[Recorded], Instant], Any]


@guard("operator", "member")
async def caller(ask: "Ask") -> Caller:
    """Find who asks, and refuse a role that the table of permissions does not name.

    Raises:
        Failure: 401: no credential proved who asks; 403: the role may not.
    """
    found = await ask.services.gate.caller(ask.header(b"authorization"))
    if not may(found, ask.operation):
        raise forbidden(ask.operation, found.role)
    return found


class Ask(services.Ask[Caller]):
    """One request, its caller, and the account or key that it is about."""

    __slots__ = ()

    def asked(self, view: View[F], *, body: Any = None) -> Asked[F]:  # noqa: ANN401
        """Return who asks, and how to render what the change led to."""

        def render(facts: F, recorded: Sequence[Recorded], at: Instant) -> bytes:
            return encode(view(facts, recorded, at))

        return Asked(self.caller.actor, *self.once(body=body), render)

    def once(self, *, body: Any = None) -> tuple[str, bytes]:  # noqa: ANN401
        """Return the ``Idempotency-Key`` with the request's fingerprint; empty: there is none."""
        key = self.idempotency_key
        if not key:
            return "", b""
        params = [self.segment(name) for name in self.path_params]
        return key, fingerprint(self.operation, *params, body=body)

    def account_id(self) -> AccountId:
        """Return the account in the path, if the caller may see it.

        Raises:
            NoSuchAccount: It is another's, in the same words as if there were none (promise 15).
        """
        return self.allowed_account(self.path("account_id"))

    def allowed_account(self, text: str) -> AccountId:
        """Read an account id, if the caller may see the account.

        Raises:
            NoSuchAccount: It is another's, or does not exist.
        """
        try:
            account_id = AccountId(parse_id("acct", text))
        except InvalidId as error:
            raise NoSuchAccount from error
        if self.caller.account_id not in {None, account_id}:
            raise NoSuchAccount
        return account_id

    async def key_id(self) -> KeyId:
        """Return the key in the path, if the caller may see it.

        Raises:
            NoSuchKey: It is another account's, in the same words as if there were none.
        """
        key_id, _ = await self.allowed_key(self.path("key_id"))
        return key_id

    async def allowed_key(self, text: str) -> tuple[KeyId, AccountId]:
        """Read a key id, if the caller may see the key, and find its account.

        Raises:
            NoSuchKey: It is another's, or does not exist.
        """
        return self.owned(await self.services.resolver.key(text))[:2]

    def owned(self, found: Owned) -> Owned:
        """Hide a key of another account from the caller (promise 15).

        Raises:
            NoSuchKey: It is another's, in the same words as if there were none.
        """
        own = self.caller.account_id
        if own is not None and own != found.account_id:
            raise NoSuchKey
        return found

    def member_id(self) -> str:
        """Return the member in the path.

        Raises:
            NoSuchMember: It is not a member's id.
        """
        text = self.path("member_id")
        try:
            parse_id("mbr", text)
        except InvalidId as error:
            raise NoSuchMember from error
        return text

    def number(self, field: str, text: str, *, most: int = 2**62) -> int:
        """Read a whole number in a query or path.

        Raises:
            Failure: It is not one, or too large.
        """
        if not (text.isascii() and text.isdecimal()) or len(text) > 19 or int(text) > most:  # noqa: PLR2004
            raise invalid(field, f"must be a whole number, at most {most}")
        return int(text)

    def page_size(self) -> int:
        """Read ``limit``: 1 to 1,000, by default 100.

        Raises:
            Failure: It is not.
        """
        text = self.query.get("limit")
        if text is None:
            return PAGE_DEFAULT
        size = self.number("limit", text, most=PAGE_MAX)
        if not size:
            raise invalid("limit", f"must be 1 to {PAGE_MAX}")
        return size

    def after(self, prefix: str) -> UUID | None:
        """Read ``after``: the last id already read, with the given prefix; None: from the start.

        Raises:
            InvalidField: It is not such an id.
        """
        text = self.query.get("after")
        if text is None:
            return None
        try:
            return parse_id(prefix, text)
        except InvalidId as error:
            raise InvalidField("after", "is not a cursor of this list") from error


def done_answer(done: Done[Any], *, status: int = 200) -> Passed[Any]:
    """Answer with what a change led to."""
    made = decided_answer(done.reply, done.position, replayed=done.replayed, status=status)
    return Passed(made)


def decided_answer(
    body: bytes, position: Position, *, replayed: bool = False, status: int = 200
) -> Answer:
    """Answer with what a lane decided. A replayed answer says so (Idempotency-Key draft)."""
    made = Answer(body, status=status, position=position)
    if replayed:
        made.headers.append((b"idempotent-replayed", b"true"))
    return made


def found_answer(
    view: Any,  # noqa: ANN401 - whatever msgspec encodes
    position: Position | None = None,
    etag: int | None = None,
) -> Passed[Any]:
    """Answer with what was read."""
    headers = {} if etag is None else {"ETag": f'"{etag}"'}
    return Passed(Answer(encode(view), position=position, headers=headers))


def page_answer(
    found: Found[Part[F]], view: Callable[[F], Any], cursor: Callable[[F], object]
) -> Passed[Any]:
    """Answer with part of a list; ``cursor`` says where the next part begins."""
    items, has_more = found.facts
    following = str(cursor(items[-1])) if has_more and items else None
    page = views.Page(data=[view(item) for item in items], has_more=has_more, next=following)
    return found_answer(page, found.position)
