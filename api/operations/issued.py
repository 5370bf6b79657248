"""Keys as they are issued: the settings that stay, the first state, the secret shown once."""

from typing import NamedTuple, Self

import msgspec

from api.native import views
from api.operations.asked import Done
from ledger import events as e
from ledger.codec import Recorded
from ledger.state import Key, issued_key

SETTING_MEMBER = "member"
"""Setting that names the member who issued a key; others of the role ``member`` cannot touch it."""

SETTING_SESSION = "session"
"""Setting of a key that stands for login sessions; it has no secret and is in no dialect's list."""

SETTING_TYPE = "apiKeyType"
"""Setting of a venice key: ``INFERENCE`` or ``ADMIN``, which manages the account's keys."""
ADMIN_TYPE = "ADMIN"

FIXED_SETTINGS = frozenset({SETTING_MEMBER, SETTING_SESSION, SETTING_TYPE})
"""Given when a key is issued, and never changed: they say what its holder may do."""

SETTING_OUTPUT = "max_output_tokens"
"""Setting that bounds every answer that a key is given, in tokens; only the operator sets it."""


class Issued(NamedTuple):
    """A key with its secret; no secret where the reply was replayed."""

    done: Done
    key: views.KeyView | None
    secret: str | None

    @classmethod
    def of(cls, done: Done, view: views.KeyView | None, secret: str) -> Self:
        """Put the secret into the answer, unless that is a stored one."""
        if view is None:
            return cls(done, None, None)
        shown = msgspec.structs.replace(view, secret=secret)
        return cls(done._replace(body=msgspec.json.encode(shown)), shown, secret)

    @property
    def state(self) -> Key:
        """Give a key just issued, as its first event made it."""
        return first_state(self.done.recorded[0])


def first_state(recorded: Recorded) -> Key:
    """Show a key as its first event made it."""
    assert isinstance(recorded.body, e.KeyIssued)
    return issued_key(recorded.envelope, recorded.body)
