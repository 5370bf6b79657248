"""House rule: all use of the service is metered, and in the way that it is said to be (A9).

Which functions of ours a handler calls is read from its code, so nothing has to be running.
"""

import inspect
import sys
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

import pytest

from api.dialects import registry
from api.dialects.dialect import COUNTED, FREE, Dialect
from api.dialects.forwarding import forward
from api.dialects.registry import DIALECTS, acts_for_a_key, require_meters
from api.gateway.table import RouteEntry
from api.http.handlers import Handler, Reply, guard, hot
from api.identity.credentials import KeyCaller
from api.services import Ask
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
    """Return the ways to meter that a handler comes to, and the texts its functions hold."""
    seen, waiting = set[FunctionType](), [function]
    ways, texts = set[Any](), set[str]()
    while waiting:
        one = waiting.pop()
        seen.add(one)
        texts |= {each for each in one.__code__.co_consts if isinstance(each, str)}
        for each in referred(one):
            if isinstance(each, RouteEntry):
                texts.add(each.name)
            elif any(each is way for way in WAYS):
                ways.add(each)
            elif isinstance(each, FunctionType) and each.__module__.startswith("api.dialects."):
                waiting += [each] if each not in seen else []
    return ways, texts


def all_routes() -> list[Any]:
    """Return every route of every dialect."""
    return [
        pytest.param(dialect, handler, id=f"{name}-{handler.handler_name}-{place}")
        for name, dialect in DIALECTS.items()
        for place, handler in enumerate(dialect.surface.handlers)
    ]


@pytest.mark.parametrize(("dialect", "handler"), all_routes())
def test_a_route_is_metered_as_it_says(dialect: Dialect, handler: Handler) -> None:
    """A9: by the row that it names, by its own count, or not at all."""
    acts = acts_for_a_key(handler)
    meter = dialect.meters[handler.handler_name] if acts else FREE
    ways, texts = reached(handler.opt.get("answer", handler.fn))
    if meter == FREE:
        assert not ways
    elif meter == COUNTED:
        assert ways == {Record}
    else:
        assert ways == {forward}
        assert meter in texts


@pytest.mark.parametrize(("dialect", "handler"), all_routes())
def test_what_is_metered_is_answered_once(dialect: Dialect, handler: Handler) -> None:
    """An ``Idempotency-Key`` holds wherever something is used up, and there alone."""
    once = handler.handler_name in dialect.metered
    assert ("once" in handler.opt) == once
    assert not once or "answer" in handler.opt


def dialect_of(handler: Handler, meters: dict[str, str]) -> Dialect:
    """Return a dialect of one route."""
    bve = DIALECTS["bve"]
    return bve._replace(surface=bve.surface._replace(handlers=[handler]), meters=meters)


@guard("key")
async def key(ask: Ask[Any]) -> KeyCaller:
    """Stand for a way to tell which key asks."""
    raise NotImplementedError


@hot("GET", "/planted", takes=None, guards=[key])
async def planted(ask: Ask[KeyCaller]) -> Reply:
    """Stand for a handler that meters nothing."""
    raise NotImplementedError


@hot("GET", "/planted", takes=None)
async def open_to_all(ask: Ask[None]) -> Reply:
    """Stand for a handler that nobody has to prove anything to."""
    raise NotImplementedError


@pytest.mark.parametrize(
    "meters", [{}, {"planted": "no such row"}, {"planted": "chat", "gone": "chat"}]
)
def test_nothing_starts_with_a_route_that_says_nothing(meters: dict[str, str]) -> None:
    """A9: unnamed, named with a row that is not in the table, or named and not there."""
    with pytest.raises(AssertionError, match="how are these metered"):
        require_meters(dialect_of(planted, meters))


def test_a_route_that_says_how_may_start() -> None:
    """A row, a count, nothing at all; and where no key acts there is nothing to say."""
    for meter in ("chat", COUNTED, FREE):
        require_meters(dialect_of(planted, {"planted": meter}))
    require_meters(dialect_of(open_to_all, {}))
    answer = planted.opt["answer"]
    assert reached(answer) == (set(), {"Stand for a handler that meters nothing."})


@pytest.mark.parametrize("name", DIALECTS)
def test_the_service_does_not_start_where_one_is_forgotten(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A9: the start-up check looks at every dialect."""
    dialect = DIALECTS[name]
    kept = dict(dialect.meters)
    kept.popitem()
    module = sys.modules[f"api.dialects.{name}.dialect"]
    monkeypatch.setattr(module, "DIALECT", dialect._replace(meters=kept))
    with pytest.raises(AssertionError, match=f"{name}: how are these metered"):
        registry.found()
