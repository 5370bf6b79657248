"""Decisions about rate cards: versions come, never change; a jump has to be confirmed."""

from datetime import timedelta

import msgspec
import pytest

from ledger import events as e
from ledger.errors import InvalidField, PriceJumps
from ledger.pricing import ModelPrice
from ledger.ratecards import RateCards, publish, reference_of
from ledger.usage import Usage
from tests.properties.core import START, a_card

ALREADY = a_card()


def published(card, *earlier, confirm_jumps=False) -> list[e.AnyEvent]:
    """Publish over earlier versions."""
    return publish(RateCards(earlier), card, by="x", confirm_jumps=confirm_jumps)


def test_a_card_is_published_whole_and_numbered() -> None:
    """The version is decided here, whatever the card says; the hash names the content."""
    (made,) = published(a_card(version=17))
    assert made.card.version == 1
    assert len(made.content_hash) == 64
    (second,) = published(a_card({"mini": {"input": "0.2"}}), ALREADY)
    assert second.card.version == 2
    assert second.content_hash != made.content_hash


def test_the_same_content_again_is_quiet() -> None:
    """Publishing what the newest version says makes no version."""
    assert published(a_card(), ALREADY) == []


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


def test_a_price_that_jumps_has_to_be_confirmed() -> None:
    """More than tenfold is a mistake of units until somebody says otherwise (I6)."""
    jump = a_card({"mini": {"input": "1.6", "output": "0.6"}})
    with pytest.raises(PriceJumps) as refused:
        published(jump, ALREADY)
    assert len(refused.value.changes) == 1
    assert "1.6" in refused.value.changes[0]
    assert published(jump, ALREADY, confirm_jumps=True)
    assert published(a_card({"mini": {"input": "1.5", "output": "0.6"}}), ALREADY)


def test_the_version_in_force_is_chosen_by_its_date() -> None:
    """Two workers price alike at one instant; tomorrow's prices wait for tomorrow (I1)."""
    tomorrow = a_card({"mini": {"input": "1"}}, version=2, effective_from=START + timedelta(days=1))
    cards = RateCards([ALREADY, tomorrow])
    assert cards.current("standard", START).card is ALREADY
    assert cards.current("standard", START + timedelta(days=1)).card is tomorrow
    assert cards.current("other", START) is None
    assert cards.names() == ["standard"]
    assert cards.count == 2


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
