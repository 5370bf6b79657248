"""Paths are found by their segments, as they were sent."""

import pytest

from api.http.paths import Paths


@pytest.fixture
def paths() -> Paths[str]:
    """A tree with a fixed place beside a parameter, and a rest."""
    made: Paths[str] = Paths()
    made.add("/things", "all")
    made.add("/things/{id}", "one")
    made.add("/things/import", "import")
    made.add("/things/{id}/parts/{part}", "part")
    made.add("/store/{rest*}", "store")
    made.add("/store/front", "front")
    return made


@pytest.mark.parametrize(
    ("raw", "served", "parameters"),
    [
        (b"/things", "all", {}),
        (b"/things?x=1", "all", {}),
        (b"/things/7", "one", {"id": "7"}),
        (b"/things/import", "import", {}),
        (b"/things/a%2Fb", "one", {"id": "a/b"}),
        (b"/things/7/parts/8", "part", {"id": "7", "part": "8"}),
        (b"/store/front", "front", {}),
        (b"/store/a/b", "store", {"rest": "a/b"}),
        (b"/store/front/a", "store", {"rest": "front/a"}),
    ],
)
def test_a_path_is_found(
    paths: Paths[str], raw: bytes, served: str, parameters: dict[str, str]
) -> None:
    """A fixed segment goes before a parameter, and that before a rest."""
    found, given = paths.find(raw)
    assert found == served
    assert {name: given[name] for name in parameters} == parameters


@pytest.mark.parametrize(
    "raw", [b"/", b"", b"/thing", b"/things/", b"/things/7/parts", b"/things//parts/8", b"/store"]
)
def test_a_path_is_not_found(paths: Paths[str], raw: bytes) -> None:
    """What nobody added is nobody's; an empty segment is no parameter."""
    assert paths.find(raw)[0] is None
