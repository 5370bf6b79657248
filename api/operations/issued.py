"""Keys as they are issued: the settings that stay, the first state, the secret shown once."""

from typing import NamedTuple

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
    """A key with its secret; neither where the reply was replayed."""

    done: Done[Key]
    secret: str | None

    @property
    def key(self) -> Key:
        """Return the key as the change left it; not where the reply was replayed."""
        assert self.done.facts is not None
        return self.done.facts


def first_state(recorded: Recorded) -> Key:
    """Return a key as its first event made it."""
    assert isinstance(recorded.body, e.KeyIssued)
    return issued_key(recorded.envelope, recorded.body)
