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

from api.dialects.registry import DIALECTS
from api.process.app import DOCUMENTED, document_at
from tests.conftest import SEED
from tests.dialects.fleet import Fleet, running
from tests.dialects.scene import NATIVE, Scene
from tests.dialects.test_conformance import DRIVERS

pytestmark = pytest.mark.processes

EXAMPLES = 10
"""Of each operation and kind: right and wrong."""
ALWAYS = ("account_id", "from", "to", "id")
"""Parameters of queries that some requests cannot do without though they may stand elsewhere."""
CHECKS = (
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.ignored_auth,
)
WALLETS = "generate_web3_key"
"""Wallet sign-in is off here, which its routes answer by the 503 that the document names."""
DOCUMENTS = {path: document_at(path) for path in DOCUMENTED}
PATHS = {**{name: f"/openapi/{name}.json" for name in DIALECTS}, NATIVE: "/openapi.json"}
"""The native API last: its operator may change everybody's prices."""


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


@pytest.fixture(scope="module")
def fleet(dialects_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A served process, and one that every address may sign up at as often as it likes."""
    home = tmp_path_factory.mktemp("service") / "k"
    with running(dialects_url, home, KEYLEDGER_SIGNUP="1000") as found:
        yield found


@pytest.fixture(scope="module", autouse=True)
def prices(fleet: Fleet) -> dict[str, Any]:
    """The standard rate card as it is before anything is asked."""
    found = fleet.operator.get("/ledger/v1/rate-cards/standard").json()
    sent = ("name", "asset", "models", "aliases", "patterns")
    return {name: found[name] for name in sent if name in found}


@pytest.fixture(scope="module")
def scenes() -> dict[str, Scene]:
    """One scene for each dialect, made when it is first needed."""
    return {}


def is_ruinous(asked: Asked) -> bool:
    """Return whether an operation may leave an account of which nothing works any more."""
    endings = ("/close", "/suspend", "/limits", "{member_id}", "/logout")
    return asked.dialect == NATIVE and asked.label.endswith(endings)


@pytest.fixture
def scene(fleet: Fleet, scenes: dict[str, Scene], asked: Asked) -> Iterator[Scene]:
    """The dialect's scene, for no other operation where this one may ruin it."""
    if asked.dialect not in scenes:
        scenes[asked.dialect] = Scene(fleet, asked.dialect)
    yield scenes[asked.dialect]
    if is_ruinous(asked):
        del scenes[asked.dialect]


def schemes_of(operation: Any) -> list[str]:
    """Return the security schemes by which an operation may be asked; empty: by anybody."""
    raw = operation.definition.raw
    required = raw.get("security", operation.schema.raw_schema.get("security", []))
    return [name for each in required for name in each]


def kinds_of(operation: Any) -> st.SearchStrategy[Any]:
    """Return right examples and wrong ones."""
    modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    return st.one_of([operation.as_strategy(generation_mode=mode) for mode in modes])


@pytest.mark.parametrize("dialect", PATHS)
def test_every_document_is_valid(dialect: str) -> None:
    """Each is OpenAPI 3.1, by the meta-schema of its authors."""
    document = json.loads(DOCUMENTS[PATHS[dialect]])
    assert document["openapi"].startswith("3.1.")
    SCHEMAS[dialect].validate()


@pytest.mark.parametrize("asked", OPERATIONS, ids="-".join)
def test_every_answer_is_as_documented(fleet: Fleet, scene: Scene, asked: Asked) -> None:
    """No 5xx, nothing outside the document, no credential ignored."""
    operation = OPERATIONS[asked]
    examined = CHECKS[WALLETS in asked.label :]
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
    def examine(case: Any, known: bool) -> None:  # noqa: FBT001 - drawn
        if known:
            _fill(case, scene)
        headers = scene.shown.get(next(turns), {})
        case.call_and_validate(base_url=fleet.url, headers=headers, checks=examined)

    examine()


def _fill(case: Any, scene: Scene) -> None:
    """Let a request be about what exists."""
    for name in case.path_parameters or ():
        case.path_parameters[name] = scene.of_path(case.path, name)
    for part in (case.query, case.body):
        if isinstance(part, dict):
            part.update({name: scene.of_request(case.path, name, part[name]) for name in part})


@pytest.mark.parametrize("dialect", PATHS)
def test_what_is_examined_is_what_is_served(fleet: Fleet, dialect: str) -> None:
    """The documents above are, byte for byte, those of the process."""
    found = fleet.client().get(PATHS[dialect])
    assert found.status_code == 200
    assert found.content == DOCUMENTS[PATHS[dialect]]


def _plainly(operation: Any, scene: Scene) -> dict[str, Any]:
    """Return the parts of a request as the document's own example has them."""
    path = operation.full_path
    for parameter in operation.path_parameters:
        text = scene.of_path(operation.full_path, parameter.name)
        path = path.replace(f"{{{parameter.name}}}", text)
    wanted = [each.name for each in operation.query if each.is_required or each.name in ALWAYS]
    known = {name: scene.of_request(operation.full_path, name) for name in wanted}
    query = {name: text for name, text in known.items() if text is not None}
    content = operation.definition.raw.get("requestBody", {}).get("content", {})
    body = content.get("application/json", {}).get("example")
    if isinstance(body, dict):
        path_of = operation.full_path
        body = {name: scene.of_request(path_of, name, value) for name, value in body.items()}
    return {"method": operation.method.upper(), "url": path, "params": query, "json": body}


def _bad(shown: Mapping[str, str], strangers: list[str]) -> Iterator[dict[str, str]]:
    """Yield what is wrong in the place of a good credential."""
    ((name, good),) = shown.items()
    scheme = "Bearer " if name == "Authorization" else ""
    secret = good.removeprefix(scheme)
    cut = secret[:-1] + ("a" if secret[-1] != "a" else "b")
    for text in (cut, secret + "x", "nonsense", *strangers):
        yield {name: scheme + text}
    if scheme:
        yield {name: "Basic " + secret}


@pytest.mark.parametrize("dialect", PATHS)
def test_no_operation_ignores_a_credential(
    fleet: Fleet, scenes: dict[str, Scene], dialect: str
) -> None:
    """Nothing, a mistyped one, another product's: 401 wherever a credential is named at all.

    So it is also where nobody need show one.
    """
    scene = scenes.setdefault(dialect, Scene(fleet, dialect))
    others = [DRIVERS[name].create(scene.house).secret for name in DRIVERS if name != dialect]
    client = fleet.client()
    asked = 0
    for (of, label), operation in OPERATIONS.items():
        schemes = schemes_of(operation)
        if of != dialect or not schemes:
            continue
        parts = {**_plainly(operation, scene), "json": {}}
        for scheme in schemes:
            for headers in _bad(scene.shown[scheme], others):
                if _is_anothers(parts["url"], headers):
                    continue
                found = client.request(**parts, headers=headers)
                assert found.status_code == 401, (label, scheme, headers, found.text)
                asked += 1
        if {} not in operation.definition.raw.get("security", []):
            assert client.request(**parts).status_code == 401, label
    assert asked


def _is_anothers(path: str, headers: Mapping[str, str]) -> bool:
    """Return whether a key is asked in its own dialect: under ``/v1`` its prefix says so."""
    shown = "".join(headers.values()).removeprefix("Bearer ")
    return path.startswith("/v1/") and shown.startswith(("sk-bve-", "ryv_", "rk_"))


@pytest.mark.parametrize("dialect", PATHS)
def test_every_credential_that_is_named_is_taken(
    fleet: Fleet, prices: dict[str, Any], dialect: str
) -> None:
    """Under each scheme of an operation a good credential is neither unknown nor forbidden.

    In a dialect the document's example works, asked about something that exists.
    """
    # Other tests publish what the document has for an example.
    again = {**prices, "confirm": True}
    published = fleet.operator.post("/ledger/v1/rate-cards", json=again)
    assert published.is_success, published.text
    client = fleet.client()
    scene = Scene(fleet, dialect)
    for asked, operation in OPERATIONS.items():
        for scheme in schemes_of(operation) if asked.dialect == dialect else ():
            parts = _plainly(operation, scene)
            found = client.request(**parts, headers=scene.shown[scheme])
            assert found.status_code not in {401, 403}, (asked, scheme, found.text)
            assert found.is_success or dialect == NATIVE, (asked, scheme, found.text)
            if is_ruinous(asked):
                scene = Scene(fleet, dialect)
            elif parts["method"] == "DELETE":
                scene.stock()
