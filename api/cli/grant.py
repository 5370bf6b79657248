"""`keyledger grant`: lots of credit."""

from typing import Any

import click
from rich.table import Table

from api.cli.service import connect
from api.cli.terminal import facts, json_option, show, table
from api.cli.words import AmountWord, TimeWord


@click.group("grant")
def command() -> None:
    """Add credit, list it, withdraw it."""


@command.command()
@click.argument("account_id", metavar="ACCOUNT")
@click.argument("amount", type=AmountWord(), metavar="AMOUNT")
@click.option("--kind", type=click.Choice(["paid", "promotional", "adjustment"]), default="paid")
@click.option(
    "--priority",
    type=click.IntRange(0, 1_000_000),
    default=100,
    show_default=True,
    help="Lower numbers are spent first.",
)
@click.option("--effective-at", type=TimeWord())
@click.option("--expires-at", type=TimeWord())
@click.option("--reason", default="")
@click.option("--cost", type=AmountWord(), help='What was paid for it, such as "20 EUR".')
@click.option("--payment-reference", default="", help="The payment's own id.")
@json_option
def add(
    *,
    account_id: str,
    amount: dict[str, str],
    kind: str,
    priority: int,
    effective_at: str | None,
    expires_at: str | None,
    reason: str,
    cost: dict[str, str] | None,
    payment_reference: str,
    as_json: bool,
) -> None:
    """Add a lot of credit; AMOUNT is such as "25 USD"."""
    body: dict[str, Any] = {
        **amount,
        "kind": kind,
        "priority": priority,
        "effective_at": effective_at,
        "expires_at": expires_at,
        "reason": reason,
        "payment_reference": payment_reference,
    }
    if cost is not None:
        body["cost"], body["currency"] = cost["amount"], cost["asset"]
    grant = connect().post(f"/accounts/{account_id}/grants", body)
    show(grant, as_json, lambda: facts({name: _text(grant[name]) for name in SHOWN}))


SHOWN = ("lot", "amount", "remaining", "asset", "kind", "status", "priority", "expires_at")


@command.command("list")
@click.argument("account_id", metavar="ACCOUNT")
@json_option
def list_grants(*, account_id: str, as_json: bool) -> None:
    """List an account's grants, the newest first."""
    grants = list(connect().pages(f"/accounts/{account_id}/grants"))
    show(grants, as_json, lambda: _table(grants))


def _table(grants: list[Any]) -> Table:
    columns = [name.replace("_", " ") for name in SHOWN]
    return table("", columns, [[_text(grant[name]) for name in SHOWN] for grant in grants])


def _text(value: object) -> str | int:
    if isinstance(value, int):
        return value
    return "never" if value is None else str(value)


@command.command()
@click.argument("account_id", metavar="ACCOUNT")
@click.argument("lot", type=click.IntRange(1))
@click.option("--reason", default="")
@json_option
def void(*, account_id: str, lot: int, reason: str, as_json: bool) -> None:
    """Withdraw what is left of a grant."""
    done = connect().post(f"/accounts/{account_id}/grants/{lot}/void", {"reason": reason})
    rows = [(v["asset"], v["balance"], v["spendable"]) for v in done["balances"]]
    show(done, as_json, lambda: table("Balances now", ("asset", "balance", "spendable"), rows))
