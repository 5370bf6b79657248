"""The table of README.md, row by row, against a real upstream that does what it is told."""

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from api.http import metrics
from tests.gateway.book import all_events, ended, open_reservations
from tests.gateway.rig import Rig
from tests.gateway.scripted import INPUT, KEY, Scripted


@pytest.fixture(scope="module")
def client(gateway: Rig) -> Iterator[httpx.Client]:
    """Yield a client of an account with credit."""
    _, secret = gateway.key(gateway.account())
    with gateway.client(secret) as found:
        yield found


def chat(client: httpx.Client, plan: dict[str, Any] | None = None, **body: Any) -> httpx.Response:
    """Ask for a chat completion that goes as planned."""
    messages = [{"role": "user", "content": json.dumps(plan or {})}]
    return client.post("/chat/completions", json={"model": "m", "messages": messages, **body})


def streamed(client: httpx.Client, plan: dict[str, Any], **body: Any) -> tuple[str, str]:
    """Ask for a stream; return its request id and what came."""
    messages = [{"role": "user", "content": json.dumps(plan)}]
    asked = {"model": "m", "messages": messages, "stream": True, **body}
    with client.stream("POST", "/chat/completions", json=asked) as reply:
        assert reply.status_code == 200, reply.read()
        text = "".join(reply.iter_text())
    return reply.headers["x-request-id"], text


def test_success_with_usage_is_charged_as_reported(client: httpx.Client, ledger_url: str) -> None:
    """What the provider reports is what is charged, and nothing is flagged."""
    reply = chat(client, {"tokens": 5})
    assert reply.status_code == 200
    found = ended(ledger_url, reply.headers["x-request-id"])
    assert found.ending == "settled"
    assert found.usage == {"input": INPUT, "output": 5}
    assert found.charge == "0.000017"
    assert found.flags == ()


def test_success_without_usage_is_estimated(client: httpx.Client, ledger_url: str) -> None:
    """C8, C9: an answer without usage is charged by its text, and flagged."""
    reply = chat(client, {"tokens": 5, "usage": False})
    found = ended(ledger_url, reply.headers["x-request-id"])
    assert found.output == 5
    assert found.usage["input"] > 4
    assert found.flags == ("estimated",)


@pytest.mark.parametrize(
    ("report", "output", "flags"),
    [
        ({"prompt_tokens": -1, "completion_tokens": 2, "total_tokens": 1}, 2, ("estimated",)),
        ({"prompt_tokens": 1, "completion_tokens": 2.5, "total_tokens": 3}, 2, ()),
        ({"prompt_tokens": 1, "completion_tokens": "2"}, 3, ("estimated",)),
        ({"prompt_tokens": 1, "completion_tokens": 10**12}, 3, ("estimated",)),
        ({"prompt_tokens": 1, "completion_tokens": 10**9}, 3, ("estimated",)),
        ({"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 4}, 2, ()),
        ({"prompt_tokens": 1}, 3, ("estimated",)),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_bad_number_costs_only_itself(
    client: httpx.Client,
    ledger_url: str,
    report: dict[str, Any],
    output: int,
    flags: tuple[str, ...],
    *,
    stream: bool,
) -> None:
    """OWASP API10: numbers are not trusted; what no other number tells is estimated."""
    plan = {"tokens": 3, "report": report}
    if stream:
        request_id, _ = streamed(client, plan)
    else:
        request_id = chat(client, plan).headers["x-request-id"]
    found = ended(ledger_url, request_id)
    assert found.output == output
    assert found.flags == flags


@pytest.mark.parametrize("plan", [{}, {"crlf": True}, {"cut": True}, {"comment": True}])
def test_a_stream_is_charged_as_reported_and_shows_no_usage_unasked(
    client: httpx.Client, ledger_url: str, upstream: Scripted, plan: dict[str, Any]
) -> None:
    """Usage is asked for upstream and stripped again, whatever the line ends and chunks are."""
    request_id, text = streamed(client, {"tokens": 6, **plan})
    assert upstream.bodies[request_id]["stream_options"] == {"include_usage": True}
    assert '"usage"' not in text
    assert text.count(" tok") == 6
    assert text.rstrip().endswith("data: [DONE]")
    found = ended(ledger_url, request_id)
    assert found.usage == {"input": INPUT, "output": 6}
    assert found.flags == ()


def test_a_stream_shows_usage_to_who_asks(client: httpx.Client, ledger_url: str) -> None:
    """What the client asked for comes through as it is."""
    request_id, text = streamed(client, {"tokens": 2}, stream_options={"include_usage": True})
    assert '"completion_tokens": 2' in text
    assert text.count('"usage": null') == 2
    assert ended(ledger_url, request_id).output == 2


def test_usage_on_the_last_piece_is_taken_and_stripped(
    client: httpx.Client, ledger_url: str
) -> None:
    """Some providers attach usage to a chunk with choices: the chunk stays, the usage goes."""
    request_id, text = streamed(client, {"tokens": 2, "attached": True})
    assert '"usage"' not in text
    assert text.count("data: {") == 3
    assert ended(ledger_url, request_id).usage == {"input": INPUT, "output": 2}


@pytest.mark.parametrize("plan", [{}, {"done": False}])
def test_a_stream_without_usage_is_counted(
    client: httpx.Client, ledger_url: str, plan: dict[str, Any]
) -> None:
    """A stream that came to its end without usage is charged what was counted, and flagged."""
    request_id, _ = streamed(client, {"tokens": 9, "usage": False, **plan})
    found = ended(ledger_url, request_id)
    assert (found.output, found.flags) == (9, ("estimated",))


@pytest.mark.parametrize("plan", [{}, {"mid_chunk": True}, {"crlf": True}, {"cut": True}])
def test_an_upstream_that_dies_midway_is_charged_what_it_gave(
    client: httpx.Client, ledger_url: str, plan: dict[str, Any]
) -> None:
    """C8: what was delivered is charged and flagged; the client is told in the dialect's words."""
    request_id, text = streamed(client, {"tokens": 9, "die_after": 4, **plan})
    assert text.count(" tok") == 4
    last = json.loads(text.strip().rpartition("data: ")[2])
    assert last["error"]["kind"] == "upstream_failed"
    found = ended(ledger_url, request_id)
    assert (found.ending, found.output) == ("settled", 4)
    assert found.flags == ("estimated", "interrupted")


def test_an_upstream_that_dies_after_its_usage_is_charged_exactly(
    client: httpx.Client, ledger_url: str
) -> None:
    """Usage that was seen holds, whatever happens after it."""
    request_id, _ = streamed(client, {"tokens": 3, "die_at_end": True})
    found = ended(ledger_url, request_id)
    assert found.usage == {"input": INPUT, "output": 3}
    assert found.flags == ("interrupted",)


def test_an_upstream_that_stalls_midway_times_out(client: httpx.Client, ledger_url: str) -> None:
    """A stream that says nothing for too long is settled from what came."""
    request_id, text = streamed(client, {"tokens": 9, "stall_after": 2})
    assert '"upstream_timed_out"' in text
    found = ended(ledger_url, request_id)
    assert (found.output, found.flags) == (2, ("estimated", "interrupted"))


@pytest.mark.parametrize("status", [400, 404, 409, 413, 422, 429])
@pytest.mark.parametrize("stream", [False, True])
def test_an_upstreams_refusal_is_passed_on_and_nothing_is_charged(
    client: httpx.Client, ledger_url: str, upstream: Scripted, status: int, *, stream: bool
) -> None:
    """It goes on as it is, but for what only the operator may know; Retry-After where it helps."""
    plan = {"status": status, "headers": {"Retry-After": "7"}}
    reply = chat(client, plan, stream=stream)
    assert reply.status_code == status
    assert reply.json()["error"]["message"] == "no: ***"
    assert reply.headers.get("retry-after") == ("7" if status == 429 else None)
    request_id = reply.headers["x-request-id"]
    assert ended(ledger_url, request_id).ending == "released"
    assert upstream.calls[request_id] == 1


@pytest.mark.parametrize("status", [301, 401, 402, 403, 407, 408, 425, 500, 503])
def test_what_is_the_operators_trouble_is_none_of_the_clients(
    client: httpx.Client, ledger_url: str, status: int
) -> None:
    """A redirect, an upstream's 401 or its 5xx is a 502: the client's own key is good."""
    reply = chat(client, {"status": status, "headers": {"Location": "http://127.0.0.1:1/"}})
    assert reply.status_code == 502
    assert KEY not in reply.text
    assert ended(ledger_url, reply.headers["x-request-id"]).ending == "released"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (429, {"message": "You exceeded your quota", "type": "insufficient_quota"}),
        (429, {"message": "Quota", "type": "x", "code": "insufficient_quota"}),
        (400, {"message": "Hard limit", "type": "x", "code": "billing_hard_limit_reached"}),
    ],
)
def test_an_operator_who_owes_is_none_of_the_clients_trouble(
    client: httpx.Client, ledger_url: str, status: int, error: dict[str, str]
) -> None:
    """What the provider says of the operator's own account is a 502 too, whatever the status."""
    reply = chat(client, {"status": status, "body": {"error": error}})
    assert reply.status_code == 502
    assert error["message"] not in reply.text
    assert ended(ledger_url, reply.headers["x-request-id"]).ending == "released"


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": None, "code": "insufficient_quota"}},
        {"error": {"message": ["x"], "param": ["x"], "type": "insufficient_quota"}},
    ],
)
def test_an_operator_who_owes_need_not_be_told_as_openai_does(
    client: httpx.Client, ledger_url: str, body: Any
) -> None:
    """A code is heard whatever stands beside it."""
    reply = chat(client, {"status": 429, "body": body})
    assert reply.status_code == 502
    assert ended(ledger_url, reply.headers["x-request-id"]).ending == "released"


@pytest.mark.parametrize("raw", ["mod\xe8le", "[" * 200_000, '{"error": 7}', '{"error": [1]}'])
def test_a_refusal_that_cannot_be_read_is_a_refusal_all_the_same(
    client: httpx.Client, ledger_url: str, raw: str
) -> None:
    """Not UTF-8, nested without end, of another form: passed on, and nothing is charged."""
    reply = chat(client, {"status": 400, "raw": raw})
    assert reply.status_code == 400
    assert ended(ledger_url, reply.headers["x-request-id"]).ending == "released"


@pytest.mark.parametrize("how", ["500", "close", "half", "stall", "empty"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_before_output_is_tried_once_more_and_charged_once(
    client: httpx.Client, ledger_url: str, upstream: Scripted, how: str, *, stream: bool
) -> None:
    """A second attempt that answers is the only one that is charged (C15, D1)."""
    plan = {"tokens": 3, "fail_first": 1, "how": how}
    if stream:
        request_id, text = streamed(client, plan)
    else:
        reply = chat(client, plan)
        request_id, text = reply.headers["x-request-id"], reply.text
    assert text.count(" tok") == 3
    assert upstream.calls[request_id] == 2
    found = ended(ledger_url, request_id)
    assert found.usage == {"input": INPUT, "output": 3}
    assert found.flags == ()


@pytest.mark.parametrize(
    ("how", "status"), [("500", 502), ("close", 502), ("half", 502), ("stall", 504)]
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_upstream_that_keeps_failing_is_not_charged(
    client: httpx.Client,
    ledger_url: str,
    upstream: Scripted,
    how: str,
    status: int,
    *,
    stream: bool,
) -> None:
    """Bounded attempts, then 502 or 504, and the reservation is given back (B1)."""
    reply = chat(client, {"fail_first": 9, "how": how}, stream=stream)
    assert reply.status_code == status
    request_id = reply.headers["x-request-id"]
    # A kept connection that ends without a word is replaced by a fresh one besides.
    assert upstream.calls[request_id] in ({2, 3} if how == "close" else {2})
    assert ended(ledger_url, request_id).ending == "released"


def test_usage_of_a_failed_attempt_is_charged_to_nobody(
    client: httpx.Client, ledger_url: str
) -> None:
    """The caller pays for the attempt that answered; the other's numbers are in the log."""
    failing = {"usage": {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}}
    reply = chat(client, {"tokens": 2, "fail_first": 1, "failing": failing})
    found = ended(ledger_url, reply.headers["x-request-id"])
    assert found.usage == {"input": INPUT, "output": 2}


def test_a_request_id_never_goes_upstream_twice(
    gateway: Rig, client: httpx.Client, ledger_url: str, upstream: Scripted
) -> None:
    """D1: the same id again is a conflict, and the upstream hears nothing of it."""
    usual = gateway.app.next_id
    gateway.app.next_id = lambda: "req_of_this_test"
    try:
        assert chat(client).status_code == 200
        again = chat(client)
        other = chat(client, {"tokens": 1})
    finally:
        gateway.app.next_id = usual
    assert again.status_code == other.status_code == 409
    assert upstream.calls["req_of_this_test"] == 1
    assert ended(ledger_url, "req_of_this_test").ending == "settled"


def test_nothing_secret_passes(gateway: Rig, upstream: Scripted) -> None:
    """The upstream sees its key and not the client's; the client sees neither, nor cookies.

    Whose call it is says the gateway, whatever the client claims.
    """
    account = gateway.account()
    with gateway.client(gateway.key(account)[1]) as client:
        reply = client.post(
            "/chat/completions",
            json={"model": "m", "messages": [{"role": "user", "content": "{}"}]},
            headers={
                "X-API-Key": "other",
                "Cookie": "a=b",
                "OpenAI-Organization": "theirs",
                "Anthropic-Version": "2023-06-01",
                "Keyledger-Account": "acct_of_somebody_else",
            },
        )
        seen = upstream.seen[reply.headers["x-request-id"]]
        assert seen["authorization"] == f"Bearer {KEY}"
        assert seen["anthropic-version"] == "2023-06-01"
        assert seen["keyledger-account"] == f"acct_{account.hex}"
        assert not {"cookie", "x-api-key", "openai-organization"} & seen.keys()
        assert client.headers["Authorization"] not in str(seen)
        assert reply.headers["openai-processing-ms"] == "12"
        assert not {"set-cookie", "x-upstream-secret"} & reply.headers.keys()
        _, text = streamed(client, {"tokens": 1, "error": True})
        assert "oops ***" in text
        assert KEY not in text


def test_message_text_is_in_no_event(client: httpx.Client, ledger_url: str) -> None:
    """Neither what was asked nor what was answered is written down."""
    text = json.dumps({"tokens": 2, "note": "xylophone-quartz"})
    asked = {"model": "m", "messages": [{"role": "user", "content": text}]}
    client.post("/chat/completions", json=asked)
    events = all_events(ledger_url)
    assert "xylophone" not in events
    assert " tok" not in events


def test_no_reservation_is_left_open(client: httpx.Client, ledger_url: str) -> None:
    """After everything above, nothing is held."""
    assert chat(client).status_code == 200
    assert open_reservations(ledger_url) == 0


def test_attempts_and_endings_are_counted(client: httpx.Client) -> None:
    """A scraper sees how upstreams answer and how requests end, by kind and never by key."""
    before = counted()
    chat(client, {"tokens": 3})
    chat(client, {"tokens": 3, "usage": False})
    chat(client, {"tokens": 3, "fail_first": 1, "how": "500"})
    chat(client, {"status": 400})
    after = counted()
    grown = {name: after[name] - before.get(name, 0) for name in after}
    assert {name: times for name, times in grown.items() if times} == {
        'upstream_requests_total{outcome="answered",upstream="upstream-0"}': 3,
        'upstream_requests_total{outcome="failed",upstream="upstream-0"}': 1,
        'upstream_requests_total{outcome="refused",upstream="upstream-0"}': 1,
        'upstream_response_seconds_count{upstream="upstream-0"}': 4,
        'gateway_endings_total{ending="reported"}': 2,
        'gateway_endings_total{ending="estimated"}': 1,
        'gateway_endings_total{ending="released"}': 1,
    }


def counted() -> dict[str, int]:
    """Return the gateway's numbers as a scraper reads them, without the buckets."""
    pattern = r"^keyledger_((?:upstream|gateway)_\w+?(?:_total|_count)\{.*\}) (\S+)$"
    found = re.findall(pattern, metrics.text().decode(), re.MULTILINE)
    return {name: round(float(value)) for name, value in found}
