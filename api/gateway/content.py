"""What a model is asked to read, in any form: texts, messages, media.

It yields the bound that is reserved and the estimate that is charged where nobody reports usage.
A byte-level tokenizer never makes more tokens of a text than the text has bytes; what a message
costs besides its text is bounded by a few tokens. Media are bounded by estimate: more is overage.
What is only referred to, such as a file that the upstream keeps, has no bound here.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from api.gateway import tokens

MESSAGE_TOKENS_MAX = 16
"""What a message costs at most besides its text: role, separators."""
MESSAGE_TOKENS = 4
"""What it costs as a rule (OpenAI Cookbook: three, and one for a name)."""
MEDIA_TOKENS_MIN = 2_048
"""Bound on a picture, a sound or a file, however short its address."""
MEDIA_TOKENS = 512
"""Estimate for the same."""
MEDIA_BYTES_PER_TOKEN = 64
"""Bytes of encoded media that make a token at most."""

_MEDIA: Mapping[str, str] = {
    **dict.fromkeys(("image_url", "input_image", "image", "image_file"), "image_input"),
    **dict.fromkeys(("input_audio", "audio"), "audio_input"),
    **dict.fromkeys(("video_url", "input_video"), "video_input"),
    **dict.fromkeys(("file", "input_file", "document"), "image_input"),
}
"""Part of a message → the usage class that it may be counted in, besides ``input``."""
_POINTERS = frozenset({"file_id", "file_url"})
_DOCUMENTS = frozenset({"document", "file", "input_file"})
_KEPT_TYPES = frozenset({"item_reference", "container_upload", "compaction"})
"""Parts that refer to something the upstream has, however short they are."""
_FRAME = frozenset({"role", "content", "type", "id", "status", "cache_control"})
"""Members of a message that hold no text."""

_encode = msgspec.json.Encoder().encode


class Content:
    """What a request gives the model to read."""

    __slots__ = ("elsewhere", "is_kept", "made", "media", "messages", "texts")

    def __init__(self) -> None:
        """Begin with nothing."""
        self.texts: list[str] = []
        self.messages = 0
        self.media: list[tuple[str, int]] = []
        """Usage class of each picture, sound or file, and its bytes as sent."""
        self.made = 0
        """Tokens that were sent as numbers."""
        self.is_kept = False
        """Whether it refers to something that the upstream has and we cannot measure."""
        self.elsewhere = 0
        """Tokens held for what is not in the body: kept by the upstream or brought by its tools."""

    def add(self, value: Any) -> None:  # noqa: ANN401 - any part of a body
        """Take in a text, a message, a part, or a list of them."""
        if isinstance(value, str):
            self.texts.append(value)
        elif isinstance(value, list):
            for each in value:
                self.add(each)
        elif isinstance(value, dict):
            self._add_object(value)
        elif value is not None:
            self.made += 1

    def _add_object(self, value: Mapping[str, Any]) -> None:
        spoken = value.get("audio")
        if isinstance(spoken, dict) and "id" in spoken:
            self.is_kept = True
        kind = value.get("type")
        if isinstance(kind, str) and kind in _MEDIA:
            self.is_kept = self.is_kept or any(_points(kind, part) for part in objects(value))
            self.media.append((_MEDIA[kind], len(_encode(value))))
        elif isinstance(kind, str) and kind in _KEPT_TYPES:
            self.is_kept = True
            self.add_json(value)
        elif "content" in value:
            self.messages += 1
            self.add(value["content"])
            self._add_rest(value)
        elif isinstance(value.get("text"), str):
            self.texts.append(value["text"])
        else:
            self.add_json(value)

    def _add_rest(self, value: Mapping[str, Any]) -> None:
        rest = {name: each for name, each in value.items() if name not in _FRAME and each}
        if rest:
            self.add_json(rest)

    def add_json(self, value: Any) -> None:  # noqa: ANN401
        """Take in what the model reads as JSON, such as tools."""
        if value:
            self.texts.append(_encode(value).decode())

    @property
    def text_bound(self) -> int:
        """Return what its texts come to at most, in tokens."""
        return sum(map(_bytes, self.texts)) + self.messages * MESSAGE_TOKENS_MAX + self.made

    def media_bounds(self) -> dict[str, int]:
        """Return what its pictures, sounds and films come to at most, in tokens by usage class."""
        found: dict[str, int] = {}
        for usage_class, size in self.media:
            held = max(MEDIA_TOKENS_MIN, size // MEDIA_BYTES_PER_TOKEN)
            found[usage_class] = found.get(usage_class, 0) + held
        return found

    @property
    def bound(self) -> int:
        """Return what it comes to at most, in tokens, including what is kept elsewhere."""
        return self.text_bound + sum(self.media_bounds().values()) + self.elsewhere

    @property
    def estimate(self) -> int:
        """Return about what it comes to, in tokens."""
        held = sum(map(tokens.count, self.texts)) + self.messages * MESSAGE_TOKENS + self.made
        return held + len(self.media) * MEDIA_TOKENS


def objects(value: Any) -> Iterator[Mapping[str, Any]]:  # noqa: ANN401
    """Yield an object and every object in it."""
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from objects(each)
    elif isinstance(value, list):
        for each in value:
            yield from objects(each)


def _points(kind: str, part: Mapping[str, Any]) -> bool:
    """Return whether a media part refers to something of unknown length outside the body."""
    if any(part.get(name) for name in _POINTERS) or str(part.get("file_data")).startswith("http"):
        return True
    # A picture by address is bounded like one in the body; a document may have any length.
    return kind in _DOCUMENTS and part.get("type") == "url"


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
