"""Texts beside the events of requests: providers' reports, and what callers noted.

The event holds digests of them. A text may go, by age or because a person is erased; one that is
left must be the one that its event was made with. The checker sees digests alone: the database
makes them, in the view ``request_texts``.
"""

from typing import Any, NamedTuple, Protocol
from uuid import UUID

import psycopg
from sqlalchemy import (
    ARRAY,
    LargeBinary,
    SmallInteger,
    Text,
    Uuid,
    any_,
    bindparam,
    column,
    func,
    select,
    table,
)

from ledger import events as e
from ledger.ids import AccountId, request_hash
from ledger.record import arrays
from ledger.server.tables import compiled

REPORTS, NOTES = "provider_reports", "request_notes"
_texts = table(
    "request_texts",
    column("source", Text),
    column("lane", SmallInteger),
    column("request_hash", LargeBinary),
    column("account_id", Uuid),
    column("digests", Text),
).c
_of_lane = _texts.lane == bindparam("lane")
_hashes = bindparam("hashes", type_=ARRAY(LargeBinary))
FIND = compiled(
    select(_texts.source, _texts.request_hash, _texts.account_id, _texts.digests).where(
        _of_lane, _texts.request_hash == any_(_hashes)
    )
)
COUNT = compiled(select(_texts.source, func.count()).where(_of_lane).group_by(_texts.source))

Named = tuple[str, bytes]
"""Table and request."""


class Find(Protocol):
    """Notes a finding."""

    def __call__(
        self, seq: int, what: str, *, stored: object = ..., expected: object = ..., column: str
    ) -> None:
        """Take position, what it is, what is stored and expected, and the table."""


class BoundText(NamedTuple):
    """What an event says about a text."""

    seq: int
    """Its lane position."""
    account_id: UUID
    digests: str


class RequestTexts:
    """What a lane's events say about texts beside them."""

    def __init__(self, lane: int, find: Find) -> None:
        """Begin before the first event."""
        self._lane = lane
        self._find = find
        self._due: dict[Named, BoundText] = {}
        self._found = {REPORTS: 0, NOTES: 0}

    def take(self, seq: int, account: bytes, body: e.AnyEvent) -> None:
        """Take in an event, by its columns as they are stored."""
        if not isinstance(body, e.RequestRecorded | e.RequestReserved | e.RequestSettled):
            return
        report = "" if isinstance(body, e.RequestReserved) else body.report
        noted = "" if isinstance(body, e.RequestSettled) else f"{body.metadata} {body.end_user}"
        if not report and noted in {"", " "}:
            return
        account_id = UUID(bytes=account)
        hashed = request_hash(AccountId(account_id), body.request_id)
        if report:
            self._due[REPORTS, hashed] = BoundText(seq, account_id, report)
        if noted not in {"", " "}:
            self._due[NOTES, hashed] = BoundText(seq, account_id, noted)

    def check(self, connection: psycopg.Connection[Any]) -> None:
        """Compare the texts of the events taken in since the last time."""
        if not self._due:
            return
        hashes = arrays.Byteas({hashed for _, hashed in self._due})
        for source, hashed, account_id, digests in connection.execute(
            FIND, {"lane": self._lane, "hashes": hashes}, binary=True
        ):
            bound = self._due.get((source, hashed))
            if bound is None:
                continue
            self._found[source] += 1
            if (account_id, digests) != bound[1:]:
                self._find(
                    bound.seq,
                    "text_differs",
                    stored=f"{account_id}: {digests}",
                    expected=f"{bound.account_id}: {bound.digests}",
                    column=source,
                )
        self._due.clear()

    def finish(self, connection: psycopg.Connection[Any]) -> None:
        """Check that no text is there without its event."""
        for source, count in connection.execute(COUNT, {"lane": self._lane}, binary=True):
            found = self._found[source]
            if count > found:
                self._find(0, "text_is_of_no_event", stored=count, expected=found, column=source)
