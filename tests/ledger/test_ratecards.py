"""Decisions about rate cards: versions come, never change; what looks wrong has to be confirmed."""

from datetime import timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import events as e
from ledger.errors import InvalidField, NoSuchRateCard, PricesAreSuspicious, RateCardIsInForce
from ledger.model_names import Match, Pattern
from ledger.pricing import ConditionPrice, ModelPrice, PriceTier, RateCard
from ledger.ratecards import (
    RateCards,
    draft_of,
    propose,
    publish,
    reasons_of,
    reference_of,
    withdraw,
)
from ledger.usage import Usage
from tests.properties.core import START, a_card

ALREADY = a_card()
DAY = timedelta(days=1)
HOUSE = {"house": {"input": "1", "output": "4"}}


def published(card, *earlier, start=None, replace=False, **terms) -> list[e.AnyEvent]:
    """Publish over earlier versions."""
    draft = draft_of(card, start=start, replace=replace)
    return publish(RateCards(earlier), draft, by="x", at=START, **terms)


def would_be(card, *earlier, start=None, replace=False) -> RateCard:
    """Return the version that would come into being."""
    draft = draft_of(card, start=start, replace=replace)
    return propose(RateCards(earlier), draft, at=START).card


def suspicions(card, *earlier, start=None, replace=False, users=0) -> tuple[str, ...]:
    """Return what would have to be confirmed."""
    draft = draft_of(card, start=start, replace=replace)
    return reasons_of(propose(RateCards(earlier), draft, at=START), users)


def a_model(*, tiers=(), conditions=None, **prices) -> RateCard:
    """Make a card of one model with more to it than prices."""
    model = ModelPrice(prices=prices, tiers=tiers, conditions=conditions or {})
    return msgspec.structs.replace(ALREADY, models={"mini": model})


def test_a_card_is_published_whole_and_numbered() -> None:
    """The version is decided here, whatever the card says; the hash names the content."""
    (made,) = published(a_card(version=17))
    assert (made.card.version, made.card.effective_from) == (1, START)
    assert len(made.content_hash) == 64
    (second,) = published(a_card({"mini": {"input": "0.2"}}), ALREADY, confirm=True)
    assert second.card.version == 2
    assert second.content_hash != made.content_hash


def test_what_is_in_force_already_is_quiet() -> None:
    """Publishing what the version in force then says makes no version, a day later too."""
    assert published(a_card(), ALREADY) == []
    assert published(a_card(), ALREADY, start=START + DAY) == []
    later = a_card({"mini": {"input": "0.2", "output": "0.6"}}, version=2, effective_from=START)
    assert published(a_card(), ALREADY, later) != []


@pytest.mark.parametrize(
    ("field", "card"),
    [
        ("name", a_card(name="")),
        ("asset", a_card(asset="usd")),
        ("models.mini.prices.input", a_card({"mini": {"input": "0.150"}})),
        ("models.mini.prices.input", a_card({"mini": {"input": "-1"}})),
        ("models.mini.prices.wishes", a_card({"mini": {"wishes": "1"}})),
        ("models.mini.prices", a_card({"mini": {}})),
        ("aliases.m", msgspec.structs.replace(ALREADY, aliases={"m": "maxi"})),
    ],
)
def test_a_card_that_makes_no_sense_is_refused(field, card) -> None:
    """It is a refusal like any other, and names the field (I6)."""
    with pytest.raises(InvalidField) as refused:
        published(card)
    assert refused.value.field == field


def test_a_card_keeps_its_asset() -> None:
    """Versions of one card are in one asset."""
    with pytest.raises(InvalidField) as refused:
        published(a_card(asset="CAD"), ALREADY)
    assert refused.value.field == "asset"


# A patch.


def test_what_a_draft_does_not_name_stays() -> None:
    """Models, aliases and patterns; a model that is named is replaced whole."""
    dated = Pattern(model="mini", match=Match(starts_with="mini-"))
    base = msgspec.structs.replace(ALREADY, aliases={"small": "mini"}, patterns=(dated,))
    made = would_be(a_card(HOUSE), base)
    assert made.models == {**ALREADY.models, **a_card(HOUSE).models}
    assert (made.aliases, made.patterns) == ({"small": "mini"}, (dated,))
    again = would_be(a_card({"mini": {"input": "0.15"}}), base)
    assert again.models["mini"].prices == {"input": "0.15"}


def test_a_replacement_drops_what_it_does_not_name() -> None:
    """And nothing else does."""
    assert would_be(a_card(HOUSE), ALREADY, replace=True).models == a_card(HOUSE).models


def test_new_patterns_come_first_and_replace_those_of_their_model() -> None:
    """In the past they come last, so that they name only what nothing did."""
    old = Pattern(model="mini", match=Match(starts_with="mini-"))
    none = Pattern(model="", match=Match(ends_with="-free"))
    base = msgspec.structs.replace(ALREADY, patterns=(old, none))
    new = Pattern(model="mini", match=Match(contains="mini"))
    patch = msgspec.structs.replace(ALREADY, patterns=(new,))
    assert would_be(patch, base).patterns == (new, none)
    other = msgspec.structs.replace(
        a_card(HOUSE), patterns=(Pattern(model="house", match=Match(contains="house")),)
    )
    made = would_be(other, base, start=START - DAY)
    assert made.patterns == (old, none, *other.patterns)


def test_an_alias_that_becomes_a_model_is_one_no_more() -> None:
    """A name means one thing."""
    base = msgspec.structs.replace(ALREADY, aliases={"house": "mini"})
    assert would_be(a_card(HOUSE), base).aliases == {}


def test_a_patch_is_of_the_version_in_force_at_its_start() -> None:
    """What is published for next week neither comes early nor is lost."""
    next_week = a_card(HOUSE, version=2, effective_from=START + 7 * DAY)
    new = a_card({"new": {"input": "3"}})
    assert would_be(new, ALREADY, next_week).models.keys() == {"mini", "new"}
    after = would_be(new, ALREADY, next_week, start=START + 8 * DAY)
    assert after.models.keys() == {"house", "new"}


# What has to be confirmed.


def test_a_price_that_jumps_has_to_be_confirmed() -> None:
    """Tenfold, a point in the wrong place, is a mistake until somebody says otherwise (I6)."""
    jump = a_card({"mini": {"input": "1.5", "output": "0.6"}})
    with pytest.raises(PricesAreSuspicious) as refused:
        published(jump, ALREADY)
    (reason,) = refused.value.reasons
    assert reason == (
        "1 price would move tenfold or more, in USD per million: input of mini from 0.15 to 1.5."
    )
    assert published(jump, ALREADY, confirm=True)
    assert published(a_card({"mini": {"input": "1.499", "output": "0.6"}}), ALREADY)


TIER = PriceTier(above_tokens=1_000, prices={"input": "2", "output": "8"})
BATCH = {"batch": ConditionPrice(prices={"input": "0.5", "output": "2"})}
NIGHT = {"night": ConditionPrice(prices={"input": "0.01"}, between=("22:00", "06:00"))}


@pytest.mark.parametrize(
    ("base", "card", "reason"),
    [
        (a_model(input="1", images="2"), a_model(input="1"), "gone: images of mini"),
        (a_model(input="1", conditions=BATCH), a_model(input="1"), "input of mini (batch)"),
        (
            a_model(input="1"),
            a_model(input="1", tiers=(PriceTier(above_tokens=9, prices={"input": "11"}),)),
            "input of mini above 9 tokens from 1 to 11",
        ),
        (a_model(input="1"), a_model(input="1", conditions=NIGHT), "(night) from 1 to 0.01"),
        (a_model(input="1", conditions=NIGHT), a_model(input="1"), "(night) from 0.01 to 1"),
        (a_model(input="1", output="0"), a_model(input="1", output="1"), "from 0 to 1"),
        (a_model(output="1", reasoning="1"), a_model(output="20", reasoning="1"), "output"),
    ],
)
def test_each_price_that_goes_or_jumps_is_a_reason(base, card, reason) -> None:
    """Whole classes, conditions, tiers and hours, each compared to what a request paid before."""
    found = " ".join(suspicions(card, base))
    assert reason in found


@pytest.mark.parametrize(
    ("base", "card"),
    [
        (a_model(input="1"), a_model(input="2", output="4")),
        (a_model(input="1", cache_read="1"), a_model(input="1")),
        (a_model(input="1", output="4", tiers=(TIER,)), a_model(input="1", output="4")),
        (a_model(input="1"), a_model(input="1", conditions=BATCH)),
    ],
)
def test_ordinary_changes_need_no_confirmation(base, card) -> None:
    """A price that still is one, through its fall-back or below its tier, has not vanished."""
    assert suspicions(card, base) == ()


def test_names_that_lose_their_price_are_a_reason() -> None:
    """Models, aliases, patterns and all others, each in words, and all of them at once."""
    base = msgspec.structs.replace(
        a_card({"mini": {"input": "1"}, "house": {"input": "1"}, "*": {"input": "1"}}),
        aliases={"small": "mini", "home": "house"},
        patterns=(Pattern(model="house", match=Match(contains="house")),),
    )
    found = suspicions(a_card({"house": {"input": "1"}}), base, replace=True, users=2)
    assert found == (
        "3 names would have no price: home, mini, small.",
        "Models that the card does not name would have no price.",
        "No pattern would name house any more.",
        "2 accounts have used a model in the last 30 days that loses a price.",
    )


def test_a_name_that_means_a_dearer_model_is_a_reason() -> None:
    """An alias is turned, or a model comes where another one's pattern or ``*`` priced it."""
    models = {"mini": {"input": "1"}, "maxi": {"input": "50"}}
    base = msgspec.structs.replace(a_card(models), aliases={"best": "mini"})
    turned = msgspec.structs.replace(a_card(models), aliases={"best": "maxi"})
    assert "input of best from 1 to 50" in suspicions(turned, base)[0]
    others = a_card({"*": {"input": "1"}})
    assert "input of maxi from 1 to 50" in suspicions(a_card(models), others)[0]


def test_a_later_version_that_takes_a_change_back_is_a_reason() -> None:
    """It was made without knowing of the change, which would end with it unnoticed."""
    next_week = a_card({"mini": {"input": "0.15", "output": "0.7"}}, version=2)
    next_week = msgspec.structs.replace(next_week, effective_from=START + 7 * DAY)
    patch = a_card({"mini": {"input": "0.2", "output": "0.6"}, **HOUSE})
    (reason,) = suspicions(patch, ALREADY, next_week)
    assert reason == (
        "standard/2, in force from 2026-11-28T10:00:00Z, would take 3 prices back:"
        " input of house, output of house, input of mini."
    )


def test_long_lists_are_cut() -> None:
    """A reason names twenty, and says how many more there are."""
    many = {f"m{number:03}": {"input": "1"} for number in range(100)}
    (reason,) = suspicions(a_card(), a_card(many), replace=True)
    assert reason.startswith("100 names would have no price: m000, m001")
    assert reason.endswith("m019 and 80 more.")


def test_who_used_what_loses_its_price_is_told() -> None:
    """Names are asked about as requests write them; one class without its price is enough."""
    base = msgspec.structs.replace(
        a_card({"mini": {"input": "1", "output": "1"}, "house": {"input": "1"}}),
        patterns=(Pattern(model="mini", match=Match(starts_with="mini-")),),
    )
    card = a_card({"mini": {"input": "1"}, "house": {"input": "9"}})
    proposal = propose(RateCards([base]), draft_of(card, start=None), at=START)
    assert proposal.losing(["mini-2026", "house", "unheard-of"]) == ["mini-2026"]


# In the past.


def test_before_the_first_version_a_past_start_is_free() -> None:
    """A back-fill is priced: nothing was in force then."""
    first = a_card(effective_from=START - DAY)
    (made,) = published(a_card({"mini": {"input": "9"}}), first, start=START - 2 * DAY)
    assert made.card.effective_from == START - 2 * DAY
    assert made.card.models["mini"].prices == {"input": "9"}


ADDITIONS = [
    a_card(HOUSE),
    a_model(input="1", output="4", images="7"),
    a_model(input="1", output="4", conditions=BATCH),
    msgspec.structs.replace(a_card({}), aliases={"small": "mini"}),
    msgspec.structs.replace(
        a_card({}), patterns=(Pattern(model="mini", match=Match(starts_with="mini-")),)
    ),
    a_card({"*": {"input": "1"}}),
]
PLAIN = a_model(input="1", output="4")


@pytest.mark.parametrize("card", ADDITIONS)
def test_the_past_may_get_prices_where_there_were_none(card) -> None:
    """So that what was recorded without a price can be rated."""
    assert published(card, PLAIN, start=START - DAY)


@pytest.mark.parametrize(
    ("base", "card", "what"),
    [
        (PLAIN, a_model(input="2", output="4"), "input of mini cost 1"),
        (PLAIN, a_model(input="1"), "output of mini cost 4"),
        (PLAIN, a_model(input="1", output="4", reasoning="9"), "reasoning of mini cost 4"),
        (PLAIN, a_model(input="1", output="4", tiers=(TIER,)), "mini had other tiers"),
        (PLAIN, a_model(input="1", output="4", conditions=NIGHT), "mini had one price all day"),
        (
            a_model(input="1", conditions=NIGHT),
            a_model(
                input="1",
                conditions={
                    "night": ConditionPrice(prices={"input": "0.01"}, between=("1:00", ""))
                },
            ),
            "",
        ),
        (
            a_model(input="1", conditions=BATCH),
            a_model(
                input="1",
                conditions={"batch": ConditionPrice(prices={"input": "9", "output": "2"})},
            ),
            "input of mini (batch) cost 0.5",
        ),
        (
            a_model(input="1", conditions=BATCH),
            a_model(input="1"),
            "mini had a price under the condition batch",
        ),
        (
            msgspec.structs.replace(PLAIN, aliases={"house": "mini"}),
            a_card(HOUSE),
            "house had the prices of mini",
        ),
        (a_card({"*": {"input": "1"}}), a_card(HOUSE), "house had the prices of *"),
        (
            a_card({"*": {"input": "1"}, "mini": {"input": "1"}}),
            ADDITIONS[4],
            "its patterns said otherwise",
        ),
    ],
)
def test_past_prices_do_not_change(base, card, what) -> None:
    """Whatever would cost otherwise is refused, and is said to be a re-rating."""
    with pytest.raises(InvalidField) as refused:
        published(card, base, start=START - DAY, confirm=True)
    assert what in refused.value.problem
    if what:
        assert refused.value.field == "effective_from"
        assert "re-rating" in refused.value.problem


def test_a_replacement_in_the_past_is_refused() -> None:
    """It would take prices away that there were."""
    with pytest.raises(InvalidField, match="mini had a price"):
        published(a_card(HOUSE), PLAIN, start=START - DAY, replace=True)


# What is in force, and what was known.


def test_the_version_in_force_is_chosen_by_its_date() -> None:
    """Two workers price alike at one instant; tomorrow's prices wait for tomorrow (I1, I3)."""
    tomorrow = a_card({"mini": {"input": "1"}}, version=2, effective_from=START + DAY)
    corrected = msgspec.structs.replace(tomorrow, version=3)
    cards = RateCards([ALREADY, tomorrow, corrected])
    assert cards.current("standard", START).card is ALREADY
    assert cards.current("standard", START + DAY - timedelta(microseconds=1)).card is ALREADY
    assert cards.current("standard", START + DAY).card is corrected
    assert cards.current("other", START) is None
    assert RateCards([tomorrow]).current("standard", START) is None
    assert cards.names() == ["standard"]
    assert cards.count == 3


def test_what_was_in_force_is_asked_as_known_at_another_instant() -> None:
    """A back-fill and a withdrawal change what is known, not what was."""
    cards = RateCards()
    cards.add(a_card(effective_from=START), START)
    cards.add(a_card(HOUSE, version=2, effective_from=START + 5 * DAY), START + DAY)
    cards.add(a_card(HOUSE, version=3, effective_from=START - 9 * DAY), START + 2 * DAY)
    cards.withdraw("standard", 2, START + 3 * DAY)

    def found(at, known_at) -> int | None:
        book = cards.current("standard", at, known_at)
        return None if book is None else book.card.version

    soon, early = START + 6 * DAY, START - DAY
    assert [found(soon, START + days * DAY) for days in range(4)] == [1, 2, 2, 1]
    assert [found(early, START + days * DAY) for days in range(4)] == [None, None, 3, 3]
    assert found(START, START - DAY) is None
    assert (found(soon, None), found(early, None)) == (1, 3)
    assert cards.count == 4


INSTANTS = st.integers(0, 6).map(lambda days: START + days * DAY)


@given(
    st.lists(st.tuples(INSTANTS, INSTANTS, st.none() | INSTANTS), max_size=6),
    st.lists(st.tuples(INSTANTS, st.none() | INSTANTS), min_size=1, max_size=12),
)
def test_the_quick_look_up_is_the_plain_one(history, asked) -> None:
    """What is remembered between look-ups never answers for another instant or knowledge."""
    cards = RateCards()
    known = []
    for version, (start, recorded_at, withdrawn_at) in enumerate(history, 1):
        card = a_card(HOUSE, version=version, effective_from=start)
        cards.add(card, recorded_at)
        until = withdrawn_at and max(withdrawn_at, recorded_at)
        if until is not None:
            cards.withdraw("standard", version, until)
        known.append((start, version, recorded_at, until))
    for at, known_at in asked:
        begun = [
            (start, version)
            for start, version, recorded_at, withdrawn_at in known
            if start <= at
            and (
                withdrawn_at is None
                if known_at is None
                else recorded_at <= known_at and (withdrawn_at is None or known_at < withdrawn_at)
            )
        ]
        book = cards.current("standard", at, known_at)
        assert (book and book.card.version) == (max(begun)[1] if begun else None)


def test_a_version_to_come_can_be_withdrawn() -> None:
    """Once: again is quiet. What is in force stays, and what never was is not found."""
    cards = RateCards([ALREADY, a_card(HOUSE, version=2, effective_from=START + DAY)])
    (made,) = withdraw(cards, "standard", 2, by="x", at=START)
    assert made == e.RateCardWithdrawn(by="x", name="standard", version=2)
    cards.withdraw("standard", 2, START)
    assert withdraw(cards, "standard", 2, by="x", at=START + 2 * DAY) == []
    with pytest.raises(RateCardIsInForce, match="re-rating"):
        withdraw(cards, "standard", 1, by="x", at=START)
    for name, version in (("standard", 3), ("standard", 0), ("other", 1)):
        with pytest.raises(NoSuchRateCard):
            withdraw(cards, name, version, by="x", at=START)


def test_a_withdrawn_version_keeps_its_number() -> None:
    """The next one has another, and is no patch of what was withdrawn."""
    cards = RateCards([ALREADY, a_card(HOUSE, version=2, effective_from=START + DAY)])
    cards.withdraw("standard", 2, START)
    draft = draft_of(a_card({"new": {"input": "1"}}), start=START + 2 * DAY)
    card = propose(cards, draft, at=START).card
    assert (card.version, card.models.keys()) == (3, {"mini", "new"})


def test_a_pinned_version_stays_what_it_was() -> None:
    """What an event names is found for ever, and prices as it did (Promise 10, C10)."""
    newer = a_card({"mini": {"input": "1"}}, version=2)
    cards = RateCards([ALREADY])
    before = cards.pinned("standard/1").quote("mini", Usage(input=10**6))
    cards.add(newer)
    assert cards.pinned("standard/1").quote("mini", Usage(input=10**6)) == before
    assert reference_of(newer) == "standard/2"
    assert cards.pinned("standard/3") is None
    assert cards.pinned("nothing") is None


def test_versions_are_not_handed_out_to_be_changed() -> None:
    """The list of versions is a copy."""
    cards = RateCards([ALREADY])
    cards.versions("standard").clear()
    assert cards.versions("standard") == [ALREADY]
    assert isinstance(ALREADY.models["mini"], ModelPrice)
