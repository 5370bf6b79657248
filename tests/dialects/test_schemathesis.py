"""Schemathesis over every OpenAPI document that is served, against a process that serves it.

Each operation is asked with examples of its document, right ones and wrong ones, and with things
that exist, under each credential that it names. Everything answered must stand in the document: no
5xx, no other status, media type, header or schema; and no credential may be ignored.
"""

import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from api.front import SURFACES, dialect_documents
from api.openapi import document
from api.operator.routing import ROUTES
from tests.conftest import OPERATOR_SECRET
from tests.dialects.fleet import Fleet, native, running
from tests.dialects.test_conformance import DRIVERS, House, Made

SEED = 20_261_121
EXAMPLES = 12
"""Of each operation and kind: right and wrong."""
NATIVE = "native"
CHECKS = (
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.ignored_auth,
)
DOCUMENTS = {
    "/openapi.json": document(ROUTES),
    **dialect_documents(),
}
PATHS = {NATIVE: "/openapi.json", **{name: f"/openapi/{name}.json" for name in SURFACES}}


class Asked(NamedTuple):
    """An operation of a document."""

    dialect: str
    label: str


def _schema(dialect: str) -> Any:
    found = schemathesis.openapi.from_dict(json.loads(DOCUMENTS[PATHS[dialect]]))
    # Credentials are good ones of ours; wrong ones are the business of a check and of a test.
    found.config.generation.update(with_security_parameters=False)
    return found


SCHEMAS = {dialect: _schema(dialect) for dialect in PATHS}
OPERATIONS = {
    Asked(dialect, result.ok().label): result.ok()
    for dialect, schema in SCHEMAS.items()
    for result in schema.get_all_operations()
}


class Site(NamedTuple):
    """Who asks, and what there is to ask for."""

    fleet: Fleet
    shown: Mapping[str, Mapping[str, Mapping[str, str]]]
    """Dialect → security scheme → headers with a good credential."""
    there: Mapping[str, Mapping[str, str]]
    """Dialect → parameter or field → a value that exists."""


@pytest.fixture(scope="module")
def fleet(
    dialects_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    """A served process, and one that every address may sign up at as often as it likes."""
    home = tmp_path_factory.mktemp("service") / "k"
    with running(dialects_url, home, KEYLEDGER_SIGNUP="1000") as found:
        yield found


def _bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


class Scene:
    """An account with something of everything, and good credentials for one document."""

    def __init__(self, fleet: Fleet, dialect: str) -> None:
        """Make it."""
        self.person = fleet.person(overdraft={"USD": "unlimited"})
        fleet.grant(self.person.account_id, CAD="1000", CREDIT="1000000")
        self.house = House(fleet, fleet.operator, self.person)
        own = dialect in DRIVERS
        self.secret = self._key(fleet, dialect) if own else ""
        self.spare = DRIVERS[dialect if own else "ryvion"].create(self.house)
        self.shown = {
            "key": _bearer(self.secret),
            "api_key": {"X-API-Key": self.secret},
            "session": _bearer(self.person.token),
            "member": _bearer(self.person.token),
            "operator": _bearer(OPERATOR_SECRET),
        }
        self.there = {
            "account_id": self.person.account_id,
            "character": self.house.character,
            "model": "keyledger-small",
            "slug": self.house.character,
            "key_id": self.spare.key_id,
            "id": self.spare.key_id,
            "user_session_id": "player-001",
        }
        if dialect == NATIVE:
            self.there["key_id"] = native(self.spare.key_id).rpartition("/")[2]
        if dialect == "reverie":
            self.there["model"] = self.house.character
        if dialect == "foil":
            self._play(fleet)

    def _key(self, fleet: Fleet, dialect: str) -> str:
        """Make a key that may ask as often as it likes."""
        create = DRIVERS[dialect].create
        if dialect == "venice":
            create = _create_admin
        made = create(self.house)
        fleet.lift(made.key_id)
        return made.secret

    def _play(self, fleet: Fleet) -> None:
        with fleet.client() as client:
            client.headers.update(self.shown["api_key"])
            personas = client.get("/api/v1/sdk/personas").json()
            self.there["persona_id"] = personas[0]["id"]
            body = {"user_session_id": "player-001", "player_name": "A", "player_gender": "male"}
            path = f"/api/v1/sdk/chat/{personas[0]['id']}/init-session"
            begun = client.post(path, json=body)
            assert begun.status_code == 200, begun.text
            self.there["machine_id"] = begun.json()["machine_id"]


def _create_admin(house: House) -> Any:
    body = {"apiKeyType": "ADMIN", "description": "manager"}
    made = house.person.client.post("/api/v1/api_keys", json=body).json()["data"]
    return Made(made["id"], made["apiKey"], None)


@pytest.fixture(scope="module")
def scenes(fleet: Fleet) -> dict[str, Scene]:
    """One scene for each dialect, made when it is first needed."""
    return {}


@pytest.fixture
def scene(fleet: Fleet, scenes: dict[str, Scene], asked: Asked) -> Scene:
    """The dialect's scene; a fresh one where the native API may close what it has."""
    fresh = asked.dialect == NATIVE and not asked.label.startswith("GET")
    if fresh or asked.dialect not in scenes:
        scenes[asked.dialect] = Scene(fleet, asked.dialect)
    return scenes[asked.dialect]


def schemes_of(operation: Any) -> list[str]:
    """Give the security schemes by which an operation may be asked; empty: by anybody."""
    raw = operation.definition.raw
    required = raw.get("security", operation.schema.raw_schema.get("security", []))
    return [name for each in required for name in each]


def kinds_of(operation: Any) -> st.SearchStrategy[Any]:
    """Give right examples and wrong ones; of what cannot be wrong, right ones."""
    kinds = [operation.as_strategy(generation_mode=GenerationMode.POSITIVE)]
    kinds += [operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)]
    return st.one_of(kinds)


@pytest.mark.parametrize("asked", OPERATIONS, ids="-".join)
def test_every_answer_is_as_documented(fleet: Fleet, scene: Scene, asked: Asked) -> None:
    """No 5xx, nothing outside the document, no credential ignored."""
    operation = OPERATIONS[asked]
    turns = itertools.cycle(schemes_of(operation) or [""])

    @seed(SEED)
    @settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
    )
    @given(kinds_of(operation), st.booleans())
    def examine(case: Any, known: bool) -> None:
        if known:
            _fill(case, scene.there)
        headers = scene.shown.get(next(turns), {})
        case.call_and_validate(base_url=fleet.url, headers=headers, checks=CHECKS)

    examine()


def _fill(case: Any, there: Mapping[str, str]) -> None:
    for part in (case.path_parameters, case.query, case.body):
        if isinstance(part, dict):
            part.update({name: text for name, text in there.items() if name in part})
