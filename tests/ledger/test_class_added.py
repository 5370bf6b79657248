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
import asyncio, json, sys
from pathlib import Path
import psycopg
from api import services as wiring
from api.native import openapi, views
from api.operations import Asked
from api.queries import SpendTerms
from api.mcp import tools
from ledger.requests import Record
from ledger import events as e
from ledger.record import verify
from ledger.server import database
from ledger.pricing import ModelPrice, RateCard
from ledger.clock import EARLIEST
from ledger.usage import Usage
from projections import rebuild
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
            models={"ocr": ModelPrice(prices={"input": "1", "pages": "1000000"})},
        )
        await services.ledger.prices.publish(asked, card)
        terms = e.AccountOpened(by="operator", rate_card="paper", overdraft={"USD": "unlimited"})
        opened = await services.ledger.accounts.open(asked, terms, name="Acme")
        account = opened.recorded[0].envelope.account_id
        terms = e.KeyIssued(by="operator", name="bot", dialect="bve")
        key = (await services.ledger.keys.issue(asked, account, terms)).done.recorded[0]
        record = Record(request_id="r1", model="ocr", usage=Usage(input=1, pages=3))
        done = await services.ledger.requests.record(account, key.envelope.key_id, record)
        sums = SpendTerms(True, True, True, True, None, None)
        found = await services.queries.spend.sums(account, sums)
        with psycopg.connect(database.conninfo(url, database.READER)) as connection:
            frame = frames.records(frames.spend(connection, account_id=account))
        made = json.loads(views.receipt_bytes(done.events[0]))
        return made, [line.usage for line in found.facts], frame
    finally:
        await services.close()


receipt, spend, frame = asyncio.run(story())
print(json.dumps({
    "charge": receipt["charge"]["amount"],
    "usage": receipt["usage"],
    "prices": receipt["prices"],
    "spend": spend,
    "frame": [row.get("pages") for row in frame],
    "intact": verify.verify(url).intact,
    "equal": rebuild.rebuild(url).equal,
}))
"""


@pytest.mark.processes
def test_a_class_that_one_line_adds_reaches_everything(furnished_url: str, tmp_path: Path) -> None:
    """It is priced, charged, summed, reported, checked and rebuilt, in older databases too."""
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
        "spend": [{"input": 1, "pages": 3}],
        "frame": [3],
        "intact": True,
        "equal": True,
    }
