"""Decisions about keys: each does, refuses, or stays quiet; rotation keeps the key."""

from datetime import timedelta

import pytest

from ledger import events as e
from ledger import keys
from ledger.errors import (
    AccountIsSuspended,
    InvalidField,
    KeyIsExpired,
    KeyIsNotSuspended,
    KeyIsRevoked,
    KeyIsSuspended,
    LimitIsReached,
    ModelIsDenied,
    NoSuchAccount,
    NoSuchKey,
    Refused,
    ScopeIsDenied,
    SecretIsRetired,
    VersionIsOutdated,
)
from ledger.limits import compile_rules
from ledger.state import Account, Key
from ledger.usage import Usage
from tests.properties import core
from tests.properties.core import START, Core, account_id, key_id

A, K = account_id("a"), key_id("k")
SECOND = timedelta(seconds=1)
OPEN = Account(account_id=A, opened_at=START)


def a_key(**changes) -> Key:
    """Make a key as it stands."""
    return Key(
        **{
            "key_id": K,
            "account_id": A,
            "name": "bot",
            "dialect": "bve",
            "created_at": START,
            "updated_at": START,
            "secrets": {1: None},
            "version": 1,
            **changes,
        }
    )


def terms(**changes) -> e.KeyIssued:
    """Return the terms of a new key."""
    return e.KeyIssued(**{"by": "x", "name": "bot", "dialect": "bve", **changes})


def test_a_key_is_issued_on_its_terms() -> None:
    """Issuing records the terms as given: limits, scopes, models, expiry."""
    rules = (e.LimitRule(kind="requests", window="day", ceiling="5"),)
    given = terms(limits=rules, scopes=("chat",), allowed_models=(), expires_at=START + SECOND)
    assert keys.issue(OPEN, given, at=START) == [given]


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("name", {"name": "  "}),
        ("name", {"name": "x" * 256}),
        ("dialect", {"dialect": "klingon"}),
        ("scopes", {"scopes": ("",)}),
        ("scopes", {"scopes": ("x",) * 65}),
        ("allowed_models", {"allowed_models": ("x" * 256,)}),
        ("allowed_models", {"allowed_models": ("x",) * 1_001}),
        ("settings", {"settings": {str(n): "" for n in range(33)}}),
        ("expires_at", {"expires_at": START}),
        ("window", {"limits": (e.LimitRule(kind="requests", window="week", ceiling="1"),)}),
    ],
)
def test_terms_that_make_no_sense_are_refused(field, changes) -> None:
    """The refusal names the field (F6)."""
    with pytest.raises(InvalidField) as refused:
        keys.issue(OPEN, terms(**changes), at=START)
    assert refused.value.field == field


def test_only_an_open_account_gets_keys() -> None:
    """No account, a suspended one: refused as such."""
    with pytest.raises(NoSuchAccount):
        keys.issue(None, terms(), at=START)
    with pytest.raises(AccountIsSuspended):
        keys.issue(Account(account_id=A, opened_at=START, status="suspended"), terms(), at=START)


def test_so_many_active_keys_and_no_more() -> None:
    """A limit of active keys counts what is there now: revoking makes room (Promise 14)."""
    world = Core()
    rule = e.LimitRule(kind="active_keys", window="lifetime", ceiling="2")
    world.do(core.open_account(A, limits=(rule,)))
    for name in "kl":
        world.do(core.issue(A, key_id(name)))
    refused = world.submit(core.issue(A, key_id("m")))
    assert isinstance(refused, LimitIsReached)
    assert (refused.scope, refused.limit_id) == ("account", "active_keys/lifetime")
    assert (refused.ceiling, refused.used, refused.requested) == (2, 2, 1)
    assert refused.resets_at is None
    world.do(core.revoke(A, K))
    world.do(core.issue(A, key_id("m")))


def test_so_many_keys_made_in_a_window_and_no_more() -> None:
    """A limit of key creations counts what was made: revoking makes no room, time does."""
    world = Core()
    rule = e.LimitRule(kind="key_creations", window="day", ceiling="2")
    world.do(core.open_account(A, limits=(rule,)))
    for name in "kl":
        world.do(core.issue(A, key_id(name)))
    world.do(core.revoke(A, K))
    refused = world.submit(core.issue(A, key_id("m")))
    assert isinstance(refused, LimitIsReached)
    assert (refused.used, refused.requested) == (2, 1)
    assert refused.resets_at == START.replace(day=22, hour=0)
    world.at = refused.resets_at
    world.do(core.issue(A, key_id("m")))


def test_a_key_acts_until_something_ends_it() -> None:
    """Unknown, revoked, expired, suspended: each is refused as such, in this order."""
    assert keys.require_usable(a_key(), START, secret=1)
    for key, why in (
        (None, NoSuchKey),
        (a_key(status="revoked", expires_at=START), KeyIsRevoked),
        (a_key(status="expired"), KeyIsExpired),
        (a_key(status="suspended", expires_at=START), KeyIsExpired),
        (a_key(expires_at=START), KeyIsExpired),
        (a_key(status="suspended", secrets={1: START}), KeyIsSuspended),
        (a_key(secrets={2: None}), NoSuchKey),
        (a_key(secrets={1: START, 2: None}), SecretIsRetired),
    ):
        with pytest.raises(why):
            keys.require_usable(key, START, secret=1)
    assert keys.require_usable(a_key(expires_at=START + SECOND), START)
    assert keys.require_usable(a_key(secrets={1: START + SECOND}), START, secret=1)


@pytest.mark.parametrize(
    ("changes", "status", "ended_at", "stopped_at"),
    [
        ({}, "active", None, None),
        ({"expires_at": START + SECOND}, "active", None, None),
        ({"expires_at": START}, "expired", START, START),
        ({"status": "expired", "expires_at": START}, "expired", START, START),
        ({"status": "suspended", "suspended_at": START}, "suspended", None, START),
        (
            {"status": "suspended", "suspended_at": START - SECOND, "expires_at": START},
            "expired",
            START,
            START - SECOND,
        ),
        ({"status": "revoked", "revoked_at": START}, "revoked", START, START),
        (
            {"status": "revoked", "revoked_at": START - SECOND, "expires_at": START},
            "revoked",
            START - SECOND,
            START - SECOND,
        ),
    ],
)
def test_a_key_ends_once_and_stops_when_it_is_suspended(
    changes, status, ended_at, stopped_at
) -> None:
    """Revoked or past its expiry it has ended, noted or not; suspended it may work again."""
    key = a_key(**changes)
    assert (key.status_at(START), key.ended_at(START)) == (status, ended_at)
    assert key.stopped_at(START) == stopped_at
    assert key.ended(START) is (ended_at is not None)


def test_scopes_and_models_bound_a_key() -> None:
    """No scopes named: everything; models None: every one, empty: none."""
    keys.require_scope(a_key(), "chat")
    keys.require_scope(a_key(scopes=("chat",)), "chat")
    keys.require_scope(a_key(scopes=("chat",)), "")
    keys.require_model(a_key(), "mini")
    keys.require_model(a_key(allowed_models=("mini",)), "mini")
    with pytest.raises(ScopeIsDenied):
        keys.require_scope(a_key(scopes=("chat",)), "images")
    for models in ((), ("maxi",)):
        with pytest.raises(ModelIsDenied):
            keys.require_model(a_key(allowed_models=models), "mini")


def test_a_change_is_one_event_for_each_term() -> None:
    """Every term that really changes is its own event; what is UNSET or equal is quiet."""
    rules = (e.LimitRule(kind="requests", window="day", ceiling="5"),)
    changes = keys.KeyPatch(
        name="bot 2",
        limits=rules,
        scopes=("chat",),
        allowed_models=("mini",),
        default_character="ada",
        expires_at=START + SECOND,
        settings={"a": "b"},
    )
    made = keys.change(OPEN, a_key(), changes, by="x", at=START, expected_version=1)
    assert [event.type for event in made] == [
        "key_renamed",
        "key_limits_set",
        "key_scopes_set",
        "key_allowed_models_set",
        "key_default_character_set",
        "key_expiry_set",
        "key_settings_set",
    ]
    same = keys.KeyPatch(name="bot", limits=(), scopes=(), allowed_models=None, settings={})
    assert keys.change(OPEN, a_key(), same, by="x", at=START) == []
    assert keys.change(OPEN, a_key(), keys.KeyPatch(), by="x", at=START) == []


@pytest.mark.parametrize(
    "changes",
    [
        keys.KeyPatch(name=""),
        keys.KeyPatch(scopes=("",)),
        keys.KeyPatch(allowed_models=("",)),
        keys.KeyPatch(expires_at=START),
        keys.KeyPatch(settings={str(n): "" for n in range(33)}),
        keys.KeyPatch(limits=(e.LimitRule(kind="requests", window="day", ceiling="-1"),)),
    ],
)
def test_a_wrong_change_changes_nothing(changes) -> None:
    """One wrong term refuses the whole change."""
    with pytest.raises(InvalidField):
        keys.change(OPEN, a_key(), changes, by="x", at=START)


def test_a_change_of_what_was_not_read_is_refused() -> None:
    """Another version than expected: somebody changed the key in between."""
    with pytest.raises(VersionIsOutdated):
        keys.change(OPEN, a_key(), keys.KeyPatch(), by="x", at=START, expected_version=2)
    for key, why in ((None, NoSuchKey), (a_key(status="revoked"), KeyIsRevoked)):
        with pytest.raises(why):
            keys.change(OPEN, key, keys.KeyPatch(), by="x", at=START)


def rotate(key, grace=timedelta(0)):
    """Rotate at the start."""
    return keys.rotate(OPEN, key, hint="h", grace=grace, by="x", at=START)


def test_rotation_gives_the_same_key_another_secret() -> None:
    """The new secret is numbered on; earlier ones end after the grace period (G3)."""
    assert rotate(a_key(), SECOND) == [
        e.KeyRotated(by="x", secret=2, earlier_until=START + SECOND, hint="h")
    ]


def test_rotation_is_refused_where_the_key_cannot_act() -> None:
    """Unknown, ended or suspended keys, too long a grace, too many working secrets."""
    for key, why in (
        (None, NoSuchKey),
        (a_key(status="revoked"), KeyIsRevoked),
        (a_key(status="suspended"), KeyIsSuspended),
        (a_key(secrets=dict.fromkeys(range(1, 17))), InvalidField),
    ):
        with pytest.raises(why):
            rotate(key)
    for grace in (timedelta(days=91), -SECOND):
        with pytest.raises(InvalidField):
            rotate(a_key(), grace)
    assert rotate(a_key(secrets={**dict.fromkeys(range(1, 16)), 16: START}))


def test_a_second_rotation_never_prolongs_an_earlier_secret() -> None:
    """An earlier secret ends when it was to end, or sooner (A17)."""
    world = Core()
    world.do(core.open_account(A))
    world.do(core.issue(A, K))
    world.do(core.rotate(A, K, 60))
    world.wait(30)
    world.do(core.rotate(A, K, 600))
    world.wait(1)
    world.do(core.rotate(A, K, 5))
    ends = world.state.keys[K].secrets
    first, second, third = (ends[number] - START for number in (1, 2, 3))
    assert [round(end.total_seconds()) for end in (first, second, third)] == [36, 36, 36]
    assert ends[4] is None


def test_rotation_keeps_limits_and_what_was_used_of_them() -> None:
    """A key's limits belong to the key, not to its secret: rotating resets nothing (A16, A17)."""
    world = Core(core.a_card())
    rule = e.LimitRule(kind="requests", window="day", ceiling="2")
    world.do(core.open_account(A, overdraft={"USD": "unlimited"}))
    world.do(core.issue(A, K, limits=(rule,)))
    world.do(core.record(A, K, "r1", Usage(input=1), secret=1))
    world.do(core.rotate(A, K, 3600))
    world.do(core.record(A, K, "r2", Usage(input=1), secret=2))
    for secret in (1, 2):
        refused = world.submit(core.record(A, K, f"s{secret}", Usage(input=1), secret=secret))
        assert isinstance(refused, LimitIsReached)


def test_suspending_and_resuming_a_key() -> None:
    """Suspend does and stays quiet; resume does and refuses what is not suspended."""
    assert keys.suspend(a_key(), by="x", at=START) == [e.KeySuspended(by="x")]
    assert keys.suspend(a_key(status="suspended"), by="x", at=START) == []
    assert keys.resume(a_key(status="suspended"), by="x", at=START) == [e.KeyResumed(by="x")]
    with pytest.raises(KeyIsNotSuspended):
        keys.resume(a_key(), by="x", at=START)
    for decide in (keys.suspend, keys.resume):
        with pytest.raises(KeyIsRevoked):
            decide(a_key(status="revoked"), by="x", at=START)


def test_revoking_is_for_good() -> None:
    """Revoke does, stays quiet where it was done, refuses what ended by itself (Promise 6)."""
    assert keys.revoke(a_key(status="suspended"), by="x") == [e.KeyRevoked(by="x")]
    assert keys.revoke(a_key(status="revoked"), by="x") == []
    with pytest.raises(KeyIsExpired):
        keys.revoke(a_key(status="expired"), by="x")
    with pytest.raises(NoSuchKey):
        keys.revoke(None, by="x")


def test_expiry_is_recorded_once_it_has_passed() -> None:
    """Expire does from the instant on, and stays quiet before, without expiry, or after an end."""
    assert keys.expire(a_key(expires_at=START), at=START) == [e.KeyExpired(expired_at=START)]
    for key in (
        None,
        a_key(),
        a_key(expires_at=START + SECOND),
        a_key(expires_at=START, status="revoked"),
        a_key(expires_at=START, status="expired"),
    ):
        assert keys.expire(key, at=START) == []


def test_a_key_of_another_account_is_no_key() -> None:
    """Nobody acts with, changes or learns of another account's key (Promise 15)."""
    world = Core(core.a_card())
    other = account_id("b")
    for account in (A, other):
        world.do(core.open_account(account, overdraft={"USD": "unlimited"}))
    world.do(core.issue(A, K))
    for command in (
        core.record(other, K, "r1", Usage(input=1)),
        core.reserve(other, K, "r1", Usage(input=1)),
        core.revoke(other, K),
        core.rotate(other, K),
        core.set_key_limits(other, K),
    ):
        refused = world.submit(command)
        assert isinstance(refused, Refused)
        assert refused.code == "no_such_key"
    assert world.state.keys[K].version == 1


def test_rules_are_compiled_once_for_all() -> None:
    """A key's rules and its compiled limits say the same."""
    rules = (e.LimitRule(kind="requests", window="day", ceiling="5"),)
    world = Core()
    world.do(core.open_account(A))
    world.do(core.issue(A, K, limits=rules))
    assert world.state.keys[K].limits == compile_rules(rules)
