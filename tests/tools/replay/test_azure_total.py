"""The main job, exactly: what a replayed hour costs per integration, against a sum made elsewhere.

The other sum is pandas over the CSV and the rate card as the API shows it, in whole Decimals,
rounded half to even per request: none of our pricing code. KEYLEDGER_FULL=1 replays all 19,366
rows instead of 2,000; KEYLEDGER_SHARED says where the reference data is.
"""

import asyncio
import os
from decimal import ROUND_HALF_EVEN, Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import psycopg
import pytest

from api.cli.demo import running
from api.settings import Settings
from api.tools.replay import fleet as fleets
from api.tools.replay import sender
from api.tools.replay.sender import BATCH, SINGLE, Options
from api.tools.replay.tally import ReplayTally
from api.tools.replay.traces import open_trace
from ledger.server import database
from projections.reports import frames

SHARED = Path(os.environ.get("KEYLEDGER_SHARED", Path(__file__).parents[3].parent / "shared"))
TRACE = SHARED / "data" / "azure" / "AzureLLMInferenceTrace_conv.csv"
FULL = os.environ.get("KEYLEDGER_FULL") == "1"
ROWS = 19_366 if FULL else 2_000
SECRET = "operator-secret-of-tests"
SEED = 1


def independent_totals(fleet: fleets.Fleet, models: dict[str, Any]) -> dict[str, Decimal]:
    """Sum per key from the CSV and the prices, without the code under test."""
    frame = pd.read_csv(TRACE, dtype=str, nrows=ROWS)
    frame["key"] = [
        fleet.senders[fleet.sender_of(str(number))].key_id for number in range(1, len(frame) + 1)
    ]
    model_of = {sent.key_id: sent.planned.model for sent in fleet.senders}
    pico = Decimal("0.000000000001")
    charges = []
    for context, made, key in zip(
        frame["ContextTokens"], frame["GeneratedTokens"], frame["key"], strict=True
    ):
        prices = models[model_of[key]]["prices"]
        exact = Decimal(context) * Decimal(prices["input"]) + Decimal(made) * Decimal(
            prices["output"]
        )
        charges.append((exact / 10**6).quantize(pico, ROUND_HALF_EVEN))
    frame["charge"] = charges
    return {str(key): sum(group, Decimal(0)) for key, group in frame.groupby("key")["charge"]}


def is_plain(price: dict[str, Any]) -> bool:
    """Return whether a model has the same prices for any context, at any time of day."""
    conditions = price.get("conditions", {}).values()
    return not price.get("tiers") and not any(each.get("between") for each in conditions)


@pytest.mark.needs_shared
@pytest.mark.skipif(not TRACE.is_file(), reason=f"no reference data at {TRACE}")
def test_what_each_integration_cost_is_exact_to_the_last_pico(
    database_url: str, tmp_path: Path
) -> None:
    """Promise 7: a real service over HTTP, its roll-up and its events give an independent sum."""
    settings = Settings(
        home=tmp_path, database_url=database_url, admin_secret=SECRET, workers=2, port=0
    )
    with (
        running(settings) as url,
        httpx.Client(
            base_url=url + "/ledger/v1", headers={"Authorization": f"Bearer {SECRET}"}, timeout=30
        ) as client,
    ):
        models = client.get("/rate-cards/standard").json()["models"]
        # The sum made here knows no other prices for long contexts or for a time of day.
        plain = {name: price for name, price in models.items() if is_plain(price)}
        plan = fleets.plan(SEED, fleets.choose_models(plain), tight_requests=0)

        def post(path: str, body: Any, idempotency_key: str) -> Any:
            headers = {"Idempotency-Key": idempotency_key}
            return client.post(path, json=body, headers=headers).json()

        fleet = fleets.muster(plan, post)
        trace = open_trace(str(TRACE), seed=SEED)
        tally = ReplayTally()
        # Singly first, then all of it in batches: what is sent twice is charged once.
        for mode, rows in ((SINGLE, ROWS // 4), (BATCH, ROWS)):
            requests = islice(sender.items(trace, fleet, sender.recent_beginning(fleet)), rows)
            options = Options(url=url, secret=SECRET, mode=mode)
            asyncio.run(sender.send(requests, fleet.senders, options, tally, lambda: None))
    assert (tally.charged, tally.replayed) == (ROWS, ROWS // 4)
    assert not tally.refused

    with psycopg.connect(database.conninfo(database_url, database.READER)) as connection:
        by_key = frames.totals(frames.spend(connection, ("key",)), ["key"])
        minutes = frames.totals(
            frames.cost_per_minute(
                connection, start=min(frames.spend(connection, ("day",))["day"])
            ),
            ["asset"],
        )
    expected = independent_totals(fleet, models)
    assert by_key == expected
    assert minutes == {"USD": sum(expected.values())}
    assert sum(expected.values()) * 10**12 == tally.totals["USD"]
    assert sum(expected.values()) > 1
