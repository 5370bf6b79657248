"""Operations answer facts: the state that a change led to. Only a door words them."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from api import services as wiring
from api.operations import Asked, fingerprint
from ledger import events as e
from ledger.money import Amount

SETTINGS = {"admin_secret": "x", "pepper": "pepper-of-tests", "jwt_secret": "j" * 64}
Story = Callable[[wiring.Services, wiring.Services], Awaitable[None]]


@pytest.fixture
def run(furnished_url: str, tmp_path: Path) -> Callable[[Story], None]:
    """Run a story with two processes' services on a fresh ledger."""

    async def with_services(story: Story) -> None:
        settings = wiring.Settings(home=tmp_path, **SETTINGS)
        one = await wiring.Services.open(settings, furnished_url)
        other = await wiring.Services.open(settings, furnished_url)
        try:
            await story(one, other)
        finally:
            await one.close()
            await other.close()

    return lambda story: asyncio.run(with_services(story))


async def an_account(services: wiring.Services) -> Any:
    """Open an account without credit; return its id."""
    opened = e.AccountOpened(by="operator")
    accounts = services.ledger.accounts
    done = await accounts.open(Asked("operator"), opened, name="Acme", welcome=False)
    assert done.facts is not None
    return done.facts.account_id


def test_facts_are_as_of_the_change_s_own_position(run: Callable[[Story], None]) -> None:
    """What one change led to stays what it was, however much the same batch changes after it."""

    async def story(services: wiring.Services, _other: wiring.Services) -> None:
        account, credit = await an_account(services), services.ledger.credits
        one = Amount(10**12, "USD")
        made = await asyncio.gather(
            *(credit.adjust(Asked("x"), account, one, reason="r") for _ in range(20))
        )
        for done in made:
            assert done.facts is not None
            place = done.facts.version
            assert done.facts.balance("USD") == (place - 1) * 10**12
            assert done.recorded[-1].envelope.version == place
            assert done.position.seq == done.recorded[-1].envelope.lane_seq
            assert done.at == done.recorded[-1].envelope.recorded_at

    run(story)


def test_a_repeat_has_the_reply_that_the_door_wrote_first(run: Callable[[Story], None]) -> None:
    """The reply is rendered once, as of the change, and stored; a repeat reads no facts."""

    async def story(services: wiring.Services, other: wiring.Services) -> None:
        account, rendered = await an_account(services), []

        def render(account: Any, recorded: Any, at: Any) -> bytes:
            rendered.append((account.status, [each.body.type for each in recorded], at))
            return b'{"said": 1.0, "by":"the door"}'

        asked = Asked("operator", "k", fingerprint("suspend"), render)
        first = await services.ledger.accounts.suspend(asked, account)
        again = await services.ledger.accounts.suspend(asked, account)
        elsewhere = await other.ledger.accounts.suspend(asked, account)
        assert rendered == [("suspended", ["account_suspended"], first.at)]
        for repeat in (again, elsewhere):
            assert repeat.replayed
            assert (repeat.facts, list(repeat.recorded)) == (None, [])
            assert repeat.reply == first.reply == b'{"said": 1.0, "by":"the door"}'
        assert not first.replayed

    run(story)


def test_processes_agree_on_the_key_of_login_sessions(run: Callable[[Story], None]) -> None:
    """One is issued; another process, which did not see that, finds it by its terms."""

    async def story(services: wiring.Services, other: wiring.Services) -> None:
        account = await an_account(services)
        first = await services.ledger.keys.for_sessions(account, "ryvion")
        assert await services.ledger.keys.for_sessions(account, "ryvion") == first
        assert await other.ledger.keys.for_sessions(account, "ryvion") == first
        assert await other.ledger.keys.for_sessions(account, "venice") != first

    run(story)


def test_a_secret_is_with_the_key_and_in_no_stored_reply(run: Callable[[Story], None]) -> None:
    """Issued and rotated keys come with their secrets; what a repeat gets has none."""

    async def story(services: wiring.Services, _other: wiring.Services) -> None:
        account, keys = await an_account(services), services.ledger.keys
        terms = e.KeyIssued(by="operator", name="bot", dialect="bve")
        asked = Asked(
            "operator", "k", fingerprint("issue"), lambda key, _, __: b'"%s"' % key.hint.encode()
        )
        issued = await keys.issue(asked, account, terms)
        assert issued.secret is not None
        assert issued.key.account_id == account
        assert issued.secret.encode() not in issued.done.reply
        again = await keys.issue(asked, account, terms)
        assert (again.secret, again.done.reply) == (None, issued.done.reply)

    run(story)
