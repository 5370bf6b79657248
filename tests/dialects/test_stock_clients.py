"""Stock clients against the command itself: `keyledger serve`, its own database, two workers.

Nothing of the service is in this process, and nothing of the clients is changed: each is told a
base URL and a key, as its user would.
"""

import asyncio
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import anthropic
import httpx
import httpx2
import openai
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from tests.faults.rig import READY_SECONDS, TLS, free_port, until

pytestmark = pytest.mark.processes

SECRET = "operator-secret-of-this-command"
COMMAND = Path(sys.executable).with_name("keyledger")
SMALL, EMBEDDING = "keyledger-small", "keyledger-embedding"
HELLO: Any = [{"role": "user", "content": "What is a ledger?"}]
CLIENTS = 4
"""So many after one another, each over a connection of its own, which either worker may take."""


class Command:
    """The command, running."""

    def __init__(self, home: Path) -> None:
        """Start it on a free port with a data directory that is not there yet."""
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = home.parent / "log"
        kept = {name: text for name, text in os.environ.items() if name[:10] != "KEYLEDGER_"}
        kept |= {"KEYLEDGER_HOME": str(home), "KEYLEDGER_ADMIN_SECRET": SECRET}
        with self._log.open("wb") as words:
            self._process = subprocess.Popen(
                [COMMAND, "serve", "--port", str(self.port), "--workers", "2"],
                env=kept,
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                cwd=home.parent,
            )

    def is_ready(self) -> bool:
        """Return whether it serves."""
        assert self._process.poll() is None, self._log.read_text()
        try:
            return self.get("/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    def get(self, path: str, secret: str = "") -> httpx.Response:
        """Get something."""
        return self.ask("GET", path, secret)

    def post(self, path: str, body: Any, secret: str = "") -> Any:
        """Post something, and return what comes back."""
        found = self.ask("POST", path, secret, body)
        assert found.is_success, found.text
        return found.json()

    def ask(self, method: str, path: str, secret: str, body: Any = None) -> httpx.Response:
        """Ask over a connection of its own, showing a secret or a token where there is one."""
        shown = {"Authorization": f"Bearer {secret}"} if secret else {}
        url = self.url + path
        return httpx.request(method, url, headers=shown, json=body, timeout=30, verify=TLS)

    def stop(self) -> int:
        """Stop it as Ctrl-C does; return its exit code."""
        self._process.terminate()
        try:
            return self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise


@pytest.fixture(scope="module")
def command() -> Iterator[Command]:
    """Run the command for the module, and see that it ends well."""
    # Not among pytest's directories: those are closed to the database's user.
    with tempfile.TemporaryDirectory(prefix="keyledger-tests-") as made:
        Path(made).chmod(0o711)
        found = Command(Path(made) / "home")
        try:
            until(found.is_ready, within=READY_SECONDS)
            yield found
        finally:
            code = found.stop()
        assert code == 0


class Person(NamedTuple):
    """Somebody who signed up, and their account by its native id."""

    token: str
    account: str


@pytest.fixture(scope="module")
def person(command: Command) -> Person:
    """Sign up, as anybody may; one login serves all dialects."""
    body = {"email": "ada@example.com", "password": secrets.token_hex(12), "name": "Ada"}
    made = command.post("/api/v1/auth/signup", body)
    return Person(made["token"], f"acct_{made['buyer_id'].replace('-', '')}")


def clients(command: Command, base: str, key: str) -> Iterator[openai.OpenAI]:
    """Yield OpenAI's client with a base URL and a key, again and again."""
    for _ in range(CLIENTS):
        with openai.OpenAI(base_url=command.url + base, api_key=key) as client:
            yield client


def talk(client: openai.OpenAI, model: str) -> tuple[str, int]:
    """Chat, whole and streamed, which must say the same; return the text and its tokens."""
    whole = client.chat.completions.create(model=model, messages=HELLO)
    text = whole.choices[0].message.content
    assert text
    assert whole.model == model
    stream = client.chat.completions.create(
        model=model, messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    said = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(said) == text
    assert len(said) > 2
    assert {chunk.model for chunk in chunks} == {model}
    assert whole.usage is not None
    assert chunks[-1].usage == whole.usage
    plain = client.chat.completions.create(model=model, messages=HELLO, stream=True)
    assert not any(chunk.usage for chunk in plain)
    return text, whole.usage.total_tokens


def embed(client: openai.OpenAI) -> None:
    """Turn texts into vectors, one alone as among others."""
    found = client.embeddings.create(model=EMBEDDING, input=["ledger", "key"])
    alone = client.embeddings.create(model=EMBEDDING, input="key", encoding_format="float")
    assert [each.index for each in found.data] == [0, 1]
    assert found.data[1].embedding == pytest.approx(alone.data[0].embedding, abs=1e-6)
    assert found.usage.prompt_tokens > alone.usage.prompt_tokens > 0


def answer(client: openai.OpenAI) -> None:
    """Ask for a response, whole and streamed."""
    whole = client.responses.create(model=SMALL, input="What is a ledger?")
    assert whole.output_text
    with client.responses.stream(model=SMALL, input="What is a ledger?") as stream:
        pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
        last = stream.get_final_response()
    assert "".join(pieces) == last.output_text == whole.output_text
    assert last.usage == whole.usage


def test_openais_client_speaks_bve(command: Command) -> None:
    """bve: models, chat, streaming, embeddings, responses, completions; and its refusals."""
    made = command.post("/admin/api-keys", {"name": "my-client"}, SECRET)
    for client in clients(command, "/v1", made["key"]):
        assert {SMALL, EMBEDDING} < {model.id for model in client.models.list()}
        assert client.models.retrieve(SMALL).id == SMALL
        talk(client, SMALL)
        embed(client)
        answer(client)
        assert client.completions.create(model=SMALL, prompt="A ledger is").choices[0].text
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("no-such-model")
    month = command.get(f"/admin/usage?key_id={made['id']}", SECRET).json()["monthly"]
    assert month[0]["totalTokens"] > 0
    command.post(f"/admin/api-keys/{made['id']}/revoke", {}, SECRET)
    for client in clients(command, "/v1", made["key"]):
        with pytest.raises(openai.PermissionDeniedError) as refused:
            client.chat.completions.create(model=SMALL, messages=HELLO)
        assert refused.value.code == "api_key_revoked"


def test_openais_client_speaks_ryvion(command: Command, person: Person) -> None:
    """ryvion: models, chat, streaming, embeddings, responses; scopes are permissions."""
    path = "/api/v1/auth/api-keys"
    key = command.post(path, {"name": "bot"}, person.token)["key"]
    reader = command.post(path, {"name": "dashboard", "scope": "read-only"}, key)["key"]
    for client in clients(command, "/v1", key):
        assert {SMALL, EMBEDDING} < {model.id for model in client.models.list()}
        talk(client, SMALL)
        embed(client)
        answer(client)
    for client in clients(command, "/v1", reader):
        assert client.models.retrieve(SMALL).id == SMALL
        with pytest.raises(openai.PermissionDeniedError) as refused:
            client.embeddings.create(model=EMBEDDING, input="key")
        assert refused.value.code == "insufficient_scope"
    billing = command.get("/api/v1/auth/billing", reader).json()
    assert billing["currency"] == "CAD"
    assert [line["name"] for line in billing["spend"]] == ["bot"]


def test_anthropics_client_speaks_ryvion(command: Command, person: Person) -> None:
    """Ryvion's /v1/messages: whole, streamed, and a refusal that the client tells by its class."""
    key = command.post("/api/v1/auth/api-keys", {"name": "claude"}, person.token)["key"]
    with anthropic.Anthropic(base_url=command.url, api_key=key) as client:
        whole = client.messages.create(model=SMALL, max_tokens=64, messages=HELLO)
        assert whole.usage.output_tokens > 0
        with client.messages.stream(model=SMALL, max_tokens=64, messages=HELLO) as stream:
            assert "".join(stream.text_stream) == whole.content[0].text
            assert stream.get_final_message().usage.output_tokens == whole.usage.output_tokens
    wrong = key[:-1] + ("a" if key[-1] != "a" else "b")
    with (
        anthropic.Anthropic(base_url=command.url, api_key=wrong) as client,
        pytest.raises(anthropic.AuthenticationError),
    ):
        client.messages.create(model=SMALL, max_tokens=64, messages=HELLO)


def test_openais_client_speaks_venice(command: Command, person: Person) -> None:
    """venice: models, chat, streaming, embeddings, by its own base URL and an INFERENCE key."""
    body = {"apiKeyType": "INFERENCE", "description": "bot", "consumptionLimit": {"usd": 1}}
    made = command.post("/api/v1/api_keys", body, person.token)["data"]
    for client in clients(command, "/api/v1", made["apiKey"]):
        assert {SMALL, EMBEDDING} <= {model.id for model in client.models.list()}
        talk(client, SMALL)
        embed(client)
        with pytest.raises(openai.NotFoundError) as absent:
            client.chat.completions.create(model="none", messages=HELLO)
        assert absent.value.response.json() == {"error": "Specified model not found: none"}
    details = command.get(f"/api/v1/api_keys/{made['id']}", person.token).json()["data"]
    assert float(details["currentPeriodUsage"]["usd"]) > 0


def test_openais_client_speaks_reverie(command: Command, person: Person) -> None:
    """reverie: characters are its models; credits are tokens, to the last one."""
    luna = {"name": "Luna", "scenarios": [{"name": "Storm", "system_prompt": "A storm comes."}]}
    slug = command.post("/api/v1/characters/import", luna, person.token)["slug"]
    path = f"/ledger/v1/accounts/{person.account}"
    body = {"name": "bot", "dialect": "reverie"}
    key = command.post(f"{path}/keys", body, person.token)["secret"]
    spent = 0
    for client in clients(command, "/api/device/v1", key):
        assert slug in {model.id for model in client.models.list()}
        assert client.models.retrieve(f"{slug}/storm").id == f"{slug}/storm"
        for model in (slug, f"{slug}/storm"):
            # Asked three times: whole, streamed, and streamed without usage.
            spent += 3 * talk(client, model)[1]
    found = command.get(f"{path}/balances", person.token).json()["balances"]
    (left,) = [each["balance"] for each in found if each["asset"] == "CREDIT"]
    assert int(left) == 100_000 - spent


@pytest.mark.parametrize("base", ["/v1", "/api/v1", "/api/device/v1"])
def test_openais_client_is_told_of_a_wrong_key(command: Command, base: str) -> None:
    """A key that is none is an AuthenticationError of the client's own kind, in every dialect."""
    for client in clients(command, base, "sk-something-else"):
        with pytest.raises(openai.AuthenticationError):
            client.chat.completions.create(model=SMALL, messages=HELLO)


def test_openais_asynchronous_client_asks_at_once(command: Command) -> None:
    """Thirty chats at once, over as many connections as it likes: each says the same."""
    key = command.post("/admin/api-keys", {"name": "async"}, SECRET)["key"]

    async def run() -> set[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{command.url}/v1", api_key=key) as client:
            asked = [client.chat.completions.create(model=SMALL, messages=HELLO) for _ in range(30)]
            return {each.choices[0].message.content for each in await asyncio.gather(*asked)}

    assert len(asyncio.run(run())) == 1


def speak(command: Command, key: str, *calls: tuple[str, dict[str, Any]]) -> list[Any]:
    """Let the official MCP client list the tools and call some; return names, then results."""

    async def run() -> list[Any]:
        headers = {"Authorization": f"Bearer {key}"}
        async with httpx2.AsyncClient(headers=headers, timeout=30) as http:
            transport = streamable_http_client(f"{command.url}/mcp", http_client=http)
            async with Client(transport) as client:
                listed = {tool.name for tool in (await client.list_tools()).tools}
                return [listed, *[await client.call_tool(name, given) for name, given in calls]]

    return asyncio.run(run())


def test_the_official_mcp_client_speaks_to_mcp(command: Command, person: Person) -> None:
    """Y10: the key of REST lists and calls; what it makes works with OpenAI's client."""
    path = "/api/v1/auth/api-keys"
    key = command.post(path, {"name": "agent"}, person.token)["key"]
    child = {"name": "child", "scope": "write-only"}
    listed, balance, made = speak(command, key, ("get_balance", {}), ("create_api_key", child))
    assert {"get_balance", "create_api_key", "explain_charge"} <= listed
    assert "CAD" in {each["asset"] for each in balance.structured_content["balances"]}
    secret = made.structured_content["key"]
    for client in clients(command, "/v1", secret):
        reply = client.chat.completions.with_raw_response.create(model=SMALL, messages=HELLO)
        asked = {"request_id": reply.headers["x-request-id"]}
        _, explained = speak(command, key, ("explain_charge", asked))
        assert explained.structured_content["status"] == "settled"
        assert explained.structured_content["model"] == SMALL
    assert speak(command, secret) == [set()]


def test_the_official_mcp_client_is_refused_with_a_revoked_key(
    command: Command, person: Person
) -> None:
    """Y7: after the revocation neither worker lets it in."""
    path = "/api/v1/auth/api-keys"
    made = command.post(path, {"name": "gone"}, person.token)
    assert speak(command, made["key"])[0]
    found = command.ask("DELETE", f"{path}/{made['id']}", person.token)
    assert found.status_code == 204
    for _ in range(CLIENTS):
        with pytest.raises((MCPError, BaseExceptionGroup)):
            speak(command, made["key"])
