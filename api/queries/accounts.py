"""Accounts, their names and their members."""

from typing import Any, NamedTuple
from uuid import UUID

from api.beside import login_rows
from api.queries.reader import Found, Part, Reader
from ledger.errors import NoSuchAccount
from ledger.ids import OPERATOR_ACCOUNT, AccountId, Position, format_id
from ledger.record import profiles
from ledger.state import Account
from projections.snapshot import Snapshot


class Named(NamedTuple):
    """An account with its name, which is in no event."""

    account: Account
    name: str


class Member(NamedTuple):
    """A member of an account. None: they have no login."""

    member_id: str
    role: str
    email: str | None
    name: str | None


class AccountQueries:
    """Reads of accounts."""

    def __init__(self, reader: Reader) -> None:
        """Take the reader."""
        self._reader = reader

    async def one(self, account_id: AccountId) -> Found[Account]:
        """Find an account as decisions see it.

        Raises:
            NoSuchAccount: There is none.
        """
        async with self._reader.of(account_id) as lane:
            return Found(await _account(lane, account_id), lane.position)

    async def named(self, account_id: AccountId) -> Found[Named]:
        """Find an account with its name.

        Raises:
            NoSuchAccount: There is none.
        """
        async with self._reader.of(account_id) as lane:
            account = await _account(lane, account_id)
            names: dict[UUID, str] = dict(
                await lane.rows(profiles.FIND, {"account_ids": [account_id]})
            )
            return Found(Named(account, names.get(account_id, "")), lane.position)

    async def name_of(self, account_id: AccountId) -> str:
        """Return an account's name; empty if there is no such account."""
        rows = await self._reader.rows(profiles.FIND, {"account_ids": [account_id]})
        return rows[0][1] if rows else ""

    async def page(
        self, *, after: UUID | None, most: int
    ) -> tuple[Part[Named], dict[int, Position]]:
        """List accounts, newest first, each as of its lane's position; return those by lane."""
        parameters = {"after": after, "most": most + 1, "operator": OPERATOR_ACCOUNT}
        rows = await self._reader.rows(profiles.PAGE, parameters)
        shown = rows[:most]
        found: dict[UUID, Named] = {}
        positions = {}
        for number in sorted({row[1] for row in shown}):
            ids = [row[0] for row in shown if row[1] == number]
            async with self._reader.at(number) as lane:
                state = await lane.state(accounts=ids)
                names = await _names(lane, ids)
                positions[number] = lane.position
            for account_id, account in state.accounts.items():
                found[account_id] = Named(account, names.get(account_id, ""))
        items = [found[row[0]] for row in shown if row[0] in found]
        return Part(items, len(rows) > most), positions

    async def members(self, account_id: AccountId) -> Found[list[Member]]:
        """List the members of an account.

        Raises:
            NoSuchAccount: There is none.
        """
        async with self._reader.of(account_id) as lane:
            account = await _account(lane, account_id)
            people = {
                format_id("mbr", row[0]): row[1:]
                for row in await lane.rows(login_rows.FIND_PEOPLE, {"account_id": account_id})
            }
            position = lane.position
        members = [
            Member(member_id, role, *people.get(member_id, (None, None)))
            for member_id, role in sorted(account.members.items())
        ]
        return Found(members, position)

    async def person_of(self, account_id: AccountId, *, member_id: str = "") -> Member:
        """Find a member, or if there is no such member an owner; an account may have nobody.

        Raises:
            NoSuchAccount: There is none.
        """
        people = (await self.members(account_id)).facts
        for person in people:
            if person.member_id == member_id:
                return person
        for person in people:
            if person.role == "owner":
                return person
        return Member("", "", None, await self.name_of(account_id))


async def _account(lane: Snapshot, account_id: AccountId) -> Account:
    state = await lane.state(accounts=[account_id])
    account = state.accounts.get(account_id)
    if account is None:
        raise NoSuchAccount
    return account


async def _names(lane: Snapshot, account_ids: list[Any]) -> dict[UUID, str]:
    return dict(await lane.rows(profiles.FIND, {"account_ids": account_ids}))
