"""What a model is asked to read, in whatever form it is sent: texts, messages, media.

From it come the bound that is reserved and the estimate that is charged where nobody reports usage.
A byte-level tokenizer never makes more tokens of a text than the text has bytes; what a message
costs beside its text is bounded by a few tokens. Media are bounded by estimate: more is overage.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from api.gateway import tokens

MESSAGE_TOKENS_MAX = 16
"""What a message costs at most beside its text: role, separators."""
MESSAGE_TOKENS = 4
"""What it costs as a rule (OpenAI Cookbook: three, and one for a name)."""
MEDIA_TOKENS_MIN = 2_048
"""Bound of a picture, a sound or a file, however short its address."""
MEDIA_TOKENS = 512
"""Estimate of the same."""
MEDIA_BYTES_PER_TOKEN = 64
"""Bytes of encoded media that make a token at most."""

_MEDIA = frozenset(
    {
        *("image_url", "input_image", "image", "image_file"),
        *("input_audio", "audio", "video_url", "input_video"),
        *("file", "input_file", "document"),
    }
)
_FRAME = frozenset({"role", "content", "type", "id", "status", "cache_control"})
"""Members of a message that are no text of their own."""

_encode = msgspec.json.Encoder().encode


class Content:
    """What a request holds for the model to read."""

    __slots__ = ("made", "media", "messages", "texts")

    def __init__(self) -> None:
        """Begin with nothing."""
        self.texts: list[str] = []
        self.messages = 0
        self.media: list[int] = []
        """Bytes of each picture, sound or file as it was sent."""
        self.made = 0
        """Tokens that came as numbers."""

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
        if value.get("type") in _MEDIA:
            self.media.append(len(_encode(value)))
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
    def bound(self) -> int:
        """Give what it comes to at most, in tokens."""
        held = sum(map(_bytes, self.texts)) + self.messages * MESSAGE_TOKENS_MAX + self.made
        return held + sum(
            max(MEDIA_TOKENS_MIN, size // MEDIA_BYTES_PER_TOKEN) for size in self.media
        )

    @property
    def estimate(self) -> int:
        """Give what it comes to, about, in tokens."""
        held = sum(map(tokens.count, self.texts)) + self.messages * MESSAGE_TOKENS + self.made
        return held + len(self.media) * MEDIA_TOKENS


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
