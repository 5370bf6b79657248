"""`keyledger price`: rate cards."""

from pathlib import Path
from typing import Any

import click
import msgspec
from rich.table import Table

from api.cli.service import connect, segment
from api.cli.terminal import facts, json_option, out, show, table
from api.cli.words import StartWord

SHOWN_CLASSES = ("input", "cache_read", "cache_write", "output")

effective_option = click.option(
    "--effective-from", type=StartWord(), help="In force from then on; default: now."
)
replace_option = click.option("--replace", is_flag=True, help="Drop models that are not named.")
confirm_option = click.option(
    "--confirm", is_flag=True, help="Publish although something looks like a mistake."
)
dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Print what would change, and publish nothing."
)


@click.group("price")
def command() -> None:
    """Publish, import, show and compare rate cards."""


@command.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@effective_option
@replace_option
@confirm_option
@dry_run_option
@json_option
def publish(
    *,
    file: Path,
    effective_from: str | None,
    replace: bool,
    confirm: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Publish FILE as the next version of its rate card: models that it does not name stay.

    FILE is JSON: {"name": …, "asset": "USD", "models": {MODEL: {"prices": {"input": "0.15", …}}}},
    prices being plain decimals per million units.
    """
    body = _document(file)
    body.pop("version", None)
    if effective_from:
        body["effective_from"] = effective_from
    terms = {"replace": replace, "confirm": confirm, "dry_run": dry_run}
    done = connect().post("/rate-cards", {**body, **terms})
    show(done, as_json, lambda: _print_publication(done))


@command.command()
@click.argument("name")
@click.argument("version", type=click.IntRange(1))
@json_option
def withdraw(*, name: str, version: int, as_json: bool) -> None:
    """Withdraw a VERSION of a rate card that is not in force yet."""
    card = connect().post(f"/rate-cards/{segment(name)}/versions/{version}/withdraw")
    show(card, as_json, lambda: _card_facts(card))


def _document(file: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise click.UsageError(f"{file}: {error}") from error


@command.command("list")
@json_option
def list_cards(*, as_json: bool) -> None:
    """List every version of every rate card."""
    cards = connect().get("/rate-cards")["data"]
    columns = ("rate card", "asset", "effective from", "withdrawn", "models", "source", "content")
    rows = [
        (
            f"{card['name']}/{card['version']}",
            card["asset"],
            card["effective_from"],
            card["withdrawn_at"] or "",
            card["models"],
            card["source"],
            card["content_hash"][:12],
        )
        for card in cards
    ]
    show(cards, as_json, lambda: table("", columns, rows))


@command.command("show")
@click.argument("name", default="standard")
@click.option("--version", type=click.IntRange(1), help="Default: the one in force.")
@click.option("--as-of", type=StartWord(), help="The version in force at that time.")
@click.option("--known-at", type=StartWord(), help="As known at that time; default: now.")
@click.option("--model", default="", help="Only models whose name holds this.")
@json_option
def show_card(
    *,
    name: str,
    version: int | None,
    as_of: str | None,
    known_at: str | None,
    model: str,
    as_json: bool,
) -> None:
    """Show the prices of a rate card: those that a request is charged by.

    A request is charged by the version in force at its service instant (--as-of), as known when
    it was recorded (--known-at).
    """
    if version is not None and (as_of is not None or known_at is not None):
        raise click.UsageError("--version goes neither with --as-of nor with --known-at.")
    place = f"/rate-cards/{segment(name)}"
    place += "" if version is None else f"/versions/{version}"
    card = connect().get(place, as_of=as_of, known_at=known_at)
    card["models"] = {
        found: price for found, price in sorted(card["models"].items()) if model in found
    }
    show(card, as_json, lambda: _print_card(card))


def _print_card(card: Any) -> None:  # noqa: ANN401
    title = f"{card['name']}/{card['version']}: {card['asset']} per million"
    rows = []
    for name, price in card["models"].items():
        rows.append([name, *_prices(price["prices"])])
        rows.extend(
            [f"  above {tier['above_tokens']:,} tokens", *_prices(tier["prices"])]
            for tier in price.get("tiers", ())
        )
        rows.extend(
            [f"  {condition}", *_prices(terms["prices"])]
            for condition, terms in price.get("conditions", {}).items()
        )
    out.print(table(title, ("model", *SHOWN_CLASSES, "others"), rows))


def _prices(prices: dict[str, str]) -> list[str]:
    others = [f"{name} {text}" for name, text in prices.items() if name not in SHOWN_CLASSES]
    return [*(prices.get(name, "–") for name in SHOWN_CLASSES), ", ".join(others)]


@command.command()
@click.argument("name")
@click.argument("old", type=click.IntRange(1))
@click.argument("new", type=click.IntRange(1))
@json_option
def diff(*, name: str, old: int, new: int, as_json: bool) -> None:
    """List the prices that versions OLD and NEW of a rate card do not share."""
    place = f"/rate-cards/{segment(name)}/diff"
    changes = connect().get(place, from_=str(old), to=str(new))
    title = f"{len(changes):,} prices differ"
    show(changes, as_json, lambda: _changes(title, changes, f"/{old}", f"/{new}"))


def _changes(title: str, changes: list[Any], old: str, new: str) -> Table:
    columns = ("model", "condition", "above tokens", "usage class", old, new)
    rows = [
        (
            change["model"],
            change["condition"] or "",
            change["above_tokens"],
            change["usage_class"],
            change["old"],
            change["new"],
        )
        for change in changes
    ]
    return table(title, columns, rows)


@command.group("import")
def import_() -> None:
    """Publish somebody else's price table as the next version."""


@import_.command("genai-prices")
@click.option("--name", default="standard", show_default=True, help="Name of the rate card.")
@click.option("--provider", "providers", multiple=True, help="Default: all.")
@effective_option
@replace_option
@confirm_option
@dry_run_option
@json_option
def genai_prices(
    *,
    name: str,
    providers: tuple[str, ...],
    effective_from: str | None,
    replace: bool,
    confirm: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Import the prices inside the installed package genai-prices."""
    body: dict[str, Any] = {
        "source": "genai-prices",
        "name": name,
        "providers": list(providers) or None,
        "effective_from": effective_from,
        "replace": replace,
        "confirm": confirm,
        "dry_run": dry_run,
    }
    done = connect().post("/rate-cards/import", body)
    show(done, as_json, lambda: _print_publication(done))


@import_.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", default="standard", show_default=True, help="Name of the rate card.")
@effective_option
@replace_option
@confirm_option
@dry_run_option
@json_option
def litellm(
    *,
    file: Path,
    name: str,
    effective_from: str | None,
    replace: bool,
    confirm: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Import LiteLLM's model_prices_and_context_window.json.

    It is read here, exactly, and published as a rate card; what fits no card is left out.
    """
    from ledger import clock  # noqa: PLC0415
    from ledger.price_sources import from_litellm  # noqa: PLC0415 - its tables take a second
    from ledger.pricing import InvalidRateCard  # noqa: PLC0415

    at = clock.parse_instant(effective_from) if effective_from else clock.now()
    try:
        imported = from_litellm(file.read_bytes(), at=at, name=name)
    except InvalidRateCard as error:
        raise click.UsageError(f"{file}: {error}") from error
    body: dict[str, Any] = msgspec.to_builtins(imported.card)
    body.pop("version")
    body["effective_from"] = effective_from
    terms = {"replace": replace, "confirm": confirm, "dry_run": dry_run}
    done = connect().post("/rate-cards", {**body, **terms})
    skipped = [{"model": each.model, "reason": each.reason} for each in imported.skipped]

    def render() -> None:
        _print_publication(done)
        out.print(f"\n{len(skipped):,} entries were left out; --json lists them with the reasons.")

    show({**done, "skipped": skipped}, as_json, render)


def _print_publication(done: Any) -> None:  # noqa: ANN401
    changes, changed = done["changes"], done["changed"]
    if changes:
        title = f"{changed:,} prices differ from those in force then"
        title += f", the first {len(changes):,} of them" if len(changes) < changed else ""
        out.print(_changes(title, changes, "old", "new"))
    for reason in done["reasons"]:
        out.print(reason)
    losing = done["accounts_losing_a_price"]
    out.print(f"Accounts that used a model in the last 30 days which loses a price: {losing:,}.")
    if not done["published"]:
        same = done["recorded_at"] is not None
        out.print("Nothing is published" + (": this is in force then already." if same else "."))
    out.print(_card_facts(done))


def _card_facts(card: Any) -> Table:  # noqa: ANN401
    return facts(
        {
            "rate card": f"{card['name']}/{card['version']}",
            "asset": card["asset"],
            "effective from": card["effective_from"],
            "known since": card["recorded_at"],
            "withdrawn": card["withdrawn_at"],
            "models": card["models"],
            "source": card["source"] or "none given",
            "content": card["content_hash"],
        }
    )
