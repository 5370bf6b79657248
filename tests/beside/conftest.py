"""A fresh ledger with conversations, told a story in process."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from api import services as wiring
from api import settings
from api.beside.characters import Character, CharacterDraft
from api.beside.conversations import Conversations
from api.beside.shelf import Characters
from api.operations import Asked
from ledger import events as e
from ledger.ids import AccountId

_names = itertools.count(1)


class Stage:
    """Says in a word what stories need again and again."""

    def __init__(self, services: wiring.Services) -> None:
        """Take a ledger."""
        self.services = services
        self.shelf: Characters = services.characters
        self.talk: Conversations = services.conversations

    async def account(self) -> AccountId:
        """Open an account."""
        opened = e.AccountOpened(by="operator")
        name = f"Account {next(_names)}"
        done = await self.services.ledger.accounts.open(Asked("operator"), opened, name=name)
        return done.recorded[0].envelope.account_id

    async def close(self, account: AccountId) -> None:
        """Close an account."""
        await self.services.ledger.accounts.close(Asked("operator"), account)

    async def character(self, account: AccountId, name: str = "Luna", **terms: Any) -> Character:
        """Make a character."""
        created = await self.shelf.create(account, CharacterDraft(name=name, **terms))
        return created.character

    async def published(self, account: AccountId, name: str = "Luna", **terms: Any) -> Character:
        """Make a character and publish it."""
        made = await self.character(account, name, **terms)
        return await self.shelf.publish(account, made.character_id)

    async def rows(self, sql: str, parameters: Any = None) -> list[Any]:
        """Run a statement as the service's role; return its rows, where it has any."""
        async with self.services.pool.connection() as connection:
            found = await connection.execute(sql, parameters)
            return await found.fetchall() if found.description else []

    async def everything(self) -> dict[str, str]:
        """Return every table of the schema as text."""
        names = await self.rows(
            "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = 'keyledger' AND c.relkind = 'r'"
        )
        return {
            name: repr(await self.rows(f"SELECT t::text FROM {name} t"))  # sql-ok: our own tables
            for (name,) in names
        }


Story = Callable[[Stage], Awaitable[None]]


@pytest.fixture
def tell(furnished_url: str, tmp_path: Path) -> Callable[..., None]:
    """Tell a story on a fresh ledger; settings may be given."""

    async def told(story: Story, **terms: Any) -> None:
        secrets = {"admin_secret": "x", "pepper": "pepper-of-tests", "jwt_secret": "j" * 64}
        services = await wiring.Services.open(
            settings.Settings(home=tmp_path, **secrets, **terms), furnished_url
        )
        try:
            await story(Stage(services))
        finally:
            await services.close()

    return lambda story, **terms: asyncio.run(told(story, **terms))
