"""House rule: all use of the service is metered, and in the way that it is said to be (A9).

Which functions of ours a handler calls is read from its code, so nothing has to be running.
"""

import inspect
from collections.abc import Callable, Iterator
from types import FunctionType, ModuleType
from typing import Any

import pytest

from api.dialects.forwarding import forward
from api.gateway.table import Entry
from api.http.routing import Ask, Reply, Route, Routes, Surface, anybody
from api.identity.credentials import KeyCaller
from api.process.front import SURFACES, Front
from api.process.metered import COUNTED, FREE, METERS, acts_for_a_key, require_meters
from ledger.requests import Record, Reserve

WAYS = (forward, Record, Reserve)
"""What a handler needs to meter: the gateway, or a command of the ledger."""


def referred(function: FunctionType) -> Iterator[Any]:
    """Yield what a function's code refers to: globals, what it closes over, members of modules."""
    found = inspect.getclosurevars(function)
    yield from found.nonlocals.values()
    for each in found.globals.values():
        yield each
        if isinstance(each, ModuleType):
            yield from (vars(each)[name] for name in found.unbound if name in vars(each))


def reached(function: FunctionType) -> tuple[set[Any], set[str]]:
    """Give the ways to meter that a handler comes to, and the texts its functions hold."""
    seen, waiting = set[FunctionType](), [function]
    ways, texts = set[Any](), set[str]()
    while waiting:
        one = waiting.pop()
        seen.add(one)
        texts |= {each for each in one.__code__.co_consts if isinstance(each, str)}
        for each in referred(one):
            if isinstance(each, Entry):
                texts.add(each.name)
            elif any(each is way for way in WAYS):
                ways.add(each)
            elif isinstance(each, FunctionType) and each.__module__.startswith("api.dialects."):
                waiting += [each] if each not in seen else []
    return ways, texts


def all_routes() -> list[Any]:
    """Give every route of every dialect."""
    return [
        pytest.param(name, route, id=f"{name}-{route.method}-{route.path}")
        for name, surface in SURFACES.items()
        for route in surface.routes
    ]


@pytest.mark.parametrize(("dialect", "route"), all_routes())
def test_a_route_is_metered_as_it_says(dialect: str, route: Route) -> None:
    """A9: by the row that it names, by its own count, or not at all."""
    meter = METERS[dialect][route.operation] if acts_for_a_key(route) else FREE
    ways, texts = reached(route.handler)
    if meter == FREE:
        assert not ways
    elif meter == COUNTED:
        assert ways == {Record}
    else:
        assert ways == {forward}
        assert meter in texts


def surface(handler: Callable[..., Any], who: Callable[..., Any]) -> Surface:
    """Give a dialect of one route."""
    routes = Routes()
    routes("GET", "/planted", who=who)(handler)
    return SURFACES["bve"]._replace(routes=routes.all)


async def key(ask: Ask[Any, Any]) -> KeyCaller:
    """Stand for a way to tell which key asks."""
    raise NotImplementedError


async def planted(ask: Ask[Any, KeyCaller]) -> Reply:
    """Stand for a handler that meters nothing."""
    raise NotImplementedError


@pytest.mark.parametrize(
    "meters", [{}, {"planted": "no such row"}, {"planted": "chat", "gone": "chat"}]
)
def test_nothing_starts_with_a_route_that_says_nothing(meters: dict[str, str]) -> None:
    """A9: unnamed, named with a row that is not in the table, or named and not there."""
    with pytest.raises(AssertionError, match="how are these metered"):
        require_meters(surface(planted, key), meters)


def test_a_route_that_says_how_may_start() -> None:
    """A row, a count, nothing at all; and where no key acts there is nothing to say."""
    for meter in ("chat", COUNTED, FREE):
        require_meters(surface(planted, key), {"planted": meter})
    require_meters(surface(planted, anybody), {})
    assert reached(planted) == (set(), {"Stand for a handler that meters nothing."})


def test_the_service_does_not_start_where_one_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A9: the start-up check looks at every dialect."""
    for name in SURFACES:
        with monkeypatch.context() as patched:
            patched.delitem(METERS[name], next(iter(METERS[name])))
            with pytest.raises(AssertionError, match=f"{name}: how are these metered"):
                Front(lambda: None, native=None)
    assert Front(lambda: None, native=None)
