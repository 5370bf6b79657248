"""What a page promises without being asked: terms of accounts that people open, limits of keys."""

from collections.abc import Mapping

from ledger import events as e

PAYS_WITH = ("DIEM", "BUNDLED_CREDITS", "USD")
"""At par, first to pay first. A price in CAD or CREDIT is paid in that alone."""

LIMITS = (
    # Pages 003 and 004: what a new account may spend in an hour, and how many keys it may make.
    e.LimitRule(kind="spend", window="rolling:3600", ceiling="5", assets=("CAD",)),
    e.LimitRule(kind="key_creations", window="rolling:60", ceiling="20"),
    e.LimitRule(kind="active_keys", window="lifetime", ceiling="500"),
)


def own_terms(by: str) -> e.AccountOpened:
    """Give the terms of an account that its owner opens; the operator may change them later."""
    return e.AccountOpened(by=by, pays_with=PAYS_WITH, limits=LIMITS)


KEY_LIMITS: Mapping[str, tuple[e.LimitRule, ...]] = {
    # Page 001: requests per minute and key, the two categories apart from one another.
    "foil": (
        e.LimitRule(kind="requests", window="rolling:60", ceiling="30", category="chat"),
        e.LimitRule(kind="requests", window="rolling:60", ceiling="60", category="general"),
    ),
}
"""Limits of a dialect's keys that are issued without any, however they are issued."""
