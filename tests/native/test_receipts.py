"""A receipt is a pure function of the stored event, in the words of the API."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import msgspec
import pytest

from api.native import views
from ledger import codec
from ledger import events as e
from ledger.clock import Instant, format_instant
from ledger.ids import AccountId, KeyId

AT = datetime(2026, 11, 21, 2, 0, 0, 123456, tzinfo=UTC)
ACCOUNT = AccountId(UUID("019363d0-c5a0-7b3f-9c0e-000000000001"))
KEY = KeyId(UUID("019363d0-c5a0-7b3f-9c0e-000000000002"))
PRICED: dict[str, Any] = {
    "integration": "bot",
    "model": "m",
    "lines": {"input": (1000, "1"), "output": (5, "2")},
    "card": "standard/1",
    "asset": "USD",
}


def receipt(body: e.AnyEvent, at: Instant = AT, occurred_at: Instant = AT) -> dict[str, Any]:
    """Write the receipt of an event at position 1:7, and read it."""
    envelope = e.Envelope(1, 7, ACCOUNT, 3, at, occurred_at, KEY)
    found: dict[str, Any] = msgspec.json.decode(
        views.receipt_bytes(codec.record(envelope, body, codec.GENESIS))
    )
    return found


def test_a_recorded_request_shows_charge_and_lots() -> None:
    """One lot pays all, or each its part; flags and times are the event's."""
    body = e.RequestRecorded(
        by="operator",
        request_id="r",
        charge="0.00101",
        lots=(4,),
        flags=("late",),
        category="chat",
        **PRICED,
    )
    assert receipt(body) == {
        "request_id": "r",
        "status": "recorded",
        "key_id": "key_019363d0c5a07b3f9c0e000000000002",
        "integration": "bot",
        "model": "m",
        "usage": {"input": 1000, "output": 5},
        "category": "chat",
        "condition": "",
        "charge": {"amount": "0.00101", "asset": "USD"},
        "held": None,
        "lots": [{"lot": 4, "amount": "0.00101"}],
        "rate_card": "standard/1",
        "prices": {"input": "1", "output": "2"},
        "flags": ["late"],
        "expires_at": None,
        "occurred_at": "2026-11-21T02:00:00.123456Z",
        "recorded_at": "2026-11-21T02:00:00.123456Z",
        "position": {"lane": 1, "seq": 7},
    }
    parted = msgspec.structs.replace(body, lots=(4, 0), parts=("0.001", "0.00001"))
    assert receipt(parted)["lots"] == [
        {"lot": 4, "amount": "0.001"},
        {"lot": 0, "amount": "0.00001"},
    ]


def test_an_unpriced_request_shows_no_charge() -> None:
    """Unknown is null, never zero; zero is written."""
    body = e.RequestRecorded(
        by="operator",
        request_id="r",
        integration="bot",
        model="m",
        lines={"input": (1, None)},
        charge="",
    )
    found = receipt(body)
    assert (found["charge"], found["rate_card"], found["lots"]) == (None, None, [])
    assert found["unpriced"] == ["input"]
    free = receipt(msgspec.structs.replace(body, charge="0", asset="USD"))
    assert free["charge"] == {"amount": "0", "asset": "USD"}


def test_an_early_request_shows_what_was_told() -> None:
    """The instant that was not taken stands beside the one that was."""
    told = AT + timedelta(minutes=6)
    body = e.RequestRecorded(
        by="operator", request_id="r", charge="1", flags=("early",), told_at=told, **PRICED
    )
    found = receipt(body)
    assert (found["occurred_at"], found["told_at"]) == (format_instant(AT), format_instant(told))


def test_a_later_rating_says_which_model_priced_it() -> None:
    """A name that a later card takes for one of its models is shown with that model."""
    body = e.RequestRecorded(
        by="operator", request_id="r", integration="bot", model="m-2", lines={"input": (1, None)}
    )
    rating = e.RequestRated(
        by="system",
        request_id="r",
        rated_seq=7,
        charge="1",
        priced_as="m",
        by_time="night",
        **{**PRICED, "model": "m-2", "lines": {"input": (1, "1")}},
    )
    envelope = e.Envelope(1, 7, ACCOUNT, 3, AT, AT, KEY)
    first, rated = (codec.record(envelope, each, codec.GENESIS) for each in (body, rating))
    found = views.receipt(first, [rated])
    assert (found.priced_as, found.time_condition, found.unpriced) == ("m", "night", [])


def test_a_reservation_holds_and_a_settlement_charges() -> None:
    """What is held is no charge; when it runs out stands there."""
    until = AT + timedelta(seconds=600)
    held = receipt(
        e.RequestReserved(by="key", request_id="r", held="2", lots=(1,), expires_at=until, **PRICED)
    )
    assert (held["status"], held["charge"]) == ("reserved", None)
    assert held["held"] == {"amount": "2", "asset": "USD"}
    assert held["lots"] == [{"lot": 1, "amount": "2"}]
    assert held["expires_at"] == "2026-11-21T02:10:00.123456Z"
    settled = receipt(
        e.RequestSettled(
            by="system",
            request_id="r",
            reserved_seq=5,
            charge="1",
            lots=(1,),
            flags=("estimated",),
            **PRICED,
        )
    )
    assert (settled["status"], settled["held"], settled["expires_at"]) == ("settled", None, None)
    assert (settled["charge"]["amount"], settled["flags"]) == ("1", ["estimated"])


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (e.RequestReleased(by="system", request_id="r", reserved_seq=5), "released"),
        (e.RequestExpired(request_id="r", reserved_seq=5), "expired"),
    ],
)
def test_a_reservation_that_ended_shows_what_ended(body: e.AnyEvent, status: str) -> None:
    """Nothing was used and nothing charged."""
    found = receipt(body)
    assert (found["request_id"], found["status"]) == ("r", status)
    assert [found[name] for name in ("model", "usage", "charge", "held", "rate_card")] == [None] * 5


@pytest.mark.parametrize(
    "at",
    [
        AT,
        AT.replace(microsecond=0),
        AT.replace(microsecond=120_000),
        AT.replace(year=2000, month=1, day=1),
        AT.astimezone(timezone(timedelta(0))),
    ],
)
def test_times_are_written_as_everywhere(at: Instant) -> None:
    """With Z, and a fraction only where there is one: a replay gives the same bytes."""
    body = e.RequestReleased(by="system", request_id="r", reserved_seq=5)
    found = receipt(body, at, at - timedelta(hours=1))
    assert found["recorded_at"] == format_instant(at)
    assert found["occurred_at"] == format_instant(at - timedelta(hours=1))
