"""House rules over the surfaces: strict bodies, a guard on every route, no page of Litestar's."""

from typing import Any

import pytest

from api import native
from api.dialects.registry import DIALECTS
from api.http.asking import Strict
from api.http.handlers import Handler
from api.http.surface import Surface, application
from api.native.asking import Ask as NativeAsk
from api.services import Ask

SURFACES = [
    pytest.param(native.SURFACE, NativeAsk, id="native"),
    *(pytest.param(each.surface, Ask, id=name) for name, each in DIALECTS.items()),
]
PUBLIC = {
    "login",
    "refresh_token",
    "logout",
    "ryvion.sign_up",
    "ryvion.log_in",
    "venice.get_web3_token",
    "venice.create_web3_key",
}
"""What anybody may ask: each proves somebody by itself, or gives what is public."""


def served(surface: Surface, asked: type[Any]) -> list[tuple[str, Handler]]:
    """Return the path and handler of everything that the application serves."""
    app = application(surface, asked)
    return [
        (route.path, handler)
        for route in app.routes
        for handler in route.route_handlers
        if "OPTIONS" not in handler.http_methods
    ]


@pytest.mark.parametrize(("surface", "asked"), SURFACES)
def test_every_handler_is_of_this_floor(surface: Surface, asked: type[Any]) -> None:
    """Each is made by ``api.http.handlers``: it keeps its guards, and knows its contract."""
    for path, handler in served(surface, asked):
        assert isinstance(handler, Handler), path
        assert "contract" in handler.opt, path
        assert not path.startswith("/schema"), path


@pytest.mark.parametrize(("surface", "asked"), SURFACES)
def test_every_body_is_read_strictly(surface: Surface, asked: type[Any]) -> None:
    """What Litestar decodes by itself takes "5" for 5 and the last of two equal keys."""
    for path, handler in served(surface, asked):
        if "data" in handler.parsed_fn_signature.parameters:
            assert handler.resolve_data_dto() is Strict, path
        others = handler.parsed_fn_signature.parameters.keys() - {"request", "data"}
        assert not others, f"{path}: {others} would be read laxly"


@pytest.mark.parametrize(("surface", "asked"), SURFACES)
def test_every_route_says_who_may_ask(surface: Surface, asked: type[Any]) -> None:
    """A route without a guard is on the list of those that anybody may ask, and no other is."""
    for path, handler in served(surface, asked):
        name = f"{surface.name}.{handler.handler_name}".removeprefix(".")
        assert bool(handler.guards) != (name in PUBLIC), f"{path}: {name}"
        for guard in handler.guards or ():
            assert hasattr(guard, "who"), f"{path}: a guard of another kind"


def test_the_list_of_public_routes_is_true() -> None:
    """Each of them is there."""
    names = {
        f"{surface.name}.{handler.handler_name}".removeprefix(".")
        for surface in (native.SURFACE, *(each.surface for each in DIALECTS.values()))
        for handler in surface.handlers
    }
    assert names >= PUBLIC
