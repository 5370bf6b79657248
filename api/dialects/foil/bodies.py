"""What foil's routes take."""

from typing import Annotated, Literal

import msgspec

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
Message = Annotated[str, msgspec.Meta(min_length=1, max_length=32_768)]


class CreateKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key to be made. The name may be neither missing nor blank."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]


class InitSession(msgspec.Struct, frozen=True, kw_only=True):
    """Who begins to talk to a persona."""

    user_session_id: Text
    player_name: Text
    player_gender: Literal["female", "male", "non-binary"]


class SendMessage(msgspec.Struct, frozen=True, kw_only=True):
    """What the player says."""

    message: Message
    user_session_id: Text
