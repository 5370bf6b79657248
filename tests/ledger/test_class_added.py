"""A usage class is added in one line, and reaches every table, report and API by construction."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ledger

ROOT = Path(ledger.__file__).parents[1]
BEFORE = "    requests: Quantity = 0\n"
ADDED = "    pages: Quantity = 0\n"

TRIES = """
import asyncio, contextlib, json, sys
from pathlib import Path
from types import SimpleNamespace
import psycopg
from api import services as wiring
from api.native import openapi, views
from api.operations import Asked
from api.queries import SpendTerms
from api.mcp import forms, tools
from ledger.requests import Record
from ledger import events as e
from ledger.record import verify
from ledger.server import database
from ledger.pricing import ModelPrice, RateCard
from ledger.clock import EARLIEST
from ledger.usage import Usage
from ledger.errors import LimitIsReached
from projections import engine, rebuild
from projections.inline import spend
from projections.reports import frames

url, home = sys.argv[1], Path(sys.argv[2])
database.upgrade(url)


async def story():
    settings = wiring.Settings(
        home=home, admin_secret="x" * 16, pepper="pepper-of-tests", jwt_secret="j" * 64
    )
    services = await wiring.Services.open(settings, url)
    try:
        asked = Asked("operator")
        card = RateCard(
            name="paper", version=1, asset="USD", effective_from=EARLIEST,
            models={
                "ocr": ModelPrice(prices={"input": "1", "pages": "1000000"}),
                "scan": ModelPrice(prices={"input": "1"}),
            },
        )
        await services.ledger.prices.publish(asked, card)
        terms = e.AccountOpened(by="operator", rate_card="paper", unpriced="record",
            overdraft={"USD": "unlimited"})
        opened = await services.ledger.accounts.open(asked, terms, name="Acme")
        account = opened.recorded[0].envelope.account_id
        limit = e.LimitRule(kind="requests", window="lifetime", ceiling="2")
        terms = e.KeyIssued(by="operator", name="bot", dialect="bve", limits=(limit,))
        key = (await services.ledger.keys.issue(asked, account, terms)).done.recorded[0]
        record = Record(request_id="r1", model="ocr", usage=Usage(input=1, pages=3))
        done = await services.ledger.requests.record(account, key.envelope.key_id, record)
        waits = Record(request_id="r2", model="scan", usage=Usage(input=1, pages=5))
        await services.ledger.requests.record(account, key.envelope.key_id, waits)
        beyond = Record(request_id="r3", model="ocr", usage=Usage(pages=7))
        with contextlib.suppress(LimitIsReached):
            await services.ledger.requests.record(account, key.envelope.key_id, beyond)
        await engine.catch_up_all(url, services.ledger.lanes)
        refused = await services.queries.refusals.page(account, before=2**63 - 1, most=10)
        client = SimpleNamespace(account_id=account)
        told = await tools.get_usage(services, client, forms.UsageOf())
        sums = SpendTerms(True, True, True, True, None, None)
        found = await services.queries.spend.sums(account, sums)
        with psycopg.connect(database.conninfo(url, database.READER)) as connection:
            frame = frames.records(frames.spend(connection, account_id=account))
        made = json.loads(views.receipt_bytes(done.events[0]))
        return {
            "spend": sorted((line.usage for line in found.facts), key=str),
            "told": sum(line.usage["pages"] for line in told.lines),
            "refused": [each.usage for each in refused.facts.items],
            "frame": sorted(row["pages"] for row in frame),
            "unpriced": sum(row["unpriced"] for row in frame),
            "columns": "pages" in spend.SPEND.c,
        }, made
    finally:
        await services.close()


found, receipt = asyncio.run(story())
print(json.dumps({
    "charge": receipt["charge"]["amount"],
    "usage": receipt["usage"],
    "prices": receipt["prices"],
    **found,
    "intact": verify.verify(url).intact,
    "equal": rebuild.rebuild(url).equal,
}))
"""


@pytest.mark.processes
def test_a_class_that_one_line_adds_reaches_everything(furnished_url: str, tmp_path: Path) -> None:
    """Priced or not, refused, charged, summed, told, checked, rebuilt; in older databases too."""
    for package in ("ledger", "projections", "api"):
        shutil.copytree(ROOT / package, tmp_path / package)
    source = tmp_path / "ledger" / "usage.py"
    text = source.read_text()
    assert text.count(BEFORE) == 1
    source.write_text(text.replace(BEFORE, ADDED + BEFORE))
    script = tmp_path / "tries.py"
    script.write_text(TRIES)
    done = subprocess.run(
        [sys.executable, script, furnished_url, tmp_path],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {
        "charge": "3.000001",
        "usage": {"input": 1, "pages": 3},
        "prices": {"input": "1", "pages": "1000000"},
        "spend": [{"input": 1, "pages": 3}, {"input": 1, "pages": 5}],
        "told": 8,
        "refused": [{"pages": 7}],
        "frame": [8],
        "unpriced": 1,
        "columns": True,
        "intact": True,
        "equal": True,
    }
