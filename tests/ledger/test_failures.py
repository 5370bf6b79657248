"""A limit on failures lets so many requests fail and no more, however many are asked at once."""

from collections import Counter
from datetime import timedelta

import pytest

from ledger import events as e
from ledger import metering
from ledger.errors import LimitIsReached, ModelIsUnpriced
from ledger.record.batch import Command, Outcome, is_under_way
from ledger.requests import Release
from ledger.usage import Usage
from tests.properties import core
from tests.properties.core import account_id, key_id

A, K = account_id("a"), key_id("k")
USAGE = Usage(input=1000)
THREE = e.LimitRule(kind="failures", window="rolling:60", ceiling="3")


def world(*, of_account: bool = False, **terms) -> core.Core:
    """Open an account whose requests, or whose key's, may fail three times a minute."""
    made = core.Core(core.a_card())
    rules = (e.LimitRule(**{**{f: getattr(THREE, f) for f in THREE.__struct_fields__}, **terms}),)
    limits = {"limits": rules}
    made.do(core.open_account(A, **(limits if of_account else {})))
    made.do(core.grant(A, "100"))
    made.do(core.issue(A, K, **({} if of_account else limits)))
    return made


def fail(request_id: str) -> Command:
    """Say that a reserved request was made and failed."""
    asked = Release(request_id=request_id, reason="upstream", failed=True)
    return Command(
        A,
        lambda facts, at: metering.release(facts, asked),  # noqa: ARG005
        key_id=K,
        request_id=request_id,
        closes=True,
    )


def counted(made: core.Core, *, of_account: bool = False) -> tuple[int, int]:
    """Return how many failures count, and how many more requests may fail."""
    subject = made.state.accounts[A] if of_account else made.state.keys[K]
    (counter,) = subject.counters.values()
    return sum(counter.used.values()), sum(counter.pending.values())


def outcome(made: core.Core, command: Command) -> str:
    """Say what came of a command."""
    found = made.submit(command)
    return "done" if isinstance(found, Outcome) else found.code


@pytest.mark.parametrize("of_account", [True, False])
def test_of_sixty_requests_under_way_three_may_fail(*, of_account: bool) -> None:
    """Each open request has the room to fail, and gives it back or uses it up (Promise 5)."""
    made = world(of_account=of_account)
    found = Counter(outcome(made, core.reserve(A, K, f"r{n}", USAGE)) for n in range(60))
    assert found == {"done": 3, "limit_is_reached": 57}
    assert counted(made, of_account=of_account) == (0, 3)
    made.do(fail("r0"))
    made.do(core.settle(A, K, "r1", USAGE))
    made.do(core.release(A, K, "r2"))
    assert counted(made, of_account=of_account) == (1, 0)
    found = Counter(outcome(made, core.reserve(A, K, f"s{n}", USAGE)) for n in range(60))
    assert found == {"done": 2, "limit_is_reached": 58}
    made.do(fail("s0"))
    made.do(fail("s1"))
    refused = made.submit(core.reserve(A, K, "t", USAGE))
    assert isinstance(refused, LimitIsReached)
    assert (refused.used, refused.pending, refused.ceiling) == (3, 0, 3)
    assert not is_under_way(refused)
    assert core.plain(core.fold(made.log)) == core.plain(made.state)


def test_what_the_lane_refuses_fails_no_more_often_than_it_may() -> None:
    """The fourth model that nobody knows is refused for the three before it (B6)."""
    made = world()
    codes = [outcome(made, core.record(A, K, f"r{n}", USAGE, model=f"m{n}")) for n in range(60)]
    assert Counter(codes) == {"model_is_unpriced": 3, "limit_is_reached": 57}
    assert counted(made) == (3, 0)


def test_a_client_that_keeps_failing_is_let_in_when_the_window_has_passed() -> None:
    """What is refused while it is locked out counts nowhere, whatever refuses it (B6)."""
    made = world()
    for number in range(3):
        made.submit(core.record(A, K, f"r{number}", USAGE, model="none"))
    refused = made.submit(core.record(A, K, "locked", USAGE))
    assert isinstance(refused, LimitIsReached)
    ends = refused.resets_at
    while made.at + timedelta(seconds=5) < ends:
        made.wait(5)
        made.submit(core.record(A, K, f"n{made.at}", Usage(input=10**12), model="none"))
        made.submit(core.reserve(A, K, f"d{made.at}", Usage(input=10**12)))
    made.at = ends
    made.do(core.record(A, K, "free", USAGE))


def test_a_limit_of_one_category_counts_what_fails_of_it() -> None:
    """Requests of another fail as they like."""
    made = world(category="chat")
    for number in range(5):
        refused = made.submit(
            core.record(A, K, f"o{number}", USAGE, model="none", category="image")
        )
        assert isinstance(refused, ModelIsUnpriced)
    codes = [
        outcome(made, core.record(A, K, f"c{n}", USAGE, model="none", category="chat"))
        for n in range(5)
    ]
    assert codes == [*["model_is_unpriced"] * 3, *["limit_is_reached"] * 2]
