"""What a reply says of itself: its usage report, wherever it stands, and what sets the price.

A reply is a whole one, an event of a stream, or a bare report. Text of a message is never taken.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from ledger import shapes
from ledger.secrets import is_in
from ledger.shapes import Fields

REPORT_BYTES_MAX = 4_096
"""Of a raw report that is kept."""


class Said(NamedTuple):
    """What a reply says of itself."""

    report: Fields | None = None
    """Its usage report, wherever that stands in it."""
    model: str = ""
    """Which model answered; empty: not stated."""
    condition: str | None = None
    """Price condition under which it was served, such as ``priority``; None: not stated."""
    searches: int = 0
    """Searches that stand in the whole answer."""
    searched: bool = False
    """Whether this is one search more, in a stream."""
    announces: bool = False
    """Whether it comes before the answer: its output is only a running count."""
    provider_id: str = ""
    """The provider's own id of the answer."""
    doubts: tuple[str, ...] = ()


_NAME = re.compile(r"[!-~]{1,255}", re.ASCII)
_CONDITION = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)
_USUAL = frozenset({"default", "standard", "on_demand", "global"})
"""What providers call the service at the list price."""
_UNTOLD = frozenset({"", "auto", "not_available", "unspecified"})
_TERMS = (("service_tier", "serviceTier"), ("speed",), ("inference_geo",))
"""Names of what sets the price beside the model: tier, speed, region."""


def said_by(reply: Fields) -> Said:
    """Find what a reply (or an event of a stream, or a bare report) says of what was used."""
    inner = next((each for each in _inside(reply) if isinstance(each, Mapping)), reply)
    report = _report_in(reply, inner)
    places = [place for place in (report, inner, reply) if place is not None]
    doubts: list[str] = []
    condition = _condition(places, doubts)
    return Said(
        report,
        model=_text(inner, "model", "modelVersion") or _text(reply, "model"),
        condition=condition,
        searches=_searches(inner),
        searched=reply.get("type") == _ITEM_DONE and _is_search(reply.get("item")),
        announces=reply.get("type") == "message_start",
        provider_id=_text(inner, "id", "responseId") or _text(reply, "id"),
        doubts=tuple(doubts),
    )


def _inside(reply: Fields) -> Iterator[object]:
    """Return what events of a stream wrap: a response that ends, a message that begins."""
    yield reply.get("response")
    yield reply.get("message")


def _report_in(reply: Fields, inner: Fields) -> Fields | None:
    known = [
        found
        for found in _places(reply, inner)
        if isinstance(found, Mapping) and shapes.is_known(found)
    ]
    # One of zeros says nothing where another has numbers.
    return next((found for found in known if _tells(found)), known[0] if known else None)


def _tells(report: Fields) -> bool:
    """Return whether a report says anything but zeros, however deep."""
    return any(
        _tells(each) if isinstance(each, Mapping) else bool(each) for each in report.values()
    )


def _places(reply: Fields, inner: Fields) -> Iterator[object]:
    """Return every place in which a report was seen to stand."""
    for holder in (inner, reply):
        yield holder.get("usage")
        yield holder.get("usageMetadata")
    groq = reply.get("x_groq")
    if isinstance(groq, Mapping):
        yield groq.get("usage")
    choices = reply.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, Mapping):
            yield choice.get("usage")
            for said in (choice.get("message"), choice.get("delta")):
                yield said.get("usage") if isinstance(said, Mapping) else None
    yield reply.get("meta")
    yield reply


def _text(fields: Fields, *names: str) -> str:
    for name in names:
        value = fields.get(name)
        if isinstance(value, str) and is_name(value):
            return value
    return ""


def is_name(text: str) -> bool:
    """Return whether a text may be written down as a name: short, printable, and no secret."""
    return _NAME.fullmatch(text) is not None and not is_in(text)


def _condition(places: list[Fields], doubts: list[str]) -> str | None:
    """Name the price condition: what is unusual of tier, speed and region, in this order."""
    words, told = [], False
    for names in _TERMS:
        word = _word(places, names)
        if word in _UNTOLD:
            continue
        if _CONDITION.fullmatch(word) is None:
            doubts.append(names[0])
            continue
        told = True
        if word not in _USUAL:
            words.append(word)
    return "_".join(words)[:32] if told else None


def _word(places: list[Fields], names: tuple[str, ...]) -> str:
    for place in places:
        for name in names:
            value = place.get(name)
            if isinstance(value, str):
                return value.lower().replace("-", "_")
    return ""


_ITEM_DONE = "response.output_item.done"


def _searches(inner: Fields) -> int:
    """Count the searches among what a response holds."""
    output = inner.get("output")
    return sum(map(_is_search, output)) if isinstance(output, list) else 0


def _is_search(item: object) -> bool:
    """Return whether an item is a search that is billed: opening a page that was found is not."""
    if not isinstance(item, Mapping) or item.get("type") != "web_search_call":
        return False
    action = item.get("action")
    kind = action.get("type") if isinstance(action, Mapping) else None
    return kind in {None, "search"} and item.get("status") != "failed"


_encode = msgspec.json.Encoder().encode
_KEY = re.compile(r"[\w.\-]{1,64}", re.ASCII)
_WORDS = frozenset({"type", "model", "ttl", "modality", *(n for names in _TERMS for n in names)})
"""Members of a report whose text is kept: words of the provider's, none of a message."""
_DEPTH_MAX = 6


def _bare(value: object, name: str = "", depth: int = 0) -> object:
    """Copy a report without any text but the provider's own words."""
    if isinstance(value, Mapping) and depth < _DEPTH_MAX:
        return {
            key: _bare(each, key, depth + 1)
            for key, each in value.items()
            if isinstance(key, str) and _KEY.fullmatch(key)
        }
    if isinstance(value, list | tuple) and depth < _DEPTH_MAX:
        return [_bare(each, name, depth + 1) for each in value[: shapes.STEPS_MAX]]
    if isinstance(value, str):
        return _text({name: value}, name) if name in _WORDS else ""
    return value if isinstance(value, int | float) else None


def _numbers(report: Fields) -> dict[str, object]:
    bare = _bare(report)
    assert isinstance(bare, dict)
    return {name: each for name, each in bare.items() if isinstance(each, int)}


_CLEAN = re.compile(
    rb"(?:[\[\]{},\d.eE+\-]|null|true|false|"
    rb'"(?:%b)":"[a-z_]{1,32}"|"[A-Za-z][\w.\-]{0,63}":)*'
    % "|".join(sorted(_WORDS - {"model"})).encode()
)
"""JSON in which nothing is said but numbers under names, and the provider's own words."""


def raw(said: Said, reports: list[Fields]) -> bytes:
    """Write reports down as JSON for whoever reconciles, in at most 4 KiB; empty: there is none."""
    if not reports:
        return b""
    text = _written(said, reports)
    clean = _encode(reports)
    if len(text) <= REPORT_BYTES_MAX and _CLEAN.fullmatch(clean):
        return text
    bare = [_bare(each) for each in reports]
    for kept in (bare, bare[-1:], [_numbers(reports[-1])]):
        text = _written(said, kept)
        if len(text) <= REPORT_BYTES_MAX:
            return text
    return b""


def _written(said: Said, reports: Sequence[object]) -> bytes:
    return _encode({"id": said.provider_id, "model": said.model, "usage": reports})
