"""All that others know of ryvion: its record."""

from api.dialects.dialect import Dialect, opening_card
from api.dialects.ryvion import (
    routes_account,
    routes_billing,
    routes_gateway,
    routes_keys,
    routes_mcp,
)
from api.dialects.ryvion.errors import word
from api.gateway import sample, table
from api.http.surface import Surface, request_id_header
from api.http.wording import OpenAIEnvelope
from ledger.events import LimitRule

DIALECT = Dialect(
    surface=Surface(
        name="ryvion",
        title="Keyledger: ryvion",
        handlers=[
            *routes_account.HANDLERS,
            *routes_keys.HANDLERS,
            *routes_billing.HANDLERS,
            *routes_gateway.HANDLERS,
            *routes_mcp.HANDLERS,
        ],
        word=word,
        headers=request_id_header,
        error=OpenAIEnvelope,
    ),
    paths=(
        "/api/v1/auth/",
        "/api/v1/knowledge-bases",
        "/api/v1/agents",
        "/api/v1/memories",
        "/mcp",
    ),
    paths_everywhere=frozenset({"/api/v1/auth/signup", "/api/v1/auth/login", "/api/v1/auth/me"}),
    key_prefix="ryv_",
    takes_tokens=True,
    # Y11: what a new account may spend in an hour.
    own_limits=(LimitRule(kind="spend", window="rolling:3600", ceiling="5", assets=("CAD",)),),
    card=opening_card("ryvion", "CAD", sample.PRICES),
    meters={name: name for name in table.BY_NAME},
)
