"""Who gets through, what a reply says of limits, and what stands behind several upstreams."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from api.gateway import forward, headers
from api.operations import Asked
from api.settings import InvalidSetting, from_environment
from ledger import events as e
from ledger.errors import LimitIsReached, ScopeIsDenied
from ledger.limits import LimitId
from ledger.pricing import ModelPrice, RateCard
from ledger.ratecards import draft_of
from ledger.standing import Measured, Standing
from ledger.state import Account, Key
from tests.gateway.book import book, ended
from tests.gateway.rig import Rig, Thin, rig
from tests.gateway.scripted import INPUT, KEY, Scripted

AT = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
RULES = (
    e.LimitRule(kind="requests", window="rolling:60", ceiling="3"),
    e.LimitRule(kind="requests", window="day", ceiling="100"),
    e.LimitRule(kind="tokens", window="month", ceiling="20000"),
)


def chat(client: httpx.Client, plan: dict[str, Any] | None = None, **body: Any) -> httpx.Response:
    """Ask for a chat completion that goes as planned."""
    messages = [{"role": "user", "content": json.dumps(plan or {})}]
    return client.post("/chat/completions", json={"model": "m", "messages": messages, **body})


@pytest.fixture
def own(gateway: Rig) -> Iterator[httpx.Client]:
    """Yield a client of a fresh account, under limits."""
    account = gateway.account(limits=(e.LimitRule(kind="requests", window="day", ceiling="50"),))
    with gateway.client(gateway.key(account, limits=RULES)[1]) as found:
        yield found


@pytest.mark.parametrize("stream", [False, True])
def test_every_metered_reply_says_how_the_limits_stand(own: httpx.Client, *, stream: bool) -> None:
    """In OpenAI's words and the IETF's, this request and what is reserved counted."""
    reply = chat(own, {"tokens": 2}, stream=stream, max_tokens=50)
    said = reply.headers
    assert said["x-ratelimit-limit-requests"] == "3"
    assert said["x-ratelimit-remaining-requests"] == "2"
    assert re.fullmatch(r"1m[0-2](\.\d+)?s", said["x-ratelimit-reset-requests"])
    assert said["x-ratelimit-limit-tokens"] == "20000"
    assert 19_900 < int(said["x-ratelimit-remaining-tokens"]) <= 20_000 - 50
    assert said["ratelimit-policy"] == (
        '"key:requests/rolling:60";q=3;w=60, "key:requests/day";q=100;w=86400,'
        ' "account:requests/day";q=50;w=86400'
    )
    left = said["ratelimit"].split(", ")
    assert re.fullmatch(r'"key:requests/rolling:60";r=2;t=6[0-2]', left[0])
    assert left[2].startswith('"account:requests/day";r=49;t=')
    assert "retry-after" not in said


def test_a_limit_refuses_before_the_upstream_hears_of_it(
    own: httpx.Client, upstream: Scripted
) -> None:
    """The fourth in a minute is a 429 with Retry-After, and nothing was asked or held."""
    replies = [chat(own) for _ in range(4)]
    assert [reply.status_code for reply in replies] == [200, 200, 200, 429]
    assert int(replies[3].headers["retry-after"]) <= 62
    assert upstream.calls[replies[3].headers["x-request-id"]] == 0


def test_what_cannot_be_paid_is_not_asked(gateway: Rig, upstream: Scripted) -> None:
    """A12: the worst case is held before anything is made; what does not fit is refused."""
    account = gateway.account(credit="0.001 USD")
    with gateway.client(gateway.key(account)[1]) as client:
        dear, fits = chat(client, max_tokens=4_096), chat(client, max_tokens=300)
    assert (dear.status_code, fits.status_code) == (402, 200)
    assert "retry-after" not in dear.headers
    assert upstream.calls[dear.headers["x-request-id"]] == 0


def test_many_at_once_never_overspend(gateway: Rig) -> None:
    """A1: of many at once exactly as many get through as there is credit for."""
    account = gateway.account(credit="0.02 USD")
    secret = gateway.key(account)[1]
    # Worst case: 1,000 output tokens at 2 USD a million, and a few of input.
    with ThreadPoolExecutor(32) as pool, gateway.client(secret) as client:
        plan = {"stall_after": 0, "stall_seconds": 1, "tokens": 1}
        replies = list(
            pool.map(
                lambda _: chat(client, plan, max_tokens=1_000, stream=True).status_code, range(32)
            )
        )
    assert sorted(replies) == [200] * 9 + [402] * 23


def test_a_scope_is_decided_in_the_lane(gateway: Rig, upstream: Scripted) -> None:
    """What a dialect's table does not allow is refused there; a revoked key is that first."""

    def never(_account: Account, _key: Key, _at: datetime) -> None:
        raise ScopeIsDenied

    account = gateway.account()
    key_id, secret = gateway.key(account)
    gateway.app.permits = never
    try:
        with gateway.client(secret) as client:
            denied = [chat(client), client.get("/models")]
            gateway.run(gateway.services.ledger.keys.revoke(Asked("test"), key_id))
            revoked = [chat(client), client.get("/models")]
    finally:
        gateway.app.permits = None
    assert [r.status_code for r in denied] == [403, 403]
    assert {r.json()["error"]["kind"] for r in revoked} == {"key_is_revoked"}
    assert not any(upstream.calls[r.headers["x-request-id"]] for r in (*denied, *revoked))


def test_a_missing_model_and_an_unpriced_one_are_told_apart(own: httpx.Client) -> None:
    """Neither reaches the upstream."""
    body = {"messages": [{"role": "user", "content": "x"}]}
    missing = own.post("/chat/completions", json=body)
    unpriced = own.post("/chat/completions", json={**body, "model": "gpt-nothing"})
    assert missing.json()["error"]["kind"] == "model_is_missing"
    assert unpriced.json()["error"]["kind"] == "model_is_unknown"


def test_calls_are_admitted_and_metered_only_where_they_have_a_price(
    gateway: Rig, own: httpx.Client, upstream: Scripted, ledger_url: str
) -> None:
    """A9: no way through is ungoverned; a price on the card makes calls count."""
    free = own.get("/models")
    assert free.status_code == 200
    assert free.headers["x-ratelimit-remaining-requests"] == "3"
    assert free.headers["x-request-id"] not in book(ledger_url)
    assert upstream.seen[free.headers["x-request-id"]]["keyledger-account"].startswith("acct_")
    card = RateCard(
        name="calls",
        version=1,
        asset="USD",
        effective_from=datetime(2026, 1, 1, tzinfo=UTC),
        models={"agents": ModelPrice(prices={"requests": "500"})},
    )
    gateway.run(
        gateway.services.ledger.prices.publish(
            Asked("test"), draft_of(card, start=card.effective_from)
        )
    )
    account = gateway.account()
    secret = gateway.key(account, rate_card="calls", limits=RULES)[1]
    with gateway.client(secret) as client:
        priced = client.get("/agents?limit=3")
        failed = client.post("/agents", json={"input": json.dumps({"status": 404})})
    found = ended(ledger_url, priced.headers["x-request-id"])
    assert (found.usage, found.charge) == ({"requests": 1}, "0.0005")
    assert ended(ledger_url, failed.headers["x-request-id"]).ending == "released"
    seen = priced.headers["x-request-id"]
    assert upstream.paths[seen] == "GET /v1/agents?limit=3 HTTP/1.1"
    assert upstream.seen[seen]["keyledger-account"] == f"acct_{account.hex}"


def test_a_path_parameter_cannot_leave_its_place(own: httpx.Client, upstream: Scripted) -> None:
    """Slashes, dots and question marks of a parameter are escaped."""
    reply = own.get("/models/..%2F..%2Fadmin%3Fx")
    path = upstream.paths[reply.headers["x-request-id"]]
    assert path == "GET /v1/models/..%2F..%2Fadmin%3Fx HTTP/1.1"


def test_a_booked_model_need_not_be_the_upstreams(
    gateway: Rig, own: httpx.Client, upstream: Scripted, ledger_url: str
) -> None:
    """A character is booked and shown; the model behind it is what the upstream hears of."""
    gateway.app.more = {"model": "m", "upstream_model": "deep-7b", "shown_model": 'tu"tor/x'}
    try:
        whole = chat(own, {"tokens": 1}, model="whatever")
        streamed = chat(own, {"tokens": 2}, model="whatever", stream=True)
    finally:
        gateway.app.more = {}
    assert upstream.bodies[whole.headers["x-request-id"]]["model"] == "deep-7b"
    assert whole.json()["model"] == 'tu"tor/x'
    assert "deep-7b" not in streamed.text
    assert json.loads(streamed.text.split("\n")[0][6:])["model"] == 'tu"tor/x'
    assert ended(ledger_url, streamed.headers["x-request-id"]).output == 2


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_field"), (404, "model_is_unknown"), (429, "rate_is_limited")],
)
def test_a_dialect_may_word_an_upstreams_refusal_itself(
    gateway: Rig, own: httpx.Client, ledger_url: str, status: int, kind: str
) -> None:
    """It is raised as a failure, the upstream's sentence in it, its key not."""
    gateway.app.more = {"own_errors": True}
    body = {"error": {"message": f"no {KEY}", "param": "messages", "code": "x"}}
    try:
        reply = chat(own, {"status": status, "body": body})
    finally:
        gateway.app.more = {}
    said = reply.json()["error"]
    assert said == {"kind": kind, "field": "messages", "message": "no ***"}
    assert ended(ledger_url, reply.headers["x-request-id"]).ending == "released"


@pytest.fixture
def second() -> Iterator[Scripted]:
    """Yield another upstream."""
    found = Scripted()
    yield found
    found.stop()


def test_a_fallback_is_charged_once(
    upstream: Scripted, second: Scripted, ledger_url: str, tmp_path: Path
) -> None:
    """A6, C15: the next upstream answers with its own key; only its answer is charged."""
    app = Thin(
        tmp_path,
        ledger_url,
        upstream_url=f"http://127.0.0.1:9/v1, {upstream.url}, {second.url}",
        upstream_key=f"first,{KEY},third-key-of-tests",
    )
    with rig(app) as found:
        secret = found.key(found.account())[1]
        with found.client(secret) as client:
            usual = chat(client, {"tokens": 3})
            name = usual.headers["x-request-id"]
            assert (upstream.calls[name], second.calls[name]) == (1, 0)
            assert upstream.seen[name]["authorization"] == f"Bearer {KEY}"
            # All are asked; that one of them only is busy is what the client hears.
            limited = chat(client, {"status": 429})
            assert limited.status_code == 429
            name = limited.headers["x-request-id"]
            assert (upstream.calls[name], second.calls[name]) == (1, 1)
            assert second.seen[name]["authorization"] == "Bearer third-key-of-tests"
    assert ended(ledger_url, usual.headers["x-request-id"]).usage == {"input": INPUT, "output": 3}
    assert ended(ledger_url, name).ending == "released"


def test_an_upstream_that_failed_is_asked_last_for_a_while(
    upstream: Scripted, ledger_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead first upstream costs one request its time-out, not every one."""
    tried: list[str] = []
    usual = forward.Gateway._attempt

    async def noting(self: Any, chosen: Any, *rest: Any) -> Any:
        tried.append(chosen.name)
        return await usual(self, chosen, *rest)

    monkeypatch.setattr(forward.Gateway, "_attempt", noting)
    app = Thin(tmp_path, ledger_url, upstream_url=f"http://127.0.0.1:9/v1,{upstream.url}")
    with rig(app) as found, found.client(found.key(found.account())[1]) as client:
        assert [chat(client).status_code for _ in range(3)] == [200, 200, 200]
    assert tried == ["upstream-0", "upstream-1", "upstream-1", "upstream-1"]


@pytest.mark.parametrize(
    ("environment", "what"),
    [
        ({"KEYLEDGER_UPSTREAM_URL": "ftp://x"}, "KEYLEDGER_UPSTREAM_URL"),
        ({"KEYLEDGER_UPSTREAM_URL": "http://"}, "KEYLEDGER_UPSTREAM_URL"),
        ({"KEYLEDGER_UPSTREAM_URL": "http://k@x/v1"}, "KEYLEDGER_UPSTREAM_KEY"),
        (
            {
                "KEYLEDGER_UPSTREAM_URL": "http://a,http://b,http://c",
                "KEYLEDGER_UPSTREAM_KEY": "1,2",
            },
            "KEYLEDGER_UPSTREAM_KEY",
        ),
        ({"KEYLEDGER_UPSTREAM_KEY": "a\nb"}, "KEYLEDGER_UPSTREAM_KEY"),
        ({"KEYLEDGER_UPSTREAM_TOTAL_SECONDS": "0"}, "KEYLEDGER_UPSTREAM_TOTAL_SECONDS"),
        ({"KEYLEDGER_UPSTREAM_CONNECT_SECONDS": "61"}, "KEYLEDGER_UPSTREAM_CONNECT_SECONDS"),
        ({"KEYLEDGER_UPSTREAM_READ_SECONDS": "3601"}, "KEYLEDGER_UPSTREAM_READ_SECONDS"),
        ({"KEYLEDGER_WELCOME_GRANT": "5 USD, 0 CAD"}, "KEYLEDGER_WELCOME_GRANT"),
    ],
)
def test_a_wrong_setting_names_its_variable(environment: dict[str, str], what: str) -> None:
    """At the start, not at the first request."""
    with pytest.raises(InvalidSetting, match=what):
        from_environment(environment)


def test_one_key_serves_all_upstreams_or_each_has_its_own() -> None:
    """Commas separate them, in the same order."""
    urls = {"KEYLEDGER_UPSTREAM_URL": "http://a/v1, https://b/v1"}
    one = from_environment({**urls, "KEYLEDGER_UPSTREAM_KEY": "k"})
    two = from_environment({**urls, "KEYLEDGER_UPSTREAM_KEY": "k1, k2"})
    assert one.upstreams == [("http://a/v1", "k"), ("https://b/v1", "k")]
    assert two.upstreams == [("http://a/v1", "k1"), ("https://b/v1", "k2")]
    assert from_environment({}).upstreams == []


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (timedelta(0), "0s"),
        (timedelta(seconds=-3), "0s"),
        (timedelta(microseconds=11_001), "12ms"),
        (timedelta(seconds=1), "1s"),
        (timedelta(seconds=1, milliseconds=500), "1.5s"),
        (timedelta(minutes=6), "6m0s"),
        (timedelta(hours=25, seconds=2, milliseconds=30), "25h0m2.03s"),
    ],
)
def test_durations_are_written_as_go_does(span: timedelta, text: str) -> None:
    """OpenAI's resets are Go durations."""
    assert headers.duration(span) == text


def measured(limit_id: str, ceiling: int, used: int, window: int | None = 60) -> Measured:
    """Return a limit as it stands."""
    resets = None if window is None else AT + timedelta(seconds=30)
    kind = LimitId.parse(limit_id).kind
    return Measured("key", limit_id, kind, ceiling, used, 0, window, resets, resets)


def test_the_tightest_limit_is_the_one_that_is_told() -> None:
    """In proportion; one that nothing is left of comes first."""
    limits = (
        measured("requests/day", 1_000, 500),
        measured("requests/rolling:60", 10, 8),
        measured("tokens/lifetime", 5, 5, None),
    )
    said = headers.openai(Standing(AT, limits, {}))
    assert said["x-ratelimit-limit-requests"] == "10"
    assert said["x-ratelimit-remaining-tokens"] == "0"
    assert "x-ratelimit-reset-tokens" not in said
    assert headers.ietf(Standing(AT, limits[2:], {})) == {}
    assert headers.limits(Standing(AT, (), {})) == {}


def test_a_limits_name_is_a_string_of_structured_fields() -> None:
    """Quotes are escaped, what is no ASCII is replaced."""
    limits = (measured('requests:model=a"b\\é\x7f/day', 5, 1),)
    said = headers.ietf(Standing(AT, limits, {}))["RateLimit"]
    assert said == '"key:requests:model=a\\"b\\\\??/day";r=4;t=30'


def test_a_refusal_says_which_limit_and_when() -> None:
    """``t`` is what Retry-After says, so neither is earlier than the other."""
    limit = LimitIsReached(
        scope="key",
        limit_id="requests/rolling:60",
        kind="requests",
        window="rolling:60",
        ceiling=3,
        used=2,
        pending=1,
        requested=1,
        resets_at=AT + timedelta(seconds=7),
    )
    limit.decided_at = AT
    assert headers.refused(limit) == {"RateLimit": '"key:requests/rolling:60";r=0;t=7'}


def test_what_a_request_notes_of_itself_stands_beside_its_event(
    gateway: Rig, ledger_url: str
) -> None:
    """Metadata and end user are kept as the native API keeps them: events hold digests."""
    account = gateway.account()
    with gateway.client(gateway.key(account)[1]) as client:
        noted = {"metadata": {"team": "search", "user_id": "anna-1"}, "max_tokens": 20}
        reply = chat(client, **noted)
        assert reply.status_code == 200, reply.text
    with psycopg.connect(ledger_url) as connection:
        rows = connection.execute(
            "SELECT metadata, end_user FROM keyledger.request_notes"
        ).fetchall()
        ((payload,),) = connection.execute(
            "SELECT payload::text FROM keyledger.events WHERE type = 'request_reserved'"
            " ORDER BY recorded_at DESC LIMIT 1"
        ).fetchall()
    assert ('{"team":"search"}', "anna-1") in rows
    assert "anna" not in payload
    assert '"end_user":"' in payload
