"""What had no price and got one later, over HTTP; and what providers reported, while it is kept."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import psycopg

from api import services as wiring
from api.process import jobs
from ledger.record import verify
from projections import rebuild
from tests.process.test_jobs import SETTINGS

PAGES = {"usage": {"input": 1000, "images": 2}}


def with_services(url: str, home: Path, work: Any, **terms: Any) -> Any:
    """Do a job as the leader would."""

    async def story() -> Any:
        services = await wiring.Services.open(wiring.Settings(home=home, **SETTINGS, **terms), url)
        try:
            return await work(services)
        finally:
            await services.close()

    return asyncio.run(story())


def test_a_later_rating_is_shown_wherever_the_request_is(
    world: Any, ledger_url: str, tmp_path: Path
) -> None:
    """The part with a price is charged at once, the rest by its own event (C9)."""
    card = {"name": "pages", "asset": "USD", "models": {"ocr": {"prices": {"input": "1"}}}}
    world.post("/rate-cards", {**card, "effective_from": "2026-01-01T00:00:00Z"}, 201)
    account = world.account(rate_card="pages", unpriced="record")
    key = world.key(account)
    told = {"model": "ocr", **PAGES}
    first = world.record(key, "r1", **told)
    assert first["charge"] == {"amount": "0.001", "asset": "USD"}
    assert first["unpriced"] == ["images"]
    (line,) = world.get(f"/accounts/{account}/spend")["data"]
    assert (line["amount"], line["unpriced"], line["at_least"]) == ("0.001", 1, True)
    whole = world.record(key, "r2", model="unheard-of")
    assert (whole["charge"], whole["unpriced"]) == (None, ["input"])
    lines = world.get(f"/accounts/{account}/spend")["data"]
    assert {line["asset"]: line["amount"] for line in lines} == {"USD": "0.001", "": None}

    prices = {"input": "1", "images": "1000"}
    later = {**card, "models": {"ocr": {"prices": prices}}}
    world.post("/rate-cards", {**later, "effective_from": "2026-01-01T00:00:00Z"}, 201)
    assert with_services(ledger_url, tmp_path, jobs.rate_unpriced) == "1 rated"
    again = world.record(key, "r1", **told)
    found = world.get(f"/requests/r1?key_id={key['key_id']}")["first"]
    for shown in (again, found):
        assert shown["charge"] == {"amount": "0.003", "asset": "USD"}
        assert shown["prices"] == prices
        assert "unpriced" not in shown
        assert shown["rated_at"]
    (line,) = [x for x in world.get(f"/accounts/{account}/spend")["data"] if x["asset"] == "USD"]
    assert (line["amount"], line["unpriced"], line["requests"]) == ("0.003", 0, 1)


def test_prices_that_come_one_by_one_are_charged_one_by_one(
    world: Any, ledger_url: str, tmp_path: Path
) -> None:
    """Receipt, spend and backlog follow each of them; the record verifies and rebuilds."""
    card = {"name": "parts", "asset": "USD", "effective_from": "2026-01-01T00:00:00Z"}
    account = world.account(rate_card="parts", unpriced="record")
    key = world.key(account)
    told = {"model": "ocr", "usage": {"input": 1000, "images": 2, "searches": 1}}
    assert world.record(key, "r1", **told)["charge"] is None
    steps = {"input": "0.001", "images": "0.003", "searches": "0.013"}
    prices: dict[str, str] = {}
    for number, (name, charged) in enumerate(steps.items()):
        prices[name] = {"input": "1", "images": "1000", "searches": "10000"}[name]
        world.post("/rate-cards", {**card, "models": {"ocr": {"prices": prices}}}, 201)
        assert with_services(ledger_url, tmp_path, jobs.rate_unpriced) == "1 rated"
        assert with_services(ledger_url, tmp_path, jobs.rate_unpriced) == "0 rated"
        shown = world.record(key, "r1", **told)
        assert shown["charge"] == {"amount": charged, "asset": "USD"}
        assert shown["prices"] == prices
        assert shown.get("unpriced", []) == list(steps)[number + 1 :]
        lines = world.get(f"/accounts/{account}/spend")["data"]
        (line,) = [each for each in lines if each["asset"]]
        assert (line["amount"], line["requests"], line["usage"]) == (charged, 1, told["usage"])
        assert line.get("at_least", False) == (number < 2)
        assert line["unpriced"] == int(number < 2)
    report = verify.verify(ledger_url)
    assert report.intact, report.findings
    assert rebuild.rebuild(ledger_url).equal


def test_a_providers_report_is_kept_as_it_was_for_its_time(
    world: Any, ledger_url: str, tmp_path: Path
) -> None:
    """The event holds its SHA-256; after the set days the text is gone and the digest stays."""
    key = world.key(world.account())
    report = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    body = {"key_id": key["key_id"], "request_id": "r1", "model": "m", "provider_usage": report}
    world.post("/usage", body)
    kept = world.get(f"/requests/r1?key_id={key['key_id']}")["provider_report"]
    assert "prompt_tokens" in kept["report"]
    with psycopg.connect(ledger_url) as connection:
        ((digest,),) = connection.execute(
            "SELECT payload ->> 'report' FROM keyledger.events WHERE account_id = %s"
            " AND payload ->> 'request_id' = 'r1'",
            (key["account_id"].removeprefix("acct_"),),
        ).fetchall()
    assert hashlib.sha256(kept["report"].encode()).hexdigest() == digest
    assert with_services(ledger_url, tmp_path, jobs.forget_reports) == "0 gone"
    gone = with_services(ledger_url, tmp_path, jobs.forget_reports, raw_report_days=0)
    assert gone != "0 gone"
    assert world.get(f"/requests/r1?key_id={key['key_id']}")["provider_report"] is None
