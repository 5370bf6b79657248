"""`keyledger price`: rate cards."""

from pathlib import Path
from typing import Any

import click
import msgspec
from rich.table import Table

from api.cli.service import connect, segment
from api.cli.terminal import facts, json_option, out, show, table
from api.cli.words import TimeWord
from ledger.pricing import RateCard

SHOWN_CLASSES = ("input", "cache_read", "cache_write", "output")

effective_option = click.option(
    "--effective-from", type=TimeWord(), help="In force from then on; default: now."
)
confirm_option = click.option(
    "--confirm-jumps", is_flag=True, help="Publish although a price moves more than tenfold."
)


@click.group("price")
def command() -> None:
    """Publish, import, show and compare rate cards."""


@command.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@effective_option
@confirm_option
@json_option
def publish(*, file: Path, effective_from: str | None, confirm_jumps: bool, as_json: bool) -> None:
    """Publish FILE as the next version of its rate card.

    FILE is JSON: {"name": …, "asset": "USD", "models": {MODEL: {"prices": {"input": "0.15", …}}}},
    prices being plain decimals per million units.
    """
    body = _document(file)
    body.pop("version", None)
    if effective_from:
        body["effective_from"] = effective_from
    card = connect().post("/rate-cards", {**body, "confirm_jumps": confirm_jumps})
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
    columns = ("rate card", "asset", "effective from", "models", "source", "content")
    rows = [
        (
            f"{card['name']}/{card['version']}",
            card["asset"],
            card["effective_from"],
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
@click.option("--as-of", type=TimeWord(), help="The version in force at that time.")
@click.option("--model", default="", help="Only models whose name holds this.")
@json_option
def show_card(
    *, name: str, version: int | None, as_of: str | None, model: str, as_json: bool
) -> None:
    """Show the prices of a rate card."""
    if version is not None and as_of is not None:
        raise click.UsageError("--version and --as-of exclude each other.")
    place = f"/rate-cards/{segment(name)}"
    place += "" if version is None else f"/versions/{version}"
    card = connect().get(place, as_of=as_of)
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
    columns = ("model", "condition", "above tokens", "usage class", f"/{old}", f"/{new}")
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
    show(changes, as_json, lambda: table(f"{len(rows):,} prices differ", columns, rows))


@command.group("import")
def import_() -> None:
    """Publish a price table of others as the next version."""


@import_.command("genai-prices")
@click.option("--name", default="standard", show_default=True, help="Of the rate card.")
@click.option("--provider", "providers", multiple=True, help="Default: all.")
@effective_option
@confirm_option
@json_option
def genai_prices(
    *,
    name: str,
    providers: tuple[str, ...],
    effective_from: str | None,
    confirm_jumps: bool,
    as_json: bool,
) -> None:
    """Import the prices inside the installed package genai-prices."""
    body: dict[str, Any] = {
        "source": "genai-prices",
        "name": name,
        "providers": list(providers) or None,
        "effective_from": effective_from,
        "confirm_jumps": confirm_jumps,
    }
    card = connect().post("/rate-cards/import", body)
    show(card, as_json, lambda: _card_facts(card))


@import_.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", default="standard", show_default=True, help="Of the rate card.")
@effective_option
@confirm_option
@json_option
def litellm(
    *, file: Path, name: str, effective_from: str | None, confirm_jumps: bool, as_json: bool
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
    body = _body(imported.card, confirm_jumps=confirm_jumps)
    card = connect().post("/rate-cards", body)
    skipped = [{"model": each.model, "reason": each.reason} for each in imported.skipped]

    def render() -> None:
        out.print(_card_facts(card))
        out.print(f"\n{len(skipped):,} entries were left out; --json lists them with the reasons.")

    show({**card, "skipped": skipped}, as_json, render)


def _body(card: RateCard, *, confirm_jumps: bool) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(card)
    fields.pop("version")
    return {**fields, "confirm_jumps": confirm_jumps}


def _card_facts(card: Any) -> Table:  # noqa: ANN401
    return facts(
        {
            "rate card": f"{card['name']}/{card['version']}",
            "asset": card["asset"],
            "effective from": card["effective_from"],
            "models": card["models"],
            "source": card["source"] or "none given",
            "content": card["content_hash"],
        }
    )
