"""What stands beside a request's events: what the caller noted of it."""

import hashlib
from typing import Any

import psycopg

NOTED = {"metadata": {"ticket": "A-17", "team": "search"}, "end_user": "anna@example.com"}
TEXT = '{"team":"search","ticket":"A-17"}'


def test_events_hold_digests_of_notes_and_the_text_stands_aside(
    world: Any, ledger_url: str
) -> None:
    """No person's name is in an event; who has the salt can prove what was noted."""
    key = world.key(world.account())
    world.record(key, "r1", **NOTED)
    found = world.get(f"/requests/r1?key_id={key['key_id']}")
    assert (found["metadata"], found["end_user"]) == (NOTED["metadata"], NOTED["end_user"])
    with psycopg.connect(ledger_url) as connection:
        ((payload,),) = connection.execute(
            "SELECT payload::text FROM keyledger.events WHERE payload ->> 'request_id' = 'r1'"
            " AND account_id = %s",
            (key["account_id"].removeprefix("acct_"),),
        ).fetchall()
        ((salt,),) = connection.execute(
            "SELECT salt FROM keyledger.request_notes WHERE account_id = %s",
            (key["account_id"].removeprefix("acct_"),),
        ).fetchall()
    assert "anna" not in payload
    assert "search" not in payload
    for text in (TEXT, NOTED["end_user"]):
        assert hashlib.sha256(bytes(salt) + text.encode()).hexdigest() in payload


def test_a_reservation_takes_notes_too(world: Any) -> None:
    """What is noted when it is held is shown with what ended it."""
    key = world.key(world.account())
    body = {"request_id": "h", "key_id": key["key_id"], "model": "m", "usage": {"input": 1}}
    world.post("/requests", {**body, **NOTED}, 201)
    world.post("/requests/h/settle", {"key_id": key["key_id"], "usage": {"input": 1}})
    found = world.get(f"/requests/h?key_id={key['key_id']}")
    assert found["metadata"] == NOTED["metadata"]
    assert found["last"]["status"] == "settled"


def test_notes_are_bounded_and_hold_no_secret(world: Any) -> None:
    """Sixteen short texts at most, none a secret; what is refused charges nothing."""
    key = world.key(world.account())
    many = {str(n): "x" for n in range(17)}
    for metadata in (many, {"k": "x" * 513}, {"k" * 65: "x"}, {"k": 1}, {"k": key["secret"]}):
        refused = world.record(key, "r1", 400, metadata=metadata)
        assert "metadata" in str(refused)
        assert key["secret"] not in str(refused)
    world.record(key, "r1", 400, end_user=f"me {key['secret']}")
    world.record(key, "r1")
