"""The pure core without a database: one lane in memory, driven as the writer drives it.

``Core`` hands commands to the same ``Batch`` that the writer uses and keeps every event.
Commands are made by the functions below, for it and for a ``Writer`` alike.
"""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec

from ledger import accounts, keys, metering, ratecards, rating
from ledger import credits as credit
from ledger import events as e
from ledger.clock import EARLIEST, Instant
from ledger.codec import Recorded
from ledger.errors import Refused
from ledger.ids import OPERATOR_ACCOUNT, AccountId, KeyId, rating_id
from ledger.pricing import ModelPrice, RateCard
from ledger.ratecards import RateCards
from ledger.record.batch import Batch, Command, Outcome, RefusalLog, runs
from ledger.record.card_rows import rows_of
from ledger.requests import Facts, KnownRequest, Made, Record, Release, Reserve, Settle
from ledger.state import LaneState, advance, evolve
from ledger.usage import Usage

START = datetime(2026, 11, 21, 10, tzinfo=UTC)
PRICES = {"input": "0.15", "output": "0.6"}


def account_id(name: str) -> AccountId:
    """Return the same account id for the same name."""
    return AccountId(UUID(bytes=hashlib.sha256(name.encode()).digest()[:16]))


def key_id(name: str, lane: int = 0) -> KeyId:
    """Return the same key id for the same name."""
    return KeyId(UUID(bytes=hashlib.sha256(name.encode()).digest()[:14] + lane.to_bytes(2)))


def a_card(
    models: dict[str, dict[str, str]] | None = None,
    *,
    name: str = "standard",
    asset: str = "USD",
    version: int = 1,
    effective_from: Instant = EARLIEST,
    aliases: dict[str, str] | None = None,
) -> RateCard:
    """Make a rate card; by default one model, ``mini``."""
    prices = {"mini": PRICES} if models is None else models
    return RateCard(
        name=name,
        version=version,
        asset=asset,
        effective_from=effective_from,
        models={model: ModelPrice(prices=found) for model, found in prices.items()},
        aliases=aliases or {},
    )


class Core:
    """One lane in memory."""

    def __init__(self, *cards: RateCard, at: Instant = START) -> None:
        """Begin empty, with rate cards that were published before."""
        self.state = LaneState()
        self.cards = RateCards(cards)
        self.at = at
        self.log: list[Recorded] = []
        self._known: dict[UUID, KnownRequest] = {}
        self._refusals = RefusalLog()

    def submit(self, command: Command) -> Outcome | Refused:
        """Decide one command, after what ran out was recorded."""
        (outcome,) = self.submit_all([command])
        return outcome

    def submit_all(self, commands: list[Command]) -> list[Outcome | Refused]:
        """Decide commands in one batch, after what ran out was recorded."""
        state, at = self.state, self.at
        batch = Batch(0, state, self.cards, at)
        batch.known = self._known
        batch.expire(
            [found for found, r in state.reservations.items() if r.expires_at <= at],
            [found for found, key in state.keys.items() if key.expires_at and key.expires_at <= at],
            list(state.accounts),
        )
        batch.append_suppressed(self._refusals.due(at))
        for run in runs(commands):
            batch.decide_run(run, self._refusals)
        self._refusals.keep()
        self.log += batch.changes.events
        for event in batch.changes.events:
            if isinstance(event.body, e.RateCardPublished):
                self.cards.add(event.body.card, event.envelope.recorded_at)
            elif isinstance(event.body, e.RateCardWithdrawn):
                body, at = event.body, event.envelope.recorded_at
                self.cards.withdraw(body.name, body.version, at)
        for account in state.accounts.values():
            account.touched.clear()
            account.drained.clear()
        outcomes = {id(command): outcome for command, outcome in batch.results}
        found = [outcomes[id(command)] for command in commands]
        assert all(isinstance(outcome, Outcome | Refused) for outcome in found)
        return found

    def do(self, command: Command) -> list[e.AnyEvent]:
        """Decide one command that must not be refused; return its events."""
        outcome = self.submit(command)
        if isinstance(outcome, Refused):
            raise outcome
        return [event.body for event in outcome.events]

    def wait(self, seconds: int) -> None:
        """Let time pass."""
        self.at += timedelta(seconds=seconds)


def fold(log: list[Recorded]) -> LaneState:
    """Fold a lane from its first event."""
    state = LaneState()
    for recorded in log:
        evolve(state, recorded.envelope, recorded.body)
        advance(state, recorded)
    return state


def plain(state: LaneState) -> object:
    """Return a state as comparable data, without notes of what is still to be written down."""
    found = msgspec.to_builtins(state, str_keys=True, enc_hook=lambda window: str(type(window)))
    for account in found["accounts"].values():
        del account["touched"], account["drained"], account["limits"]
    for key in found["keys"].values():
        del key["limits"]
    return found


Rule = Callable[[Facts, Instant], list[e.AnyEvent]]


def change(account: AccountId, rule: Rule, key: KeyId | None = None) -> Command:
    """Make a command of a decision that answers with events only."""
    return Command(account, lambda facts, at: (rule(facts, at), None), key_id=key)


def open_account(account: AccountId, **terms) -> Command:
    """Open an account."""
    opened = e.AccountOpened(by="operator", **terms)
    return change(account, lambda facts, at: accounts.open_account(facts.account, opened))  # noqa: ARG005


def publish(card: RateCard, *, start: Instant | None = EARLIEST, confirm: bool = False) -> Command:
    """Publish a rate card, with the row by which other processes know of it."""
    draft = ratecards.draft_of(card, start=start)

    def decide(facts: Facts, at: Instant) -> Made:
        made = ratecards.publish(facts.cards, draft, by="operator", at=at, confirm=confirm)
        return made, None

    return Command(OPERATOR_ACCOUNT, decide, also=rows_of, everywhere=True)


def withdraw(name: str, version: int) -> Command:
    """Withdraw a version of a rate card."""

    def decide(facts: Facts, at: Instant) -> Made:
        return ratecards.withdraw(facts.cards, name, version, by="operator", at=at), None

    return Command(OPERATOR_ACCOUNT, decide, also=rows_of, everywhere=True)


def issue(account: AccountId, key: KeyId, **terms) -> Command:
    """Issue a key."""
    issued = e.KeyIssued(**{"by": "operator", "name": "bot", "dialect": "bve", **terms})
    return change(account, lambda facts, at: keys.issue(facts.account, issued, at=at), key)


def grant(account: AccountId, amount: str, asset: str = "USD", **terms) -> Command:
    """Grant credit."""
    granted = e.CreditGranted(by="operator", lot=0, asset=asset, amount=amount, **terms)
    return change(account, lambda facts, at: credit.grant(facts.account, granted, at=at))


def set_paying(account: AccountId, *assets: str) -> Command:
    """Let other assets pay for an account; its other terms stay."""

    def decide(facts: Facts, at: Instant) -> list[e.AnyEvent]:  # noqa: ARG001
        now = facts.account
        assert now is not None
        policy = e.AccountPolicySet(
            by="operator",
            pays_with=assets,
            rate_card=now.rate_card,
            overdraft=now.overdraft,
            unpriced=now.unpriced,
        )
        return accounts.set_policy(now, policy)

    return change(account, decide)


def void(account: AccountId, lot: int) -> Command:
    """Void a grant."""
    return change(
        account,
        lambda facts, at: credit.void(facts.account, lot, by="operator", reason=""),  # noqa: ARG005
    )


def reduce(account: AccountId, amount: str, asset: str = "USD") -> Command:
    """Take credit away."""
    return change(
        account,
        lambda facts, at: credit.reduce(
            facts.account, asset, amount, by="operator", reason="mistake", at=at
        ),
    )


def revoke(account: AccountId, key: KeyId) -> Command:
    """Revoke a key."""
    return change(account, lambda facts, at: keys.revoke(facts.key, by="operator"), key)  # noqa: ARG005


def suspend_key(account: AccountId, key: KeyId) -> Command:
    """Suspend a key."""
    return change(account, lambda facts, at: keys.suspend(facts.key, by="operator", at=at), key)


def close(account: AccountId) -> Command:
    """Close an account."""
    return change(account, lambda facts, at: accounts.close(facts.account, by="operator"))  # noqa: ARG005


def rotate(account: AccountId, key: KeyId, grace_seconds: int = 0) -> Command:
    """Give a key another secret."""
    grace = timedelta(seconds=grace_seconds)
    return change(
        account,
        lambda facts, at: keys.rotate(
            facts.account, facts.key, hint="…", grace=grace, by="operator", at=at
        ),
        key,
    )


def set_key_limits(account: AccountId, key: KeyId, *limits: e.LimitRule) -> Command:
    """Replace a key's limits."""
    changes = keys.KeyPatch(limits=limits)
    return change(
        account,
        lambda facts, at: keys.change(facts.account, facts.key, changes, by="operator", at=at),
        key,
    )


def set_account_limits(account: AccountId, *limits: e.LimitRule) -> Command:
    """Replace an account's limits."""
    return change(
        account,
        lambda facts, at: accounts.set_limits(facts.account, limits, by="operator"),  # noqa: ARG005
    )


def record(account: AccountId, key: KeyId, request_id: str, usage: Usage, **more) -> Command:
    """Record a request in one step."""
    asked = Record(**{"request_id": request_id, "model": "mini", "usage": usage, **more})
    return Command(
        account,
        lambda facts, at: metering.record(facts, asked, key_id=key, at=at),
        key_id=key,
        request_id=request_id,
        metered=True,
        request=asked,
        occurred_at=asked.occurred_at,
    )


def reserve(account: AccountId, key: KeyId, request_id: str, usage: Usage, **more) -> Command:
    """Reserve the worst case of a request."""
    asked = Reserve(**{"request_id": request_id, "model": "mini", "usage": usage, **more})
    return Command(
        account,
        lambda facts, at: metering.reserve(facts, asked, key_id=key, at=at),
        key_id=key,
        request_id=request_id,
        metered=True,
        request=asked,
    )


def settle(account: AccountId, key: KeyId, request_id: str, usage: Usage, **more) -> Command:
    """Settle a reserved request."""
    asked = Settle(request_id=request_id, usage=usage, **more)
    return Command(
        account,
        lambda facts, at: metering.settle(facts, asked, at=at),
        key_id=key,
        request_id=request_id,
        closes=True,
    )


def release(account: AccountId, key: KeyId, request_id: str) -> Command:
    """Release a reserved request."""
    asked = Release(request_id=request_id)
    return Command(
        account,
        lambda facts, at: metering.release(facts, asked),  # noqa: ARG005
        key_id=key,
        request_id=request_id,
        closes=True,
    )


def rate(
    account: AccountId, key: KeyId | None, unpriced: Recorded, request: Recorded | None = None
) -> Command:
    """Price an unpriced request now that its price has come."""
    return Command(
        account,
        lambda facts, at: (
            rating.rate(facts, unpriced, request or unpriced, by="system", at=at),
            None,
        ),
        key_id=key,
        request_id=rating_id(unpriced.envelope.lane_seq),
        occurred_at=unpriced.envelope.occurred_at,
    )
