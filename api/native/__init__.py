"""The native API under /ledger/v1, dialect zero: accounts, keys, credit, prices, usage, reports."""

from api.http.surface import Surface
from api.native import (
    accounts,
    characters,
    credit,
    credit_ledger,
    keys,
    prices,
    reports,
    sessions,
    usage,
)
from api.native.errors import CONTENT_TYPE, Problem, word
from api.native.openapi import COMPONENTS, describe

PATHS = "/ledger/v1/"
"""Beginning of every path."""

_MODULES = (accounts, keys, credit, credit_ledger, usage, prices, reports, characters, sessions)

SURFACE = Surface(
    name="",
    title="Keyledger",
    description="A usage and billing ledger for platforms that sell an AI API.",
    handlers=[handler for module in _MODULES for handler in module.HANDLERS],
    word=word,
    error=Problem,
    error_type=CONTENT_TYPE.decode(),
    always=(400, 401, 403, 503),
    describe=describe,
    components=COMPONENTS,
)
