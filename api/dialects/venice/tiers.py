"""Tiers of models that are not built in: a key counts each by itself while it asks it.

A key's terms hold one tier for all of them, in the category ``STRANGERS``. When it first asks one
that the upstream has, the same limits for that model alone are added; where there are too many,
those that count nothing any more go. So a decision looks at few limits, however many models there
are.
"""

import contextlib
from collections.abc import Sequence

import msgspec

from api.dialects.venice import catalogue
from api.dialects.venice.models import KNOWN, STRANGERS
from api.operations import Asked, Permits
from api.surface.credentials import KeyCaller
from api.wiring import Services
from ledger import clock, keys
from ledger.clock import Instant
from ledger.errors import Refused, VersionIsOutdated
from ledger.events import LimitRule
from ledger.limits import RULES_MAX, limit_id, total
from ledger.state import Account, Key

ALONE_MAX = 16
"""Models that a key counts by themselves at once; what it asks beyond them is counted together."""
_KINDS = frozenset({"requests", "tokens"})


def category_of(key: Key, model: str, kind: str) -> str:
    """Give the category that a key's calls of a model are counted in.

    That is ``kind``, what the model gives; ``STRANGERS`` where it is counted with others.
    """
    return kind if model in KNOWN or is_alone(key, model) else STRANGERS


def is_alone(key: Key, model: str) -> bool:
    """Tell whether a key counts a model that is not built in by itself."""
    own = _own(key, model)
    return bool(own) and all(limit_id(rule) in key.limits for rule in own)


async def counted(services: Services, caller: KeyCaller, model: str, kind: str) -> str:
    """Let the caller's key count a model by itself where it can; give the category of its calls."""
    if model in KNOWN:
        return kind
    key, _ = await services.queries.key_state(caller.key_id)
    if _shared(key) and not is_alone(key, model) and await catalogue.lists(services, model):
        at = clock.now()
        # What refuses here refuses the request as well, which is where it is said.
        with contextlib.suppress(Refused):
            keys.require_usable(key, at, secret=caller.secret)
            keys.require_model(key, model)
            await services.ledger.keys.change(
                Asked("system"), key.key_id, lambda found: with_own(found, model, at)
            )
        key, _ = await services.queries.key_state(caller.key_id)
    return category_of(key, model, kind)


def permits(model: str) -> Permits:
    """Refuse in the lane what was to be counted by itself and since then is not any more."""

    def look(_account: Account, key: Key, _at: Instant) -> None:
        if not is_alone(key, model):
            raise VersionIsOutdated

    return look


def with_own(key: Key, model: str, at: Instant) -> keys.Changes:
    """Give the change by which a key counts a model by itself; none where there is no room."""
    missing = [rule for rule in _own(key, model) if limit_id(rule) not in key.limits]
    rules = key.rules
    if not _fit(key, rules, missing):
        # A limit that counts nothing forgets nothing when it goes.
        idle = _idle(key, at)
        rules = tuple(rule for rule in rules if rule not in idle)
    if not missing or not _fit(key, rules, missing):
        return keys.Changes()
    # Before the shared ones, so that the limit on failures stays the last.
    place = rules.index(_shared(key)[0])
    return keys.Changes(limits=(*rules[:place], *missing, *rules[place:]))


def _shared(key: Key) -> Sequence[LimitRule]:
    return [
        rule
        for rule in key.rules
        if rule.category == STRANGERS and not rule.model and rule.kind in _KINDS
    ]


def _own(key: Key, model: str) -> Sequence[LimitRule]:
    """Give the limits of a model by itself: as the key's shared ones are."""
    return [msgspec.structs.replace(rule, category="", model=model) for rule in _shared(key)]


def _alone(key: Key, rules: Sequence[LimitRule]) -> Sequence[str]:
    """Give the models whose own limits are among these."""
    named = dict.fromkeys(rule.model for rule in rules if rule.model and rule.model not in KNOWN)
    return [model for model in named if any(rule in rules for rule in _own(key, model))]


def _fit(key: Key, rules: Sequence[LimitRule], missing: Sequence[LimitRule]) -> bool:
    return len(rules) + len(missing) <= RULES_MAX and len(_alone(key, rules)) < ALONE_MAX


def _idle(key: Key, at: Instant) -> frozenset[LimitRule]:
    """Give the own limits of models of which nothing counts now, held or used."""
    idle: list[LimitRule] = []
    for model in _alone(key, key.rules):
        own = _own(key, model)
        if not any(_counts(key, rule, at) for rule in own):
            idle.extend(own)
    return frozenset(idle)


def _counts(key: Key, rule: LimitRule, at: Instant) -> bool:
    name = limit_id(rule)
    limit, counter = key.limits.get(name), key.counters.get(name)
    if limit is None or counter is None:
        return False
    first = limit.window.first(at)
    return bool(total(counter.used, first) or total(counter.pending, first))
