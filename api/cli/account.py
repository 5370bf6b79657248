"""`keyledger account`: who is billed."""

from typing import Any

import click
from rich.console import RenderableType

from api.cli.service import connect
from api.cli.terminal import facts, json_option, out, show, table
from api.cli.words import LimitWord


@click.group("account")
def command() -> None:
    """Open, show, suspend, resume and close accounts."""


@command.command("open")
@click.argument("name")
@click.option("--pays-with", multiple=True, metavar="ASSET", help="In the order they pay.")
@click.option("--rate-card", default="standard", show_default=True)
@click.option("--unpriced", type=click.Choice(["refuse", "record"]), default="refuse")
@click.option(
    "--max-output-tokens",
    type=click.IntRange(0),
    default=0,
    help="Tokens of the longest answer through the gateway; 0: as the server's setting says.",
)
@click.option(
    "--overdraft",
    multiple=True,
    metavar="ASSET=AMOUNT",
    help="What it may owe; AMOUNT may be unlimited.",
)
@click.option(
    "--limit",
    "limits",
    multiple=True,
    type=LimitWord(),
    help="As for keys. Without any: 20 key creations a minute, 500 active keys.",
)
@click.option("--welcome/--no-welcome", default=True, help="Whether to add the welcome grant.")
@click.option("--test", is_flag=True, help="Keep it in the separate book of tests.")
@click.option("--internal", is_flag=True, help="The operator's own use: never invoiced.")
@json_option
def open_account(
    *,
    name: str,
    pays_with: tuple[str, ...],
    rate_card: str,
    unpriced: str,
    max_output_tokens: int,
    overdraft: tuple[str, ...],
    limits: tuple[dict[str, str | bool], ...],
    welcome: bool,
    test: bool,
    internal: bool,
    as_json: bool,
) -> None:
    """Open an account."""
    body: dict[str, Any] = {
        "name": name,
        "pays_with": list(pays_with) or ["USD"],
        "rate_card": rate_card,
        "unpriced": unpriced,
        "max_output_tokens": max_output_tokens,
        "overdraft": dict(_pair(text) for text in overdraft),
        "welcome": welcome,
        "test": test,
        "internal": internal,
    }
    if limits:
        body["limits"] = list(limits)
    account = connect().post("/accounts", body)
    show(account, as_json, lambda: account_facts(account))


def _pair(text: str) -> tuple[str, str]:
    asset, sign, amount = text.partition("=")
    if not sign:
        raise click.BadParameter(f"{text!r} does not look like USD=100.", param_hint="--overdraft")
    return asset, amount


@command.command("list")
@json_option
def list_accounts(*, as_json: bool) -> None:
    """List accounts, the newest first."""
    accounts = list(connect().pages("/accounts"))
    rows = [
        (
            account["account_id"],
            account["name"],
            account["status"],
            account["active_keys"],
            _balances(account),
        )
        for account in accounts
    ]
    columns = ("account", "name", "status", "keys", "balance")
    show(accounts, as_json, lambda: table("", columns, rows))


@command.command("show")
@click.argument("account_id", metavar="ACCOUNT")
@json_option
def show_account(*, account_id: str, as_json: bool) -> None:
    """Show an account with its limits and balances."""
    account = connect().get(f"/accounts/{account_id}")
    show(account, as_json, lambda: account_facts(account))


@command.command()
@click.argument("account_id", metavar="ACCOUNT")
@click.option("--reason", default="")
@json_option
def suspend(*, account_id: str, reason: str, as_json: bool) -> None:
    """Stop every key of an account until it resumes."""
    account = connect().post(f"/accounts/{account_id}/suspend", {"reason": reason})
    show(account, as_json, lambda: account_facts(account))


@command.command()
@click.argument("account_id", metavar="ACCOUNT")
@json_option
def resume(*, account_id: str, as_json: bool) -> None:
    """Let a suspended account work again."""
    account = connect().post(f"/accounts/{account_id}/resume")
    show(account, as_json, lambda: account_facts(account))


@command.command()
@click.argument("account_id", metavar="ACCOUNT")
@click.option("--reason", default="")
@click.confirmation_option(prompt="Closing is for good. Close it?")
@json_option
def close(*, account_id: str, reason: str, as_json: bool) -> None:
    """Close an account for good."""
    account = connect().post(f"/accounts/{account_id}/close", {"reason": reason})
    show(account, as_json, lambda: account_facts(account))


def account_facts(account: Any) -> RenderableType | None:  # noqa: ANN401
    """Lay an account out."""
    out.print(
        facts(
            {
                "account": account["account_id"],
                "name": account["name"],
                "status": account["status"],
                "kind": _kind(account),
                "opened at": account["opened_at"],
                "pays with": ", ".join(account["pays_with"]),
                "rate card": account["rate_card"],
                "overdraft": _overdrafts(account),
                "unpriced usage": account["unpriced"],
                "longest answer": account["max_output_tokens"] or "as the server's setting says",
                "active keys": account["active_keys"],
                "balance": _balances(account),
            }
        )
    )
    print_limits(account["limits"])
    return None


def print_limits(limits: Any) -> None:  # noqa: ANN401
    """Print limits with what counts against them, where there are any."""
    if not limits:
        return
    rows = [
        (v["id"], limit["ceiling"], v["used"], v["pending"], v["remaining"])
        for limit in limits
        for v in (limit, *limit.get("models", ()))
    ]
    out.print()
    out.print(table("Limits", ("limit", "ceiling", "used", "pending", "remaining"), rows))


def _kind(account: Any) -> str:  # noqa: ANN401
    return ", ".join(kind for kind in ("test", "internal") if account[kind]) or "ordinary"


def _overdrafts(account: Any) -> str:  # noqa: ANN401
    found = account["overdraft"]
    return ", ".join(f"{amount} {asset}" for asset, amount in found.items()) or "none"


def _balances(account: Any) -> str:  # noqa: ANN401
    return ", ".join(f"{v['balance']} {v['asset']}" for v in account["balances"]) or "none"
