"""All that others know of bve: its record."""

from api.dialects.bve import routes_inference, routes_keys, routes_usage
from api.dialects.bve.errors import word
from api.dialects.dialect import Dialect
from api.http.surface import Surface
from api.http.wording import OpenAIEnvelope


def _headers(request_id: str) -> list[tuple[bytes, bytes]]:
    # As str(UUID(…)) writes it; every reply has one.
    digits = request_id.removeprefix("req_")
    parts = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
    return [(b"x-request-id", "-".join(parts).encode())]


DIALECT = Dialect(
    surface=Surface(
        name="bve",
        title="Keyledger: bve",
        handlers=[*routes_keys.HANDLERS, *routes_usage.HANDLERS, *routes_inference.HANDLERS],
        word=word,
        headers=_headers,
        error=OpenAIEnvelope,
    ),
    paths=("/admin/",),
    key_prefix="sk-bve-",
    is_default=True,
    meters={
        "create_chat_completion": "chat",
        "create_completion": "completions",
        "create_embedding": "embeddings",
        "create_response": "responses",
        "list_models": "list_models",
        "get_model": "get_model",
    },
)
