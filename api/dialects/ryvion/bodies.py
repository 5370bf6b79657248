"""What ryvion's routes take. Closed: an unknown field is refused."""

from typing import Annotated, Literal

import msgspec

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
Word = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
Scope = Literal["buyer", "read-only", "write-only"]
Money = Annotated[str, msgspec.Meta(min_length=1, max_length=32, examples=["2.50"])]
"""A plain decimal with at most twelve places."""


class SignUp(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Somebody who wants an account."""

    email: Name
    password: Word
    """8 to 128 characters."""
    name: Name


class LogIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Somebody who has one."""

    email: Name
    password: Word


class CreateKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key to be made."""

    name: Name
    scope: Scope = "buyer"


class SpendLimit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The most that the account may spend in any hour; ``null`` lifts its own limit."""

    ceiling: Money | None
