"""Every refusal has its words and its status."""

from datetime import timedelta

import pytest

from api.http.failure import Kind, of_error
from api.http.wording import TITLES
from api.native import errors as native
from ledger import clock, errors


def kinds(of: type) -> list[type]:
    """Return every class below one."""
    return [each for kind in of.__subclasses__() for each in (kind, *kinds(kind))]


REFUSED = [kind for kind in kinds(errors.Refused) if kind.__module__ == "ledger.errors"]


@pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.__name__)
def test_every_refusal_has_a_status_of_its_own(kind: type) -> None:
    """A refusal added to the ledger must be given a status here, not inherit one."""
    assert kind in native.STATUS


def test_every_status_has_a_title() -> None:
    """A problem is never titled by a number alone."""
    assert set(native.STATUS.values()) <= TITLES.keys()
    assert {status for status, _, _ in native.WORDS.values()} <= TITLES.keys()


def test_every_kind_of_failure_has_native_words() -> None:
    """A kind that is added without a status and a code fails here."""
    assert native.WORDS.keys() == set(Kind)


def test_no_two_refusals_share_a_code() -> None:
    """A client can tell refusals apart by their code."""
    codes = [kind.code for kind in REFUSED]
    assert len(set(codes)) == len(codes)


def limit(**terms: object) -> errors.LimitIsReached:
    """Make a limit's refusal."""
    given = {
        "scope": "key",
        "limit_id": "spend:USD/day",
        "kind": "spend",
        "window": "day",
        "assets": ("USD",),
        "ceiling": 2 * 10**12,
        "used": 10**12,
        "pending": 5 * 10**11,
        "requested": 10**12,
        "resets_at": None,
    }
    return errors.LimitIsReached(**{**given, **terms})


def test_promise_14_a_limits_refusal_says_all_its_numbers() -> None:
    """Promise 14, B8: scope, limit, used, pending, requested, window, resets_at, position."""
    refusal = limit()
    refusal.lane, refusal.position = 3, 7
    status, found = native.document(of_error(refusal))
    assert status == found["status"] == 429
    assert (found["scope"], found["ceiling"], found["used"]) == ("key", "2", "1")
    assert (found["pending"], found["requested"], found["resets_at"]) == ("0.5", "1", None)
    assert found["limit"] == {"id": "spend:USD/day", "kind": "spend", "window": "day"}
    assert found["position"] == {"lane": 3, "seq": 7}


def test_retry_after_is_rounded_up_and_absent_where_waiting_does_not_help() -> None:
    """A client that waits exactly Retry-After is not too early; one that cannot win is not told."""
    at = clock.now()
    late = limit(resets_at=at + timedelta(seconds=2, microseconds=1))
    assert of_error(late, at).headers["Retry-After"] == "3"
    assert "Retry-After" not in of_error(limit(), at).headers


def test_exhausted_credit_is_402_without_retry_after() -> None:
    """Waiting does not fill an account: pay is not wait."""
    refusal = errors.CreditIsExhausted(asset="USD", available=1, pending=0, requested=2)
    answer = native.word(of_error(refusal, clock.now()))
    assert answer.status == 402
    assert b"retry-after" not in dict(answer.headers)


def test_promise_13_an_unavailable_ledger_is_503_with_retry_after() -> None:
    """Promise 13: what cannot be decided is refused, and says when to come back."""
    for kind in (errors.LedgerUnavailable, errors.QueueIsFull, errors.OutcomeIsUnknown):
        answer = native.word(of_error(kind()))
        assert (answer.status, dict(answer.headers)[b"retry-after"]) == (503, b"1")
    failure = of_error(errors.ClockIsOff())
    assert failure.headers["Retry-After"] == "5"
    assert native.document(failure)[1]["code"] == "clock_is_off"
