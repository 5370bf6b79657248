"""Peppers are replaced without a secret being shown again."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from api import services as wiring
from api.operations import Asked
from api.settings import Settings
from ledger import events as e
from ledger.errors import IncompatibleDatabase
from ledger.ids import OPERATOR_ACCOUNT

FIRST, BOTH, SECOND = "1:pepper-of-tests", "1:pepper-of-tests,2:another", "2:another"


async def _use(url: str, home: Path, pepper: str, secrets: list[str]) -> list[str]:
    """Open with a pepper and use secrets; without any, issue two."""
    settings = Settings(home=home, admin_secret="x", pepper=pepper, jwt_secret="y" * 64)
    services = await wiring.Services.open(settings, url)
    try:
        if not secrets:
            terms = e.KeyIssued(by="x", name="k", dialect="bve")
            ledger: Any = services.ledger
            issued = [await ledger.keys.issue(Asked("x"), OPERATOR_ACCOUNT, terms) for _ in "ab"]
            return [each.secret for each in issued]
        for secret in secrets:
            await services.resolver.secret(secret)
        return secrets
    finally:
        await services.close()


def test_promise_11_a_secret_is_hashed_anew_at_its_first_use(
    furnished_url: str, tmp_path: Path
) -> None:
    """Once every secret was used, the older pepper can be let go of; not before."""

    def use(pepper: str, *secrets: str) -> list[str]:
        return asyncio.run(_use(furnished_url, tmp_path, pepper, list(secrets)))

    one, two = use(FIRST)
    use(BOTH, one)
    with pytest.raises(IncompatibleDatabase, match="version 1, under which 1 secrets"):
        use(SECOND, one)
    use(BOTH, one, two)
    assert use(SECOND, one, two) == [one, two]
