"""MCP at ``/mcp``, by the official client over HTTP (Y10)."""

import asyncio
import json
import secrets
import subprocess
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NamedTuple

import httpx
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from api.mcp.tools import TOOLS
from ledger.lines import charge_of
from ledger.money import parse_pico
from tests.conftest import Served, settings_for

KEYS = "/api/v1/auth/api-keys"
MODES = ("auto", "legacy")
"""The protocol of 2026-07-28, and the handshake before it."""
READING = {
    *("get_balance", "get_usage", "get_spend_by_key", "explain_charge", "search_events"),
    "list_refusals",
}
MANAGING = {"list_api_keys", "create_api_key", "revoke_api_key", "set_spend_limit"}
ALLOWED: dict[str, set[str]] = {
    "buyer": READING | MANAGING,
    "read-only": READING,
    "write-only": set(),
}
"""Scope → tools, as the contract has it."""
KEY_TOOLS = {"list_api_keys", "create_api_key", "revoke_api_key"}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "explain_charge": {"request_id": "req_none"},
    "create_api_key": {"name": "made", "scope": "read-only"},
    "revoke_api_key": {"id": "0190a5c0-0000-7000-8000-000000000000"},
    "set_spend_limit": {"ceiling": "1"},
}
PING = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
ACCEPT = {"Accept": "application/json, text/event-stream"}


@pytest.fixture(scope="module")
def ledger_url(dialects_url: str) -> str:
    """What ``served`` serves: a database with the dialects' own rate cards."""
    return dialects_url


@pytest.fixture(scope="module")
def served(ledger_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve with jobs, so that refusals are listed."""
    settings = settings_for(
        tmp_path_factory.mktemp("home"), welcome_grant="5 USD, 5 CAD", signups_per_hour=1_000
    )
    found = Served(settings, ledger_url, jobs=True).start()
    yield found
    found.stop()


class Buyer(NamedTuple):
    """Somebody with an account, and what they do with it."""

    served: Served
    token: str
    account_id: str

    def rest(self, secret: str = "") -> httpx.Client:
        """Return a client of the REST routes."""
        return self.served.client(secret or self.token)

    def key(self, scope: str = "buyer", name: str = "k") -> dict[str, Any]:
        """Create a key."""
        with self.rest() as client:
            found = client.post(KEYS, json={"name": name, "scope": scope})
        assert found.status_code == 201, found.text
        return found.json()

    def use(self, secret: str, **terms: Any) -> httpx.Response:
        """Make a metered request."""
        body = {"model": "keyledger-small", "messages": [{"role": "user", "content": "Hello"}]}
        with self.rest(secret) as client:
            return client.post("/v1/chat/completions", json={**body, **terms})


def sign_up(served: Served) -> Buyer:
    """Open an account."""
    email = f"mcp-{secrets.token_hex(8)}@example.com"
    body = {"email": email, "password": "correct horse battery", "name": "Ada"}
    with served.client(None) as client:
        found = client.post("/api/v1/auth/signup", json=body)
    assert found.status_code == 201, found.text
    account_id = f"acct_{uuid.UUID(found.json()['buyer_id']).hex}"
    return Buyer(served, found.json()["token"], account_id)


@pytest.fixture
def buyer(served: Served) -> Buyer:
    """Somebody who signed up."""
    return sign_up(served)


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    """Name how the client negotiates."""
    return request.param


def speak(
    buyer: Buyer,
    secret: str,
    story: Callable[[Client], Awaitable[Any]],
    mode: str = "auto",
    *,
    header: str = "bearer",
    statuses: list[int] | None = None,
) -> Any:
    """Let the official client do something; ``statuses`` takes what each request was answered."""

    async def note(response: httpx2.Response) -> None:
        if statuses is not None:
            statuses.append(response.status_code)

    async def run() -> Any:
        headers = {"Authorization": f"Bearer {secret}"}
        if header != "bearer":
            headers = {"X-API-Key": secret}
        hooks = {"response": [note]}
        async with httpx2.AsyncClient(headers=headers, timeout=20, event_hooks=hooks) as http:
            transport = streamable_http_client(f"{buyer.served.url}/mcp", http_client=http)
            async with Client(transport, mode=mode) as client:
                return await story(client)

    return asyncio.run(run())


def call(buyer: Buyer, secret: str, name: str, mode: str = "auto", /, **arguments: Any) -> Any:
    """Call a tool and give its structured result."""
    found = speak(buyer, secret, lambda client: client.call_tool(name, arguments), mode)
    assert not found.is_error, found.content[0].text
    assert json.loads(found.content[0].text) == found.structured_content
    return found.structured_content


def refused(buyer: Buyer, secret: str, name: str, /, **arguments: Any) -> dict[str, Any]:
    """Call a tool that says no, and return the error."""
    found = speak(buyer, secret, lambda client: client.call_tool(name, arguments))
    assert found.is_error
    error: dict[str, Any] = json.loads(found.content[0].text)["error"]
    assert list(error) == ["message", "type", "param", "code"]
    return error


@pytest.mark.parametrize("header", ["bearer", "x-api-key"])
def test_y10_the_official_client_connects_and_lists(buyer: Buyer, mode: str, header: str) -> None:
    """Y10: initialises with the same key, in either header, and is told every tool."""

    async def story(client: Client) -> Any:
        listed = await client.list_tools()
        return client.server_info, client.instructions, listed.tools

    info, instructions, tools = speak(buyer, buyer.key()["key"], story, mode, header=header)
    assert info.name == "keyledger"
    assert "never instructions" in instructions
    assert {tool.name for tool in tools} == READING | MANAGING


def test_tools_say_what_they_do_and_take(buyer: Buyer) -> None:
    """Every input is closed and bounded, every output described, every change annotated."""
    tools = speak(buyer, buyer.token, lambda client: client.list_tools()).tools
    by_name = {tool.name: tool for tool in tools}
    for tool in tools:
        assert tool.description
        assert tool.title
        assert tool.input_schema["additionalProperties"] is False
        assert tool.input_schema["type"] == tool.output_schema["type"] == "object"
        assert tool.annotations.open_world_hint is False
        for field in tool.input_schema["properties"].values():
            assert bounded(field), (tool.name, field)
    changing = {name for name, tool in by_name.items() if not tool.annotations.read_only_hint}
    assert changing == {"create_api_key", "revoke_api_key", "set_spend_limit"}
    destroying = {name for name, tool in by_name.items() if tool.annotations.destructive_hint}
    assert destroying == {"revoke_api_key", "set_spend_limit"}
    once = {name for name, tool in by_name.items() if not tool.annotations.idempotent_hint}
    assert once == {"create_api_key"}


def bounded(schema: dict[str, Any]) -> bool:
    """Return whether a value of a schema has a greatest size."""
    if "anyOf" in schema:
        return all(bounded(each) for each in schema["anyOf"])
    kind = schema.get("type")
    return (
        kind == "null"
        or "enum" in schema
        or (kind == "string" and bool({"maxLength", "pattern", "format"} & schema.keys()))
        or (kind == "integer" and "maximum" in schema)
        or (kind == "array" and "maxItems" in schema and bounded(schema["items"]))
    )


def test_y10_every_tool_answers(buyer: Buyer, mode: str) -> None:
    """Y10: each tool, called by the official client, which holds it to its schema."""
    made = buyer.key(name="bot")
    assert buyer.use(made["key"]).status_code == 200
    secret = made["key"]

    balance = call(buyer, secret, "get_balance", mode)
    assert {each["asset"] for each in balance["balances"]} >= {"CAD", "USD"}
    assert "spend:CAD/rolling:3600" in {each["id"] for each in balance["limits"]}

    listed = call(buyer, secret, "list_api_keys", mode)["keys"]
    assert [(each["id"], each["name"]) for each in listed] == [(made["id"], "bot")]
    assert secret not in json.dumps(listed)

    (line,) = call(buyer, secret, "get_usage", mode)["lines"]
    assert (line["currency"], line["model"], line["requests"]) == ("CAD", "keyledger-small", 1)
    (total,) = call(buyer, secret, "get_usage", mode, group_by=[])["lines"]
    assert total["amount"] == line["amount"]
    assert call(buyer, secret, "get_usage", mode, start="2090-01-01")["lines"] == []

    (spent,) = call(buyer, secret, "get_spend_by_key", mode)["lines"]
    assert spent == {
        "key": made["id"],
        "name": "bot",
        "currency": "CAD",
        "amount": line["amount"],
        "requests": 1,
    }

    events = call(buyer, secret, "search_events", mode)["events"]
    assert events[0]["type"] == "request_settled"
    assert events[-1]["type"] == "account_opened"

    child = call(buyer, secret, "create_api_key", mode, name="child", scope="read-only")
    assert child["scope"] == "read-only"
    seen = call(buyer, child["key"], "get_balance", mode)
    assert seen["balances"] == balance["balances"]
    assert call(buyer, secret, "revoke_api_key", mode, id=child["id"]) == {
        "id": child["id"],
        "revoked": True,
    }
    assert call(buyer, secret, "set_spend_limit", mode, ceiling="2")["hourly_limit"]["own"] == "2"
    assert call(buyer, secret, "set_spend_limit", mode, ceiling=None)["hourly_limit"]["own"] is None


def test_a_charge_is_explained_to_the_last_digit(buyer: Buyer) -> None:
    """Units times unit prices, added up and rounded once, are the charge that was paid."""
    made = buyer.key()
    reply = buyer.use(made["key"], messages=[{"role": "user", "content": "Count me well. " * 50}])
    found = call(buyer, made["key"], "explain_charge", request_id=reply.headers["x-request-id"])
    assert (found["status"], found["model"]) == ("settled", "keyledger-small")
    assert found["rate_card"] == "ryvion/1"
    usage = reply.json()["usage"]
    units = {part["usage_class"]: part["units"] for part in found["parts"]}
    assert units["input"] + units.get("cache_read", 0) == usage["prompt_tokens"]
    assert units["output"] == usage["completion_tokens"]
    lines = {
        part["usage_class"]: (part["units"], part["price_per_million"]) for part in found["parts"]
    }
    assert parse_pico(found["charge"]["amount"]) == charge_of(lines)
    summed = sum(parse_pico(part["amount"]) for part in found["parts"])
    assert summed == parse_pico(found["charge"]["amount"])
    assert sum(parse_pico(lot["amount"]) for lot in found["lots"]) == summed
    (paid,) = call(buyer, made["key"], "get_spend_by_key")["lines"]
    assert paid["amount"] == found["charge"]["amount"]


def seq_of(event: dict[str, Any]) -> str:
    """Return where in its lane an event stands."""
    seq: str = event["event"].partition(":")[2]
    return seq


def test_promise_15_another_tenants_charge_is_as_absent(buyer: Buyer, served: Served) -> None:
    """Promise 15: another's request, key and cursor are what was never there."""
    stranger = sign_up(served)
    theirs = stranger.key()
    secret = buyer.key()["key"]
    events = call(buyer, secret, "search_events", limit=100)["events"]
    own = {seq_of(each) for each in events}
    seq = next(iter(own))
    while seq in own:  # theirs may stand at the same place of another lane
        charged = stranger.use(theirs["key"]).headers["x-request-id"]
        seq = seq_of(call(stranger, theirs["key"], "search_events")["events"][0])
    absent = refused(buyer, secret, "explain_charge", request_id="req_none")
    assert refused(buyer, secret, "explain_charge", request_id=charged) == absent
    assert absent["code"] == "not_found"
    missing = ARGUMENTS["revoke_api_key"]["id"]
    absent = refused(buyer, secret, "revoke_api_key", id=missing)
    assert refused(buyer, secret, "revoke_api_key", id=theirs["id"]) == absent
    assert refused(buyer, secret, "search_events", after=seq)["param"] == "after"
    assert call(buyer, secret, "search_events", key=theirs["id"])["events"] == []
    assert stranger.use(theirs["key"]).status_code == 200


def test_events_are_searched_and_paged(buyer: Buyer) -> None:
    """By type and key; page after page gives each once, in order."""
    made = [buyer.key(name=f"k{number}") for number in range(5)]
    secret = made[0]["key"]
    with buyer.rest() as client:
        client.delete(f"{KEYS}/{made[4]['id']}")
    (revoked,) = call(buyer, secret, "search_events", type="key_revoked")["events"]
    assert revoked["key"] == made[4]["id"]
    about = call(buyer, secret, "search_events", key=made[4]["id"])["events"]
    assert [each["type"] for each in about] == ["key_revoked", "key_issued"]
    whole = call(buyer, secret, "search_events", limit=100)
    assert whole["next"] is None
    paged: list[Any] = []
    after = None
    while True:
        page = call(buyer, secret, "search_events", limit=2, after=after)
        paged += page["events"]
        after = page["next"]
        if after is None:
            break
    assert paged == whole["events"]
    issued = call(buyer, secret, "search_events", type="key_issued", limit=2)
    rest = call(buyer, secret, "search_events", type="key_issued", limit=9, after=issued["next"])
    names = [each["payload"]["name"] for each in (*issued["events"], *rest["events"])]
    assert names == ["k4", "k3", "k2", "k1", "k0"]


def test_refusals_are_listed_with_their_numbers(buyer: Buyer) -> None:
    """Promise 14, over MCP: which limit, what was used, what was asked."""
    made = buyer.key()
    refusal = buyer.use(made["key"], model="keyledger-large", max_tokens=700_000)
    assert refusal.status_code == 429
    deadline = time.monotonic() + 20
    while not (found := call(buyer, made["key"], "list_refusals")["refusals"]):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert found[0]["key"] == made["id"]
    assert found[0]["limit_id"] == "spend:CAD/rolling:3600"
    assert (found[0]["ceiling"], found[0]["used"]) == ("5", "0")
    assert parse_pico(found[0]["requested"]) > parse_pico("5")


@pytest.mark.parametrize("scope", ALLOWED)
def test_y8_scopes_hold_tool_by_tool(buyer: Buyer, scope: str) -> None:
    """Y8, Y10: what a scope does not name is not listed, and refused when called all the same."""
    secret = buyer.key(scope)["key"]

    async def story(client: Client) -> tuple[set[str], dict[str, Any]]:
        listed = {tool.name for tool in (await client.list_tools()).tools}
        results = {
            name: await client.call_tool(name, ARGUMENTS.get(name, {})) for name in sorted(TOOLS)
        }
        return listed, results

    listed, results = speak(buyer, secret, story)
    allowed = ALLOWED[scope]
    assert listed == allowed
    for name, result in results.items():
        codes = json.loads(result.content[0].text).get("error", {}).get("code", "")
        if name in allowed:
            assert codes in {"", "not_found"}, name
        else:
            assert result.is_error
            assert codes == "insufficient_scope", name


def test_y8_a_members_key_may_no_more_than_the_member(buyer: Buyer, served: Served) -> None:
    """Y8, Y10: of a role that manages no money, no tool about money is listed or does anything.

    Once the member has left none is.
    """
    login = {"email": f"mcp-{secrets.token_hex(8)}@example.com", "password": "correct horse"}
    members = f"/ledger/v1/accounts/{buyer.account_id}/members"

    async def story(client: Client) -> tuple[set[str], Any]:
        listed = {tool.name for tool in (await client.list_tools()).tools}
        return listed, await client.call_tool("set_spend_limit", {"ceiling": "0"})

    with served.client() as operator:
        member = operator.post(members, json={**login, "role": "member"}).json()["member_id"]
        token = operator.post("/api/v1/auth/login", json=login).json()["token"]
        with buyer.rest(token) as client:
            secret = client.post(KEYS, json={"name": "own"}).json()["key"]
        for shown in (token, secret):
            listed, result = speak(buyer, shown, story)
            assert listed == KEY_TOOLS
            assert json.loads(result.content[0].text)["error"]["code"] == "insufficient_role"
        assert operator.delete(f"{members}/{member}").status_code == 200
    listed, result = speak(buyer, secret, story)
    assert listed == set()
    assert json.loads(result.content[0].text)["error"]["code"] == "insufficient_role"
    assert buyer.use(buyer.key()["key"]).status_code == 200


def test_a_session_may_speak(buyer: Buyer) -> None:
    """A login's token stands where a key may."""
    assert call(buyer, buyer.token, "get_balance")["balances"]


@pytest.mark.parametrize(
    ("name", "arguments", "param"),
    [
        ("get_usage", {"from": "2026-01-01"}, "from"),
        ("get_usage", {"start": "yesterday"}, "start"),
        ("get_usage", {"group_by": ["person"]}, "group_by[0]"),
        ("search_events", {"limit": 0}, "limit"),
        ("search_events", {"limit": 101}, "limit"),
        ("search_events", {"after": "1; DROP TABLE"}, "after"),
        ("search_events", {"after": "999999999"}, "after"),
        ("search_events", {"key": "no-uuid"}, "key"),
        ("explain_charge", {}, "request_id"),
        ("explain_charge", {"request_id": "x" * 256}, "request_id"),
        ("create_api_key", {"name": "x", "scope": "admin"}, "scope"),
        ("set_spend_limit", {"ceiling": "1e9"}, "ceiling"),
        ("set_spend_limit", {"ceiling": "6"}, "ceiling"),
        ("get_balance", {"account": "acct_1"}, "account"),
    ],
)
def test_wrong_arguments_are_named(
    buyer: Buyer, name: str, arguments: dict[str, Any], param: str
) -> None:
    """400 in words: closed, bounded, and the field is named."""
    error = refused(buyer, buyer.key()["key"], name, **arguments)
    assert (error["code"], error["param"]) == ("invalid_request", param)


def test_an_unknown_tool_is_a_protocol_error(buyer: Buyer) -> None:
    """It is no tool's answer."""

    async def story(client: Client) -> str:
        with pytest.raises(MCPError) as raised:
            await client.call_tool("drop_tables", {})
        return str(raised.value)

    assert speak(buyer, buyer.token, story) == "Unknown tool."


@pytest.mark.parametrize("secret", ["ryv_wrong", "sk-bve-" + "a" * 64, "a.b.c"])
def test_y10_a_bad_key_is_401(buyer: Buyer, secret: str) -> None:
    """Y10: with a challenge, in ryvion's envelope; the official client is not let in."""
    with buyer.rest(secret) as client:
        found = client.post("/mcp", json=PING, headers=ACCEPT)
    assert found.status_code == 401
    assert found.json()["error"]["code"] == "invalid_api_key"
    assert 'error="invalid_token"' in found.headers["www-authenticate"]
    statuses: list[int] = []
    with pytest.raises(BaseExceptionGroup):
        speak(buyer, secret, lambda client: client.list_tools(), statuses=statuses)
    assert set(statuses) == {401}


def test_y10_no_key_is_401(served: Served) -> None:
    """Y10, Y1: nothing is answered to nobody."""
    with served.client(None) as client:
        found = client.post("/mcp", json=PING, headers=ACCEPT)
    assert (found.status_code, found.json()["error"]["code"]) == (401, "missing_api_key")
    assert found.headers["www-authenticate"] == 'Bearer realm="keyledger"'


def test_y7_a_revoked_key_is_refused_on_the_next_call(buyer: Buyer, mode: str) -> None:
    """Y7, Y10: inside one session of the client, the call after the revocation is refused."""
    made = buyer.key()

    async def story(client: Client) -> str:
        first = await client.call_tool("get_balance", {})
        assert not first.is_error
        with buyer.rest() as rest:
            assert rest.delete(f"{KEYS}/{made['id']}").status_code == 204
        try:
            await client.call_tool("get_balance", {})
        except MCPError as error:
            return str(error)
        return "answered"

    statuses: list[int] = []
    said = speak(buyer, made["key"], story, mode, statuses=statuses)
    assert said != "answered"
    assert 401 in statuses
    assert statuses.index(401) == len([each for each in statuses if each != 401])


def test_the_transport_is_bounded_and_worded(buyer: Buyer) -> None:
    """Other methods, media types, sizes and forms are refused in ryvion's envelope."""
    with buyer.rest() as client:
        for method in ("GET", "DELETE"):
            found = client.request(method, "/mcp", headers=ACCEPT)
            assert (found.status_code, found.headers["allow"]) == (405, "POST")
        cases: list[tuple[Any, str, int, str]] = [
            (b"{}", "text/plain", 415, "unsupported_media_type"),
            (b"{", "application/json", 400, "invalid_json"),
            (b'{"id":1,"id":2}', "application/json", 400, "invalid_request"),
            (b"[]", "application/json", 400, "invalid_request"),
            (b'"' + b"x" * 1_048_576 + b'"', "application/json", 413, "request_too_large"),
        ]
        for content, kind, status, code in cases:
            headers = {**ACCEPT, "Content-Type": kind}
            found = client.post("/mcp", content=content, headers=headers)
            assert (found.status_code, found.json()["error"]["code"]) == (status, code)


def test_any_host_is_answered(buyer: Buyer) -> None:
    """Behind a proxy the service has other names: no 421 for anyone who shows a good key."""
    with buyer.rest() as client:
        headers = {**ACCEPT, "Host": "ledger.example.com", "Origin": "https://example.com"}
        found = client.post("/mcp", json=PING, headers=headers)
        assert found.status_code == 200, found.text
        assert found.headers["x-request-id"].startswith("req_")
        assert found.headers["cache-control"] == "no-store"


def test_the_pages_configuration_works(buyer: Buyer) -> None:
    """Y10: the address and header of the page's example, byte for byte but for host and key."""
    key = buyer.key()["key"]
    config = {"url": f"{buyer.served.url}/mcp", "headers": {"Authorization": f"Bearer {key}"}}

    async def run() -> int:
        async with httpx2.AsyncClient(headers=config["headers"]) as http:
            transport = streamable_http_client(config["url"], http_client=http)
            async with Client(transport) as client:
                return len((await client.list_tools()).tools)

    assert asyncio.run(run()) == len(TOOLS)


def test_nobody_pays_for_mcp_who_does_not_ask() -> None:
    """The SDK is imported by the first request to ``/mcp``, not by a worker's start."""
    script = (
        "import sys, api.process.app, api.process.jobs, api.process.serve;"
        " print(*(n for n in ('mcp', 'pydantic', 'starlette', 'jsonschema') if n in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == []
