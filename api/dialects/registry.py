"""Which dialects there are: every folder beside this file that has a ``DIALECT``."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_type_hints

from api.dialects.dialect import COUNTED, FREE, Dialect
from api.gateway import table
from api.http.handlers import Handler
from api.identity.credentials import KeyCaller
from api.operations import Opening
from api.services import OfDialects
from ledger.secrets import dialects

_KNOWN = table.BY_NAME.keys() | {COUNTED, FREE}


def found() -> Mapping[str, Dialect]:
    """Import every dialect; make sure that its use is metered (A9), and answered once."""
    made = {}
    for name in dialects():
        dialect: Dialect = importlib.import_module(f"api.dialects.{name}.dialect").DIALECT
        assert dialect.name == name, f"{dialect.name} stands in the folder {name}"
        require_meters(dialect)
        for handler in dialect.surface.handlers:
            if handler.handler_name in dialect.metered:
                handler.opt["once"] = True
        made[name] = dialect
    return made


def acts_for_a_key(handler: Handler) -> bool:
    """Return whether a route acts for a key."""
    guards: Sequence[Any] = handler.guards or ()
    returns = [get_type_hints(guard.who)["return"] for guard in guards]
    return any(KeyCaller in (kind, *get_args(kind)) for kind in returns)


def require_meters(dialect: Dialect) -> None:
    """Make sure that every route that acts for a key is metered, in a known way."""
    acting = {
        str(handler.handler_name) for handler in dialect.surface.handlers if acts_for_a_key(handler)
    }
    meters = dialect.meters
    wrong = acting ^ meters.keys() | {name for name in meters if meters[name] not in _KNOWN}
    assert not wrong, f"{dialect.name}: how are these metered? {', '.join(sorted(wrong))}"


DIALECTS = found()
OF_DIALECTS = OfDialects(
    opening=Opening(
        limits=tuple(rule for each in DIALECTS.values() for rule in each.account_limits),
        own_limits=tuple(rule for each in DIALECTS.values() for rule in each.own_limits),
        pays_with=tuple(asset for each in DIALECTS.values() for asset in each.pays_with),
    ),
    key_limits={name: each.key_limits for name, each in DIALECTS.items() if each.key_limits},
    with_characters=frozenset(name for name, each in DIALECTS.items() if each.sells_characters),
)
"""What operations need to know of the dialects."""
