"""Commands that talk to the running service."""

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ledger.server import database

SECRET = re.compile(r"sk-bve-[0-9a-f]{64}")


@pytest.fixture
def account(served_keyledger: Any) -> str:
    """Open an account."""
    found: str = served_keyledger("account", "open", "Acme", "--json").json["account_id"]
    return found


def test_an_account_lives_from_open_to_closed(served_keyledger: Any) -> None:
    """Opened, found in the list, suspended, resumed, closed for good."""
    opened = served_keyledger(
        *("account", "open", "Globex", "--overdraft", "USD=10", "--no-welcome"),
        *("--limit", "spend=100/month", "--json"),
    ).json
    account = opened["account_id"]
    assert opened["overdraft"] == {"USD": "10"}
    listed = served_keyledger("account", "list", "--json").json
    assert account in [found["account_id"] for found in listed]
    assert account in served_keyledger("account", "list").out
    said = served_keyledger("account", "show", account).out
    assert "Globex" in said
    assert "spend/month" in said
    suspended = served_keyledger("account", "suspend", account, "--reason", "unpaid", "--json")
    assert suspended.json["status"] == "suspended"
    assert served_keyledger("account", "resume", account, "--json").json["status"] == "open"
    closed = served_keyledger("account", "close", account, "--yes", "--json").json
    assert closed["status"] == "closed"


def test_a_key_ends_with_a_day(served_keyledger: Any, account: str) -> None:
    """R8: a date means the end of that day of UTC; what is none is refused before it is sent."""
    issue = ("key", "issue", account, "bot", "--dialect", "reverie", "--json")
    made = served_keyledger(*issue, "--expires-at", "2090-12-31").json
    assert made["expires_at"] == "2091-01-01T00:00:00Z"
    made = served_keyledger(*issue, "--expires-at", "2090-12-31T12:00:00+01:00").json
    assert made["expires_at"] == "2090-12-31T11:00:00Z"
    assert (
        "does not look like" in served_keyledger(*issue, "--expires-at", "31.12.2090", code=2).err
    )
    refused = served_keyledger(*issue, "--default-character", "nobody", code=1)
    assert "default_character" in refused.err


def test_a_key_lives_from_issued_to_revoked(served_keyledger: Any, account: str) -> None:
    """Issued, limited, rotated, suspended, resumed, revoked; its secret is shown once."""
    said = served_keyledger(
        *("key", "issue", account, "bot", "--dialect", "bve"),
        *("--limit", "requests=60/rolling:60", "--limit", "spend=5/day", "--model", "m"),
        *("--limit", "tokens=9/day/each_model"),
    ).out
    secret = SECRET.search(said)
    assert secret is not None
    listed = served_keyledger("key", "list", account, "--json").json
    key = listed[0]["key_id"]
    shown = served_keyledger("key", "show", key)
    assert "requests/rolling:60" in shown.out
    assert "tokens:each_model/day" in shown.out
    assert secret[0] not in shown.out
    rotated = served_keyledger("key", "rotate", key, "--grace", "60", "--json").json
    assert rotated["secret"] != secret[0]
    assert [found["number"] for found in rotated["secrets"]] == [1, 2]
    for word, status in (("suspend", "suspended"), ("resume", "active")):
        assert served_keyledger("key", word, key, "--json").json["status"] == status
    revoked = served_keyledger("key", "revoke", key, "--yes", "--json").json
    assert revoked["status"] == "revoked"


def test_what_is_for_good_asks_first(
    served_keyledger: Any, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --yes and without an answer nothing is closed."""
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: "n")
    served_keyledger("account", "close", account, code=130)
    assert served_keyledger("account", "show", account, "--json").json["status"] == "open"


def test_credit_is_granted_and_withdrawn(served_keyledger: Any, account: str) -> None:
    """A lot is added, listed and voided."""
    lot = served_keyledger("grant", "add", account, "25.5 USD", "--json").json
    assert (lot["amount"], lot["asset"]) == ("25.5", "USD")
    assert "25.5" in served_keyledger("grant", "list", account).out
    done = served_keyledger("grant", "void", account, str(lot["lot"]), "--json").json
    assert {found["asset"]: found["balance"] for found in done["balances"]} == {"USD": "5"}


def test_a_refusal_is_one_line(served_keyledger: Any) -> None:
    """The service's own words and its code, exit code 1."""
    done = served_keyledger("account", "show", "acct_" + 32 * "0", code=1)
    assert done.err == "keyledger: No such account. [no_such_account]\n"


def test_a_rate_card_is_published_shown_and_compared(served_keyledger: Any, tmp_path: Path) -> None:
    """Two versions, their difference, and a jump that must be confirmed: each reason in words."""
    file = tmp_path / "card.json"

    def publish(price: str, *more: str, code: int = 0) -> Any:
        models = {"house-1": {"prices": {"input": price, "output": "0.6"}}}
        file.write_text(json.dumps({"name": "house", "asset": "USD", "models": models}))
        return served_keyledger("price", "publish", str(file), *more, code=code)

    publish("0.15")
    publish("0.2")
    changes = served_keyledger("price", "diff", "house", "1", "2", "--json").json
    assert [(v["model"], v["usage_class"], v["old"], v["new"]) for v in changes] == [
        ("house-1", "input", "0.15", "0.2")
    ]
    refused = publish("200", code=1).err
    assert "1 price would move tenfold or more, in USD per million" in refused
    assert "input of house-1 from 0.2 to 200" in refused
    tried = publish("200", "--dry-run").out
    assert "Nothing is published." in tried
    assert "tenfold" in tried
    assert "house/3" in publish("200", "--confirm").out
    assert "this is in force then already" in publish("200").out
    assert "house/2" in served_keyledger("price", "list").out
    assert "0.15" in served_keyledger("price", "show", "house", "--version", "1").out
    later = ("--as-of", "2999-01-01", "--known-at", "2998-12-31")
    assert "house/3" in served_keyledger("price", "show", "house", *later).out


def test_a_version_to_come_is_withdrawn(served_keyledger: Any, tmp_path: Path) -> None:
    """It is known for the time between, and nobody is charged by it."""
    file = tmp_path / "card.json"
    for price, *more in (("1",), ("2", "--effective-from", "2999-01-01T00:00:00Z")):
        models = {"future-1": {"prices": {"input": price}}}
        file.write_text(json.dumps({"name": "future", "asset": "USD", "models": models}))
        served_keyledger("price", "publish", str(file), *more)
    shown = ("price", "show", "future", "--as-of", "2999-01-02T00:00:00Z")
    known = served_keyledger("price", "list", "--json").json
    (second,) = (one for one in known if (one["name"], one["version"]) == ("future", 2))
    assert served_keyledger(*shown, "--json").json["version"] == 2
    assert served_keyledger("price", "withdraw", "future", "2", "--json").json["withdrawn_at"]
    assert served_keyledger(*shown, "--json").json["version"] == 1
    then = ("--known-at", second["recorded_at"])
    assert served_keyledger(*shown, *then, "--json").json["version"] == 2
    refused = served_keyledger("price", "withdraw", "future", "1", code=1).err
    assert "re-rating" in refused


def test_a_table_of_litellm_becomes_a_rate_card(served_keyledger: Any, tmp_path: Path) -> None:
    """Prices are read exactly; what fits no card is named."""
    file = tmp_path / "table.json"
    file.write_text(
        '{"sample_spec": {}, "tiny": {"input_cost_per_token": 7.5e-08,'
        ' "output_cost_per_token": 3e-07}, "unclear": {"input_cost_per_token": 0}}'
    )
    card = served_keyledger(
        "price", "import", "litellm", str(file), "--name", "litellm", "--json"
    ).json
    assert card["models"] == 1
    assert [each["model"] for each in card["skipped"]] == ["sample_spec", "unclear"]
    shown = served_keyledger("price", "show", "litellm", "--json").json
    assert shown["models"]["tiny"]["prices"] == {"input": "0.075", "output": "0.3"}


def test_the_prices_of_genai_prices_are_imported(served_keyledger: Any) -> None:
    """One provider of the installed package becomes a version."""
    words = ("price", "import", "genai-prices", "--name", "genai", "--provider", "mistral")
    assert served_keyledger(*words, "--json").json["models"] > 0


def test_a_database_for_tests_is_made_as_one(
    keyledger: Any, databases: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes an offset of its clock; one that is there already does not become one."""
    name, other = databases.create(), databases.create()
    monkeypatch.setenv("KEYLEDGER_DATABASE_URL", databases.url(name))
    keyledger("db", "upgrade", "--for-tests")
    database.set_clock_offset(databases.url(name), timedelta(days=40))
    monkeypatch.setenv("KEYLEDGER_DATABASE_URL", databases.url(other))
    keyledger("db", "upgrade")
    assert "not made for tests" in keyledger("db", "upgrade", "--for-tests", code=1).err
    databases.drop(name)
    databases.drop(other)
