"""Checks the rows beside the events that decide: those of ``bound_rows``.

They are not a fold of events, because nothing in them may stand in one; each is bound by the newest
event about it. The checker takes in the events of a lane and then compares the rows. It sees
digests alone: the database makes them, in the view ``side_rows``.
"""

from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from sqlalchemy import column, select, table

from ledger import events as e
from ledger.ids import lane_of_account
from ledger.record.bound_rows import ALLOWANCES
from ledger.server.tables import compiled

_columns = ("kind", "lane", "account_id", "subject_id", "number", "digest")
_ROWS = compiled(select(*(column(name) for name in _columns)).select_from(table("side_rows")))
_ALLOWANCES = compiled(
    select(
        ALLOWANCES.c.lane,
        ALLOWANCES.c.account_id,
        ALLOWANCES.c.asset,
        ALLOWANCES.c.amount,
        ALLOWANCES.c.granted_through,
    )
)

_DAY = timedelta(days=1)

Find = Callable[..., None]
"""Notes a finding: position, what it is, what is stored, expected, and the column or table."""
Named = tuple[str, UUID, object]
"""Table, account, and which of its rows: the key and number, the member, the digest, the asset."""


class BoundRow(NamedTuple):
    """What the newest event about a row says."""

    seq: int
    """Its lane position."""
    content: str


class SideRows:
    """What a lane's events say about rows beside them."""

    def __init__(self) -> None:
        """Begin before the first event."""
        self._bound: dict[Named, BoundRow] = {}
        self._days: dict[Named, date] = {}
        """The last day for which an allowance was granted."""

    def take(self, seq: int, account: bytes, key: bytes, body: e.AnyEvent) -> None:  # noqa: C901
        """Take in an event, by its columns as they are stored."""
        match body:
            case e.RequestRecorded() | e.RequestReserved() | e.RequestSettled():
                return  # Nearly every event.
            case e.KeyIssued():
                self._bind(seq, ("key_secrets", UUID(bytes=account), (key, 1)), body.digest)
            case e.KeyRotated() | e.KeySecretRehashed():
                named = (key, body.secret)
                self._bind(seq, ("key_secrets", UUID(bytes=account), named), body.digest)
            case e.LoginSet():
                self._bind(seq, ("logins", UUID(bytes=account), body.member_id), body.digest)
            case e.MemberRemoved():
                self._bind(seq, ("logins", UUID(bytes=account), body.member_id), "")
            case e.WalletLinked():
                self._bind(seq, ("wallets", UUID(bytes=account), body.digest), body.digest)
            case e.AllowanceSet():
                amount = "" if body.amount == "0" else body.amount
                self._bind(seq, ("allowances", UUID(bytes=account), body.asset), amount)
            case e.CreditGranted():
                self._note_day(UUID(bytes=account), body)
            case _:
                return

    def _bind(self, seq: int, named: Named, content: str) -> None:
        if content:
            self._bound[named] = BoundRow(seq, content)
        else:
            self._bound.pop(named, None)

    def _note_day(self, account_id: UUID, body: e.CreditGranted) -> None:
        day = day_of(body)
        if day is not None:
            named = ("allowances", account_id, body.asset)
            self._days[named] = max(day, self._days.get(named, day))

    def check(self, connection: psycopg.Connection[Any], lane: int, lanes: int, find: Find) -> None:
        """Compare every row of the lane's accounts with what its events say."""
        left = dict(self._bound)
        rows = connection.execute(_ROWS, binary=True)
        for named, stored_lane, content in map(_row, rows):
            if lane_of_account(named[1], lanes) == lane:
                self._check(left, named, content, find)
                if stored_lane not in {None, lane}:
                    find(0, "side_row_differs", stored=stored_lane, expected=lane, column=named[0])
        for stored_lane, account_id, asset, amount, through in connection.execute(
            _ALLOWANCES, binary=True
        ):
            named = ("allowances", account_id, asset)
            if lane_of_account(account_id, lanes) == lane:
                self._check(left, named, amount, find)
                self._check_day(named, through, find)
                if stored_lane != lane:
                    find(0, "side_row_differs", stored=stored_lane, expected=lane, column=named[0])
        for named, bound in left.items():
            find(bound.seq, "side_row_is_missing", expected=_named(named), column=named[0])

    def _check(self, left: dict[Named, BoundRow], named: Named, content: str, find: Find) -> None:
        bound = left.pop(named, None)
        if bound is None:
            find(0, "side_row_is_of_no_event", stored=_named(named), column=named[0])
        elif content != bound.content:
            find(
                bound.seq,
                "side_row_differs",
                stored=f"{_named(named)}: {content}",
                expected=bound.content,
                column=named[0],
            )

    def _check_day(self, named: Named, through: date, find: Find) -> None:
        # One that lags is caught up with by the next run; one ahead would never be granted.
        granted = self._days.get(named)
        if granted is None or through > granted:
            find(
                0,
                "side_row_differs",
                stored=f"{_named(named)}: granted through {through}",
                expected=f"granted through {granted}",
                column=named[0],
            )


def day_of(body: e.CreditGranted) -> date | None:
    """Return the day of UTC whose allowance a grant is; None: it is not a daily allowance's."""
    begins, ends = body.effective_at, body.expires_at
    if body.by != "system" or begins is None or ends != begins + _DAY:
        return None
    return begins.date() if begins == datetime.combine(begins, time.min, UTC) else None


_TABLES = {"key_secret": "key_secrets", "login": "logins", "wallet": "wallets"}


def _row(row: Iterable[Any]) -> tuple[Named, int | None, str]:
    kind, lane, account_id, subject, number, digest = row
    name: object
    match kind:
        case "key_secret":
            name = (subject.bytes, number)
        case "login":
            name = f"mbr_{subject.hex}"
        case _:
            name = digest
    return (_TABLES[kind], account_id, name), lane, digest


def _named(named: Named) -> str:
    table, account_id, name = named
    if table == "key_secrets":
        assert isinstance(name, tuple)
        name = f"key_{name[0].hex()}/{name[1]}"
    return f"acct_{account_id.hex} {name}"
