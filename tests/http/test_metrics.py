"""What is counted is what was answered, though it is entered by the turn of the loop."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

from api.http import metrics

ROOT = Path(__file__).parents[2]
PREFIX = "keyledger_http_request"


def value(name: str, labels: str) -> str:
    """Find a number among all."""
    pattern = rf"^{PREFIX}{re.escape(name)}\{{{re.escape(labels)}\}} (\S+)$"
    found = re.search(pattern, metrics.text().decode(), re.MULTILINE)
    assert found is not None, name + labels
    return found[1]


async def _noted(operation: str) -> None:
    for status, seconds in ((200, 0.0005), (200, 0.001), (200, 0.3), (429, 20), (200, 0.0011)):
        metrics.note(operation, status, seconds)
    await asyncio.sleep(0)
    metrics.note(operation, 200, 0.25)


def test_every_answer_is_counted_once() -> None:
    """By status; durations in the bucket whose bound they do not exceed, and in the sum."""
    asyncio.run(_noted("counted"))
    # The last one was not entered by the loop, which had ended: a scrape enters it.
    assert value("s_total", 'operation="counted",status="200"') == "5.0"
    assert value("s_total", 'operation="counted",status="429"') == "1.0"
    buckets = {"0.001": "2.0", "0.0025": "3.0", "0.1": "3.0", "0.25": "4.0", "1.0": "5.0"}
    for bound, count in {**buckets, "10.0": "5.0", "+Inf": "6.0"}.items():
        assert value("_duration_seconds_bucket", f'le="{bound}",operation="counted"') == count
    assert value("_duration_seconds_count", 'operation="counted"') == "6.0"
    assert value("_duration_seconds_sum", 'operation="counted"').startswith("20.55")


def test_other_workers_see_it_without_being_asked() -> None:
    """What a turn of the loop answered is in the shared numbers after the next."""

    async def noted() -> None:
        metrics.note("shared", 200, 0.001)
        for _ in range(2):
            await asyncio.sleep(0)

    asyncio.run(noted())
    assert not metrics._waiting
    assert value("s_total", 'operation="shared",status="200"') == "1.0"


def test_what_a_dead_worker_said_of_itself_is_taken_out(tmp_path: Path) -> None:
    """Endings that waited in a process that is gone wait no more; what it counted stays."""
    code = (
        "from api.http import metrics; import asyncio, os;"
        " metrics.note_waiting(7);"
        " asyncio.run(asyncio.sleep(0)); print(os.getpid())"
    )
    environment = {**os.environ, metrics.DIRECTORY: str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    scrape = "from api.http import metrics; print(metrics.text().decode())"

    def waiting() -> list[str]:
        told = subprocess.run(
            [sys.executable, "-c", scrape],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        name = "keyledger_gateway_settlements_waiting"
        return re.findall(rf"^{name} (\S+)$", told.stdout, re.MULTILINE)

    assert waiting() == ["7.0"]
    metrics.forget(int(done.stdout), str(tmp_path))
    assert waiting() in ([], ["0.0"])
