"""How requests end in the ledger: at once as a rule, later where the ledger cannot take it now.

An ending is identified by its request id, so it may be submitted repeatedly and counts once. What
waits is bounded; where the bound is reached, or the process ends, the numbers go to the log and the
reservation's expiry is the backstop: it frees what was held, and a late settlement still counts.
"""

import asyncio
from typing import NamedTuple

import msgspec
import structlog

from api.http import metrics
from api.operations import Calls
from ledger.errors import AppendConflict, NoSuchRequest, Refused
from ledger.ids import AccountId, KeyId
from ledger.requests import Release, Settle

log = structlog.get_logger("keyledger.gateway")

PATIENCE_SECONDS = 3
"""How long a client waits for the ledger once its answer has come; then it gets the answer."""
WAITING_MAX = 10_000
"""Endings that may wait for the ledger, per process."""
BACKOFF_SECONDS_MAX = 30


class Ending(NamedTuple):
    """How a request ended."""

    account_id: AccountId
    key_id: KeyId
    how: Settle | Release


class Settlements:
    """Records endings in the ledger."""

    def __init__(self, calls: Calls, *, waiting_most: int = WAITING_MAX) -> None:
        """Take the operations that record endings."""
        self._calls = calls
        self._most = waiting_most
        self._waiting: dict[asyncio.Task[None], Ending] = {}

    def __len__(self) -> int:
        """Count the endings that wait."""
        return len(self._waiting)

    async def end(self, ending: Ending) -> None:
        """Record an ending; return once it is recorded, or once waiting longer would not help.

        A caller that gives up does not undo it: it is in the lane's queue by then, and submitted
        again in case the lane could not take it.
        """
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._hand_in(ending)
        except (AppendConflict, TimeoutError):
            self.later(ending)
        except asyncio.CancelledError:
            self.later(ending)
            raise

    def later(self, ending: Ending) -> None:
        """Record an ending as soon as the ledger takes it."""
        if len(self._waiting) >= self._most:
            _give_up("settlement_has_no_room", ending)
            return
        task = asyncio.create_task(self._keep_trying(ending), name="gateway-settlement")
        self._waiting[task] = ending
        metrics.note_waiting(len(self._waiting))
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._waiting[task]
        metrics.note_waiting(len(self._waiting))

    async def _keep_trying(self, ending: Ending) -> None:
        pause_seconds = 0.1
        while True:
            try:
                await self._hand_in(ending)
            except AppendConflict:
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(2 * pause_seconds, BACKOFF_SECONDS_MAX)
            else:
                return

    async def _hand_in(self, ending: Ending) -> None:
        try:
            await self._calls.finish(ending.account_id, ending.key_id, ending.how)
        except NoSuchRequest:
            # Nothing was held, so there is nothing to end: the reservation itself was given up.
            if isinstance(ending.how, Settle):
                _give_up("settlement_without_reservation", ending)
        except Refused as refused:
            _give_up("settlement_refused", ending, reason=refused.code)

    async def close(self, *, wait_seconds: int) -> None:
        """Wait for pending endings, then leave the rest to the log and the reservations' expiry."""
        waiting = dict(self._waiting)
        if not waiting:
            return
        _, late = await asyncio.wait(waiting, timeout=wait_seconds)
        for task in late:
            task.cancel()
            _give_up("settlement_not_written", waiting[task])
        await asyncio.gather(*late, return_exceptions=True)


def _give_up(what: str, ending: Ending, **more: str) -> None:
    """Log the numbers for the operator; they are not secret and hold no text."""
    numbers = {}
    if isinstance(ending.how, Settle):
        numbers = msgspec.to_builtins(ending.how.usage)
    log.error(
        what,
        account_id=str(ending.account_id),
        request_id=ending.how.request_id,
        usage=numbers,
        **more,
    )
