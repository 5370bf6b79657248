"""Accounts: open, change the terms, suspend, resume, close."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from api.operations.asked import Asked, Done, check_reason
from api.operations.dispatch import Dispatcher, Rule, account_now
from api.operations.members import Person
from api.operations.opening import Opening
from ledger import accounts
from ledger import credits as credit
from ledger import events as e
from ledger.clock import Instant
from ledger.codec import GENESIS, Recorded
from ledger.errors import AccountIsOpen, InvalidField, Refused, VersionIsOutdated
from ledger.ids import OPERATOR_ACCOUNT, AccountId, new_account_id
from ledger.keys import require_no_secret
from ledger.money import Amount
from ledger.record import profiles
from ledger.record.bound_rows import WalletRow
from ledger.record.store import Row
from ledger.requests import Facts
from ledger.state import Account, LaneState, advance, evolve

CONSTRAINTS: Mapping[str, type[Refused]] = {"wallet_has_one_account": AccountIsOpen}
"""Constraints on wallets that a caller may break, and the refusals to answer."""
OWN_WINDOW = "rolling:3600"
"""Window in which an account may limit its own spending: any hour."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What to change about an account's terms; whatever is UNSET stays."""

    name: str | UnsetType = UNSET
    pays_with: tuple[str, ...] | UnsetType = UNSET
    rate_card: str | UnsetType = UNSET
    overdraft: dict[str, str] | UnsetType = UNSET
    unpriced: str | UnsetType = UNSET
    max_output_tokens: int | UnsetType = UNSET
    expected_version: int | None = None


class Accounts:
    """Operations on accounts."""

    def __init__(self, dispatcher: Dispatcher, welcome: Sequence[Amount], opening: Opening) -> None:
        """Take the dispatcher, and the credit and terms of new accounts."""
        self._dispatcher = dispatcher
        self._welcome = welcome
        self.opening = opening

    def id_for(self, asked: Asked[Any]) -> AccountId:
        """Return the id of an account about to be opened.

        The same idempotency key has the same id, so that a repeat goes to the same lane.
        """
        if not asked.idempotency_key:
            return new_account_id()
        digest = hashlib.sha256(f"account/{asked.by}/{asked.idempotency_key}".encode()).digest()
        value = int.from_bytes(digest[:16])
        value = value & ~(0xF << 76) | (8 << 76)  # version 8: made by a custom rule
        return AccountId(UUID(int=value & ~(3 << 62) | (2 << 62)))

    async def open(
        self,
        asked: Asked[Account],
        terms: e.AccountOpened,
        *,
        name: str,
        account_id: AccountId | None = None,
        welcome: bool = True,
        owner: Person | None = None,
        wallet: WalletRow | None = None,
    ) -> Done[Account]:
        """Open an account, with its owner and the welcome grant in the same command."""
        require_no_secret("name", name)
        found = self.id_for(asked) if account_id is None else account_id
        lane = self._dispatcher.lane_of(found)
        gifts = self._welcome if welcome else ()

        def rule(facts: Facts, at: Instant) -> list[e.AnyEvent]:
            made = accounts.open_account(facts.account, terms)
            if owner is not None:
                made.append(e.MemberAdded(by=asked.by, member_id=owner.member_id, role="owner"))
                made.append(owner.login_set(found, by=asked.by))
            if wallet is not None:
                made.append(e.WalletLinked(by=asked.by, digest=wallet.digest))
            made.extend(credit.welcome(found, gifts, at=at))
            return made

        def rows(recorded: list[Recorded]) -> list[Row]:
            made: list[Row] = [profiles.save(found, lane, name)]
            at = recorded[0].envelope.recorded_at
            if owner is not None:
                made.append(owner.login(found).insert(at))
            if wallet is not None:
                made.append(wallet.insert(at))
            return made

        return await self._dispatcher.change(asked, found, rule, _opened, rows=rows)

    async def set_policy(
        self, asked: Asked[Account], account_id: AccountId, patch: Policy
    ) -> Done[Account]:
        """Change the terms under which an account is billed, and its name."""
        name = patch.name
        if name is not UNSET:
            require_no_secret("name", name)

        def rule(facts: Facts, at: Instant) -> list[e.AnyEvent]:  # noqa: ARG001
            account = accounts.require_not_closed(facts.account)
            if patch.expected_version not in {None, account.version}:
                raise VersionIsOutdated
            most = patch.max_output_tokens
            terms = e.AccountPolicySet(
                by=asked.by,
                pays_with=account.pays_with if patch.pays_with is UNSET else patch.pays_with,
                rate_card=account.rate_card if patch.rate_card is UNSET else patch.rate_card,
                overdraft=account.overdraft if patch.overdraft is UNSET else patch.overdraft,
                unpriced=account.unpriced if patch.unpriced is UNSET else patch.unpriced,
                max_output_tokens=account.max_output_tokens if most is UNSET else most,
            )
            return accounts.set_policy(account, terms)

        def rows(recorded: list[Recorded]) -> list[Row]:  # noqa: ARG001
            if name is UNSET:
                return []
            return [profiles.save(account_id, self._dispatcher.lane_of(account_id), name)]

        return await self._dispatcher.change(asked, account_id, rule, account_now, rows=rows)

    async def set_limits(
        self, asked: Asked[Account], account_id: AccountId, rules: tuple[e.LimitRule, ...]
    ) -> Done[Account]:
        """Replace an account's limits."""

        def rule(facts: Facts, at: Instant) -> list[e.AnyEvent]:  # noqa: ARG001
            return accounts.set_limits(facts.account, rules, by=asked.by)

        return await self._change(asked, account_id, rule)

    async def limit_own_spending(
        self, asked: Asked[Account], account_id: AccountId, ceiling: str | None, *, asset: str
    ) -> Done[Account]:
        """Set what an account lets itself spend in any hour; None lifts it."""

        def rule(facts: Facts, at: Instant) -> list[e.AnyEvent]:  # noqa: ARG001
            return accounts.limit_own_spending(
                facts.account, ceiling, asset=asset, window=OWN_WINDOW, by=asked.by
            )

        return await self._change(asked, account_id, rule)

    async def suspend(
        self, asked: Asked[Account], account_id: AccountId, *, reason: str = ""
    ) -> Done[Account]:
        """Stop every key of an account."""
        check_reason(reason)
        return await self._change(
            asked,
            account_id,
            lambda facts, _at: accounts.suspend(facts.account, by=asked.by, reason=reason),
        )

    async def resume(self, asked: Asked[Account], account_id: AccountId) -> Done[Account]:
        """Lift an account's suspension."""
        return await self._change(
            asked, account_id, lambda facts, _at: accounts.resume(facts.account, by=asked.by)
        )

    async def close(
        self, asked: Asked[Account], account_id: AccountId, *, reason: str = ""
    ) -> Done[Account]:
        """Close an account for good."""
        check_reason(reason)
        if account_id == OPERATOR_ACCOUNT:
            raise InvalidField("account_id", "is the operator's own, which cannot be closed")
        return await self._change(
            asked,
            account_id,
            lambda facts, _at: accounts.close(facts.account, by=asked.by, reason=reason),
        )

    async def _change(
        self, asked: Asked[Account], account_id: AccountId, rule: Rule
    ) -> Done[Account]:
        return await self._dispatcher.change(asked, account_id, rule, account_now)


def _opened(facts: Facts, recorded: Sequence[Recorded]) -> Account:  # noqa: ARG001 - a ``Show``
    """Return an account as its first events made it; the facts were loaded before it existed."""
    first = recorded[0].envelope
    state = LaneState(seq=first.lane_seq - 1, chain=GENESIS)
    for event in recorded:
        evolve(state, event.envelope, event.body)
        advance(state, event)
    return state.accounts[first.account_id]
