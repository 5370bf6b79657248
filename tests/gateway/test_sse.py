"""Streams are cut where events end, whatever the chunks are, and come out as they went in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.gateway import sse
from api.gateway.sse import EventIsTooLarge, Splitter

ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
LINES = st.lists(st.sampled_from([b"data: a", b"data:b", b": note", b"event: x", b"data"]))


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Return a stream of events, each with line ends of its own."""
    text = b""
    for lines in draw(st.lists(LINES, max_size=6)):
        end = draw(ENDS)
        text += b"".join(line + end for line in [*lines, b""])
    return text


@given(streams(), st.lists(st.integers(1, 40), max_size=20))
def test_chunks_make_no_difference(stream: bytes, cuts: list[int]) -> None:
    """What comes out is what went in, cut only where an event ends."""
    splitter, out, place = Splitter(), [], 0
    for size in [*cuts, len(stream)]:
        chunk = stream[place : place + size]
        place += size
        if chunk:
            out.append(splitter.feed(chunk))
    assert b"".join(out) + splitter.rest == stream
    for block in filter(None, out):
        assert block.endswith((b"\n\n", b"\r\n\r\n", b"\r\r", b"\n", b"\r"))


@given(streams())
def test_events_are_found_whole(stream: bytes) -> None:
    """The events of a block are the block, and each ends at its blank line."""
    assert b"".join(sse.events(stream)) == stream


def test_an_event_is_given_once_it_is_whole() -> None:
    """Byte by byte, nothing comes before the blank line."""
    splitter = Splitter()
    text = b"data: 1\r\n\r\ndata: 2\n\n"
    given_at = [place for place in range(len(text)) if splitter.feed(text[place : place + 1])]
    assert given_at[-1] == len(text) - 1
    assert 9 <= given_at[0] <= 10


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: x\n\n", b"x"),
        (b"data:x\r\n\r\n", b"x"),
        (b"event: a\ndata: one\ndata: two\n\n", b"one\ntwo"),
        (b": comment\n\n", b""),
        (b"data\n\n", b""),
        (b"datax: 1\n\n", b""),
        (b"data:  two spaces\n\n", b" two spaces"),
    ],
)
def test_data_lines_are_joined(event: bytes, data: bytes) -> None:
    """As the HTML Standard has it: one space goes, lines are joined, comments say nothing."""
    assert sse.data(event) == data


def test_an_event_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded: an upstream cannot fill it with one event."""
    monkeypatch.setattr(sse, "EVENT_MAX", 100)
    splitter = Splitter()
    splitter.feed(b"x" * 100)
    with pytest.raises(EventIsTooLarge):
        splitter.feed(b"x")
