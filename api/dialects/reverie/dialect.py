"""All that others know of reverie: its record."""

from api.dialects.dialect import Dialect
from api.dialects.reverie import routes_characters
from api.dialects.reverie.errors import word
from api.dialects.reverie.prices import CARD
from api.http.surface import Surface, request_id_header
from api.http.wording import OpenAIEnvelope

DIALECT = Dialect(
    surface=Surface(
        name="reverie",
        title="Keyledger: reverie",
        handlers=routes_characters.HANDLERS,
        word=word,
        headers=request_id_header,
        error=OpenAIEnvelope,
    ),
    paths=("/api/device/v1/",),
    # All but to read it, which is to ask venice for the character of this slug.
    methods_of={
        routes_characters.IMPORT: frozenset({"POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"})
    },
    key_prefix="rk_",
    card=CARD,
    sells_characters=True,
    meters={"create_chat_completion": "chat"},
)
