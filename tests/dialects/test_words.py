"""Each dialect words every failure there is."""

import json

import pytest

from api.dialects.registry import DIALECTS
from api.http.failure import Failure, Kind
from ledger.errors import LimitIsReached
from ledger.limits import LimitId

SECRET = "sk-bve-" + "a" * 64


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("kind", Kind)
def test_every_failure_is_worded(dialect: str, kind: Kind) -> None:
    """A kind without words in a dialect fails here; every reply is JSON of an error status."""
    answer = DIALECTS[dialect].surface.word(Failure(kind, "Some detail.", field="name"))
    assert 400 <= answer.status < 600
    assert json.loads(answer.body)["error"]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_401_carries_a_challenge(dialect: str) -> None:
    """RFC 6750 §3: the challenge names an error only where a credential was shown."""
    for kind in Kind:
        answer = DIALECTS[dialect].surface.word(Failure(kind))
        challenge = dict(answer.headers).get(b"www-authenticate", b"")
        if answer.status == 401:
            assert challenge.startswith(b"Bearer ")
            assert (b"error=" not in challenge) == (kind is Kind.CREDENTIAL_IS_MISSING)


MONEY = (Kind.BUDGET_IS_EXHAUSTED, Kind.BALANCE_IS_EXHAUSTED)
VELOCITY = ("ryvion", Kind.BUDGET_IS_EXHAUSTED)
"""Its page has a limit on how fast one spends, and calls it a rate."""


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("kind", MONEY)
@pytest.mark.parametrize("limit_id", ["spend/month", "spend:USD/lifetime", ""])
def test_a_lack_of_money_asks_nobody_to_wait(dialect: str, kind: Kind, limit_id: str) -> None:
    """A client that retries cannot help it, so nothing says when to, not even of a window."""
    limit = limit_of(limit_id) if limit_id else None
    failure = Failure(kind, headers={"Retry-After": "7", "X-Other": "1"}, limit=limit)
    headers = dict(DIALECTS[dialect].surface.word(failure).headers)
    assert (b"retry-after" in headers) == ((dialect, kind) == VELOCITY)
    assert headers[b"x-other"] == b"1"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_insufficient_quota_is_told_from_a_rate_limit(dialect: str) -> None:
    """OpenAI's clients wait where there is ``Retry-After`` and give up where the code is this."""
    for kind in Kind:
        answer = DIALECTS[dialect].surface.word(Failure(kind, headers={"Retry-After": "7"}))
        if b"insufficient_quota" in answer.body:
            assert b"retry-after" not in dict(answer.headers)


def limit_of(limit_id: str) -> LimitIsReached:
    """Make a refusal by a limit of a key."""
    named = LimitId.parse(limit_id)
    return LimitIsReached(
        scope="key",
        limit_id=limit_id,
        kind=named.kind,
        window=named.window,
        assets=named.assets,
        ceiling=60,
        used=60,
        pending=0,
        requested=1,
        resets_at=None,
    )


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_rate_limit_says_how_long(dialect: str) -> None:
    """Retry-After reaches the client."""
    limit = limit_of("requests/rolling:60")
    failure = Failure(Kind.RATE_IS_LIMITED, headers={"Retry-After": "7"}, limit=limit)
    answer = DIALECTS[dialect].surface.word(failure)
    assert answer.status == 429
    assert dict(answer.headers)[b"retry-after"] == b"7"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_promise_11_no_error_repeats_a_secret(dialect: str) -> None:
    """What a caller sent by mistake is not sent back."""
    answer = DIALECTS[dialect].surface.word(
        Failure(Kind.INVALID_FIELD, f"{SECRET} is odd", field="x")
    )
    assert SECRET.encode() not in answer.body
