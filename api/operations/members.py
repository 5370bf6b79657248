"""Members of accounts. Personal data are rows beside the events, never in one."""

from collections.abc import Mapping
from typing import NamedTuple
from uuid import UUID

from api.operations.asked import Asked, Done
from api.operations.dispatch import Dispatcher, account_now
from ledger import accounts
from ledger import events as e
from ledger.clock import Instant
from ledger.codec import Recorded
from ledger.errors import LoginIsTaken, Refused
from ledger.ids import AccountId, format_id, new_member_id
from ledger.keys import require_no_secret
from ledger.record.bound_rows import LoginRow, delete_login
from ledger.record.store import Row
from ledger.requests import Facts
from ledger.secrets import new_salt
from ledger.state import Account

CONSTRAINTS: Mapping[str, type[Refused]] = {"email_logs_in_once": LoginIsTaken}
"""Constraints on logins that a caller may break, and the refusals to answer."""


class Person(NamedTuple):
    """Someone who may log in. Never part of an event."""

    member_id: str
    email: str
    name: str
    password_hash: str
    salt: bytes

    def login(self, account_id: AccountId) -> LoginRow:
        """Return the row of their login."""
        member_id = UUID(self.member_id.removeprefix("mbr_"))
        terms = (member_id, self.email, self.name, self.password_hash)
        return LoginRow(self.salt, account_id, *terms)

    def login_set(self, account_id: AccountId, *, by: str) -> e.LoginSet:
        """Return the event that binds the row of their login."""
        digest = self.login(account_id).digest
        return e.LoginSet(by=by, member_id=self.member_id, digest=digest)


def new_person(email: str, name: str, password_hash: str) -> Person:
    """Make a person with a member id.

    Raises:
        InvalidField: The name holds a secret.
    """
    require_no_secret("name", name)
    member_id = format_id("mbr", new_member_id())
    return Person(member_id, email, name, password_hash, new_salt())


class Members:
    """Operations on the members of accounts."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        """Take the dispatcher."""
        self._dispatcher = dispatcher

    async def add(
        self, asked: Asked[Account], account_id: AccountId, person: Person, role: str
    ) -> Done[Account]:
        """Add a person to an account, and let them log in."""

        def rule(facts: Facts, at: Instant) -> list[e.AnyEvent]:  # noqa: ARG001
            made = accounts.add_member(facts.account, person.member_id, role, by=asked.by)
            return [*made, person.login_set(account_id, by=asked.by)]

        def rows(recorded: list[Recorded]) -> list[Row]:
            return [person.login(account_id).insert(recorded[0].envelope.recorded_at)]

        return await self._dispatcher.change(asked, account_id, rule, account_now, rows=rows)

    async def change_role(
        self, asked: Asked[Account], account_id: AccountId, member_id: str, role: str
    ) -> Done[Account]:
        """Change a member's role."""
        return await self._dispatcher.change(
            asked,
            account_id,
            lambda facts, _at: accounts.change_role(facts.account, member_id, role, by=asked.by),
            account_now,
        )

    async def remove(
        self, asked: Asked[Account], account_id: AccountId, member_id: str
    ) -> Done[Account]:
        """Remove a member from an account, with their login."""

        def rows(recorded: list[Recorded]) -> list[Row]:  # noqa: ARG001
            return [delete_login(UUID(member_id.removeprefix("mbr_")))]

        return await self._dispatcher.change(
            asked,
            account_id,
            lambda facts, _at: accounts.remove_member(facts.account, member_id, by=asked.by),
            account_now,
            rows=rows,
        )
