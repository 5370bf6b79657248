"""Canonical bytes: frozen by golden vectors, read back in every version ever written.

``golden/events.json`` is added to, never edited: a vector that changes is history rewritten. A
new event type or schema version gets a new vector; the test says what to add.
"""

import hashlib
import importlib.util
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args
from uuid import UUID

import pytest

import ledger
from ledger import codec
from ledger import events as e
from ledger.codec import GENESIS, UPCASTERS, decode, encode, envelope_bytes, event_hash
from ledger.errors import LedgerCorrupt
from ledger.ids import AccountId, KeyId
from ledger.model_names import Match, Pattern
from ledger.pricing import ConditionPrice, ModelPrice, RateCard, Tier
from ledger.usage import Usage

GOLDEN = Path(__file__).parent / "golden" / "events.json"
AT = datetime(2026, 11, 21, 2, 0, 0, 123456, tzinfo=UTC)
LATER = datetime(2026, 12, 1, tzinfo=UTC)
RULES = (
    e.LimitRule(kind="requests", window="rolling:60", ceiling="60"),
    e.LimitRule(kind="spend", window="month", ceiling="12.5", assets=("USD", "CREDIT")),
    e.LimitRule(kind="tokens", window="day", ceiling="1000", category="chat", model="mini"),
)
USAGE = Usage(input=1000, cache_read=24, output=17, requests=1)
PRICED = {
    "card": "standard/3",
    "prices": {"output": "0.6", "input": "0.15"},
    "asset": "USD",
}

# One instance of every event, told by hand; text is not only ASCII.
INSTANCES: tuple[e.AnyEvent, ...] = (
    e.RequestRecorded(
        request_id="r-1",
        integration="Bot Ünïcode 🤖",
        model="mini",
        usage=USAGE,
        category="chat",
        condition="batch",
        charge="0.0001602",
        lots=(2, 0),
        parts=("0.0001", "0.0000602"),
        flags=("late", "estimated"),
        **PRICED,
    ),
    e.RequestReserved(
        request_id="r-2",
        integration="bot",
        model="mini",
        usage=USAGE,
        held="0.0001602",
        lots=(2,),
        expires_at=AT,
        **PRICED,
    ),
    e.RequestSettled(
        request_id="r-2",
        reserved_seq=7,
        integration="bot",
        model="mini",
        usage=USAGE,
        charge="0.0001602",
        lots=(2, 3),
        parts=("0.0001", "0.0000602"),
        overage="0.00001",
        lapsed=((2, "0.5"),),
        flags=("interrupted",),
        **PRICED,
    ),
    e.RequestReleased(request_id="r-3", reserved_seq=8, reason="gone", lapsed=((1, "2"),)),
    e.RequestExpired(request_id="r-4", reserved_seq=9),
    e.RequestRefused(
        request_id="r-5",
        integration="bot",
        model="mini",
        reason="limit_is_reached",
        count=17,
        limit_id="requests/rolling:60",
        scope="key",
        ceiling="60",
        used="59",
        pending="1",
        requested="1",
    ),
    e.RequestRated(
        by="system",
        request_id="r-6",
        rated_seq=10,
        integration="bot",
        model="new",
        usage=USAGE,
        category="chat",
        charge="1",
        lots=(0,),
        recorded_on=AT,
        **PRICED,
    ),
    e.AccountOpened(
        by="operator",
        pays_with=("CREDIT", "USD"),
        rate_card="partners",
        overdraft={"USD": "5", "CREDIT": "unlimited"},
        unpriced="record",
        limits=RULES,
        test=True,
        internal=True,
    ),
    e.AccountPolicySet(
        by="member:1", pays_with=("USD",), rate_card="standard", overdraft={"USD": "1"}
    ),
    e.AccountLimitsSet(by="operator", limits=RULES),
    e.AccountSuspended(by="operator", reason="unpaid"),
    e.AccountResumed(by="operator"),
    e.AccountClosed(by="operator", reason="left"),
    e.MemberAdded(by="operator", member_id="mbr_1", role="owner"),
    e.MemberRoleChanged(by="operator", member_id="mbr_1", role="finance"),
    e.MemberRemoved(by="operator", member_id="mbr_1"),
    e.LoginSet(by="operator", member_id="mbr_1", digest="00ff"),
    e.WalletLinked(by="system", digest="00ff"),
    e.AllowanceSet(by="operator", asset="DIEM", amount="0.5"),
    e.KeyIssued(
        by="operator",
        name="bot",
        dialect="venice",
        hint="VENICE_INFERENCE_KEY_abcd…012345",
        scopes=("chat", "images"),
        allowed_models=("mini",),
        default_character="ada",
        expires_at=LATER,
        rate_card="partners",
        limits=RULES,
        settings={"modelPrivacy": "PRIVATE", "apiKeyType": "INFERENCE"},
        parent="key_0",
        digest="00ff",
    ),
    e.KeyRenamed(by="operator", name="bot 2"),
    e.KeyLimitsSet(by="operator", limits=RULES[:1]),
    e.KeyScopesSet(by="operator", scopes=("chat",)),
    e.KeyAllowedModelsSet(by="operator", allowed_models=()),
    e.KeyDefaultCharacterSet(by="operator", default_character="ada"),
    e.KeyExpirySet(by="operator", expires_at=LATER),
    e.KeySettingsSet(by="operator", settings={"b": "2", "a": "1"}),
    e.KeySuspended(by="operator"),
    e.KeyResumed(by="operator"),
    e.KeyRevoked(by="key:key_0"),
    e.KeyRotated(
        by="operator", secret=2, earlier_until=LATER, hint="rk_abcd…012345", digest="00ff"
    ),
    e.KeySecretRehashed(by="system", secret=2, digest="00ff"),
    e.KeyExpired(expired_at=LATER),
    e.CreditGranted(
        by="operator",
        lot=3,
        asset="USD",
        amount="5",
        kind="promotional",
        priority=10,
        effective_at=AT,
        expires_at=LATER,
        reason="welcome",
        cost="4.5",
        currency="EUR",
        payment_reference="pi_1",
        repaid="0.25",
    ),
    e.GrantVoided(by="operator", lot=3, asset="USD", amount="4.75", reason="fraud"),
    e.GrantExpired(lot=2, asset="USD", amount="0.000000000001", expired_at=LATER),
    e.BalanceReduced(
        by="operator", asset="USD", amount="3", reason="x", lots=(1, 2), parts=("1", "2")
    ),
    e.RateCardPublished(
        by="operator",
        content_hash="00ff",
        card=RateCard(
            name="standard",
            version=3,
            asset="USD",
            effective_from=LATER,
            models={
                "mini": ModelPrice(
                    prices={"output": "0.6", "input": "0.15"},
                    tiers=(Tier(above_tokens=200000, prices={"input": "0.3", "output": "1"}),),
                    conditions={
                        "batch": ConditionPrice(prices={"input": "0.075"}),
                        "night": ConditionPrice(
                            prices={"input": "0.1"}, between=("16:30", "00:30")
                        ),
                    },
                )
            },
            aliases={"mini-2026": "mini"},
            patterns=(
                Pattern(
                    model="mini",
                    after="acme/",
                    match=Match(either=(Match(regex="^mini-"), Match(ends_with="-mini"))),
                ),
            ),
            source="hand",
        ),
    ),
    e.RateCardWithdrawn(by="operator", name="standard", version=3),
)
ENVELOPE = e.Envelope(
    lane=3,
    lane_seq=2**33 + 5,
    account_id=AccountId(UUID("01934567-89ab-7cde-8f01-23456789abcd")),
    version=42,
    recorded_at=AT,
    occurred_at=AT - timedelta(hours=1),
    key_id=KeyId(UUID("01934567-89ab-7cde-8f01-234567890003")),
)
PREVIOUS = hashlib.sha256(b"previous").digest()


def vector(body: e.AnyEvent) -> dict[str, object]:
    """Give what is frozen of an event."""
    payload = encode(body)
    envelope = envelope_bytes(ENVELOPE, body.type, body.schema_version)
    return {
        "type": body.type,
        "schema_version": body.schema_version,
        "payload": payload.decode(),
        "envelope": envelope.hex(),
        "hash": event_hash(PREVIOUS, envelope, payload).hex(),
    }


@pytest.fixture(scope="module")
def golden() -> list[dict]:
    """Give the frozen vectors."""
    return json.loads(GOLDEN.read_text("utf-8"))


def test_every_event_writes_its_golden_bytes(golden) -> None:
    """Payload, envelope and hash of every event are to the byte what they ever were (Promise 12).

    A missing vector is to be added; a differing one means that the canonical form changed.
    """
    frozen = {(one["type"], one["schema_version"]): one for one in golden}
    assert [frozen.get((body.type, body.schema_version)) for body in INSTANCES] == [
        vector(body) for body in INSTANCES
    ]


def test_every_event_type_has_a_golden_vector(golden) -> None:
    """No event goes out without its bytes being frozen, in every version up to today's."""
    needed = {
        (kind.type, version)
        for kind in get_args(e.AnyEvent)
        for version in range(1, kind.schema_version + 1)
    }
    assert needed <= {(one["type"], one["schema_version"]) for one in golden}
    assert [type(body) for body in INSTANCES] == list(get_args(e.AnyEvent))


def test_every_golden_payload_is_still_read(golden) -> None:
    """What was written under any schema version is read today."""
    for one in golden:
        body = decode(one["type"], one["schema_version"], one["payload"])
        assert body.type == one["type"]


@pytest.mark.parametrize("body", INSTANCES, ids=lambda body: body.type)
def test_an_event_survives_being_written(body) -> None:
    """What is read back equals what was written, from bytes and from text."""
    payload = encode(body)
    assert decode(body.type, body.schema_version, payload) == body
    assert decode(body.type, body.schema_version, payload.decode()) == body
    assert encode(decode(body.type, body.schema_version, payload)) == payload


@pytest.mark.parametrize("body", INSTANCES, ids=lambda body: body.type)
def test_a_payload_is_plain(body) -> None:
    """No float, no number that is an amount, instants in UTC with Z, mapping keys sorted."""
    fields = json.loads(encode(body), parse_float=pytest.fail)
    for name in ("amount", "charge", "held", "overage", "repaid"):
        assert isinstance(fields.get(name, ""), str)
    for name in ("prices", "settings", "overdraft"):
        assert list(fields.get(name, ())) == sorted(fields.get(name, ()))
    for name in ("expires_at", "expired_at", "effective_at", "earlier_until", "recorded_on"):
        assert fields.get(name, "Z").endswith("Z")


def test_no_two_envelopes_share_their_bytes() -> None:
    """Every field of the envelope, the type and the version move the hash (Promise 12)."""
    other = UUID("01934567-89ab-7cde-8f01-23456789ffff")
    changed = [
        ENVELOPE._replace(lane=4),
        ENVELOPE._replace(lane_seq=1),
        ENVELOPE._replace(account_id=AccountId(other)),
        ENVELOPE._replace(version=43),
        ENVELOPE._replace(recorded_at=LATER),
        ENVELOPE._replace(occurred_at=LATER),
        ENVELOPE._replace(key_id=None),
        ENVELOPE._replace(key_id=KeyId(other)),
    ]
    made = [envelope_bytes(one, "key_revoked", 1) for one in (ENVELOPE, *changed)]
    made += [envelope_bytes(ENVELOPE, "key_revoked", 2), envelope_bytes(ENVELOPE, "key_resumed", 1)]
    assert len(set(made)) == len(made)


def test_the_hash_covers_what_came_before() -> None:
    """Dropping or reordering an event changes every hash after it (Promise 12)."""
    first = codec.record(ENVELOPE, INSTANCES[0], GENESIS)
    second = codec.record(ENVELOPE, INSTANCES[1], first.hash)
    assert codec.record(ENVELOPE, INSTANCES[1], GENESIS).hash != second.hash
    assert codec.chain(codec.chain(GENESIS, first.hash), second.hash) != codec.chain(
        codec.chain(GENESIS, second.hash), first.hash
    )


@pytest.fixture
def an_old_version():
    """Pretend that ``key_renamed`` once was version 0, with its field called ``title``."""
    step = ("key_renamed", 0)
    UPCASTERS[step] = lambda fields: {"by": fields["by"], "name": fields["title"]}
    yield
    del UPCASTERS[step]


@pytest.mark.usefixtures("an_old_version")
def test_an_old_version_is_read_as_todays_event() -> None:
    """An upcaster turns the fields of one version into the next one's; the bytes stay."""
    payload = b'{"by":"operator","title":"bot"}'
    assert decode("key_renamed", 0, payload) == e.KeyRenamed(by="operator", name="bot")


@pytest.mark.usefixtures("an_old_version")
@pytest.mark.parametrize(
    ("tag", "version", "payload"),
    [
        ("key_forgotten", 1, b"{}"),
        ("key_renamed", 2, b'{"by":"a","name":"b"}'),
        ("key_renamed", -1, b'{"by":"a","name":"b"}'),
        ("key_resumed", 0, b'{"by":"a"}'),
        ("key_renamed", 1, b'{"by":"a"}'),
        ("key_renamed", 1, b'{"by":1,"name":"b"}'),
        ("key_renamed", 1, b"not json"),
        ("key_expired", 1, b'{"expired_at":"2026-01-01T00:00:00"}'),
    ],
)
def test_what_cannot_be_read_is_named(tag, version, payload) -> None:
    """An unknown type or version, or bytes that are no such event, stop the reader (Promise 12)."""
    with pytest.raises(LedgerCorrupt) as stopped:
        decode(tag, version, payload)
    assert tag in str(stopped.value)


def test_the_database_knows_exactly_the_events_there_are() -> None:
    """The enum of the first migration, with what later ones add, is what the codec writes."""
    versions = Path(ledger.__file__).parent / "migrations" / "versions"
    known: list[str] = []
    for path in sorted(versions.glob("[0-9]*.py")):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        known += getattr(module, "EVENT_TYPES", ())
    assert tuple(known) == codec.type_names
