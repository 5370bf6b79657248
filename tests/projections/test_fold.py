"""Requests folded together leave what they leave one after another, in chunks of any size."""

import random
import struct
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from ledger import events as e
from ledger import limits
from ledger.clock import microseconds
from ledger.codec import Recorded
from ledger.errors import LedgerCorrupt
from ledger.ids import KeyId
from ledger.record.batch import BatchChanges
from ledger.record.store import NO_KEY
from ledger.record.verify import since_1970
from ledger.state import LaneState, change_by_sums
from ledger.usage import Usage
from projections.fold import Fold
from projections.inline import limit_counters, spend
from projections.registry import INLINE
from tests.properties import core

ACCOUNT = core.account_id("ada")
KEYS = (core.key_id("bot", 0), core.key_id("cli", 0))
LIMITS = (
    e.LimitRule(kind="requests", window="rolling:7", ceiling="1000000"),
    e.LimitRule(kind="tokens", window="rolling:60", ceiling="1000000000"),
    e.LimitRule(kind="spend", window="day", ceiling="1000000", assets=("USD", "CAD")),
    e.LimitRule(kind="requests", window="lifetime", ceiling="1000000", model="other"),
    e.LimitRule(kind="requests", window="rolling:3", ceiling="1000000", each_model=True),
    e.LimitRule(
        kind="spend", window="rolling:9", ceiling="1000000", assets=("CAD",), each_model=True
    ),
)
OF_EACH = (
    e.LimitRule(kind="requests", window="rolling:3", ceiling="1000000", each_model=True),
    e.LimitRule(kind="tokens", window="rolling:2", ceiling="1000000000", each_model=True),
)
OF_SOME = tuple(
    e.LimitRule(kind="requests", window="day", ceiling="1000000", model=model)
    for model in ("fourth", "third", "other")
)
MODELS = ("mini", "mini", "mini", "other", "third", "fourth")


@pytest.fixture(autouse=True)
def _few_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let fewer models count by themselves than there are."""
    monkeypatch.setattr(limits, "MODELS_MAX", 2)


def story(seed: int) -> list[Recorded]:  # noqa: C901
    """Let two keys of an account make requests of every kind, quickly and slowly."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    told = core.Core(core.a_card(dict.fromkeys(MODELS, core.PRICES)))
    told.do(
        core.open_account(
            ACCOUNT, pays_with=("CAD", "USD"), overdraft={"USD": "unlimited"}, unpriced="record",
            limits=LIMITS,
        )
    )  # fmt: skip
    for key in KEYS:
        told.do(core.issue(ACCOUNT, key, limits=LIMITS))
    opened: list[tuple[str, KeyId]] = []
    for number in range(300):
        key, request = chance.choice(KEYS), f"r{number}"
        usage = Usage(input=chance.randrange(10**6), output=chance.choice((0, 5)))
        match chance.randrange(14):
            case 0:
                asset = chance.choice(("USD", "CAD"))
                told.submit(core.grant(ACCOUNT, chance.choice(("0.01", "1")), asset))
            case 1:
                told.submit(core.reserve(ACCOUNT, key, request, usage))
                opened.append((request, key))
            case 2 if opened:
                told.submit(core.settle(ACCOUNT, *reversed(opened.pop()), usage))
            case 3:
                told.submit(core.record(ACCOUNT, key, request, usage, model="unpriced"))
            case 4:
                told.submit(core.record(ACCOUNT, key, request, Usage(), model="other"))
            case 5:
                told.submit(
                    core.set_key_limits(
                        ACCOUNT, key, *LIMITS[chance.randrange(3) : chance.choice((3, 9))]
                    )
                )
            case _:
                model = chance.choice(MODELS)
                occurred = told.at - timedelta(hours=chance.choice((0, 0, 0, 30)))
                told.submit(
                    core.record(ACCOUNT, key, request, usage, model=model, occurred_at=occurred)
                )
        told.at += timedelta(microseconds=chance.choice((1, 100, 300_000, 2_000_000)))
    return told.log


def story_of_models(seed: int, of_account: tuple[e.LimitRule, ...]) -> list[Recorded]:
    """Let two keys ask some models in bursts, with pauses that are often longer than a window."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    told = core.Core(core.a_card(dict.fromkeys(MODELS, core.PRICES)))
    told.do(core.open_account(ACCOUNT, overdraft={"USD": "unlimited"}, limits=of_account))
    for key in KEYS:
        told.do(core.issue(ACCOUNT, key))
    for number in range(400):
        usage = Usage(input=chance.choice((0, 9, 10**6)))
        model = chance.choice(MODELS)
        told.do(core.record(ACCOUNT, chance.choice(KEYS), f"r{number}", usage, model=model))
        told.at += timedelta(microseconds=chance.choice((1, 1, 1, 100, 900_000, 3_200_000)))
    return told.log


def tuples(log: list[Recorded]) -> Iterator[bytes]:
    """Yield events as COPY does."""
    for envelope, body, payload, hashed in log:
        at, occurred_at = (
            microseconds(at) - since_1970(0) for at in (envelope.recorded_at, envelope.occurred_at)
        )
        key = envelope.key_id or NO_KEY
        numbers = ((">q", envelope.lane_seq), (">q", at), (">q", occurred_at))
        numbers += ((">q", envelope.version), (">i", 0))
        fields = [struct.pack(kind, number) for kind, number in numbers]
        fields += [envelope.account_id.bytes, key.bytes, hashed, body.type.encode()]
        written = b"".join(struct.pack(">i", len(field)) + field for field in fields)
        yield b"\0\x0a" + written + struct.pack(">i", len(payload)) + payload


def folded(log: list[Recorded], chunk: int) -> Fold:
    """Fold a log in chunks."""
    fold = Fold(0, INLINE)
    rows = list(tuples(log))
    for start in range(0, len(rows), chunk):
        fold.take(iter(rows[start : start + chunk]))
    return fold


def comparable(
    sums: dict[spend.SpendGroup, spend.Sums],
) -> dict[spend.SpendGroup, tuple[object, ...]]:
    """Return sums as data, without lines that came to nothing."""
    found = {line: (s.requests, s.unpriced, s.amount, s.usage) for line, s in sums.items()}
    return {line: values for line, values in found.items() if any(values[:3])}


def saved(state: LaneState) -> list[bytes]:
    """Return what is written down of counters, to the byte."""
    found = []
    for account, key in ((ACCOUNT, None), *((ACCOUNT, key) for key in KEYS)):
        changes = BatchChanges()
        changes.accounts, changes.keys = {account}, {key} if key is not None else set()
        ((_, (_, *columns)),) = limit_counters.save(0, state, changes)
        found += [column.data for column in columns]
    return found


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("chunk", [1, 10, 1000])
def test_requests_folded_together_leave_what_they_leave_one_by_one(seed: int, chunk: int) -> None:
    """Promise 8: the same counters, lots, holds and heads, and the same sums of spend."""
    log = story(seed)
    kinds = {type(event.body) for event in log}
    assert kinds >= {e.RequestRecorded, e.RequestReserved, e.RequestSettled, e.CreditGranted}
    one_by_one = core.fold(log)
    together = folded(log, chunk)
    assert core.plain(together.state) == core.plain(one_by_one)
    assert saved(together.state) == saved(one_by_one)
    sums = spend.sums_of(log, one_by_one)
    assert comparable(together._sums) == comparable(sums)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("of_account", [OF_EACH, OF_SOME])
def test_counters_of_models_are_made_and_forgotten_as_one_by_one(
    monkeypatch: pytest.MonkeyPatch, seed: int, of_account: tuple[e.LimitRule, ...]
) -> None:
    """Promise 8: which model has a counter, and which shares, whatever is folded together.

    Compared after each of many chunks: what differed would be past a window later.
    """
    monkeypatch.setattr(limits, "MODELS_MAX", seed % 3 + 1)
    log = story_of_models(seed, of_account)
    rows, together, one_by_one = list(tuples(log)), Fold(0, INLINE), LaneState()
    for start in range(0, len(log), 11):
        together.take(iter(rows[start : start + 11]))
        for recorded in log[start : start + 11]:
            core.evolve(one_by_one, recorded.envelope, recorded.body)
            core.advance(one_by_one, recorded)
        if one_by_one.keys:
            assert core.plain(together.state) == core.plain(one_by_one)
            assert saved(together.state) == saved(one_by_one)


def test_requests_are_indeed_folded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the tests above would compare nothing: fewer changes are made than requests."""
    requests: list[int] = []

    def counted(*arguments: Any, **terms: Any) -> dict[str, int]:
        requests.append(terms["requests"])
        return change_by_sums(*arguments, **terms)

    monkeypatch.setattr("projections.fold.change_by_sums", counted)
    folded(story(1), 1000)
    assert max(requests) > 1


def test_a_changed_byte_anywhere_stops_the_fold() -> None:
    """Promise 12: whichever byte of a tuple is changed, the fold names that event."""
    log = story(2)
    rows = list(tuples(log))
    victim = next(i for i, event in enumerate(log) if isinstance(event.body, e.RequestRecorded))
    for place in range(2, len(rows[victim]), 7):
        changed = bytearray(rows[victim])
        changed[place] ^= 1
        fold = Fold(0, INLINE)
        lengths_or_gap = _lengths(rows[victim])
        if place in lengths_or_gap:
            continue
        with pytest.raises(LedgerCorrupt) as caught:
            fold.take(iter([*rows[:victim], bytes(changed)]))
        assert caught.value.seq == victim + 1


def _lengths(raw: bytes) -> set[int]:
    """Return the places of lengths, which no stored byte makes, and of the gap (no input)."""
    places: set[int] = set()
    place, field = 2, 0
    while place < len(raw):
        (length,) = struct.unpack_from(">i", raw, place)
        places.update(range(place, place + 4))
        place += 4
        if field == 4:
            places.update(range(place, place + length))
        place += max(length, 0)
        field += 1
    return places
