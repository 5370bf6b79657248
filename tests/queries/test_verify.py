"""``keys/verify`` judges a key as a metered request is judged."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st
from msgspec import json

from api.native.views import verify_view
from api.queries.keys import _verdict
from ledger import metering
from ledger.errors import Refused
from ledger.ratecards import RateCards
from ledger.requests import Facts, Record
from ledger.state import Account, Key
from ledger.usage import Usage
from tests.properties.core import START, a_card, account_id, key_id

A, K = account_id("a"), key_id("k")
SECOND = timedelta(seconds=1)
CARDS = RateCards([a_card()])

instants = st.sampled_from([START - SECOND, START, START + SECOND])
scopes = st.lists(st.sampled_from(["read", "write"]), unique=True).map(tuple)
models = st.lists(st.sampled_from(["mini", "other"]), unique=True).map(tuple)
keys = st.builds(
    Key,
    key_id=st.just(K),
    account_id=st.just(A),
    name=st.just("bot"),
    dialect=st.just("bve"),
    created_at=st.just(START),
    updated_at=st.just(START),
    status=st.sampled_from(["active", "suspended", "revoked", "expired"]),
    expires_at=st.none() | instants,
    scopes=scopes,
    allowed_models=st.none() | models,
    secrets=st.dictionaries(st.integers(1, 3), st.none() | instants),
)
statuses = st.sampled_from(["open", "suspended", "closed"])


@given(
    key=keys,
    status=statuses,
    number=st.integers(1, 3),
    scope=st.sampled_from(["", "read"]),
)
def test_verify_and_a_metered_request_agree(key: Key, status: str, number: int, scope: str) -> None:
    """The same key, secret, scope, model and account: the same verdict, for the same reason."""
    account = Account(account_id=A, opened_at=START, status=status, overdraft={"USD": "unlimited"})
    asked = Record(request_id="r", model="mini", usage=Usage(input=1), scope=scope, secret=number)
    try:
        metering.record(Facts(account, key, CARDS, None, None), asked, key_id=K, at=START)
        reason = None
    except Refused as refusal:
        reason = refusal.code
    ends = json.encode({str(n): end for n, end in key.secrets.items()}).decode()
    row = (K, A, number, 0, 1, key.name, key.dialect, key.status, key.expires_at, [*key.scopes])
    models_of = None if key.allowed_models is None else [*key.allowed_models]
    found = verify_view(_verdict((*row, ends, status, models_of), START, scope, "mini"))
    assert (found.valid, found.reason) == (reason is None, reason)
    assert (found.code == "VALID") is found.valid
