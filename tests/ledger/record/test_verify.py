"""The checker finds and names every change of history, and the record refuses to be changed."""

from collections.abc import Callable
from typing import Any

import msgspec
import psycopg
import pytest

from ledger import events as e
from ledger.codec import (
    GENESIS,
    chain,
    decode,
    encode,
    envelope_bytes,
    event_hash,
    pack_envelope,
)
from ledger.ids import AccountId, KeyId
from ledger.lines import unpriced_lines
from ledger.record import store, verify
from ledger.record.verify import Finding
from ledger.requests import Notes, ProviderReport
from ledger.server import database
from tests.projections.story import Ledger, publish
from tests.properties import core

Told = tuple[Ledger, AccountId, KeyId]


@pytest.fixture
def told(database_url: str) -> Told:
    """Return a ledger whose lane of one account has eight requests at its end."""
    ledger = Ledger(database_url)
    account, key = ledger.start()
    ledger.do(*(ledger.record(account, key) for _ in range(8)))
    return ledger, account, key


def tamper(ledger: Ledger, *statements: str) -> None:
    """Change history as somebody who owns the machine would."""
    with ledger.superuser() as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("ALTER TABLE events DISABLE TRIGGER ALL")
        for part in partitions(connection):
            connection.execute(f"ALTER TABLE {part} DISABLE TRIGGER ALL")
            key = f"{part}_pkey"
            connection.execute(f"ALTER TABLE {part} DROP CONSTRAINT IF EXISTS {key}")
        for statement in statements:
            assert connection.execute(statement).rowcount, statement


def partitions(connection: psycopg.Connection[Any]) -> list[str]:
    """Return the names of the partitions of events."""
    rows = connection.execute(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'events'::regclass"
    )
    return [name for (name,) in rows]


def findings(ledger: Ledger) -> list[Finding]:
    """Verify, and return what was found."""
    return verify.verify(ledger.url).findings


def lane_of(told: Told) -> tuple[int, int]:
    """Return the lane of the account, and its head."""
    ledger, account, _ = told
    ((lane, seq),) = ledger.rows(
        "SELECT lane, last_seq FROM account_heads WHERE account_id = %s", account
    )
    return lane, seq


def whats(found: list[Finding]) -> list[tuple[int, str, str]]:
    """Return position, kind and column of findings."""
    return [(finding.seq, finding.what, finding.column) for finding in found]


def test_an_untouched_ledger_is_intact(database_url: str) -> None:
    """Promise 2, Promise 12: every kind of event, in both lanes, verifies without a finding."""
    ledger = Ledger(database_url)
    ledger.tell_everything()
    seen: list[tuple[int, int, int]] = []
    report = verify.verify(database_url, progress=lambda *step: seen.append(step))
    assert report.findings == []
    assert report.intact
    heads = ledger.heads()
    assert {lane.lane: lane.seq for lane in report.lanes} == heads
    assert report.events == sum(heads.values())
    assert min(heads.values()) > 0
    assert {(lane, total) for lane, done, total in seen if done == total} == set(heads.items())


def test_lanes_verified_side_by_side_give_the_same_report(database_url: str) -> None:
    """Several processes find what one finds."""
    ledger = Ledger(database_url)
    ledger.tell_everything()
    tamper(ledger, "UPDATE events SET gap = gap + 1 WHERE type = 'balance_reduced'")
    one = verify.verify(database_url, processes=1)
    seen: list[tuple[int, int, int]] = []
    two = verify.verify(database_url, processes=2, progress=lambda *step: seen.append(step))
    assert one == two
    assert len(one.findings) == 4
    assert seen


def test_a_changed_payload_byte_is_found_where_it_is(told: Told) -> None:
    """Promise 12: one byte of one payload changed is named by lane, position and account."""
    ledger, account, _ = told
    lane, head = lane_of(told)
    tamper(
        ledger,
        'UPDATE events SET payload = replace(payload::text, \'"charge":"0.15"\','
        f' \'"charge":"0.14"\')::json WHERE lane = {lane} AND lane_seq = {head - 4}',
    )
    found = findings(ledger)
    assert whats(found) == [
        (head - 4, "hash_differs", "hash"),
        (head - 4, "charge_differs", ""),
    ]
    assert found[0].lane == lane
    assert found[0].account_id == account
    assert found[0].version == account_version(told) - 4
    assert (found[1].stored, found[1].expected) == ("0.14", "0.15")


def account_version(told: Told) -> int:
    """Return the account's newest version."""
    ledger, account, _ = told
    ((version,),) = ledger.rows("SELECT version FROM account_heads WHERE account_id = %s", account)
    return int(version)


def test_white_space_in_a_payload_is_found(told: Told) -> None:
    """Promise 12: bytes count, not what they mean."""
    ledger, _, _ = told
    lane, head = lane_of(told)
    tamper(
        ledger,
        "UPDATE events SET payload = replace(payload::text, '\":', '\": ')::json"
        f" WHERE lane = {lane} AND lane_seq = {head}",
    )
    assert whats(findings(ledger)) == [
        (head, "hash_differs", "hash"),
        (head, "payload_is_not_canonical", "payload"),
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("gap = gap + 1", ("column_differs", "gap")),
        ("occurred_at = occurred_at - interval '1 day'", ("hash_differs", "hash")),
        ("key_id = gen_random_uuid()", ("hash_differs", "hash")),
        ("type = 'key_resumed'", ("hash_differs", "hash")),
        ("occurred_at = 'infinity'", ("hash_differs", "hash")),
        ("hash = sha256('forged')", ("hash_differs", "hash")),
        ("hash = '\\x00'", ("hash_differs", "hash")),
        ("hash = sha512('forged')", ("hash_differs", "hash")),
    ],
)
def test_a_changed_column_is_found_and_named(
    told: Told, change: str, expected: tuple[str, str]
) -> None:
    """Promise 12: typed columns, hashed or derived, are compared with what they must be."""
    ledger, _, _ = told
    lane, head = lane_of(told)
    tamper(ledger, f"UPDATE events SET {change} WHERE lane = {lane} AND lane_seq = {head - 2}")
    found = whats(findings(ledger))
    assert found[0] == (head - 2, *expected)


def test_a_deleted_last_event_is_found(told: Told) -> None:
    """Promise 2, Promise 12: the head says how many events there must be."""
    ledger, _, _ = told
    lane, head = lane_of(told)
    tamper(ledger, f"DELETE FROM events WHERE lane = {lane} AND lane_seq = {head}")
    found = findings(ledger)
    assert (head, "position_is_missing", "") in whats(found)
    assert (head, "lane_chain_differs", "chain") in whats(found)


def test_a_deleted_last_event_is_found_although_its_heads_were_moved_back(told: Told) -> None:
    """Promise 12: whoever moves the position back as well is given away by the chain."""
    ledger, account, _ = told
    lane, head = lane_of(told)
    tamper(
        ledger,
        f"DELETE FROM events WHERE lane = {lane} AND lane_seq = {head}",
        f"UPDATE lane_heads SET seq = {head - 1} WHERE lane = {lane}",
        "UPDATE account_heads SET last_seq = last_seq - 1, version = version - 1"
        f" WHERE account_id = '{account}'",
    )
    assert (head - 1, "lane_chain_differs", "chain") in whats(findings(ledger))


def test_a_deleted_middle_event_is_found(told: Told) -> None:
    """Promise 2, Promise 12: a gap is named by the position that is missing."""
    ledger, _, _ = told
    lane, head = lane_of(told)
    tamper(ledger, f"DELETE FROM events WHERE lane = {lane} AND lane_seq = {head - 3}")
    found = whats(findings(ledger))
    assert found[0] == (head - 3, "position_is_missing", "")
    assert (head - 2, "version_is_not_the_next", "version") in found


def test_swapped_events_are_found(told: Told) -> None:
    """Promise 12: two events that changed places are both named."""
    ledger, _, _ = told
    lane, head = lane_of(told)
    tamper(
        ledger,
        f"UPDATE events SET lane_seq = CASE lane_seq WHEN {head - 5} THEN {head - 3}"
        f" ELSE {head - 5} END WHERE lane = {lane} AND lane_seq IN ({head - 5}, {head - 3})",
    )
    named = {finding.seq for finding in findings(ledger)}
    assert {head - 5, head - 3} <= named


FORGED = (
    "INSERT INTO events (lane_seq, recorded_at, occurred_at, version, type, gap, lane,"
    " account_id, key_id, hash, payload)"
    " SELECT {seq}, recorded_at + interval '1 microsecond', occurred_at, {version}, type, gap,"
    " lane, account_id, key_id, sha256('forged'), payload"
    " FROM events WHERE lane = {lane} AND lane_seq = {source}"
)


def test_a_forged_event_in_the_middle_is_found(told: Told) -> None:
    """Promise 12: a position that is taken twice is named."""
    ledger, _, _ = told
    lane, head = lane_of(told)
    source = head - 4
    tamper(ledger, FORGED.format(seq=source, version=99, lane=lane, source=source))
    assert (source, "position_is_taken_twice", "") in whats(findings(ledger))


def test_a_forged_event_at_the_end_is_found(told: Told) -> None:
    """Promise 12: an event beyond the head is named."""
    ledger, _, _ = told
    lane, head = lane_of(told)
    tamper(ledger, FORGED.format(seq=head + 1, version=99, lane=lane, source=head))
    assert whats(findings(ledger)) == [(head + 1, "position_is_beyond_the_head", "")]


def test_an_event_forged_with_its_own_hash_is_found_by_the_next_one(told: Told) -> None:
    """Promise 12: who recomputes one hash breaks the chain at the account's next event."""
    ledger, account, key = told
    lane, head = lane_of(told)
    seq = head - 4
    query = "SELECT hash FROM events WHERE lane = %s AND lane_seq = %s"
    ((before,),) = ledger.rows(query, lane, seq - 1)
    with ledger.connect() as connection:
        row = connection.execute(store.FEED, (lane, seq - 1, seq), binary=True).fetchone()
    event = store.stored(row).recorded
    payload = event.payload.replace(b'"0.15"', b'"0.14"', 1)
    at = (event.envelope.recorded_at - database_epoch()) // core.timedelta(microseconds=1)
    envelope = pack_envelope(
        lane, seq, account.bytes, event.envelope.version, at, at, key.bytes, b"request_recorded"
    )
    forged = event_hash(before, envelope, payload).hex()
    assert encode(decode("request_recorded", payload)) == payload
    tamper(
        ledger,
        f"UPDATE events SET hash = '\\x{forged}', payload = '{payload.decode()}'::json"
        f" WHERE lane = {lane} AND lane_seq = {seq}",
    )
    found = whats(findings(ledger))
    assert (seq + 1, "hash_differs", "hash") in found
    assert (head, "lane_chain_differs", "chain") in found


def database_epoch() -> core.datetime:
    """Return 1970."""
    return core.datetime(1970, 1, 1, tzinfo=core.UTC)


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("DELETE FROM request_ids WHERE lane_seq = {head}", "request_id_is_missing"),
        (
            "UPDATE request_ids SET lane_seq = lane_seq - 1 WHERE lane_seq = {head}",
            "request_id_points_elsewhere",
        ),
        (
            "UPDATE request_ids SET last_seq = {head} WHERE lane_seq = {head}",
            "request_id_points_elsewhere",
        ),
        (
            "INSERT INTO request_ids VALUES ({head}, NULL, {lane}, '\\x00010203')",
            "request_id_is_of_no_event",
        ),
        (
            "UPDATE account_heads SET version = version + 1 WHERE last_seq = {head}",
            "account_head_differs",
        ),
        ("DELETE FROM account_heads WHERE last_seq = {head}", "account_head_is_missing"),
        ("UPDATE lane_heads SET chain = sha256('') WHERE lane = {lane}", "lane_chain_differs"),
        (
            "UPDATE lane_heads SET last_recorded_at = now() WHERE lane = {lane}",
            "lane_head_differs",
        ),
    ],
)
def test_what_the_record_keeps_beside_events_is_compared(
    told: Told, statement: str, what: str
) -> None:
    """Promise 4, Promise 12: request ids and heads are what the events say they are."""
    ledger, _, _ = told
    lane, head = lane_of(told)
    tamper(ledger, statement.format(lane=lane, head=head))
    found = findings(ledger)
    assert [(finding.seq, finding.what) for finding in found] == [(head, what)]


def test_a_changed_price_is_found(told: Told) -> None:
    """Promise 10, Promise 12: the table that prices are read from is what was published."""
    ledger, _, _ = told
    tamper(ledger, "UPDATE rate_cards SET content = replace(content::text, '0.15', '0.16')::json")
    found = {(finding.what, finding.column) for finding in findings(ledger)}
    assert found == {
        ("rate_card_differs", "content"),
        ("prices_differ", ""),
        ("charge_differs", ""),
    }


def rewrite(ledger: Ledger, lane: int, seq: int, change: Callable[[bytes], bytes]) -> None:
    """Change a payload as somebody would who recomputes every hash after it, and all heads."""
    with ledger.connect() as connection:
        head = store.read_head(connection, lane)
        rows = connection.execute(store.FEED, (lane, 0, head.seq), binary=True).fetchall()
    hashes: dict[Any, bytes] = {}
    chained, statements = GENESIS, []
    for row in rows:
        found = store.stored(row)
        envelope, payload = found.recorded.envelope, found.recorded.payload
        if envelope.lane_seq == seq:
            payload = change(payload)
            assert payload != found.recorded.payload
        packed = envelope_bytes(envelope, found.type)
        hashed = event_hash(hashes.get(envelope.account_id, GENESIS), packed, payload)
        hashes[envelope.account_id], chained = hashed, chain(chained, hashed)
        text = payload.decode().replace("'", "''")
        statements.append(
            f"UPDATE events SET payload = '{text}'::json, hash = '\\x{hashed.hex()}'"
            f" WHERE lane = {lane} AND lane_seq = {envelope.lane_seq}"
        )
    statements += [
        f"UPDATE account_heads SET hash = '\\x{hashed.hex()}' WHERE account_id = '{account}'"
        for account, hashed in hashes.items()
    ]
    statements.append(f"UPDATE lane_heads SET chain = '\\x{chained.hex()}' WHERE lane = {lane}")
    tamper(ledger, *statements)


@pytest.mark.parametrize(
    ("before", "after", "what"),
    [
        (b'"charge":"0.15"', b'"charge":"0.16"', {"charge_differs", "lots_differ"}),
        (b'"0.15"]', b'"0.16"]', {"prices_differ"}),
        (b"[1000000,", b"[1000001,", {"charge_differs", "prices_differ"}),
        (b'"lots":[1]', b'"lots":[0]', {"lots_differ"}),
        (b'"card":"standard/1"', b'"card":"standard/9"', {"rate_card_is_unknown"}),
    ],
)
def test_a_history_rewritten_with_all_its_hashes_still_has_to_add_up(
    told: Told, before: bytes, after: bytes, what: set[str]
) -> None:
    """Promise 10, Promise 12: charges are priced again and lots chosen again by the rules."""
    ledger, _, _ = told
    lane, head = lane_of(told)
    rewrite(ledger, lane, head - 4, lambda payload: payload.replace(before, after, 1))
    found = [finding for finding in findings(ledger) if finding.seq == head - 4]
    assert {finding.what for finding in found} & what, found
    assert not any("hash" in finding.what or "chain" in finding.what for finding in found)


def test_a_request_robbed_of_its_prices_with_all_hashes_is_found(told: Told) -> None:
    """Promise 10, Promise 12: a price that a card in force had is missed although none is named."""
    ledger, _, _ = told
    lane, head = lane_of(told)

    def rob(payload: bytes) -> bytes:
        body = decode("request_recorded", payload)
        assert isinstance(body, e.RequestRecorded)
        lines = unpriced_lines(body.usage)
        bare = {"card": "", "asset": "", "charge": "", "lots": (), "parts": ()}
        return encode(msgspec.structs.replace(body, lines=lines, **bare))

    rewrite(ledger, lane, head - 4, rob)
    found = {finding.what for finding in findings(ledger) if finding.seq == head - 4}
    assert found == {"prices_differ", "charge_differs"}


def test_a_rating_rewritten_with_all_its_hashes_is_found(told: Told) -> None:
    """Promise 10, Promise 12: what is rated later has to have the prices of its card too."""
    ledger, account, key = told
    ledger.do(ledger.record(account, key, model="new", delivered=True))
    lane, head = lane_of(told)
    with ledger.connect() as connection:
        rows = connection.execute(store.FEED, (lane, head - 1, head), binary=True).fetchall()
    (late,) = [store.stored(row).recorded for row in rows]
    ledger.do(publish("new", version=2))
    ledger.do(core.rate(account, key, late))
    assert findings(ledger) == []
    lane, head = lane_of(told)
    rewrite(ledger, lane, head, lambda payload: payload.replace(b'"0.15"]', b'"0.14"]', 1))
    assert "prices_differ" in {each.what for each in findings(ledger) if each.seq == head}


TEXTS = [
    ("UPDATE provider_reports SET report = '{}'", "text_differs", "provider_reports"),
    ("UPDATE request_notes SET end_user = 'bob'", "text_differs", "request_notes"),
    ("UPDATE request_notes SET metadata = ''", "text_differs", "request_notes"),
    (
        "UPDATE provider_reports SET request_hash = '\\x00010203'",
        "text_is_of_no_event",
        "provider_reports",
    ),
    ("UPDATE request_notes SET account_id = gen_random_uuid()", "text_differs", "request_notes"),
]


@pytest.mark.parametrize(("statement", "what", "table"), TEXTS)
def test_a_text_beside_a_request_is_the_one_of_its_event(
    told: Told, statement: str, what: str, table: str
) -> None:
    """Promise 12: a kept report and what was noted are compared; what was forgotten is not."""
    ledger, account, key = told
    report = ProviderReport('{"prompt_tokens":7}')
    notes = Notes(b"salt", '{"ticket":"A-17"}', "anna@example.com")
    ledger.do(ledger.record(account, key, report=report, notes=notes))
    ledger.do(ledger.record(account, key, notes=notes._replace(metadata="")))
    assert findings(ledger) == []
    tamper(ledger, "DELETE FROM request_notes WHERE metadata = ''")
    assert findings(ledger) == []
    tamper(ledger, statement)
    assert {(each.what, each.column) for each in findings(ledger)} == {(what, table)}


def test_a_grant_rewritten_with_all_its_hashes_is_found(told: Told) -> None:
    """Promise 7, Promise 12: more credit than was granted shows where lots then differ."""
    ledger, account, _ = told
    lane, _ = lane_of(told)
    ((seq, amount),) = ledger.rows(
        "SELECT lane_seq, payload ->> 'amount' FROM events WHERE type = 'credit_granted'"
        " AND account_id = %s ORDER BY lane_seq LIMIT 1",
        account,
    )
    old, new = f'"amount":"{amount}"'.encode(), b'"amount":"0.1"'
    rewrite(ledger, lane, seq, lambda payload: payload.replace(old, new, 1))
    assert findings(ledger)


@pytest.mark.parametrize("what", ["request_settled", "account_policy_set"])
def test_a_repayment_rewritten_with_all_its_hashes_is_found(database_url: str, what: str) -> None:
    """Promise 7, Promise 12: what free lots repay is decided again, by whatever event it is."""
    ledger = Ledger(database_url)
    ledger.start()
    account = ledger.owe()
    ((lane, seq, repaid),) = ledger.rows(
        "SELECT lane, lane_seq, payload ->> 'repaid' FROM events"
        " WHERE account_id = %s AND type = %s::event_type",
        account,
        what,
    )
    assert repaid
    before = f',"repaid":{repaid}'.encode()
    rewrite(ledger, lane, seq, lambda payload: payload.replace(before, b"", 1))
    found = [finding for finding in findings(ledger) if finding.seq == seq]
    assert "lots_differ" in {finding.what for finding in found}, found


def test_the_checker_says_how_much_it_decided_again(told: Told) -> None:
    """Every request is priced again, and every movement of a lot decided again (Promise 10)."""
    ledger, _, _ = told
    report = verify.verify(ledger.url)
    counted = "SELECT count(*) FROM events WHERE type = ANY(%s::text[]::event_type[])"
    priced = ["request_recorded", "request_reserved", "request_settled", "request_rated"]
    assert ledger.rows(counted, priced) == [(report.charges,)]
    assert report.movements >= report.charges


def test_findings_are_bounded_and_the_rest_is_counted(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ruined lane does not fill the memory of who looks at it."""
    ledger, _, _ = told
    monkeypatch.setattr(verify, "FINDINGS_MAX", 3)
    lane, head = lane_of(told)
    tamper(ledger, f"UPDATE events SET hash = sha256('x') WHERE lane = {lane}")
    report = verify.verify(ledger.url)
    (ruined,) = [found for found in report.lanes if found.findings]
    assert len(ruined.findings) == 3
    assert ruined.more >= head - 3


def test_verifying_needs_no_right_but_to_read(told: Told) -> None:
    """The auditor's role can read the record and change nothing."""
    ledger, _, _ = told
    assert verify.verify(ledger.url, role=database.READER).intact
    with ledger.connect(database.READER) as connection:
        for statement in ("DELETE FROM balances", "UPDATE lane_heads SET seq = 0"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


# Promise 1.

CHANGES = (
    "UPDATE {table} SET gap = 0",
    "DELETE FROM {table}",
    "TRUNCATE {table}",
)


def as_app(ledger: Ledger) -> psycopg.Connection[Any]:
    """Connect as the service does."""
    return ledger.connect(database.APP)


def as_reader(ledger: Ledger) -> psycopg.Connection[Any]:
    """Connect as a person does."""
    return ledger.connect(database.READER)


def as_owner(ledger: Ledger) -> psycopg.Connection[Any]:
    """Connect as migrations do."""
    return ledger.connect(database.OWNER)


def as_replica(ledger: Ledger) -> psycopg.Connection[Any]:
    """Connect as a superuser who switched ordinary triggers off."""
    connection = ledger.superuser()
    connection.execute("SET session_replication_role = replica")
    return connection


@pytest.mark.parametrize("connect", [as_app, as_reader, as_owner, Ledger.superuser, as_replica])
def test_nobody_changes_events(
    told: Told, connect: Callable[[Ledger], psycopg.Connection[Any]]
) -> None:
    """Promise 1: UPDATE, DELETE and TRUNCATE are refused to every role.

    On the table and on each partition, one made a moment ago included.
    """
    ledger, _, _ = told
    with ledger.connect(database.APP) as app:
        query = "SELECT create_events_partition((now() + interval '9 months')::date)"
        assert app.execute(query).fetchone() == (True,)
    before = ledger.rows("SELECT count(*), sum(gap) FROM events")
    with connect(ledger) as connection:
        tables = ["events", *partitions(connection)]
        assert len(tables) == 6
        for table in tables:
            for change in CHANGES:
                refuse(connection, change.format(table=table))
    assert ledger.rows("SELECT count(*), sum(gap) FROM events") == before


def refuse(connection: psycopg.Connection[Any], statement: str) -> None:
    """Expect a statement to be refused, unless there is no row for a trigger to refuse."""
    try:
        done = connection.execute(statement)
    except psycopg.errors.InsufficientPrivilege:
        return
    assert not statement.startswith("TRUNCATE"), statement
    assert done.rowcount == 0, statement


def test_triggers_fire_always_on_the_table_and_on_every_partition(told: Told) -> None:
    """Promise 1: both triggers are ENABLE ALWAYS everywhere, on a partition made today too."""
    ledger, _, _ = told
    with ledger.connect(database.APP) as app:
        app.execute("SELECT create_events_partition((now() + interval '9 months')::date)")
    rows = ledger.rows(
        "SELECT c.relname, t.tgname, t.tgenabled::text FROM pg_trigger t"
        " JOIN pg_class c ON c.oid = t.tgrelid"
        " WHERE c.relname LIKE 'events%%' AND c.relkind IN ('r', 'p') ORDER BY 1, 2"
    )
    tables = {table for table, _, _ in rows}
    assert len(tables) == 6
    names = ("events_are_append_only", "events_are_not_truncated")
    assert rows == [(table, name, "A") for table in sorted(tables) for name in names]
