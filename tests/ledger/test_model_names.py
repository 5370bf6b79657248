"""A name means the model that the card says, and finding out takes no long time."""

import msgspec
import pytest

from ledger.model_names import (
    CLAUSES_MAX,
    NAME_MAX,
    InvalidPattern,
    Match,
    Names,
    Pattern,
    check_match,
)


def names(*patterns: Pattern, models=("mini", "maxi"), **aliases) -> Names:
    """Make the names of a small card."""
    return Names(models, aliases, patterns)


def test_the_exact_name_goes_first_then_the_alias_then_the_pattern() -> None:
    """Only what neither names is matched, and only what nothing matches is one of all others."""
    every = Pattern(model="maxi", match=Match(contains="mini"))
    found = names(every, models=("mini", "maxi", "*"), **{"mini-x": "mini"})
    assert [found.find(name) for name in ("mini", "mini-x", "mini-y", "other")] == [
        "mini",
        "mini",
        "maxi",
        "*",
    ]


def test_letters_may_be_of_another_case() -> None:
    """As it is written a name goes before itself in lower case, which goes before patterns."""
    every = Pattern(model="maxi", match=Match(contains="mini"))
    found = names(every, models=("mini", "Mini", "*"), **{"mini-2026": "mini"})
    assert [found.find(name) for name in ("Mini", "MINI", "MINI-2026", "Mini-x", "MAXI")] == [
        "Mini",
        "mini",
        "mini",
        "maxi",
        "*",
    ]


def test_the_first_pattern_that_takes_a_name_decides() -> None:
    """Their order is part of the card."""
    long = Pattern(model="mini", match=Match(starts_with="m-mini"))
    short = Pattern(model="maxi", match=Match(starts_with="m-"))
    assert names(long, short).find("m-mini-3") == "mini"
    assert names(short, long).find("m-mini-3") == "maxi"


def test_a_pattern_of_no_model_takes_its_names_out() -> None:
    """They have no price, not even that of all others."""
    none = Pattern(model="", match=Match(ends_with="-free"))
    assert names(none, models=("mini", "*")).find("mini-free") is None


@pytest.mark.parametrize(
    ("match", "takes", "leaves"),
    [
        (Match(equals="Mini-2"), "MINI-2", "mini-2x"),
        (Match(starts_with="Mini-"), "mini-2", "x-mini-2"),
        (Match(ends_with="-2"), "mini-2", "mini-2x"),
        (Match(contains="ini"), "MINIMAL", "max"),
        (Match(regex=r"^mini-\d{4}-\d{2}$"), "Mini-2026-01", "mini-2026-1"),
        (Match(either=(Match(equals="a"), Match(equals="b"))), "b", "c"),
        (Match(every=(Match(contains="a"), Match(contains="b"))), "ab", "a"),
    ],
)
def test_each_clause_takes_what_it_says(match: Match, takes: str, leaves: str) -> None:
    """In any case of letters."""
    check_match(match)
    found = names(Pattern(model="mini", match=match))
    assert (found.find(takes), found.find(leaves)) == ("mini", None)


def test_what_stands_in_front_is_cut_off() -> None:
    """A pattern may be for names of one provider only."""
    found = names(Pattern(model="mini", after="acme/", match=Match(starts_with="m")))
    assert [found.find(name) for name in ("acme/m2", "ACME/M2", "m2", "other/m2")] == [
        "mini",
        "mini",
        None,
        None,
    ]


@pytest.mark.parametrize(
    "text",
    [
        r"(a+)+$",
        r"^(a|a)*$",
        r"^(a|b|ab)*c",
        r"(.*)\1",
        r"^.*.*$",
        r"a*a*b",
        r"^(?=(a+)+$)",
        r"(?:a{1,50}){1,50}",
        r"^(a?){20}b",
        r"(",
        r"a{99999999999999999999}",
    ],
)
def test_an_expression_that_could_take_long_is_refused(text: str) -> None:
    """What may try a name in very many ways never comes into a card, nor what is no expression."""
    with pytest.raises(InvalidPattern):
        check_match(Match(regex=text))


@pytest.mark.parametrize(
    "match",
    [
        Match(),
        Match(equals="a", contains="b"),
        Match(either=()),
        Match(every=(Match(),)),
        Match(contains="a" * (NAME_MAX + 1)),
        Match(contains="a\n"),
        Match(either=(Match(equals="a"),) * CLAUSES_MAX),
        Match(every=(Match(every=(Match(every=(Match(every=(Match(equals="a"),)),)),)),)),
    ],
)
def test_a_match_says_one_thing_within_bounds(match: Match) -> None:
    """Nothing, two things, too much and too deep are refused."""
    with pytest.raises(InvalidPattern):
        check_match(match)


def test_names_that_callers_make_up_do_not_fill_the_memory() -> None:
    """Only so many are remembered, and a name too long for any model is not matched at all."""
    found = names(Pattern(model="mini", match=Match(starts_with="m")))
    for number in range(10_000):
        assert found.find(f"m{number}") == "mini"
    assert len(found._found) <= 4_096
    assert found.find("m" * (NAME_MAX + 1)) is None


def test_a_match_is_written_as_it_is_read() -> None:
    """In JSON the joining clauses are ``or`` and ``and``."""
    text = b'{"or":[{"starts_with":"a"},{"and":[{"contains":"b"}]}]}'
    match = msgspec.json.decode(text, type=Match)
    assert match == Match(either=(Match(starts_with="a"), Match(every=(Match(contains="b"),))))
    assert msgspec.json.encode(match) == text
