"""What venice says of models: tiers of speed, privacy, traits, and names they also go by.

The built-in sample models answer in this process, so they are private. Of any other model nothing
is known but its price: it counts as anonymized, and is refused to a key that asks for privacy.
"""

from collections.abc import Mapping
from typing import NamedTuple

from ledger.events import LimitRule

MINUTE = "rolling:60"


class SpeedTier(NamedTuple):
    """How often a minute a key may ask a model, and for how many tokens."""

    requests: int
    tokens: int


TIERS: Mapping[str, SpeedTier] = {
    "XS": SpeedTier(500, 1_000_000),
    "S": SpeedTier(75, 750_000),
    "M": SpeedTier(50, 750_000),
    "L": SpeedTier(20, 500_000),
}


class KnownModel(NamedTuple):
    """A model that this service knows."""

    name: str
    type: str
    """text or embedding."""
    tier: str
    context: int
    traits: tuple[str, ...]
    aliases: tuple[str, ...]
    """Names of others' models that it stands in for."""


KNOWN: Mapping[str, KnownModel] = {
    "keyledger-small": KnownModel(
        "Keyledger Small", "text", "XS", 131_072, ("fastest",), ("gpt-4o-mini", "gpt-5-mini")
    ),
    "keyledger-large": KnownModel(
        "Keyledger Large", "text", "M", 131_072, ("default", "most_intelligent"), ("gpt-4o",)
    ),
    "keyledger-embedding": KnownModel(
        "Keyledger Embedding",
        "embedding",
        "XS",
        8_192,
        ("default",),
        ("text-embedding-3-small", "text-embedding-3-large"),
    ),
}
"""The built-in models."""

STRANGERS_TIER = "L"
STRANGERS = "tier-L"
"""Category in which calls of every model not ``KNOWN`` are counted, each model by itself."""

STAND_INS: Mapping[str, str] = {
    alias: name for name, model in KNOWN.items() for alias in model.aliases
}


def tier_of(model: str) -> SpeedTier:
    """Return the tier of a model."""
    return TIERS[KNOWN[model].tier if model in KNOWN else STRANGERS_TIER]


def tier_rules() -> tuple[LimitRule, ...]:
    """Return the limits that hold a new key to tiers: each known model's, and any stranger's."""
    rules: list[LimitRule] = []
    for model in KNOWN:
        tier = tier_of(model)
        for kind, most in (("requests", tier.requests), ("tokens", tier.tokens)):
            rules.append(LimitRule(kind=kind, window=MINUTE, ceiling=str(most), model=model))
    tier = TIERS[STRANGERS_TIER]
    for kind, most in (("requests", tier.requests), ("tokens", tier.tokens)):
        rule = LimitRule(
            kind=kind, window=MINUTE, ceiling=str(most), category=STRANGERS, each_model=True
        )
        rules.append(rule)
    return tuple(rules)


def category_of(model: str) -> str:
    """Return the category that calls of a model are counted in."""
    return KNOWN[model].type if model in KNOWN else STRANGERS


def is_private(model: str) -> bool:
    """Return whether what a model is asked stays within this service."""
    return model in KNOWN


def allowed_models(privacy: str) -> tuple[str, ...] | None:
    """Return the models that a key of some privacy may use; None: every one.

    ``PRIVATE_TEXT`` does not restrict pictures and sound, of which none are served here.
    """
    return None if privacy == "ALL" else tuple(name for name in KNOWN if is_private(name))
