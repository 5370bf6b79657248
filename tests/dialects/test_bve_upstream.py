"""bve before a real upstream: whatever that says, what comes is bve's contract."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from api.dialects.bve.routes_inference import _only
from api.http.failure import Failure, Kind
from tests.conftest import Served, settings_for
from tests.dialects.test_bve import create
from tests.dialects.test_bve_inference import CHAT
from tests.gateway import scripted
from tests.gateway.scripted import KEY, Scripted

POSTED = {
    "chat/completions": CHAT,
    "completions": {"model": "keyledger-small", "prompt": "Hi"},
    "embeddings": {"model": "keyledger-embedding", "input": "Hi"},
    "responses": {"model": "keyledger-small", "input": "Hi"},
}
ASKED = [*POSTED, "models", "models/keyledger-small"]
DETAIL = {"detail": [{"loc": ["body", "n"], "msg": "too large", "type": "value_error"}]}


@pytest.fixture(scope="module")
def served(
    upstream: Scripted, ledger_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """Serve the dialects before it."""
    settings = settings_for(
        tmp_path_factory.mktemp("home"), upstream_url=upstream.url, upstream_key=KEY
    )
    found = Served(settings, ledger_url).start()
    yield found
    found.stop()


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a way to say how the upstream answers all that follows, on every path."""

    def plan(status: int, body: Any, **headers: str) -> None:
        said = {"status": status, "body": body, "headers": headers}
        monkeypatch.setattr(scripted, "plan_of", lambda _: dict(said))

    return plan


@pytest.fixture
def client(served: Served, operator: httpx.Client) -> Iterator[httpx.Client]:
    """Yield a client with a key."""
    with served.client(create(operator)["key"]) as found:
        yield found


def ask(client: httpx.Client, path: str) -> httpx.Response:
    """Ask for a path of OpenAI's API."""
    if path in POSTED:
        return client.post(f"/v1/{path}", json=POSTED[path])
    return client.get(f"/v1/{path}")


def envelope(found: httpx.Response) -> dict[str, Any]:
    """Return an error, which has OpenAI's four members and nothing else beside."""
    assert list(found.json()) == ["error"]
    assert list(found.json()["error"]) == ["message", "type", "param", "code"]
    return found.json()["error"]


@pytest.mark.parametrize("path", ASKED)
@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ((422, DETAIL), (400, "invalid_request")),
        ((400, {"message": "no"}), (400, "invalid_request")),
        ((400, ["no"]), (400, "invalid_request")),
        ((404, {"detail": "Not Found"}), (404, "model_not_found")),
        ((413, {"error": "too large"}), (413, "request_too_large")),
        ((409, {}), (409, "conflict")),
    ],
)
def test_an_upstreams_refusal_is_worded(
    client: httpx.Client, answers: Any, path: str, said: Any, expected: tuple[int, str]
) -> None:
    """Status and code of the page, whatever the upstream's envelope is."""
    answers(*said)
    found = ask(client, path)
    error = envelope(found)
    assert (found.status_code, error["code"]) == expected
    assert error["type"] == "invalid_request_error"
    assert "detail" not in found.text


def test_an_upstreams_own_words_are_kept(client: httpx.Client, answers: Any) -> None:
    """Of OpenAI's envelope message and field; a secret of the operator's is taken out."""
    said = {"message": f"too long for {KEY}", "type": "x", "param": "messages", "code": "y"}
    answers(400, {"error": said})
    found = ask(client, "chat/completions")
    error = envelope(found)
    assert (error["param"], error["code"]) == ("messages", "invalid_request")
    assert error["message"].startswith("messages: too long for")
    assert KEY not in found.text


def test_a_busy_upstream_is_a_rate_limit(client: httpx.Client, answers: Any) -> None:
    """429 with how long to wait."""
    answers(429, {"error": {"message": "slow down", "code": "tpm"}}, **{"Retry-After": "7"})
    found = ask(client, "chat/completions")
    error = envelope(found)
    assert (found.status_code, error["code"]) == (429, "rate_limit_exceeded")
    assert error["type"] == "rate_limit_error"
    assert found.headers["retry-after"] == "7"


@pytest.mark.parametrize(
    "body", [{}, [], "models", {"data": None}, {"data": ["m"]}, {"data": {"id": "m"}}]
)
def test_bv4_a_list_that_is_none_cannot_be_filtered(
    operator: httpx.Client, served: Served, answers: Any, body: Any
) -> None:
    """BV4: a 200 that is no list of models is the upstream's failure: 502, and shows nothing."""
    answers(200, body)
    with served.client(create(operator, allowed_models=["m"])["key"]) as client:
        found = client.get("/v1/models")
    assert (found.status_code, envelope(found)["code"]) == (502, "upstream_error")


def test_bv4_what_else_a_list_holds_is_kept(
    operator: httpx.Client, served: Served, answers: Any
) -> None:
    """BV4: models that are not allowed go, and one without an id; all else stays."""
    models = [{"id": "m", "created": 7}, {"id": "n"}, {"created": 8}, {"id": ["m"]}]
    answers(200, {"object": "list", "data": models, "has_more": False})
    with served.client(create(operator, allowed_models=["m"])["key"]) as client:
        found = client.get("/v1/models")
    expected = {"object": "list", "data": [{"id": "m", "created": 7}], "has_more": False}
    assert (found.status_code, found.json()) == (200, expected)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"{" * 9, b'{"data":' + b"[" * 100_000])
def test_bv4_what_is_no_json_is_no_list(body: bytes) -> None:
    """BV4: nor is what cannot be decoded at all."""
    with pytest.raises(Failure) as caught:
        _only(["m"], body)
    assert caught.value.kind is Kind.UPSTREAM_FAILED
