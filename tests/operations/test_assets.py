"""Assets are built in or declared by the operator, and nothing else is one."""

import asyncio
from pathlib import Path

import pytest

from api import services as wiring
from api import settings
from api.native import views
from api.operations import Asked
from ledger import events as e
from ledger.money import KNOWN_ASSETS
from tests.conftest import settings_for


def test_declared_assets_come_to_those_built_in() -> None:
    """Without any, currencies and the dialects' own are known."""
    assert settings.from_environment({}).known_assets == KNOWN_ASSETS
    declared = settings.from_environment({"KEYLEDGER_ASSETS": "POINTS, TOKENS,"})
    assert declared.known_assets == KNOWN_ASSETS | {"POINTS", "TOKENS"}
    assert {"USD", "EUR", "GBP", "CAD", "CREDIT", "DIEM", "BUNDLED_CREDITS"} <= KNOWN_ASSETS


@pytest.mark.parametrize(
    ("environment", "variable"),
    [
        ({"KEYLEDGER_ASSETS": "points"}, "KEYLEDGER_ASSETS"),
        ({"KEYLEDGER_ASSETS": "A B"}, "KEYLEDGER_ASSETS"),
        ({"KEYLEDGER_WELCOME_GRANT": "5 POINTS"}, "KEYLEDGER_WELCOME_GRANT"),
    ],
)
def test_a_setting_that_names_no_asset_is_refused(
    environment: dict[str, str], variable: str
) -> None:
    """At start, by the variable's name: a welcome grant must be of something known too."""
    with pytest.raises(settings.InvalidSetting, match=variable):
        settings.from_environment(environment)


def test_a_declared_asset_is_granted(database_url: str, tmp_path: Path) -> None:
    """What the operator declares is an asset like any other."""

    async def story() -> dict[str, str]:
        services = await wiring.Services.open(settings_for(tmp_path, assets="POINTS"), database_url)
        try:
            terms = e.AccountOpened(by="operator", pays_with=("POINTS",))
            accounts = services.ledger.accounts
            account = accounts.id_for(Asked("operator"))
            await accounts.open(Asked("operator"), terms, name="n", account_id=account)
            grant = e.CreditGranted(by="operator", lot=0, asset="POINTS", amount="5")
            await services.ledger.credits.grant(Asked("operator"), account, grant)
            found, _ = await services.queries.accounts.one(account)
            balances = views.balance_views(found, services.clock.now(), services.cards.assets())
            return {each.asset: each.spendable for each in balances}
        finally:
            await services.close()

    assert asyncio.run(story())["POINTS"] == "5"
