"""Requests decided together are decided as they would be one after another, as the body has them.

A bulk body's requests of one account are held to limits and credit by their sums. Whatever is
asked, events, bytes, state and answers must be those of deciding each by itself, in its order.
"""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import events as e
from ledger import limits as ledger_limits
from ledger.clock import TICK, Instant
from ledger.errors import Refused
from ledger.record import batch as batches
from ledger.record.batch import Batch, Command, Outcome, RefusalLog, runs
from ledger.state import LaneState
from ledger.usage import Usage
from tests.properties import core

A, B = core.account_id("A"), core.account_id("B")
K, L, M = core.key_id("K"), core.key_id("L"), core.key_id("M")
LIMITS = (
    *("requests/rolling:60", "requests/day", "tokens/month", "spend/rolling:60", "failures/day"),
    *("requests/rolling:60/each", "spend/day/each"),
)
EDGE = datetime(2026, 12, 1, tzinfo=UTC)
"""Where a month, a day and a bucket of a rolling minute end, and lots, keys and prices with it."""

usual = st.just(((A, K), {}))
odd = st.tuples(
    st.sampled_from([(A, K), (A, L), (B, M), (A, M)]),
    st.fixed_dictionaries(
        {},
        optional={
            "model": st.sampled_from(["other", "unknown"]),
            "category": st.just("chat"),
            "delivered": st.booleans(),
            "estimated": st.booleans(),
            "secret": st.sampled_from([1, 2]),
            "occurred_at": st.sampled_from([core.START, EDGE]),
        },
    ),
)
usages = st.builds(
    Usage,
    input=st.sampled_from([0, 1, 300_000, 1_000_000]),
    output=st.sampled_from([0, 0, 7]),
    cache_read=st.sampled_from([0, 0, 0, 5]),
)
repeats = st.sampled_from([False] * 40 + [True])
"""Whether a request has the id of the one before it."""
asks = st.lists(
    st.tuples(st.one_of(usual, usual, usual, usual, usual, odd), repeats, usages),
    min_size=2,
    max_size=20,
)
ceilings = st.tuples(
    st.sampled_from(LIMITS), st.sampled_from([3, 10, 40, 900]), st.sampled_from(["", "", "chat"])
)
grants = st.lists(
    st.tuples(st.sampled_from(["0.05", "0.3", "3", "50"]), st.sampled_from([None, None, EDGE])),
    max_size=3,
)


def rule(limit: tuple[str, int, str]) -> e.LimitRule:
    """Make a limit of a kind and window; tokens and spend get ceilings of their size."""
    name, ceiling, category = limit
    kind, _, rest = name.partition("/")
    window, _, each = rest.partition("/")
    shown = {"tokens": str(ceiling * 500_000), "spend": f"{ceiling}e".replace("e", ".25")}
    return e.LimitRule(
        kind=kind,
        window=window,
        ceiling=shown.get(kind, str(ceiling)),
        category=category,
        each_model=bool(each),
    )


def prepared(
    limits: list[tuple[str, int, str]],
    lots: list,
    overdraft: str,
    *,
    of_account: list[tuple[str, int, str]] | None = None,
    ends: bool = False,
    dearer: bool = False,
) -> core.Core:
    """Open two accounts with keys, limits and credit; ``ends``: the key does, at the edge."""
    cards = [core.a_card({"mini": core.PRICES, "other": {"input": "3", "output": "1"}})]
    if dearer:
        cards.append(core.a_card({"mini": {"input": "0.2"}}, version=2, effective_from=EDGE))
    world = core.Core(*cards)
    terms, shared = rules_of(limits), rules_of(of_account or [])
    for account in (A, B):
        world.do(core.open_account(account, overdraft={"USD": overdraft}, limits=shared))
        for amount, expires_at in lots:
            world.do(core.grant(account, amount, expires_at=expires_at))
    world.do(core.issue(A, K, limits=terms, expires_at=EDGE if ends else None))
    world.do(core.issue(A, L, limits=terms[:1]))
    world.do(core.issue(B, M))
    return world


def rules_of(limits: list[tuple[str, int, str]]) -> tuple[e.LimitRule, ...]:
    """Make limits that differ."""
    return tuple({(one[0], one[2]): rule(one) for one in limits}.values())


def one_by_one(commands: list[Command]) -> list[list[Command]]:
    """Split a body so that each request is decided by itself: an account's in the body's order."""
    split = [command for run in runs(commands) for command in run]
    for account in (A, B):
        mine = [[each for each in told if each.account_id == account] for told in (commands, split)]
        assert mine[0] == mine[1]
    return [[command] for command in split]


def told(result: Outcome | Exception) -> object:
    """Return an answer as comparable data."""
    if isinstance(result, Refused):
        return type(result), vars(result)
    assert isinstance(result, Outcome), result
    return result


def decided(
    world: core.Core,
    commands: list[Command],
    split: Callable[[list[Command]], list[list[Command]]],
    at: Instant = core.START,
) -> tuple[list[object], object, list]:
    """Decide commands in one batch; return answers, state and events."""
    state = LaneState()
    for recorded in world.log:
        core.evolve(state, recorded.envelope, recorded.body)
        core.advance(state, recorded)
    batch, refusals = Batch(0, state, world.cards, at), RefusalLog()
    for run in split(commands):
        batch.decide_run(run, refusals)
    answers = {command.request_id: told(result) for command, result in batch.results}
    assert len(batch.results) == len(commands)
    return sorted(answers.items()), core.plain(state), batch.changes.events


@settings(max_examples=400)
@given(
    asked=asks,
    limits=st.lists(ceilings, max_size=3),
    of_account=st.lists(ceilings, max_size=2),
    lots=grants,
    overdraft=st.sampled_from(["0", "0.2", "unlimited"]),
    ahead=st.sampled_from([0, 1, 1, 2, 3, 5, 1_000_000]),
    ends=st.booleans(),
    dearer=st.booleans(),
    counted=st.sampled_from([1, 2]),
    most=st.sampled_from([3, 1_000]),
)
def test_requests_decided_together_are_decided_as_one_after_another(  # noqa: PLR0917
    asked, limits, of_account, lots, overdraft, ahead, ends, dearer, counted, most
) -> None:
    """Promise 4, Promise 5: sums admit exactly what each request by itself would be admitted."""
    world = prepared(limits, lots, overdraft, of_account=of_account, ends=ends, dearer=dearer)
    commands = [
        core.record(*whose, f"r{number - repeated}", usage, **more)
        for number, ((whose, more), repeated, usage) in enumerate(asked, 1)
    ]
    at = EDGE - ahead * TICK
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ledger_limits, "MODELS_MAX", counted)
        patched.setattr(batches, "RUN_MAX", most)
        together = decided(world, commands, runs, at)
        alone = decided(world, commands, one_by_one, at)
    assert together == alone


@pytest.mark.parametrize("overdraft", ["0", "unlimited"])
def test_many_requests_of_a_key_are_decided_by_their_sums(monkeypatch, overdraft: str) -> None:
    """It does: a hundred requests of a key are not decided one by one, and come out the same."""
    lots = [("50", None)] if overdraft == "0" else []
    world = prepared([("requests/day", 1_000, "")], lots, overdraft)
    usage = Usage(input=1_000, output=7)
    commands = [core.record(A, K, f"r{number}", usage) for number in range(100)]
    alone = decided(world, commands, lambda given: [[command] for command in given])
    monkeypatch.setattr(batches.Batch, "_decide", None)
    assert decided(world, commands, runs) == alone


def test_requests_of_many_keys_of_an_account_are_decided_by_their_sums(monkeypatch) -> None:
    """It does: what all of them use fits, so that it is the same in whatever order."""
    shared = [("requests/day", 1_000, ""), ("spend/day/each", 900, "")]
    world = prepared(shared, [("50", None)], "0", of_account=shared)
    for key in (K, L):
        for model in ("mini", "other"):
            # Which models have counters of their own would depend on the order.
            world.do(core.record(A, key, f"first {key} {model}", Usage(input=1), model=model))
    commands = [
        core.record(A, key, f"r{number} {key}", Usage(input=1_000), model=model)
        for number, model in enumerate(["mini", "other", "mini"] * 20)
        for key in (K, L)
    ]
    alone = decided(world, commands, one_by_one)
    monkeypatch.setattr(batches.Batch, "_decide", None)
    assert decided(world, commands, runs) == alone


def test_which_model_gets_a_counter_is_decided_by_the_body(monkeypatch) -> None:
    """One more model than are counted by themselves: the first of them in the body is."""
    monkeypatch.setattr(ledger_limits, "MODELS_MAX", 1)
    world = prepared([], [("50", None)], "0", of_account=[("requests/day/each", 900, "")])
    usage = Usage(input=1_000)
    commands = [
        core.record(A, K, f"r{number}", usage, model=model)
        for number, model in enumerate(["mini", "other", "mini"])
    ]
    together = decided(world, commands, runs)
    assert together == decided(world, commands, one_by_one)


@pytest.mark.parametrize("other", [(L, ""), (K, "chat")])
@pytest.mark.parametrize("by_limit", [False, True])
@pytest.mark.parametrize("place", range(4))
def test_what_comes_first_in_a_body_is_admitted_first(other, by_limit, place) -> None:
    """Credit or a limit for three of four: the last is refused, whichever is unlike the rest."""
    of_account = [("requests/day", 3, "")] if by_limit else []
    world = prepared([], [("50" if by_limit else "0.45", None)], "0", of_account=of_account)
    asked = [(K, "")] * 4
    asked[place] = other
    usage = Usage(input=1_000_000)
    commands = [
        core.record(A, key, f"r{number}", usage, category=category)
        for number, (key, category) in enumerate(asked)
    ]
    answers, _, _ = decided(world, commands, runs)
    assert [name for name, answer in answers if not isinstance(answer, Outcome)] == ["r3"]


def test_a_request_is_not_moved_over_what_is_none() -> None:
    """It stays quiet: a revocation between two requests of a key stays between them."""
    usage = Usage(input=1)
    first, second = core.record(A, K, "r1", usage), core.record(A, K, "r2", usage)
    revoked = core.revoke(A, K)
    assert runs([first, revoked, second]) == [[first], [revoked], [second]]
    assert runs([first, second, revoked]) == [[first, second], [revoked]]


def test_a_special_request_keeps_its_place_in_its_account(monkeypatch) -> None:
    """What is decided by itself is neither overtaken nor overtakes; runs are bounded."""
    monkeypatch.setattr(batches, "RUN_MAX", 2)
    usage = Usage(input=1)
    mine = [core.record(A, K, f"r{number}", usage, delivered=number == 1) for number in range(5)]
    other = [core.record(B, M, f"o{number}", usage) for number in range(2)]
    given = [mine[0], other[0], mine[1], other[1], *mine[2:]]
    assert runs(given) == [[mine[0]], other, [mine[1]], mine[2:4], mine[4:]]
