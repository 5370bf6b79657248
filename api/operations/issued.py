"""Keys as they are issued: fixed settings, the first state, the secret shown once."""

from typing import NamedTuple

from msgspec.structs import replace

from api.operations.asked import Done
from ledger import events as e
from ledger.codec import Recorded
from ledger.errors import InvalidField
from ledger.state import Key, issued_key

SETTING_MEMBER = "member"
"""Setting that names the member who issued a key; others with the role ``member`` cannot touch
it."""

SETTING_SESSION = "session"
"""Setting of a key that stands for login sessions; it has no secret and no dialect lists it."""

SETTING_TYPE = "apiKeyType"
"""Setting of a venice key: ``INFERENCE`` or ``ADMIN``, which manages the account's keys."""
ADMIN_TYPE = "ADMIN"

FIXED_SETTINGS = frozenset({SETTING_MEMBER, SETTING_SESSION, SETTING_TYPE})
"""Set when a key is issued and never changed: they say what its holder may do."""

SETTING_OUTPUT = "max_output_tokens"
"""Setting that bounds every answer to a key, in tokens; only the operator sets it."""


class Issuer(NamedTuple):
    """Who asks for a key: the operator, a member, or a key that makes another."""

    member_id: str = ""
    """The member who asks, or who issued the key that asks; empty: the operator."""
    only_own: bool = False
    """Whether they see only their own keys."""
    bounds: Key | None = None
    """The key whose bounds are inherited; None: there are none."""

    @property
    def may_manage(self) -> bool:
        """Whether they may make a key that manages the account's keys: if they see all keys."""
        return not self.only_own

    def allowed(self, terms: e.KeyIssued) -> e.KeyIssued:
        """Return the terms that this issuer may set; the others are set here.

        Raises:
            InvalidField: The key would manage what its issuer does not see.
        """
        if terms.settings.get(SETTING_TYPE) == ADMIN_TYPE and not self.may_manage:
            raise InvalidField(f"settings.{SETTING_TYPE}", "would let the key manage others' keys")
        withheld = {SETTING_MEMBER, SETTING_SESSION}
        if self.member_id:
            withheld.add(SETTING_OUTPUT)
        settings = {name: text for name, text in terms.settings.items() if name not in withheld}
        if self.member_id:
            settings[SETTING_MEMBER] = self.member_id
            terms = replace(terms, rate_card="")
        if self.bounds is not None:
            # Otherwise a bounded key could shed its bounds by making another.
            terms = replace(
                terms,
                allowed_models=self.bounds.allowed_models,
                limits=self.bounds.rules,
                expires_at=self.bounds.expires_at,
                rate_card=self.bounds.rate_card,
            )
        return replace(terms, settings=settings)


OPERATOR_ISSUES = Issuer()


class Issued(NamedTuple):
    """A key with its secret; neither is there if the reply was replayed."""

    done: Done[Key]
    secret: str | None

    @property
    def key(self) -> Key:
        """Return the key as the change left it; not for a replayed reply."""
        assert self.done.facts is not None
        return self.done.facts


def first_state(recorded: Recorded) -> Key:
    """Return a key as its first event made it."""
    assert isinstance(recorded.body, e.KeyIssued)
    return issued_key(recorded.envelope, recorded.body)
