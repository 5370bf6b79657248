"""Who sends a replayed trace: accounts, keys in all five dialects, and which key sends what.

All of it is a function of the seed: the same seed finds the same accounts and keys again (by
``Idempotency-Key``) and gives each request to the same key.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple, Protocol

from ledger.clock import Instant, parse_instant
from ledger.pricing import STANDARD_CARD
from ledger.secrets import dialects

ACCOUNTS = 5
KEYS = 15
TIGHT_REQUESTS = 20
CREDIT = {"amount": "1000000", "asset": "USD", "kind": "paid", "reason": "Replay"}
ROOMY_LIMITS = (
    {"kind": "requests", "window": "rolling:60", "ceiling": "1000000"},
    {"kind": "tokens", "window": "day", "ceiling": "100000000000"},
    {"kind": "spend", "window": "month", "ceiling": "1000000"},
)
"""So large that nothing is refused; they are there so that every request is held to them."""
ACCOUNT_NAMES = ("Northwind", "Halcyon", "Atlas", "Juniper", "Brightside")
INTEGRATIONS = (
    *("support-bot", "site-search", "code-review", "mail-triage", "meeting-notes"),
    *("invoice-reader", "sales-copilot", "doc-translator", "shop-assistant", "log-explainer"),
    *("quiz-maker", "report-writer", "voice-agent", "contract-check", "news-digest"),
)
TIGHT_INTEGRATION = "free-trial"
PREFERRED_MODELS = (
    *("openai/gpt-4o-mini", "openai/gpt-4.1", "anthropic/claude-sonnet-4-5"),
    *("google/gemini-2.5-flash", "mistral/mistral-large", "deepseek/deepseek-chat"),
    *("anthropic/claude-haiku-4-5", "openai/gpt-5-mini"),
)
NEEDED_CLASSES = ("input", "output")
WEIGHT = 10**12


class PlannedKey(NamedTuple):
    """A key as the seed makes it."""

    account: int
    """Index of its account."""
    integration: str
    dialect: str
    model: str
    weight: int
    """Its share of the requests, relative to the others'."""
    limits: Sequence[Mapping[str, str]]


class Plan(NamedTuple):
    """Accounts and keys before there are any."""

    seed: int
    accounts: Sequence[str]
    keys: Sequence[PlannedKey]
    name: str
    """Begins every idempotency key."""


class Sender(NamedTuple):
    """A key that there is."""

    key_id: str
    account_id: str
    account: str
    hint: str
    planned: PlannedKey


class Fleet(NamedTuple):
    """Accounts and keys that there are."""

    seed: int
    opened_at: Instant
    """When its first account was opened: the same in every run."""
    senders: Sequence[Sender]
    sums: Sequence[int]
    """Running sums of the weights."""

    def sender_of(self, session: str) -> int:
        """Return the index of the key that sends the requests of a session."""
        return bisect_right(self.sums, drawn(self.seed, "session", session) % self.sums[-1])


class Poster(Protocol):
    """Posts to the service and returns the decoded answer."""

    def __call__(self, path: str, body: Mapping[str, Any], idempotency_key: str) -> Any:  # noqa: ANN401
        """Post once, however often it is called with one idempotency key."""


def drawn(seed: int, *what: str) -> int:
    """Draw 64 bits for something, the same for the same seed."""
    material = "/".join((str(seed), *what)).encode()
    return int.from_bytes(hashlib.blake2b(material, digest_size=8).digest())


def plan(
    seed: int,
    models: Sequence[str],
    *,
    accounts: int = ACCOUNTS,
    keys: int = KEYS,
    tight_requests: int = TIGHT_REQUESTS,
) -> Plan:
    """Lay out accounts and keys. The n-th key's share falls as 1/(n + 2), as Zipf found.

    ``tight_requests`` more than 0 adds a key that may make no more than that many requests ever.
    """
    count = keys + (1 if tight_requests else 0)
    planned = [
        PlannedKey(
            account=(number + number // len(dialects())) % accounts,
            integration=_numbered(INTEGRATIONS, number),
            dialect=dialects()[number % len(dialects())],
            model=models[drawn(seed, "model", str(number)) % len(models)],
            weight=WEIGHT // (number + 3),
            limits=ROOMY_LIMITS,
        )
        for number in range(count)
    ]
    if tight_requests:
        limit = {"kind": "requests", "window": "lifetime", "ceiling": str(tight_requests)}
        planned[-1] = planned[-1]._replace(integration=TIGHT_INTEGRATION, limits=(limit,))
    names = [_numbered(ACCOUNT_NAMES, number) for number in range(accounts)]
    return Plan(seed, names, planned, f"replay/{seed}/{accounts}/{keys}/{tight_requests}")


def _numbered(names: Sequence[str], number: int) -> str:
    again, place = divmod(number, len(names))
    return f"{names[place]}-{again + 1}" if again else names[place]


def muster(planned: Plan, post: Poster) -> Fleet:
    """Open the accounts, grant credit, issue the keys; find them where they are there already."""
    ids, opened = [], []
    for number, name in enumerate(planned.accounts):
        body = {"name": name, "welcome": False, "limits": []}
        account = post("/accounts", body, f"{planned.name}/account/{number}")
        grant = f"/accounts/{account['account_id']}/grants"
        post(grant, CREDIT, f"{planned.name}/grant/{number}")
        ids.append(account["account_id"])
        opened.append(parse_instant(account["opened_at"]))
    senders = []
    for number, key in enumerate(planned.keys):
        body = {
            "name": key.integration,
            "dialect": key.dialect,
            "limits": list(key.limits),
            "rate_card": STANDARD_CARD,  # the trace's models, whatever the dialect's own card has
        }
        place = f"/accounts/{ids[key.account]}/keys"
        issued = post(place, body, f"{planned.name}/key/{number}")
        account_id, name = ids[key.account], planned.accounts[key.account]
        senders.append(Sender(issued["key_id"], account_id, name, issued["hint"], key))
    sums = list(accumulate(key.weight for key in planned.keys))
    return Fleet(planned.seed, opened[0], senders, sums)


def choose_models(prices: Mapping[str, Mapping[str, Any]], most: int = 6) -> list[str]:
    """Choose a short list of models that the rate card prices.

    ``prices``: the ``models`` of a card. Well-known ones first, else the first by name.
    """
    usable = [
        name
        for name, price in prices.items()
        if all(needed in price["prices"] for needed in NEEDED_CLASSES)
    ]
    known = [name for name in PREFERRED_MODELS if name in usable]
    return (known or sorted(usable))[:most]
