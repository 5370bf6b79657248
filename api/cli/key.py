"""`keyledger key`: what callers prove themselves by."""

from typing import Any

import click

from api.cli.account import print_limits
from api.cli.service import connect
from api.cli.terminal import facts, json_option, out, show, table
from api.cli.words import ExpiryWord, LimitWord
from ledger.secrets import dialects


@click.group("key")
def command() -> None:
    """Issue, rotate, suspend, resume and revoke keys."""


@command.command()
@click.argument("account_id", metavar="ACCOUNT")
@click.argument("name")
@click.option("--dialect", type=click.Choice(dialects()), required=True)
@click.option(
    "--limit",
    "limits",
    multiple=True,
    type=LimitWord(),
    help="Such as requests=60/rolling:60, spend=100/month, tokens=100000/day/each_model.",
)
@click.option("--model", "models", multiple=True, help="A model it may use; default: every one.")
@click.option("--scope", "scopes", multiple=True, help="What it may do; default: everything.")
@click.option("--rate-card", default="", help="Instead of the account's.")
@click.option(
    "--expires-at", type=ExpiryWord(), help="An instant, or a date: the end of that day of UTC."
)
@click.option(
    "--default-character",
    default="",
    help="reverie: slug of the character that requests without a model are for.",
)
@json_option
def issue(
    *,
    account_id: str,
    name: str,
    dialect: str,
    limits: tuple[dict[str, str | bool], ...],
    models: tuple[str, ...],
    scopes: tuple[str, ...],
    rate_card: str,
    expires_at: str | None,
    default_character: str,
    as_json: bool,
) -> None:
    """Issue a key for the integration NAME. Its secret is shown this once."""
    body: dict[str, Any] = {
        "name": name,
        "dialect": dialect,
        "limits": list(limits),
        "scopes": list(scopes),
        "rate_card": rate_card,
        "expires_at": expires_at,
        "default_character": default_character,
        "allowed_models": list(models) or None,
    }
    key = connect().post(f"/accounts/{account_id}/keys", body)
    show(key, as_json, lambda: _print_key(key))


@command.command("list")
@click.argument("account_id", metavar="ACCOUNT")
@json_option
def list_keys(*, account_id: str, as_json: bool) -> None:
    """List an account's keys, the newest first."""
    keys = list(connect().pages(f"/accounts/{account_id}/keys"))
    rows = [
        (key["key_id"], key["name"], key["dialect"], key["status"], key["hint"]) for key in keys
    ]
    columns = ("key", "integration", "dialect", "status", "secret")
    show(keys, as_json, lambda: table("", columns, rows))


@command.command("show")
@click.argument("key_id", metavar="KEY")
@json_option
def show_key(*, key_id: str, as_json: bool) -> None:
    """Show a key with its limits and what counts against them."""
    key = connect().get(f"/keys/{key_id}")
    show(key, as_json, lambda: _print_key(key))


@command.command()
@click.argument("key_id", metavar="KEY")
@click.option(
    "--grace",
    "grace_seconds",
    type=click.IntRange(0, 7_776_000),
    default=0,
    show_default=True,
    metavar="SECONDS",
    help="How long earlier secrets go on working.",
)
@json_option
def rotate(*, key_id: str, grace_seconds: int, as_json: bool) -> None:
    """Replace a key's secret; limits, credit and history stay."""
    key = connect().post(f"/keys/{key_id}/rotate", {"grace_seconds": grace_seconds})
    show(key, as_json, lambda: _print_key(key))


@command.command()
@click.argument("key_id", metavar="KEY")
@json_option
def suspend(*, key_id: str, as_json: bool) -> None:
    """Stop a key until it resumes."""
    key = connect().post(f"/keys/{key_id}/suspend")
    show(key, as_json, lambda: _print_key(key))


@command.command()
@click.argument("key_id", metavar="KEY")
@json_option
def resume(*, key_id: str, as_json: bool) -> None:
    """Let a suspended key work again."""
    key = connect().post(f"/keys/{key_id}/resume")
    show(key, as_json, lambda: _print_key(key))


@command.command()
@click.argument("key_id", metavar="KEY")
@click.confirmation_option(prompt="Revoking is for good. Revoke it?")
@json_option
def revoke(*, key_id: str, as_json: bool) -> None:
    """Withdraw a key for good."""
    key = connect().post(f"/keys/{key_id}/revoke")
    show(key, as_json, lambda: _print_key(key))


def _print_key(key: Any) -> None:  # noqa: ANN401
    pairs = {
        "key": key["key_id"],
        "integration": key["name"],
        "account": key["account_id"],
        "dialect": key["dialect"],
        "status": key["status"],
        "secret": key["hint"],
        "issued at": key["created_at"],
        "issued by key": key["parent"] or "none",
        "expires at": key["expires_at"] or "never",
        "last used at": key["last_used_at"] or "never",
        "models": "every one" if key["allowed_models"] is None else _list(key["allowed_models"]),
        "scopes": _list(key["scopes"]) if key["scopes"] else "every one",
    }
    out.print(facts(pairs))
    print_limits(key["limits"])
    if key.get("secret"):
        out.print()
        out.print("The secret, shown this once and kept only as a hash:")
        # Not through rich, which may break the line: it is to be copied.
        click.echo(f"\n    {key['secret']}\n")


def _list(words: Any) -> str:  # noqa: ANN401
    return ", ".join(words) or "none"
