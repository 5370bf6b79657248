"""Ceilings on quantities in windows: one model for every kind of limit.

A counter keeps, per bucket, what is *used* and what open reservations hold (*pending*). The
bucket's number is part of the key, so a new window starts at zero by construction. A calendar
window is one bucket; a rolling window of W seconds is kept as sub-buckets of W/30, and every
sub-bucket that the interval (t − W, t] touches counts, so that no interval whatever holds more
than its limit allows.

A per-model limit has a counter for each model, made by the first request that counts and forgotten
when nothing in it counts and another is made. At most ``MODELS_MAX`` models count by themselves at
once. Further models share one counter, the limit's own, until nothing counts there: so what a model
counts stands in one counter at any time, and neither a model nor all that share exceed the ceiling.
"""

import calendar
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple, Protocol, Self

import msgspec

from ledger.clock import EPOCH, TICK, Instant, from_microseconds
from ledger.errors import InvalidField, LimitIsReached, RequestExceedsLimit
from ledger.events import LimitRule
from ledger.money import InvalidAmount, format_pico, parse_asset, parse_pico

MODELS_MAX = 64
"""Models that a per-model limit counts by themselves at once."""
KINDS = ("requests", "tokens", "spend", "failures", "key_creations", "active_keys")
OF_MODELS = frozenset({"requests", "tokens", "spend"})
"""Kinds that may count each model by itself: what they count always belongs to some model."""
SUB_BUCKETS = 30
DAY_SECONDS = 86_400
RULES_MAX = 64
ROLLING_SECONDS_MAX = 366 * DAY_SECONDS

_ROLLING = re.compile(r"rolling:([1-9]\d{0,8})", re.ASCII)
_COUNT = re.compile(r"\d{1,15}", re.ASCII)
_MICROSECONDS = 1_000_000


class Window(Protocol):
    """Splits time into numbered buckets."""

    name: str
    """``rolling:<seconds>``, ``day``, ``month`` or ``lifetime``."""

    def seconds(self, at: Instant) -> int | None:
        """Return how long the window around ``at`` is; None: it never ends."""

    def bucket(self, at: Instant) -> int:
        """Return the number of the bucket that ``at`` falls into."""

    def first(self, at: Instant) -> int:
        """Return the oldest bucket that still counts at ``at``."""

    def ends_at(self, bucket: int) -> Instant | None:
        """Return the first instant that falls into a later bucket; None: none does."""

    def frees_at(self, bucket: int) -> Instant | None:
        """Return the instant from which a bucket no longer counts; None: never."""


class _Rolling:
    def __init__(self, seconds: int) -> None:
        self.name = f"rolling:{seconds}"
        self.width = seconds * _MICROSECONDS
        self._seconds = seconds
        self._last = (EPOCH, 0)

    def seconds(self, at: Instant) -> int:  # noqa: ARG002
        return self._seconds

    def bucket(self, at: Instant) -> int:
        # One request is held to its limits, then counted against them, at the same instant.
        last, found = self._last
        if last is not at:
            found = (at - EPOCH) // TICK * SUB_BUCKETS // self.width
            self._last = (at, found)
        return found

    def first(self, at: Instant) -> int:
        return self.bucket(at) - SUB_BUCKETS

    def ends_at(self, bucket: int) -> Instant | None:
        return from_microseconds(-(-(bucket + 1) * self.width // SUB_BUCKETS))

    def frees_at(self, bucket: int) -> Instant | None:
        return self.ends_at(bucket + SUB_BUCKETS)


class _Day:
    name = "day"

    def seconds(self, at: Instant) -> int:  # noqa: ARG002
        return DAY_SECONDS

    def bucket(self, at: Instant) -> int:
        return at.toordinal()

    first = bucket

    def ends_at(self, bucket: int) -> Instant | None:
        day = datetime.fromordinal(bucket + 1)
        return day.replace(tzinfo=UTC)

    frees_at = ends_at


class _Month:
    name = "month"

    def seconds(self, at: Instant) -> int:
        return calendar.monthrange(at.year, at.month)[1] * DAY_SECONDS

    def bucket(self, at: Instant) -> int:
        return at.year * 12 + at.month - 1

    first = bucket

    def ends_at(self, bucket: int) -> Instant | None:
        year, month = divmod(bucket + 1, 12)
        return datetime(year, month + 1, 1, tzinfo=UTC)

    frees_at = ends_at


class _Lifetime:
    name = "lifetime"

    def seconds(self, at: Instant) -> None:  # noqa: ARG002
        return None

    def bucket(self, at: Instant) -> int:  # noqa: ARG002
        return 0

    first = bucket

    def ends_at(self, bucket: int) -> Instant | None:  # noqa: ARG002
        return None

    frees_at = ends_at


_CALENDAR: dict[str, Window] = {each.name: each for each in (_Day(), _Month(), _Lifetime())}


@lru_cache(maxsize=1024)
def window(name: str) -> Window:
    """Find the window of a name: ``rolling:60``, ``day``, ``month``, ``lifetime``.

    Raises:
        InvalidField: No such window, or one longer than 366 days.
    """
    if name in _CALENDAR:
        return _CALENDAR[name]
    match = _ROLLING.fullmatch(name)
    if match is None or int(match[1]) > ROLLING_SECONDS_MAX:
        problem = "must be day, month, lifetime or rolling:<seconds>, at most 366 days"
        raise InvalidField("window", problem)
    return _Rolling(int(match[1]))


class LimitId(NamedTuple):
    """What the id of a limit, or of the counter of one model, is made of.

    The text stands in events and counters for ever, and only here is it written and read. Where
    a ``Limit`` or a refusal is at hand, its fields are read instead.
    """

    kind: str
    window: str
    category: str = ""
    model: str = ""
    assets: tuple[str, ...] = ()
    own: bool = False
    each_model: bool = False
    counted: str = ""
    """Of a per-model limit: the model whose own counter it is; empty: the shared one."""

    @property
    def text(self) -> str:
        """The id, such as ``spend:USD+BUNDLED_CREDITS/day`` or ``tokens:each_model=gpt-4o/day``."""
        parts = [self.kind]
        if self.category:
            parts.append(self.category)
        if self.model:
            parts.append(f"{_MODEL}{self.model}")
        if self.assets:
            parts.append("+".join(self.assets))
        if self.own:
            parts.append(_OWN)
        if self.each_model:
            # Last, because a model's name may look like any other part.
            parts.append(f"{_EACH_MODEL}={self.counted}" if self.counted else _EACH_MODEL)
        return ":".join(parts) + "/" + self.window

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read an id that was stored; None: no limit is named, as in a refusal for lack of credit.

        Kind and window are always what was written. A category that looks like another part of an
        id is read as that part.
        """
        head, slash, window = text.rpartition("/")
        if not slash:
            return None
        head, each_model, counted = _without_each_model(head)
        kind, *parts = head.split(":")
        own = parts[-1:] == [_OWN]
        if own:
            parts.pop()
        assets: tuple[str, ...] = ()
        if kind == "spend" and parts and _ASSETS.fullmatch(parts[-1]):
            assets = tuple(parts.pop().split("+"))
        found = _NAMED.fullmatch(":".join(parts))
        assert found is not None
        category, model = found.groups("")
        return cls(kind, window, category, model, assets, own, each_model, counted)


_MODEL, _OWN, _EACH_MODEL = "model=", "own", "each_model"
_NAMED = re.compile(r"(?P<category>.*?)(?:(?:^|:)model=(?P<model>.+))?", re.DOTALL)
"""Category and model; only the model's name may contain separators."""
_ASSETS = re.compile(r"[A-Z][A-Z0-9_]*(\+[A-Z][A-Z0-9_]*)*", re.ASCII)


def _without_each_model(head: str) -> tuple[str, bool, str]:
    """Split off the last part, which says that every model counts by itself, and which this is."""
    before, found, after = head.partition(f":{_EACH_MODEL}")
    if found and not after:
        return before, True, ""
    if found and after.startswith("="):
        return before, True, after[1:]
    return head, False, ""


def credit_id(asset: str) -> str:
    """Return the id that a refusal for lack of credit has in place of a limit's."""
    return f"credit:{asset}"


def matches_kinds(*kinds: str) -> str:
    """Return a regular expression, PostgreSQL's too, of the ids of limits of these kinds."""
    return f"^({'|'.join(kinds)})[:/]"


def written(kind: str, quantity: int) -> str:
    """Write a quantity of a kind of limit: a decimal amount for spend, else a count."""
    return format_pico(quantity) if kind == "spend" else str(quantity)


class Limit(NamedTuple):
    """A rule made ready for deciding."""

    limit_id: str
    """Kind, qualifiers and window, such as ``spend:USD+BUNDLED_CREDITS/day``: names the counter;
    of a per-model limit, the one that models without their own share."""
    kind: str
    window: Window
    ceiling: int
    """Pico for spend, else a count."""
    category: str
    model: str
    assets: tuple[str, ...]
    narrow: bool
    """Whether it counts requests of a category or model only."""
    each_model: bool = False
    """Whether it counts every model by itself."""

    def covers(self, category: str, model: str) -> bool:
        """Return whether a request of this category and model counts."""
        return (not self.category or self.category == category) and (
            not self.model or self.model == model
        )

    def counter_id(self, model: str) -> str:
        """Name the counter of one model, such as ``tokens:each_model=gpt-4o/day``."""
        head, _, window = self.limit_id.rpartition("/")
        return f"{head}={model}/{window}"

    def model_of(self, counter_id: str) -> str:
        """Return the model whose counter of this limit has that id; empty: no model's has."""
        head, _, window = self.limit_id.rpartition("/")
        start, end = f"{head}=", f"/{window}"
        if self.each_model and counter_id.startswith(start) and counter_id.endswith(end):
            return counter_id[len(start) : -len(end)]
        return ""

    def write(self, quantity: int) -> str:
        """Write a quantity of this kind as text: a decimal amount for spend, else a count."""
        return written(self.kind, quantity)


def limit_id(rule: LimitRule) -> str:
    """Name the counter a rule reads. Two rules of one id cannot coexist."""
    return LimitId(
        rule.kind,
        rule.window,
        rule.category,
        rule.model,
        rule.assets,
        rule.own,
        rule.each_model,
    ).text


def compile_rule(rule: LimitRule) -> Limit:
    """Check a rule and make it ready for deciding.

    Raises:
        InvalidField: An unknown kind or window, or a ceiling that does not fit the kind.
    """
    if rule.kind not in KINDS:
        raise InvalidField("kind", "must be one of " + ", ".join(KINDS))
    if rule.kind == "active_keys" and rule.window != "lifetime":
        raise InvalidField(
            "window", "must be lifetime for active_keys, which counts the keys there are now"
        )
    _check_qualifiers(rule)
    return Limit(
        limit_id(rule),
        rule.kind,
        window(rule.window),
        _ceiling(rule),
        rule.category,
        rule.model,
        rule.assets,
        bool(rule.category or rule.model),
        rule.each_model,
    )


def _check_qualifiers(rule: LimitRule) -> None:
    # What would be ignored is refused (F6), and so is what could never match.
    if (rule.category or rule.model) and rule.kind in {"key_creations", "active_keys"}:
        raise InvalidField(
            "category" if rule.category else "model", f"does not apply to {rule.kind}"
        )
    if rule.each_model and rule.kind not in OF_MODELS:
        raise InvalidField("each_model", f"does not apply to {rule.kind}")
    if rule.each_model and rule.model:
        raise InvalidField("each_model", "cannot be combined with model")
    if rule.assets and rule.kind != "spend":
        raise InvalidField("assets", f"do not apply to {rule.kind}")
    if len(set(rule.assets)) != len(rule.assets):
        raise InvalidField("assets", "must differ from one another")
    for asset in rule.assets:
        try:
            parse_asset(asset)
        except InvalidAmount as error:
            raise InvalidField("assets", "not an asset code") from error


def _ceiling(rule: LimitRule) -> int:
    if rule.kind == "spend":
        try:
            return parse_pico(rule.ceiling)
        except InvalidAmount as error:
            raise InvalidField("ceiling", "must be a plain decimal amount") from error
    if _COUNT.fullmatch(rule.ceiling) is None:
        raise InvalidField("ceiling", "must be a whole number of at most 15 digits")
    return int(rule.ceiling)


@lru_cache(maxsize=4_096)
def compile_rules(rules: tuple[LimitRule, ...]) -> Mapping[str, Limit]:
    """Make a set of rules ready, by id. Keys of the same rules share them.

    Raises:
        InvalidField: One is invalid, two have the same id, or there are more than 64.
    """
    if len(rules) > RULES_MAX:
        raise InvalidField("limits", f"at most {RULES_MAX}")
    compiled = {limit.limit_id: limit for limit in map(compile_rule, rules)}
    if len(compiled) != len(rules):
        raise InvalidField("limits", "two limits of the same kind, qualifiers and window")
    for limit in compiled.values():
        if limit.each_model and any(map(limit.model_of, compiled)):
            raise InvalidField("limits", "the id of one is that of another's counter of a model")
    return compiled


class Counter(msgspec.Struct):
    """What counts against one limit, per bucket."""

    used: dict[int, int] = {}
    pending: dict[int, int] = {}

    def add_used(self, bucket: int, quantity: int, first: int) -> None:
        """Count what was used; forget buckets before ``first``."""
        used = self.used
        if bucket not in used:
            _forget(used, first)
            _forget(self.pending, first)
        used[bucket] = used.get(bucket, 0) + quantity

    def add_pending(self, bucket: int, quantity: int, first: int) -> None:
        """Count what a reservation holds; forget buckets before ``first``."""
        if bucket not in self.pending:
            _forget(self.used, first)
            _forget(self.pending, first)
        self.pending[bucket] = self.pending.get(bucket, 0) + quantity

    def free_pending(self, bucket: int, quantity: int) -> None:
        """Take a reservation's part away again; nothing where its bucket is past."""
        left = self.pending.get(bucket)
        if left is not None:
            if left > quantity:
                self.pending[bucket] = left - quantity
            else:
                del self.pending[bucket]


def _forget(buckets: dict[int, int], first: int) -> None:
    for old in [bucket for bucket in buckets if bucket < first]:
        del buckets[old]


def total(buckets: dict[int, int], first: int) -> int:
    """Sum the buckets that still count."""
    held = 0
    for bucket, count in buckets.items():
        if bucket >= first:
            held += count
    return held


Counters = dict[str, Counter]
"""Those of an account or key, by id."""


def counts(counter: Counter | None, first: int) -> bool:
    """Return whether anything in a counter still counts."""
    return counter is not None and bool(total(counter.used, first) or total(counter.pending, first))


def name_of(limit: Limit, counters: Counters, model: str) -> str:
    """Name the counter by which a per-model limit decides about a request to a model.

    That is the model's own where it has one, otherwise the shared one: if the model is to get its
    own, nothing counts in the shared one, so the numbers are the same.
    """
    own = limit.counter_id(model)
    return own if own in counters else limit.limit_id


def claim(limit: Limit, counters: Counters, model: str, at: Instant) -> str:
    """Name the counter in which a request to a model counts, for a per-model limit.

    Where it is yet to be made, the limit's counters in which nothing counts are forgotten.
    """
    own = limit.counter_id(model)
    if own in counters:
        return own
    first = limit.window.first(at)
    if counts(counters.get(limit.limit_id), first):
        # Part of it may be this model's: with its own counter too it would get twice as much.
        return limit.limit_id
    names = [name for name in counters if name == limit.limit_id or limit.model_of(name)]
    idle = [name for name in names if not counts(counters[name], first)]
    for name in idle:
        del counters[name]
    return own if len(names) - len(idle) < MODELS_MAX else limit.limit_id


def forget_dropped(counters: Counters, limits: Mapping[str, Limit], at: Instant) -> None:
    """Forget counters of limits that no longer exist, where nothing in them counts.

    Where something does, they stay, so that dropping a limit and setting it again resets nothing.
    """
    dropped = [
        name
        for name in counters
        if name not in limits and not any(limit.model_of(name) for limit in limits.values())
    ]
    for name in dropped:
        named = LimitId.parse(name)
        assert named is not None
        first = window(named.window).first(at)
        if not counts(counters[name], first):
            del counters[name]


def left(limit: Limit, counters: Counters, at: Instant, model: str = "") -> int:
    """Return how much a limit leaves now; negative where more than its ceiling counts."""
    name = name_of(limit, counters, model) if limit.each_model else limit.limit_id
    counter = counters.get(name)
    if counter is None:
        return limit.ceiling
    first = limit.window.first(at)
    return limit.ceiling - total(counter.used, first) - total(counter.pending, first)


def require(  # noqa: PLR0917 (each call names them alike)
    limit: Limit, counters: Counters, quantity: int, at: Instant, scope: str, model: str = ""
) -> None:
    """Refuse a quantity that the limit leaves no room for.

    Raises:
        RequestExceedsLimit: It would not fit into an empty window.
        LimitIsReached: It does not fit now.
    """
    name = name_of(limit, counters, model) if limit.each_model else limit.limit_id
    counter = counters.get(name)
    first = limit.window.first(at)
    used = total(counter.used, first) if counter and counter.used else 0
    pending = total(counter.pending, first) if counter and counter.pending else 0
    if used + pending + quantity <= limit.ceiling:
        return
    refusal = RequestExceedsLimit if quantity > limit.ceiling else LimitIsReached
    raise refusal(
        scope=scope,
        limit_id=name,
        kind=limit.kind,
        window=limit.window.name,
        assets=limit.assets,
        category=limit.category,
        model=limit.model if name == limit.limit_id else model,
        each_model=limit.each_model,
        ceiling=limit.ceiling,
        used=used,
        pending=pending,
        requested=quantity,
        resets_at=None if quantity > limit.ceiling else _fits_at(limit, counter, quantity, first),
    )


def _fits_at(limit: Limit, counter: Counter | None, quantity: int, first: int) -> Instant | None:
    if counter is None:
        return None
    held: dict[int, int] = {}
    for buckets in (counter.used, counter.pending):
        for bucket, count in buckets.items():
            if bucket >= first:
                held[bucket] = held.get(bucket, 0) + count
    over = sum(held.values()) + quantity - limit.ceiling
    for bucket in sorted(held):
        over -= held[bucket]
        if over <= 0:
            return limit.window.frees_at(bucket)
    return None
