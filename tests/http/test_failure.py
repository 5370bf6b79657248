"""Everything that can go wrong becomes one of a closed set of kinds."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from api.http.failure import KINDS, Kind, of_error
from ledger import errors
from ledger.limits import LimitId

AT = datetime(2026, 11, 21, tzinfo=UTC)


def every_error(kind: type[Any]) -> set[type[Any]]:
    """Return a class and all below it."""
    return {kind}.union(*(every_error(below) for below in kind.__subclasses__()))


def test_every_refusal_has_a_kind() -> None:
    """A refusal that is added without a kind fails here."""
    refusals = every_error(errors.Refused) - {errors.Refused}
    unavailable = every_error(errors.LedgerUnavailable)
    assert (refusals | unavailable) - KINDS.keys() == set()


def limit(limit_id: str, *, resets: bool) -> errors.LimitIsReached:
    """Make a refusal by a limit."""
    named = LimitId.parse(limit_id)
    return errors.LimitIsReached(
        scope="key",
        limit_id=limit_id,
        kind=named.kind,
        window=named.window,
        assets=named.assets,
        ceiling=1,
        used=1,
        pending=0,
        requested=1,
        resets_at=AT + timedelta(milliseconds=1500) if resets else None,
    )


@pytest.mark.parametrize(
    ("limit_id", "kind"),
    [
        ("requests/rolling:60", Kind.RATE_IS_LIMITED),
        ("tokens/month", Kind.RATE_IS_LIMITED),
        ("failures/rolling:30", Kind.RATE_IS_LIMITED),
        ("key_creations/rolling:60", Kind.RATE_IS_LIMITED),
        ("spend:CAD/rolling:3600", Kind.BUDGET_IS_EXHAUSTED),
        ("active_keys/lifetime", Kind.TOO_MANY_KEYS),
    ],
)
def test_a_limit_is_told_apart_by_what_it_counts(limit_id: str, kind: Kind) -> None:
    """Rates, budgets and numbers of keys are different failures."""
    assert of_error(limit(limit_id, resets=True), AT).kind is kind


def test_waiting_is_named_only_where_it_helps() -> None:
    """Retry-After is rounded up, and absent where the limit never frees."""
    waiting = of_error(limit("requests/day", resets=True), AT)
    assert waiting.headers == {"Retry-After": "2"}
    assert of_error(limit("requests/lifetime", resets=False), AT).headers == {}
    exhausted = errors.CreditIsExhausted(asset="USD", available=0, pending=0, requested=1)
    assert of_error(exhausted, AT).headers == {}
