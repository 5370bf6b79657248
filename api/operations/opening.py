"""What a page promises without being asked: limits and terms of new accounts, limits of keys."""

from collections.abc import Mapping

from ledger import events as e

PAYS_WITH = ("DIEM", "BUNDLED_CREDITS", "USD")
"""At par, first to pay first. A price in CAD or CREDIT is paid in that alone."""

KEYS_OF_ACCOUNT = (
    # V10, V11: how many keys an account may make, and have.
    e.LimitRule(kind="key_creations", window="rolling:60", ceiling="20"),
    e.LimitRule(kind="active_keys", window="lifetime", ceiling="500"),
)
"""Limits of any account that is opened without being given others."""

LIMITS = (
    # Y11: what a new account may spend in an hour. The operator knows whom they open one for.
    e.LimitRule(kind="spend", window="rolling:3600", ceiling="5", assets=("CAD",)),
    *KEYS_OF_ACCOUNT,
)
"""Limits of an account that its owner opens."""


def own_terms(by: str) -> e.AccountOpened:
    """Give the terms of an account that its owner opens; the operator may change them later."""
    return e.AccountOpened(by=by, pays_with=PAYS_WITH, limits=LIMITS)


KEY_LIMITS: Mapping[str, tuple[e.LimitRule, ...]] = {
    # FO8, FO9: requests per minute and key, the two categories apart from one another.
    "foil": (
        e.LimitRule(kind="requests", window="rolling:60", ceiling="30", category="chat"),
        e.LimitRule(kind="requests", window="rolling:60", ceiling="60", category="general"),
    ),
}
"""Limits of a dialect's keys that are issued without any, however they are issued."""
