"""What people may do: each operation turns a request into one command of one lane.

Only operations and ``api.process.jobs`` make commands. Nothing here knows HTTP or words
an answer: operations return facts (events, and the state that they led to), which the door that
asked shows in its own way. Nothing here decides: decisions are pure functions of ``ledger``, called
inside the lane.

Read ``asked`` (who asks, what is answered), ``dispatch`` (how a change goes through its lane),
``accounts`` (changes of one subject); then ``requests``, whose commands are their own. Others are
like these two: ``members``, ``keys`` (with ``issued``), ``credits``, ``prices``; ``calls`` (with
``observing``). ``ledger`` puts them together.
"""

from api.operations import accounts, members
from api.operations.accounts import OWN_WINDOW, Policy
from api.operations.allowances import Allowances
from api.operations.asked import Asked, Done, actor_of_key, fingerprint
from api.operations.calls import Calls, Permits
from api.operations.issued import (
    ADMIN_TYPE,
    FIXED_SETTINGS,
    SETTING_MEMBER,
    SETTING_OUTPUT,
    SETTING_SESSION,
    SETTING_TYPE,
    Issued,
    Issuer,
)
from api.operations.ledger import Ledger
from api.operations.members import Person, new_person
from api.operations.observing import Sees
from api.operations.opening import Opening
from api.operations.prices import Publication
from api.operations.requests import notes_of

CONSTRAINTS = {**members.CONSTRAINTS, **accounts.CONSTRAINTS}
"""Constraints on rows beside the events that a caller may break, and the refusals to answer."""

__all__ = [
    "ADMIN_TYPE",
    "CONSTRAINTS",
    "FIXED_SETTINGS",
    "OWN_WINDOW",
    "SETTING_MEMBER",
    "SETTING_OUTPUT",
    "SETTING_SESSION",
    "SETTING_TYPE",
    "Allowances",
    "Asked",
    "Calls",
    "Done",
    "Issued",
    "Issuer",
    "Ledger",
    "Opening",
    "Permits",
    "Person",
    "Policy",
    "Publication",
    "Sees",
    "actor_of_key",
    "fingerprint",
    "new_person",
    "notes_of",
]
