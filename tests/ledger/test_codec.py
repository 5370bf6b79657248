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
from ledger.codec import (
    GENESIS,
    UPCASTERS,
    decode,
    encode,
    envelope_bytes,
    event_hash,
    label,
)
from ledger.errors import LedgerCorrupt
from ledger.ids import AccountId, KeyId
from ledger.lines import ModelLines
from ledger.model_names import Match, Pattern
from ledger.pricing import ConditionPrice, ModelPrice, PriceTier, RateCard

GOLDEN = Path(__file__).parent / "golden" / "events.json"
AT = datetime(2026, 11, 21, 2, 0, 0, 123456, tzinfo=UTC)
LATER = datetime(2026, 12, 1, tzinfo=UTC)
RULES = (
    e.LimitRule(kind="requests", window="rolling:60", ceiling="60"),
    e.LimitRule(kind="spend", window="month", ceiling="12.5", assets=("USD", "CREDIT")),
    e.LimitRule(kind="tokens", window="day", ceiling="1000", category="chat", model="mini"),
)
LINES = {"output": (17, "0.6"), "input": (1000, "0.15"), "images": (2, None)}
OTHERS = (ModelLines(model="judge", lines={"output": (5, "1")}, priced_as="judge-1"),)
REPAID = ((2, "USD", "0.25"), (1, "CREDIT", "0.5"))
PRICED = {"lines": LINES, "card": "standard/3", "asset": "USD"}

# One instance of every event, told by hand; text is not only ASCII.
INSTANCES: tuple[e.AnyEvent, ...] = (
    e.RequestRecorded(
        by="key",
        secret=2,
        request_id="r-1",
        integration="Bot Ünïcode 🤖",
        model="mini",
        others=OTHERS,
        category="chat",
        condition="batch",
        by_time="off_peak",
        priced_as="mini-1",
        charge="0.0001602",
        lots=(2, 0),
        parts=("0.0001", "0.0000602"),
        overage="0.00001",
        flags=("late", "estimated"),
        doubts=("usage.total_tokens",),
        served_model="maxi",
        report="00ff",
        told_at=LATER,
        metadata="00ff",
        end_user="00ff",
        **PRICED,
    ),
    e.RequestReserved(
        by="key",
        secret=1,
        request_id="r-2",
        integration="bot",
        model="mini",
        choices=("maxi",),
        held_as="maxi",
        condition="flex",
        held_at="priority",
        held="0.0001602",
        lots=(2,),
        expires_at=AT,
        metadata="00ff",
        end_user="00ff",
        **PRICED,
    ),
    e.RequestSettled(
        by="system",
        request_id="r-2",
        reserved_seq=7,
        integration="bot",
        model="mini",
        others=OTHERS,
        charge="0.0001602",
        lots=(2, 3),
        parts=("0.0001", "0.0000602"),
        overage="0.00001",
        lapsed=((2, "0.5"),),
        flags=("interrupted",),
        doubts=("usage.total_tokens",),
        served_model="maxi",
        report="00ff",
        repaid=REPAID,
        **PRICED,
    ),
    e.RequestReleased(
        by="system",
        request_id="r-3",
        reserved_seq=8,
        reason="gone",
        lapsed=((1, "2"),),
        repaid=REPAID,
    ),
    e.RequestExpired(request_id="r-4", reserved_seq=9, repaid=REPAID),
    e.RequestRefused(
        by="operator",
        request_id="r-5",
        integration="bot",
        model="mini",
        reason="limit_is_reached",
        count=17,
        usage={"output": 4, "input": 3},
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
        rest=True,
        integration="bot",
        model="new",
        others=OTHERS,
        category="chat",
        charge="1",
        lots=(0,),
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
        max_output_tokens=900,
    ),
    e.AccountPolicySet(
        by="member:1",
        pays_with=("USD",),
        rate_card="standard",
        overdraft={"USD": "1"},
        max_output_tokens=900,
        repaid=REPAID,
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
        repaid=((3, "USD", "0.25"),),
    ),
    e.GrantTookEffect(lot=4, asset="CREDIT", effective_at=AT, repaid=REPAID),
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
                    tiers=(PriceTier(above_tokens=200000, prices={"input": "0.3", "output": "1"}),),
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
    """Return what is frozen of an event."""
    payload = encode(body)
    envelope = envelope_bytes(ENVELOPE, label(body))
    return {
        "type": label(body),
        "payload": payload.decode(),
        "envelope": envelope.hex(),
        "hash": event_hash(PREVIOUS, envelope, payload).hex(),
    }


@pytest.fixture(scope="module")
def golden() -> list[dict]:
    """Return the frozen vectors."""
    return json.loads(GOLDEN.read_text("utf-8"))


def test_every_event_writes_its_golden_bytes(golden) -> None:
    """Payload, envelope and hash of every event are to the byte what they ever were (Promise 12).

    A missing vector is to be added; a differing one means that the canonical form changed.
    """
    frozen = {one["type"]: one for one in golden}
    assert [frozen.get(label(body)) for body in INSTANCES] == [vector(body) for body in INSTANCES]


def test_every_event_type_has_a_golden_vector(golden) -> None:
    """No event goes out without its bytes being frozen, in every version up to today's."""
    assert set(codec.labels) <= {one["type"] for one in golden}
    assert [type(body) for body in INSTANCES] == list(get_args(e.AnyEvent))


def test_every_golden_payload_is_still_read(golden) -> None:
    """What was written under any schema version is read today."""
    for one in golden:
        body = decode(one["type"], one["payload"])
        assert body.type == one["type"].partition("@")[0]


@pytest.mark.parametrize("body", INSTANCES, ids=lambda body: body.type)
def test_an_event_survives_being_written(body) -> None:
    """What is read back equals what was written, from bytes and from text."""
    payload = encode(body)
    assert decode(label(body), payload) == body
    assert decode(label(body), payload.decode()) == body
    assert encode(decode(label(body), payload)) == payload


@pytest.mark.parametrize("body", INSTANCES, ids=lambda body: body.type)
def test_a_payload_is_plain(body) -> None:
    """No float, no number that is an amount, instants in UTC with Z, mapping keys sorted."""
    fields = json.loads(encode(body), parse_float=pytest.fail)
    for name in ("amount", "charge", "held", "overage"):
        assert isinstance(fields.get(name, ""), str)
    for name in ("lines", "usage", "settings", "overdraft"):
        assert list(fields.get(name, ())) == sorted(fields.get(name, ()))
    for name in ("expires_at", "expired_at", "effective_at", "earlier_until", "told_at"):
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
    made = [envelope_bytes(one, "key_revoked") for one in (ENVELOPE, *changed)]
    made += [envelope_bytes(ENVELOPE, label) for label in ("key_revoked@2", "key_resumed")]
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
    """Pretend that ``key_renamed`` once had a version before, with its field called ``title``."""
    step = "key_renamed@0"
    UPCASTERS[step] = (
        "key_renamed",
        lambda fields: {"by": fields["by"], "name": fields["title"]},
    )
    yield
    del UPCASTERS[step]


@pytest.mark.usefixtures("an_old_version")
def test_an_old_version_is_read_as_todays_event() -> None:
    """An upcaster turns the fields of one version into the next one's; the bytes stay."""
    payload = b'{"by":"operator","title":"bot"}'
    assert decode("key_renamed@0", payload) == e.KeyRenamed(by="operator", name="bot")


@pytest.mark.usefixtures("an_old_version")
@pytest.mark.parametrize(
    ("label", "payload"),
    [
        ("key_forgotten", b"{}"),
        ("key_renamed@2", b'{"by":"a","name":"b"}'),
        ("key_renamed@-1", b'{"by":"a","name":"b"}'),
        ("key_resumed@0", b'{"by":"a"}'),
        ("key_renamed", b'{"by":"a"}'),
        ("key_renamed", b'{"by":1,"name":"b"}'),
        ("key_renamed", b"not json"),
        ("key_renamed", b'{"by":"a","name":"\xff"}'),
        ("key_renamed", b"[" * 100_000),
        ("key_expired", b'{"expired_at":"2026-01-01T00:00:00"}'),
    ],
)
def test_what_cannot_be_read_is_named(label, payload) -> None:
    """An unknown type or version, or bytes that are no such event, stop the reader (Promise 12)."""
    with pytest.raises(LedgerCorrupt) as stopped:
        decode(label, payload)
    assert label in str(stopped.value)


def test_the_database_knows_exactly_the_events_there_are() -> None:
    """The enum of the first migration, with what later ones add, is what the codec writes."""
    versions = Path(ledger.__file__).parent / "server" / "migrations" / "versions"
    known: list[str] = []
    for path in sorted(versions.glob("[0-9]*.py")):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        known += getattr(module, "EVENT_TYPES", ())
    assert tuple(known) == codec.labels
