"""Calls that talk to no model: they count against the key's general limit and say what is left."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from api.gateway import headers
from api.http.answers import Answer, answer
from api.http.failure import Failure, of_error
from api.http.surface import failure_of
from api.identity.credentials import KeyCaller
from api.services import Ask
from ledger import standing
from ledger.clock import Instant
from ledger.errors import LedgerError, LimitIsReached
from ledger.requests import Record
from ledger.state import Account, Key
from ledger.usage import Usage

GENERAL = "general"


async def counted(ask: Ask[KeyCaller], model: str, work: Callable[[], Awaitable[Any]]) -> Answer:
    """Count a call, do its work and answer the view that it returns.

    ``model``: the model that it is booked on.

    Raises:
        Failure: The limit leaves no room, or the work failed: it counts all the same.
    """
    left = await _count(ask, model)
    try:
        view = await work()
    except Failure as failure:
        failure.headers.update(left)
        raise
    except LedgerError as error:
        said = failure_of(error)
        said.headers.update(left)
        raise said from error
    return answer(view, headers=left)


async def _count(ask: Ask[KeyCaller], model: str) -> Mapping[str, str]:
    """Count a call; return the headers that say what is left."""
    caller = ask.caller
    record = Record(
        request_id=ask.request_id,
        model=model,
        usage=Usage(requests=1),
        category=GENERAL,
        by=caller.by,
        secret=caller.secret,
    )
    left: dict[str, str] = {}

    def sees(account: Account, key: Key, at: Instant) -> None:
        limits = standing.of_request(account, key, category=GENERAL, model=model, at=at)
        left.update(headers.limits(standing.Standing(at, tuple(limits), balances={})))

    try:
        await ask.services.ledger.requests.record(
            caller.account_id, caller.key_id, record, sees=sees
        )
    except LimitIsReached as error:
        failure = of_error(error)
        failure.headers.update(headers.refused(error))
        raise failure from error
    return left
