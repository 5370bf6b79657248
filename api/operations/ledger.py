"""All operations of a process, by subject, on its one writer."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from api.operations.accounts import Accounts
from api.operations.calls import Calls
from api.operations.credits import Credits
from api.operations.dispatch import Dispatcher
from api.operations.keys import Keys
from api.operations.members import Members
from api.operations.opening import Opening
from api.operations.prices import Prices
from api.operations.requests import Requests
from api.queries.resolve import Resolver
from ledger import events as e
from ledger.ids import AccountId
from ledger.money import KNOWN_ASSETS, Amount
from ledger.record.lanes import Writer
from ledger.secrets import Peppers


class Ledger:
    """What callers use: ``ledger.accounts.open(...)``, ``ledger.requests.record(...)``."""

    def __init__(
        self,
        writer: Writer,
        resolver: Resolver,
        peppers: Peppers,
        welcome: Sequence[Amount],
        *,
        assets: frozenset[str] = KNOWN_ASSETS,
        key_limits: Mapping[str, tuple[e.LimitRule, ...]] = MappingProxyType({}),
        opening: Opening | None = None,
    ) -> None:
        """Take what operations need.

        ``welcome``: credit of a new account. ``assets``: the assets that amounts may be of.
        ``key_limits``: dialect → limits of keys that are issued without any. ``opening``: terms of
        new accounts.
        """
        self._writer = writer
        dispatcher = Dispatcher(writer, assets)
        self.accounts = Accounts(dispatcher, welcome, opening or Opening())
        self.members = Members(dispatcher)
        self.keys = Keys(dispatcher, resolver, peppers, key_limits)
        self.credits = Credits(dispatcher)
        self.prices = Prices(dispatcher)
        self.requests = Requests(writer)
        self.calls = Calls(writer)

    @property
    def lanes(self) -> int:
        """Return the number of lanes."""
        return len(self._writer.lanes)

    def lane_of(self, account_id: AccountId) -> int:
        """Return the lane of an account."""
        return self._writer.lane_of(account_id)
