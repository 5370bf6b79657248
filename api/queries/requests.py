"""What is kept beside a request's events. The events themselves only its lane knows of."""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from api.queries.reader import Reader
from ledger.ids import AccountId, request_hash
from ledger.record import texts


class Report(NamedTuple):
    """A provider's usage report, as it was."""

    provider_request_id: str
    text: str


class Beside(NamedTuple):
    """What is kept beside a request's events. None: nothing, or it was erased."""

    metadata: Mapping[str, str] | None
    """What the caller noted of it."""
    end_user: str | None
    report: Report | None


class RequestQueries:
    """Reads about requests."""

    def __init__(self, reader: Reader) -> None:
        """Take where to read."""
        self._reader = reader

    async def beside(self, account_id: AccountId, request_id: str) -> Beside:
        """Return what is kept beside a request's events."""
        reader = self._reader
        lane, hashed = reader.lane_of(account_id), request_hash(account_id, request_id)
        terms = {"lane": lane, "hash": hashed}
        notes = await reader.rows(texts.FIND_NOTES, terms)
        told = await reader.rows(texts.FIND_REPORT, terms)
        metadata, end_user = notes[0] if notes else ("", "")
        return Beside(
            msgspec.json.decode(metadata, type=dict[str, str]) if metadata else None,
            end_user or None,
            Report(*told[0]) if told else None,
        )
