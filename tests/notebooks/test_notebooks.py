"""Notebooks run as they are committed: without outputs, against a small replayed trace."""

import asyncio
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from api.tools.replay import fleet as fleets
from api.tools.replay import sender
from api.tools.replay.sender import BATCH, Options
from api.tools.replay.tally import ReplayTally
from api.tools.replay.traces import GENERATED, open_trace

pytestmark = pytest.mark.processes

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
SECRET = "operator-secret-of-tests"


@pytest.mark.parametrize("file", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_is_committed_without_outputs(file: Path) -> None:
    """And begins by saying what it is for."""
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    assert notebook.cells[0].cell_type == "markdown"
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.filterwarnings("ignore:::zmq", "ignore:::jupyter_client", "ignore:::nbclient")
def test_the_notebook_about_spend_runs(
    served: Any, world: Any, ledger_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both of its sources give the total that the replay charged; three figures are drawn."""

    def post(path: str, body: Any, idempotency_key: str) -> Any:
        headers = {"Idempotency-Key": idempotency_key}
        return world.client.post(f"/ledger/v1{path}", json=body, headers=headers).json()

    fleet = fleets.muster(fleets.plan(1, ["m", "free"]), post)
    requests = sender.items(open_trace(GENERATED, seed=1), fleet, sender.recent_beginning(fleet))
    tally = ReplayTally()
    options = Options(url=served.url, secret=SECRET, mode=BATCH)
    asyncio.run(sender.send(requests, fleet.senders, options, tally, lambda: None))

    monkeypatch.setenv("KEYLEDGER_DATABASE_URL", ledger_url)
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOKS.parent))
    notebook = nbformat.read(NOTEBOOKS / "spend_per_integration.ipynb", as_version=4)
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    figures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(figures) == 3
    said = "".join(output.text for output in outputs if output.output_type == "stream")
    amount = str(tally.amounts()[0]).partition(" ")[0]
    assert f"roll-up  {amount}" in said
    assert f"events   {amount}" in said
