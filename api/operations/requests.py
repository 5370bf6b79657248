"""Requests metered by their makers: recorded in one step, or reserved and then ended.

Each has a receipt: the event that was recorded, or for a repeat the earlier one, with what
priced it later. Calls that this process itself serves are in ``calls``.
"""

import secrets as random
from collections.abc import Awaitable, Mapping, Sequence

import msgspec

from api.operations.asked import UNRENDERED, Asked, check_reason, idempotency
from api.operations.observing import Decide, Sees, reserving, shown
from ledger import metering, rating
from ledger.clock import Instant
from ledger.codec import Recorded
from ledger.errors import NoSuchRequest
from ledger.ids import AccountId, KeyId, Position, rating_id
from ledger.record.batch import Command, Idempotency, Outcome
from ledger.record.lanes import Writer
from ledger.requests import (
    SYSTEM,
    Facts,
    KnownRequest,
    Made,
    Notes,
    Record,
    Release,
    Reserve,
    Settle,
)


def notes_of(metadata: Mapping[str, str], end_user: str) -> Notes | None:
    """Salt a caller's notes about a request; None: there are none."""
    if not metadata and not end_user:
        return None
    text = _canonical(metadata).decode() if metadata else ""
    return Notes(random.token_bytes(16), text, end_user)


_canonical = msgspec.json.Encoder(order="deterministic").encode


class Requests:
    """Operations on requests."""

    def __init__(self, writer: Writer) -> None:
        """Take the writer."""
        self._writer = writer

    def recording(
        self,
        account_id: AccountId,
        key_id: KeyId,
        record: Record,
        asked: Asked[Recorded] | None = None,
        *,
        sees: Sees | None = None,
    ) -> Command:
        """Make the command that records a request in one step."""

        def decide(facts: Facts, at: Instant) -> Made:
            return metering.record(facts, record, key_id=key_id, at=at)

        decided, also = shown(decide, sees)
        return Command(
            account_id,
            decided,
            key_id=key_id,
            request_id=record.request_id,
            metered=True,
            request=record,
            occurred_at=record.occurred_at,
            idempotency=None if asked is None else _receipts(asked, account_id),
            also=also,
        )

    async def record(
        self,
        account_id: AccountId,
        key_id: KeyId,
        record: Record,
        asked: Asked[Recorded] | None = None,
        *,
        sees: Sees | None = None,
    ) -> Outcome:
        """Admit, price and charge a request in one step.

        ``sees`` is shown the state that it was admitted into, unless it is a repeat.
        """
        command = self.recording(account_id, key_id, record, asked, sees=sees)
        return await self._writer.submit_one(command)

    def require_room(self, commands: Sequence[Command]) -> None:
        """Make sure that all of these would be accepted now.

        Raises:
            LedgerUnavailable: They would not be.
        """
        self._writer.require_room(commands)

    def hand_in(self, commands: Sequence[Command]) -> Awaitable[list[Outcome | Exception]]:
        """Have many decided; each has its own outcome.

        Raises:
            LedgerUnavailable: None of them was accepted.
        """
        return self._writer.hand_in(commands)

    async def reserve(
        self,
        account_id: AccountId,
        key_id: KeyId,
        reserve: Reserve,
        asked: Asked[Recorded] | None = None,
    ) -> Outcome:
        """Hold the worst case of a request."""
        command = Command(
            account_id,
            reserving(reserve, key_id),
            key_id=key_id,
            request_id=reserve.request_id,
            metered=True,
            request=reserve,
            idempotency=None if asked is None else _receipts(asked, account_id),
        )
        return await self._writer.submit_one(command)

    async def settle(
        self,
        account_id: AccountId,
        key_id: KeyId | None,
        settle: Settle,
        asked: Asked[Recorded] | None = None,
    ) -> Outcome:
        """Charge a reserved request what it used."""

        def decide(facts: Facts, at: Instant) -> Made:
            _require_same_key(facts, key_id)
            return metering.settle(facts, settle, at=at)

        return await self._close(account_id, key_id, settle, decide, asked)

    async def release(
        self,
        account_id: AccountId,
        key_id: KeyId | None,
        release: Release,
        asked: Asked[Recorded] | None = None,
    ) -> Outcome:
        """Release a reservation unused."""
        check_reason(release.reason)

        def decide(facts: Facts, at: Instant) -> Made:  # noqa: ARG001
            _require_same_key(facts, key_id)
            return metering.release(facts, release)

        return await self._close(account_id, key_id, release, decide, asked)

    async def _close(
        self,
        account_id: AccountId,
        key_id: KeyId | None,
        ending: Settle | Release,
        decide: Decide,
        asked: Asked[Recorded] | None,
    ) -> Outcome:
        if key_id is None:
            # What counts against the key's limits ends with it, whoever ends it.
            known, _ = await self.find(account_id, ending.request_id)
            key_id = known.first.envelope.key_id
        command = Command(
            account_id,
            decide,
            key_id=key_id,
            request_id=ending.request_id,
            closes=True,
            request=ending if isinstance(ending, Settle) else None,
            idempotency=None if asked is None else _receipts(asked, account_id),
        )
        return await self._writer.submit_one(command)

    async def find(self, account_id: AccountId, request_id: str) -> tuple[KnownRequest, Position]:
        """Find what became of a request. It asks the lane, because only the lane knows.

        Raises:
            NoSuchRequest: There is none with this id.
        """
        found: dict[str, KnownRequest] = {}

        def decide(facts: Facts, at: Instant) -> Made:  # noqa: ARG001
            if facts.known is None:
                raise NoSuchRequest
            found["known"] = facts.known
            return [], facts.known.first

        command = Command(account_id, decide, request_id=request_id)
        outcome = await self._writer.submit_one(command)
        return found["known"], Position(self._writer.lane_of(account_id), outcome.position)

    async def rate(self, unpriced: Recorded, request: Recorded, *, by: str = SYSTEM) -> bool:
        """Price what a request, or an earlier rating of it, lacked; return whether anything was."""
        envelope = unpriced.envelope

        def decide(facts: Facts, at: Instant) -> Made:
            # The marker is a request id that no caller can send: an event is rated only once.
            return rating.rate(facts, unpriced, request, by=by, at=at), None

        command = Command(
            envelope.account_id,
            decide,
            key_id=envelope.key_id,
            request_id=rating_id(envelope.lane_seq),
            occurred_at=envelope.occurred_at,
        )
        outcome = await self._writer.submit_one(command)
        return bool(outcome.events)


def _receipts(asked: Asked[Recorded], account_id: AccountId) -> Idempotency | None:
    def reply(recorded: list[Recorded]) -> bytes:
        if asked.render is None:
            return UNRENDERED
        return asked.render(recorded[0], recorded, recorded[0].envelope.recorded_at)

    return idempotency(asked, account_id, reply)


def _require_same_key(facts: Facts, key_id: KeyId | None) -> None:
    """Hide a request from a caller that names a key other than the one that reserved it."""
    if key_id is None or facts.known is None:
        return
    if facts.known.first.envelope.key_id != key_id:
        raise NoSuchRequest
