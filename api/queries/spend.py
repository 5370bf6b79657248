"""What was spent and used, summed."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple
from uuid import UUID

from psycopg.rows import TupleRow

from api.queries.reader import Found, Reader, head_of
from ledger.clock import Instant
from ledger.errors import InvalidField, NoSuchAccount
from ledger.ids import AccountId, KeyId
from ledger.record import store
from ledger.state import Key
from projections.inline import spend

SPEND_MAX = 10_000
GROUPS = ("integration", "model", "day", "key")


class SpendTerms(NamedTuple):
    """What to sum, and what to group it by."""

    day: bool
    integration: bool
    model: bool
    key: bool
    start: date | None
    end: date | None

    @classmethod
    def by(cls, groups: Sequence[str], start: date | None, end: date | None) -> "SpendTerms":
        """Sum by some of ``GROUPS``, from a day of UTC on and before another."""
        return cls(
            day="day" in groups,
            integration="integration" in groups,
            model="model" in groups,
            key="key" in groups,
            start=start,
            end=end,
        )


class SpendLine(NamedTuple):
    """Sums of one group and asset. What is not grouped by is None."""

    day: date | None
    integration: str | None
    model: str | None
    key_id: UUID | None
    asset: str
    """Empty: unpriced so far."""
    requests: int
    unpriced: int
    amount: int
    """Pico."""
    usage: Mapping[str, int]
    """Units by class."""


class UsageTerms(NamedTuple):
    """Which keys' usage to show, and how much of it: at most this many rows of each."""

    dialect: str
    key_id: KeyId | None
    """None: all keys of the dialect."""
    days: int
    months: int
    first_day: date | None = None
    """None: no bound."""
    first_month: date | None = None
    """First day of the month."""


class KeyUsageLine(NamedTuple):
    """What a key used in a day or month."""

    first: date
    """The day, or the month's first."""
    key_id: UUID
    requests: int
    prompt: int
    """Input tokens of every kind."""
    completion: int


class UsageOfKeys(NamedTuple):
    """What keys used, the newest rows first."""

    days: Sequence[KeyUsageLine]
    months: Sequence[KeyUsageLine]
    recorded_at: Instant
    """Time of the account's newest event: exactly what was recorded until then is included."""


class AnalyticsTerms(NamedTuple):
    """Which UTC days to sum over, and what."""

    start: date
    end: date
    """Exclusive."""
    assets: Sequence[str]
    top: int
    """How many models and keys to show by day."""


class Analytics(NamedTuple):
    """Sums of spend in pico, with one line per name and asset."""

    days: Sequence[tuple[date, str, int]]
    models: Sequence[tuple[str, str, int, int]]
    """Model, asset, amount, tokens."""
    keys: Sequence[tuple[UUID, str, int, int, str]]
    """Key, asset, amount, tokens, integration."""
    top_models: Sequence[str]
    """Those that cost most, in descending order."""
    top_keys: Sequence[UUID]
    models_by_day: Sequence[tuple[date, str, int]]
    keys_by_day: Sequence[tuple[date, UUID, int]]
    known: Mapping[UUID, Key]
    """The keys as they are now."""


class SpendQueries:
    """Reads of spend."""

    def __init__(self, reader: Reader) -> None:
        """Take the reader."""
        self._reader = reader

    async def sums(self, account_id: AccountId, terms: SpendTerms) -> Found[list[SpendLine]]:
        """Sum what an account spent, in UTC days.

        Raises:
            NoSuchAccount: There is none.
            InvalidField: There would be more than 10,000 lines.
        """
        async with self._reader.of(account_id) as lane:
            await head_of(lane, account_id)
            parameters = {
                "lane": lane.lane,
                "account": account_id,
                "day": terms.day,
                "integration": terms.integration,
                "model": terms.model,
                "key": terms.key,
                "from": terms.start,
                "to": terms.end,
                "most": SPEND_MAX + 1,
            }
            rows = await lane.rows(spend.SUMS, parameters)
            position = lane.position
        if len(rows) > SPEND_MAX:
            raise InvalidField("group_by", f"makes more than {SPEND_MAX} lines; ask for less")
        return Found([_line(row) for row in rows], position)

    async def of_keys(self, account_id: AccountId, asked: UsageTerms) -> UsageOfKeys:
        """Sum what an account's keys used by UTC day and month.

        Raises:
            NoSuchAccount: There is none.
        """
        async with self._reader.of(account_id) as lane:
            parameters = {
                "lane": lane.lane,
                "account": account_id,
                "dialect": asked.dialect,
                "key": asked.key_id,
            }
            days = {**parameters, "from": asked.first_day, "most": asked.days}
            months = {**parameters, "from": asked.first_month, "most": asked.months}
            by_day = await lane.rows(spend.USAGE_BY_DAY, days)
            by_month = await lane.rows(spend.USAGE_BY_MONTH, months)
            newest = await lane.rows(store.LAST_RECORDED_AT, (lane.lane, account_id))
        if not newest:
            raise NoSuchAccount
        return UsageOfKeys(
            [KeyUsageLine(*row) for row in by_day],
            [KeyUsageLine(*row) for row in by_month],
            newest[0][0],
        )

    async def analytics(self, account_id: AccountId, asked: AnalyticsTerms) -> Analytics:
        """Sum what an account spent over some days, by day, model and key."""
        parameters: dict[str, Any] = {
            "account": account_id,
            "from": asked.start,
            "to": asked.end,
            "assets": list(asked.assets),
        }
        async with self._reader.of(account_id) as lane:
            parameters["lane"] = lane.lane
            days = await lane.rows(spend.BY_DAY, parameters)
            models = await lane.rows(spend.BY_MODEL, parameters)
            keys = await lane.rows(spend.BY_KEY, parameters)
            top_models = _top(models, asked.top)
            top_keys = _top(keys, asked.top)
            chosen = {**parameters, "chosen": top_models}
            models_by_day = await lane.rows(spend.MODELS_BY_DAY, chosen)
            chosen = {**parameters, "chosen": top_keys}
            keys_by_day = await lane.rows(spend.KEYS_BY_DAY, chosen)
            state = await lane.state(keys=sorted({row[0] for row in keys}))
        return Analytics(
            days, models, keys, top_models, top_keys, models_by_day, keys_by_day, state.keys
        )


def _line(row: TupleRow) -> SpendLine:
    """Turn a row of ``spend.SUMS`` into sums."""
    day, integration, model, key_id, asset, requests, unpriced, amount = row[:8]
    sums = requests, unpriced, int(amount)
    return SpendLine(day, integration, model, key_id, asset, *sums, spend.usage_of(row[8:]))


def _top(rows: Sequence[Sequence[Any]], most: int) -> list[Any]:
    """Return the names of the lines that cost most, all assets taken together."""
    sums: dict[Any, int] = defaultdict(int)
    for name, _, amount, *_ in rows:
        sums[name] += amount
    return sorted(sums, key=lambda name: (-sums[name], str(name)))[:most]
