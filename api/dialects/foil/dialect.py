"""All that others know of foil: its record."""

from api.dialects.dialect import COUNTED, Dialect, opening_card
from api.dialects.foil import routes_keys, routes_personas
from api.dialects.foil.counting import GENERAL
from api.dialects.foil.errors import ErrorEnvelope, word
from api.http.surface import Surface, request_id_header
from ledger.events import LimitRule
from ledger.model_names import OTHERS
from ledger.pricing import ModelPrice

_FREE = ModelPrice(prices={"input": "0", "output": "0", "requests": "0"})

DIALECT = Dialect(
    surface=Surface(
        name="foil",
        title="Keyledger: foil",
        handlers=[*routes_keys.HANDLERS, *routes_personas.HANDLERS],
        word=word,
        headers=request_id_header,
        error=ErrorEnvelope,
    ),
    paths=("/api/v1/sdk/",),
    # It counts, and bills nothing.
    card=opening_card("foil", "USD", {OTHERS: _FREE}),
    # FO8, FO9: requests per minute and key, the two categories apart from one another.
    key_limits=(
        LimitRule(kind="requests", window="rolling:60", ceiling="30", category="chat"),
        LimitRule(kind="requests", window="rolling:60", ceiling="60", category=GENERAL),
    ),
    meters={
        "send_message": "chat",
        "stream_message": "chat",
        "list_personas": COUNTED,
        "init_session": COUNTED,
        "get_session": COUNTED,
        "get_history": COUNTED,
        "reset_session": COUNTED,
        "list_machines": COUNTED,
    },
)
