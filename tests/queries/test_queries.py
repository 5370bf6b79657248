"""Queries answer facts; lists are gone through page by page; movements are a fold of events."""

import asyncio
from datetime import UTC, datetime
from uuid import UUID

import httpx
import pytest

from api.queries import Part, each
from api.queries.movements import (
    KeyTerms,
    Moved,
    MovementContext,
    MovementPlace,
    MovementWalk,
    Stretch,
    movements,
)
from ledger import codec
from ledger import events as e
from ledger.codec import Recorded
from ledger.ids import AccountId, KeyId, Position

AT = datetime(2026, 11, 21, 2, tzinfo=UTC)
ACCOUNT = AccountId(UUID("019363d0-c5a0-7b3f-9c0e-000000000001"))
KEY = KeyId(UUID("019363d0-c5a0-7b3f-9c0e-000000000002"))


@pytest.mark.parametrize(
    ("size", "stops_at", "asked"),
    [
        (5, None, [None, 2, 4]),
        (4, None, [None, 2]),
        (0, None, [None]),
        (5, 2, [None]),
        (5, 3, [None, 2]),
    ],
)
def test_pages_are_read_when_their_turn_comes(
    size: int, stops_at: int | None, asked: list[int | None]
) -> None:
    """Each item once and in order; whoever stops has read no page too many."""
    marks: list[int | None] = []

    async def page(after: int | None) -> Part[int]:
        marks.append(after)
        rest = list(range((after or 0) + 1, size + 1))
        return Part(rest[:2], len(rest) > 2)

    async def story() -> list[int]:
        found: list[int] = []
        async for item in each(page, lambda item: item):
            found.append(item)
            if stops_at == len(found):
                break
        return found

    assert asyncio.run(story()) == list(range(1, (stops_at or size) + 1))
    assert marks == asked


def event(seq: int, body: e.AnyEvent, key: KeyId | None = None) -> Recorded:
    """Write an event at a position of lane 1."""
    envelope = e.Envelope(1, seq, ACCOUNT, seq, AT, AT, key)
    return codec.record(envelope, body, codec.GENESIS)


GRANTED = event(
    1, e.CreditGranted(by="operator", lot=1, asset="USD", amount="5", kind="paid", reason="Top-up")
)
USED = event(
    2,
    e.RequestRecorded(
        by="operator",
        request_id="r1",
        integration="bot",
        model="luna/storm",
        lines={"input": (1, "2000000")},
        card="c/1",
        asset="USD",
        charge="2",
        lots=(1,),
    ),
    KEY,
)
RESUMED = event(3, e.AccountResumed(by="operator"))
KNOWN = MovementContext({1: "USD"}, {KEY: KeyTerms(speaks_to_characters=True, session=False)})


def test_an_event_moves_what_it_says() -> None:
    """A fold of one event: what it moved, in whose words; nothing that moved nothing."""
    assert list(movements(GRANTED, KNOWN)) == [Moved("Purchase", "Top-up", "USD", 5 * 10**12)]
    said = "API, bot: luna/storm"
    assert list(movements(USED, KNOWN)) == [Moved("Chat", said, "USD", -2 * 10**12)]
    assert list(movements(RESUMED, KNOWN)) == []


def test_balances_follow_from_the_newest_back() -> None:
    """Each movement comes with the balance after it; a full page says where the next begins."""
    stretch = Stretch([RESUMED, USED, GRANTED], 0, {"USD": 3 * 10**12}, KNOWN, Position(1, 3))
    place = MovementPlace(account="a", balances={"USD": "3"})
    walk = MovementWalk(place, stretch, 10)
    spent, bought = walk.movements()
    assert (spent.balance, bought.balance) == (3 * 10**12, 5 * 10**12)
    assert (spent.key_id, spent.character, spent.position) == (KEY, "luna", Position(1, 2))
    assert (bought.key_id, bought.model, bought.request_id) == (None, None, None)
    assert walk.ended
    first = MovementWalk(place, stretch, 1)
    assert [found.position for found in first.movements()] == [Position(1, 2)]
    assert not first.ended
    assert (first.place.seq, first.place.balances) == (1, {"USD": "5"})


def test_absent_events_and_lanes_are_refusals_of_the_ledger(operator: httpx.Client) -> None:
    """No event at a position, no such lane: 404, each with its code."""
    for path, code in (("0/events/99999999", "no_such_event"), ("32767/events", "no_such_lane")):
        found = operator.get(f"/ledger/v1/lanes/{path}")
        assert (found.status_code, found.json()["code"]) == (404, code)
