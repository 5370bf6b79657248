"""What is kept beside a request's events. Only its lane knows the events themselves."""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from api.queries.reader import Reader
from ledger.ids import AccountId, request_hash
from ledger.record import texts


class KeptReport(NamedTuple):
    """A provider's usage report, unchanged."""

    provider_request_id: str
    text: str


class Beside(NamedTuple):
    """What is kept beside a request's events. None: nothing, or it was erased."""

    metadata: Mapping[str, str] | None
    """The caller's notes about it."""
    end_user: str | None
    report: KeptReport | None


class RequestQueries:
    """Reads about requests."""

    def __init__(self, reader: Reader) -> None:
        """Take the reader."""
        self._reader = reader

    async def beside(self, account_id: AccountId, request_id: str) -> Beside:
        """Return what is kept beside a request's events."""
        reader = self._reader
        lane, hashed = reader.lane_of(account_id), request_hash(account_id, request_id)
        parameters = {"lane": lane, "hash": hashed}
        notes = await reader.rows(texts.FIND_NOTES, parameters)
        told = await reader.rows(texts.FIND_REPORT, parameters)
        metadata, end_user = notes[0] if notes else ("", "")
        return Beside(
            msgspec.json.decode(metadata, type=dict[str, str]) if metadata else None,
            end_user or None,
            KeptReport(*told[0]) if told else None,
        )
