"""All that others know of venice: its record."""

from api.dialects.dialect import FREE, Dialect
from api.dialects.venice import (
    routes_billing,
    routes_characters,
    routes_inference,
    routes_keys,
    routes_limits,
    routes_models,
    routes_wallet,
    views,
)
from api.dialects.venice.credentials import count_failure
from api.dialects.venice.errors import Error, word
from api.http.surface import Surface, request_id_header
from ledger.events import LimitRule

DIALECT = Dialect(
    surface=Surface(
        name="venice",
        title="Keyledger: venice",
        handlers=[
            *routes_keys.HANDLERS,
            *routes_wallet.HANDLERS,
            *routes_limits.HANDLERS,
            *routes_billing.HANDLERS,
            *routes_models.HANDLERS,
            *routes_characters.HANDLERS,
            *routes_inference.HANDLERS,
        ],
        word=word,
        headers=request_id_header,
        error=Error,
        encode=views.encode,
        failed=count_failure,
    ),
    paths=(
        "/api/v1/api_keys",
        "/api/v1/billing/",
        "/api/v1/models",
        "/api/v1/chat/completions",
        "/api/v1/embeddings",
        "/api/v1/characters",
    ),
    # V10, V11: how many keys an account may make, and have.
    account_limits=(
        LimitRule(kind="key_creations", window="rolling:60", ceiling="20"),
        LimitRule(kind="active_keys", window="lifetime", ceiling="500"),
    ),
    # A price in CAD or CREDIT is paid in that alone.
    pays_with=("DIEM", "BUNDLED_CREDITS", "USD"),
    meters={
        "create_chat_completion": "chat",
        "create_embeddings": "embeddings",
        "list_models": FREE,
        "list_model_traits": FREE,
        "list_model_compatibility": FREE,
        "get_model": FREE,
        "list_characters": FREE,
        "get_character": FREE,
        "get_rate_limits": FREE,
    },
)
