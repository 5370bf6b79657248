"""Characters over HTTP: every route, every role's part, every tenant's view, bad input."""

import secrets
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest

from api.beside.characters import CHARACTERS_MAX, DESCRIPTION_MAX
from api.identity import auth

PASSWORD = "correct horse battery"
NEVER = "00000000-0000-7000-8000-00000000abcd"
PATH = "/ledger/v1/characters"
BODY: dict[str, Any] = {
    "name": "Luna",
    "description": "Keeps the lighthouse.",
    "greeting": "Welcome, {player}.",
    "system_prompt": "You are Luna.",
    "scenarios": [
        {"name": "Storm", "greeting": "Quick!", "system_prompt": "A storm is coming."},
        {"name": "Calm", "slug": "still", "description": "No wind."},
    ],
}


class Tenant(NamedTuple):
    """An account and its members' clients by role."""

    account: str
    roles: dict[str, httpx.Client]

    @property
    def owner(self) -> httpx.Client:
        """Return the owner's client."""
        return self.roles["owner"]

    def make(self, **terms: Any) -> dict[str, Any]:
        """Make a character under a slug of its own."""
        slug = f"luna-{secrets.token_hex(6)}"
        return answered(self.owner.post(PATH, json={**BODY, "slug": slug, **terms}), 201)


def answered(answer: httpx.Response, status: int = 200) -> Any:
    """Expect a status and give what was answered."""
    assert answer.status_code == status, answer.text
    return answer.json()


def refused(answer: httpx.Response, status: int, code: str) -> Any:
    """Expect a problem."""
    found = answered(answer, status)
    assert found["code"] == code
    assert answer.headers["Content-Type"] == "application/problem+json"
    return found


def a_tenant(served: Any, operator: httpx.Client) -> Tenant:
    """Open an account with one member of each role."""
    account = answered(operator.post("/ledger/v1/accounts", json={"name": "T"}), 201)["account_id"]
    roles = {}
    for role in auth.ROLES:
        email = f"{role}-{secrets.token_hex(4)}@example.com"
        body = {"email": email, "password": PASSWORD, "role": role}
        answered(operator.post(f"/ledger/v1/accounts/{account}/members", json=body), 201)
        login = {"email": email, "password": PASSWORD}
        tokens = answered(operator.post("/ledger/v1/login", json=login))
        roles[role] = served.client(tokens["access_token"])
    return Tenant(account, roles)


@pytest.fixture(scope="module")
def tenants(served: Any, operator: httpx.Client) -> Iterator[tuple[Tenant, Tenant]]:
    """Two accounts that have nothing to do with each other."""
    found = a_tenant(served, operator), a_tenant(served, operator)
    yield found
    for tenant in found:
        for client in tenant.roles.values():
            client.close()


@pytest.fixture
def ours(tenants: tuple[Tenant, Tenant]) -> Tenant:
    """The account that a test is about."""
    return tenants[0]


@pytest.fixture
def theirs(tenants: tuple[Tenant, Tenant]) -> Tenant:
    """Somebody else's."""
    return tenants[1]


def test_a_character_lives(ours: Tenant) -> None:
    """Made, shown, found, changed, published, withdrawn: every answer is the whole character."""
    made = ours.make()
    path = f"{PATH}/{made['character_id']}"
    assert {name: made[name] for name in ("name", "greeting", "system_prompt", "description")} == {
        name: BODY[name] for name in ("name", "greeting", "system_prompt", "description")
    }
    assert (made["status"], made["multiplier"], made["version"]) == ("draft", "1.0", 1)
    assert made["account_id"] == ours.account
    assert [each["slug"] for each in made["scenarios"]] == ["storm", "still"]
    shown = ours.owner.get(path)
    assert answered(shown) == made
    assert shown.headers["ETag"] == '"1"'
    assert answered(ours.owner.get(f"{PATH}/by-slug/{made['slug']}")) == made
    changed = answered(ours.owner.patch(path, json={"name": "Luna II", "scenarios": []}))
    assert changed == {
        **made,
        "name": "Luna II",
        "scenarios": [],
        "version": 2,
        "updated_at": changed["updated_at"],
    }
    for act, status in (("publish", "published"), ("withdraw", "withdrawn")):
        assert answered(ours.owner.post(f"{path}/{act}"))["status"] == status
    assert answered(ours.owner.post(f"{path}/publish", json={}))["version"] == 5


def test_a_slug_of_any_script_is_found(ours: Tenant) -> None:
    """The path is read as UTF-8."""
    name = f"Людмила {secrets.token_hex(4)}"
    made = ours.make(name=name, slug="")
    found = ours.owner.get(f"{PATH}/by-slug/{name.lower().replace(' ', '-')}")
    assert answered(found)["character_id"] == made["character_id"]


def test_promise_15_anothers_draft_is_as_absent_as_nothing(ours: Tenant, theirs: Tenant) -> None:
    """Promise 15: every route answers about it what it answers about an id that never was."""
    draft = theirs.make()
    acts = [
        ("GET", "", None),
        ("PATCH", "", {"name": "x"}),
        ("POST", "/publish", None),
        ("POST", "/withdraw", None),
        ("POST", "/chats", {}),
        ("DELETE", "", None),
    ]
    for method, tail, body in acts:
        answers = [
            ours.owner.request(method, f"{PATH}/{character_id}{tail}", json=body)
            for character_id in (draft["character_id"], NEVER, "x", NEVER.replace("-", ""))
        ]
        refused(answers[0], 404, "no_such_character")
        assert len({each.content for each in answers}) == 1
    slugs = [ours.owner.get(f"{PATH}/by-slug/{slug}") for slug in (draft["slug"], "never")]
    assert slugs[0].content == slugs[1].content
    assert answered(theirs.owner.get(f"{PATH}/{draft['character_id']}")) == draft


def test_promise_15_a_public_character_keeps_its_authors_secrets(
    ours: Tenant, theirs: Tenant, operator: httpx.Client
) -> None:
    """Promise 15: others read and list it, without prompts and owner, and change nothing."""
    made = theirs.make()
    path = f"{PATH}/{made['character_id']}"
    answered(theirs.owner.post(f"{path}/publish"))
    for where in (path, f"{PATH}/by-slug/{made['slug']}"):
        answer = ours.owner.get(where)
        found = answered(answer)
        assert (found["slug"], found["greeting"]) == (made["slug"], BODY["greeting"])
        assert (found["account_id"], found["system_prompt"]) == (None, None)
        assert {each["system_prompt"] for each in found["scenarios"]} == {None}
        assert "You are Luna" not in answer.text
        assert theirs.account not in answer.text
    listed = answered(ours.owner.get(PATH, params={"scope": "usable"}))["data"]
    (line,) = [each for each in listed if each["character_id"] == made["character_id"]]
    assert (line["account_id"], line["scenarios"]) == (None, ["storm", "still"])
    own = answered(ours.owner.get(PATH))["data"]
    assert made["character_id"] not in {each["character_id"] for each in own}
    for method, tail in (("PATCH", ""), ("POST", "/withdraw"), ("DELETE", "")):
        answer = ours.owner.request(method, path + tail, json={} if method == "PATCH" else None)
        refused(answer, 404, "no_such_character")
    assert answered(operator.get(path))["system_prompt"] == BODY["system_prompt"]


def test_whoever_names_another_account_is_told_there_is_none(ours: Tenant, theirs: Tenant) -> None:
    """Promise 15: a member acts in its own account, whatever the body or the query says."""
    named = {"account_id": theirs.account}
    never = {"account_id": "acct_" + "0" * 32}
    made = ours.make()
    for account in (named, never):
        answers = [
            ours.owner.post(PATH, json={**BODY, **account}),
            ours.owner.get(PATH, params=account),
            ours.owner.get(f"{PATH}/by-slug/x", params=account),
            ours.owner.get(f"{PATH}/recent-chat", params=account),
            ours.owner.post(f"{PATH}/{made['character_id']}/chats", json=account),
        ]
        for answer in answers:
            refused(answer, 404, "no_such_account")
    assert answered(ours.owner.post(PATH, json={**BODY, "account_id": ours.account}), 201)


def test_the_operator_acts_for_an_account_that_it_names(
    ours: Tenant, operator: httpx.Client
) -> None:
    """It has none of its own to go without saying; ids alone tell whose a character is."""
    for answer in (
        operator.post(PATH, json=BODY),
        operator.get(PATH),
        operator.get(f"{PATH}/by-slug/luna"),
        operator.get(f"{PATH}/recent-chat"),
    ):
        assert refused(answer, 400, "invalid_field")["errors"][0]["field"] == "account_id"
    refused(
        operator.post(PATH, json={**BODY, "account_id": "acct_" + "0" * 32}), 404, "no_such_account"
    )
    body = {**BODY, "account_id": ours.account, "multiplier": "10.0"}
    made = answered(operator.post(PATH, json=body), 201)
    assert (made["multiplier"], made["account_id"]) == ("10.0", ours.account)
    assert answered(ours.owner.get(f"{PATH}/{made['character_id']}")) == made
    path = f"{PATH}/{made['character_id']}"
    assert answered(operator.patch(path, json={"multiplier": "1.1"}))["multiplier"] == "1.1"
    listed = answered(operator.get(PATH, params={"account_id": ours.account}))["data"]
    assert {each["account_id"] for each in listed} == {ours.account}
    answered(operator.delete(path))
    refused(ours.owner.get(path), 404, "no_such_character")


def test_a_member_sets_no_price(ours: Tenant) -> None:
    """The multiplier is what others pay: it is the operator's to set."""
    path = f"{PATH}/{ours.make()['character_id']}"
    for answer in (
        ours.owner.post(PATH, json={**BODY, "multiplier": "1.0"}),
        ours.owner.patch(path, json={"multiplier": "1.1"}),
    ):
        refused(answer, 403, "role_is_denied")


@pytest.mark.parametrize("role", auth.ROLES)
def test_roles(ours: Tenant, role: str) -> None:
    """Owners and members write, finance and auditors read, all of their own account."""
    client, writes = ours.roles[role], role in {"owner", "member"}
    made = ours.make()
    path = f"{PATH}/{made['character_id']}"
    for answer in (
        client.get(path),
        client.get(PATH),
        client.get(f"{PATH}/by-slug/{made['slug']}"),
    ):
        answered(answer)
    written = {
        client.post(PATH, json=BODY).status_code,
        client.patch(path, json={"name": "x"}).status_code,
        client.post(f"{path}/chats").status_code,
        client.post(f"{path}/publish").status_code,
        client.post(f"{path}/withdraw").status_code,
        client.delete(f"{PATH}/{ours.make()['character_id']}").status_code,
    }
    assert written == ({200, 201} if writes else {403})


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "  "}, "name"),
        ({"name": 7}, "name"),
        ({"name": "x" * 256}, "name"),
        ({"name": "x", "slug": "Not A Slug"}, "slug"),
        ({"name": "x", "description": "x" * (DESCRIPTION_MAX + 1)}, "description"),
        ({"name": "x", "greeting": None}, "greeting"),
        ({"name": "x", "system_prompt": "x" * 40_000}, "system_prompt"),
        ({"name": "x", "system_prompt": "sk-bve-" + "a" * 64}, "system_prompt"),
        ({"name": "x", "greeting": "a\u0000b"}, "greeting"),
        ({"name": "x", "scenarios": [{}]}, "scenarios[0].name"),
        ({"name": "x", "scenarios": [{"name": "a"}] * 51}, "scenarios"),
        ({"name": "x", "scenarios": [{"name": "a", "slug": "a"}] * 2}, "scenarios"),
        ({"name": "x", "scenarios": [{"name": "a", "model": "gpt-4o"}]}, "scenarios[0].model"),
        ({"name": "x", "api_key": "sk-123"}, "api_key"),
        ({"name": "x", "status": "published"}, "status"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_character_names_its_field(ours: Tenant, body: Any, field: str) -> None:
    """R2: no field takes a provider's key; what is out of bounds is a 400, never a 500."""
    answer = ours.owner.post(PATH, json=body)
    assert refused(answer, 400, "invalid_field")["errors"][0]["field"] == field
    assert "a" * 64 not in answer.text


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("?limit=0", "limit"),
        ("?limit=1001", "limit"),
        ("?after=x", "after"),
        ("?scope=all", "scope"),
        ("?slug=x", "slug"),
        ("/by-slug/x?limit=1", "limit"),
        ("/recent-chat?x=1", "x"),
    ],
)
def test_a_wrong_query_names_its_parameter(ours: Tenant, path: str, field: str) -> None:
    """F6: a parameter that would be ignored is refused."""
    answer = ours.owner.get(PATH + path)
    assert refused(answer, 400, "invalid_field")["errors"][0]["field"] == field


def test_an_idempotency_key_makes_one(ours: Tenant) -> None:
    """A repetition answers what was made and says so; another body under the key is refused."""
    headers = {"Idempotency-Key": f"k-{secrets.token_hex(4)}"}
    body = {**BODY, "name": f"Once {headers['Idempotency-Key']}"}
    first, again = [ours.owner.post(PATH, json=body, headers=headers) for _ in range(2)]
    assert answered(again, 201) == answered(first, 201)
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    other = ours.owner.post(PATH, json={**body, "name": "Other"}, headers=headers)
    refused(other, 422, "idempotency_key_is_taken")


def test_if_match_guards_against_a_lost_update(ours: Tenant) -> None:
    """A change of an older version is 412."""
    path = f"{PATH}/{ours.make()['character_id']}"
    etag = {"If-Match": ours.owner.get(path).headers["ETag"]}
    changed = ours.owner.patch(path, json={"name": "b"}, headers=etag)
    assert answered(changed)["name"] == "b"
    refused(ours.owner.patch(path, json={"name": "c"}, headers=etag), 412, "version_is_outdated")
    etag = {"If-Match": changed.headers["ETag"]}
    assert answered(ours.owner.patch(path, json={"name": "c"}, headers=etag))["name"] == "c"


def test_conflicts_are_told(ours: Tenant, theirs: Tenant) -> None:
    """A taken slug, a draft that is withdrawn, a published one that is deleted: 409."""
    made = ours.make()
    path, slug = f"{PATH}/{made['character_id']}", {"slug": made["slug"]}
    refused(ours.owner.post(PATH, json={**BODY, **slug}), 409, "slug_is_taken")
    refused(ours.owner.post(f"{path}/withdraw"), 409, "character_is_not_published")
    answered(ours.owner.post(f"{path}/publish"))
    refused(ours.owner.delete(path), 409, "character_is_no_draft")
    same = theirs.make(**slug)
    publish = f"{PATH}/{same['character_id']}/publish"
    refused(theirs.owner.post(publish), 409, "slug_is_taken")
    assert CHARACTERS_MAX == 1_000


def test_lists_are_paged(theirs: Tenant) -> None:
    """Every character is on exactly one page, newest first, without its long texts."""
    made = [theirs.make()["character_id"] for _ in range(5)]
    seen: list[dict[str, Any]] = []
    query: dict[str, Any] = {"limit": 2}
    while True:
        page = answered(theirs.owner.get(PATH, params=query))
        seen += page["data"]
        if not page["has_more"]:
            break
        query["after"] = page["next"]
    ids = [each["character_id"] for each in seen]
    assert ids == sorted(set(ids), reverse=True)
    assert set(made) <= set(ids)
    assert all("system_prompt" not in each and "greeting" not in each for each in seen)


def test_r14_a_web_chat_is_noted(ours: Tenant, served: Any, operator: httpx.Client) -> None:
    """R14: the platform says with whom its users chat; the latest is what keys go on with."""
    fresh = a_tenant(served, operator)
    refused(fresh.owner.get(f"{PATH}/recent-chat"), 404, "no_chat")
    luna, public = fresh.make(), ours.make()
    answered(ours.owner.post(f"{PATH}/{public['character_id']}/publish"))
    chats = f"{PATH}/{luna['character_id']}/chats"
    noted = answered(fresh.owner.post(chats, json={"scenario": "storm"}))
    assert (noted["slug"], noted["scenario"], noted["via"]) == (luna["slug"], "storm", "web")
    refused(fresh.owner.post(chats, json={"scenario": "none"}), 404, "no_such_character")
    answered(fresh.owner.post(f"{PATH}/{public['character_id']}/chats"))
    recent = answered(fresh.owner.get(f"{PATH}/recent-chat"))
    assert (recent["slug"], recent["scenario"]) == (public["slug"], "")
    answered(operator.post(chats, json={"account_id": fresh.account}))
    asked = operator.get(f"{PATH}/recent-chat", params={"account_id": fresh.account})
    assert answered(asked)["slug"] == luna["slug"]
    for client in fresh.roles.values():
        client.close()


def test_a_closed_accounts_characters_are_gone_from_the_public(
    ours: Tenant, served: Any, operator: httpx.Client
) -> None:
    """From the answer to the closing on nobody is shown them, and it makes no more."""
    gone = a_tenant(served, operator)
    made = gone.make()
    path = f"{PATH}/{made['character_id']}"
    answered(gone.owner.post(f"{path}/publish"))
    answered(ours.owner.get(path))
    answered(operator.post(f"/ledger/v1/accounts/{gone.account}/close"))
    refused(ours.owner.get(path), 404, "no_such_character")
    refused(ours.owner.get(f"{PATH}/by-slug/{made['slug']}"), 404, "no_such_character")
    listed = answered(ours.owner.get(PATH, params={"scope": "usable"}))["data"]
    assert made["character_id"] not in {each["character_id"] for each in listed}
    body = {**BODY, "account_id": gone.account}
    refused(operator.post(PATH, json=body), 409, "account_is_closed")
    for client in gone.roles.values():
        client.close()


def test_characters_are_no_events(ours: Tenant) -> None:
    """What an author writes is in no event: the account's chain does not grow with it."""
    events = f"/ledger/v1/accounts/{ours.account}/events"
    before = ours.owner.get(events).json()["data"][0]["version"]
    ours.make(name="A name that is nowhere else")
    answer = ours.owner.get(events)
    assert answer.json()["data"][0]["version"] == before
    assert "nowhere else" not in answer.text
