"""Who may issue which key: one rule, whatever door is asked."""

import pytest

from api.identity.auth import KEY_MANAGERS, PERMISSIONS, ROLES, Caller
from api.operations import (
    ADMIN_TYPE,
    SETTING_MEMBER,
    SETTING_OUTPUT,
    SETTING_SESSION,
    SETTING_TYPE,
    Issuer,
)
from ledger import events as e
from ledger.errors import InvalidField
from ledger.ids import AccountId
from tests.ledger.test_keys import START, A, a_key

ADMIN = {SETTING_TYPE: ADMIN_TYPE}


def terms(**changes) -> e.KeyIssued:
    """Ask for a key."""
    return e.KeyIssued(**{"by": "x", "name": "bot", "dialect": "venice", **changes})


def test_an_issuer_sets_no_more_than_is_theirs() -> None:
    """Whose key it is and which login it serves is never asked for; the operator bounds answers."""
    wanted = {SETTING_MEMBER: "mbr_2", SETTING_SESSION: "foil", SETTING_OUTPUT: "9", "note": "n"}
    asked = terms(settings=wanted, rate_card="cheap")
    made = Issuer().allowed(asked)
    assert (made.settings, made.rate_card) == ({SETTING_OUTPUT: "9", "note": "n"}, "cheap")
    made = Issuer("mbr_1").allowed(asked)
    assert (made.settings, made.rate_card) == ({"note": "n", SETTING_MEMBER: "mbr_1"}, "")


def test_who_sees_no_others_keys_makes_none_that_manages_them() -> None:
    """Otherwise a member would see by a key what the member may not."""
    with pytest.raises(InvalidField) as refused:
        Issuer("mbr_1", only_own=True).allowed(terms(settings=ADMIN))
    assert refused.value.field == "settings.apiKeyType"
    for issuer in (Issuer(), Issuer("mbr_1")):
        assert issuer.allowed(terms(settings=ADMIN)).settings[SETTING_TYPE] == ADMIN_TYPE


@pytest.mark.parametrize("role", ROLES)
def test_roles_and_issuers_agree(role: str) -> None:
    """A role that may issue keys makes ADMIN keys just where it sees every key."""
    caller = Caller(role, "x", AccountId(A), "mbr_1")
    issuer = Issuer(caller.member_id, bool(caller.only_own_keys))
    if role in PERMISSIONS["issue_key"]:
        assert issuer.may_manage is (role in KEY_MANAGERS)


def test_a_key_hands_its_bounds_down() -> None:
    """Models, limits, expiry and prices of the key that asks, whatever was asked for."""
    rules = (e.LimitRule(kind="requests", window="day", ceiling="5"),)
    parent = a_key(allowed_models=("m",), rules=rules, expires_at=START, rate_card="dear")
    made = Issuer("mbr_1", bounds=parent).allowed(terms(allowed_models=None, rate_card="cheap"))
    assert (made.allowed_models, made.limits) == (("m",), rules)
    assert (made.expires_at, made.rate_card) == (START, "dear")
