"""What bve's routes take."""

from typing import Annotated

import msgspec

COUNT_MAX = 10**12
Count = Annotated[int, msgspec.Meta(ge=1, le=COUNT_MAX)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]


class CreateKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key to be made. ``null`` lifts a limit that may be lifted."""

    name: Name
    rpm_limit: Count = 60
    rpd_limit: Count = 10_000
    monthly_limit: Count | None = None
    monthly_token_limit: Count | None = None
    allowed_models: tuple[Name, ...] | None = None
