"""What ryvion's three scopes allow: the page's table, read literally. Others are refused.

Tests make every cell of it into a request. A key issued without scopes by the operator is as good
as one of ``buyer``; a login's token has no scope, and may do what its member's role may.
"""

from collections.abc import Collection, Mapping

from api.identity.auth import PERMISSIONS

BUYER, READ_ONLY, WRITE_ONLY = "buyer", "read-only", "write-only"
SCOPES = (BUYER, READ_ONLY, WRITE_ONLY)

_READING = frozenset({BUYER, READ_ONLY})
_WRITING = frozenset({BUYER, WRITE_ONLY})
_BUYING = frozenset({BUYER})
_NO_KEY: frozenset[str] = frozenset()

MATRIX: Mapping[str, frozenset[str]] = {
    "inference": _WRITING,
    "models:read": _READING,
    "knowledge-bases:read": _READING,
    "knowledge-bases:manage": _BUYING,
    "knowledge-bases:upload": _WRITING,
    "agents": _BUYING,
    "memories:read": _READING,
    "memories:manage": _NO_KEY,
    "billing:read": _READING,
    "billing:write": _BUYING,
    "keys:create": _BUYING,
    "keys:list": _BUYING,
    "keys:revoke": _BUYING,
    "me": frozenset(SCOPES),
}
"""Operation → scopes that allow it."""

_MAY_ISSUE = PERMISSIONS["issue_key"]
_MAY_LOOK = PERMISSIONS["get_account"]
ROLES: Mapping[str, frozenset[str]] = {
    "inference": _MAY_ISSUE,
    "models:read": _MAY_LOOK,
    "knowledge-bases:read": _MAY_LOOK,
    "knowledge-bases:manage": _MAY_ISSUE,
    "knowledge-bases:upload": _MAY_ISSUE,
    "agents": _MAY_ISSUE,
    "memories:read": _MAY_LOOK,
    "memories:manage": _MAY_ISSUE,
    "billing:read": PERMISSIONS["get_spend"],
    "billing:write": frozenset({"owner", "finance"}),
    "keys:create": _MAY_ISSUE,
    "keys:list": PERMISSIONS["list_keys"],
    "keys:revoke": PERMISSIONS["revoke_key"],
    "me": _MAY_LOOK,
}
"""Operation → roles whose sessions may do it, as in the native API. Whoever may issue a key could
do with it whatever a key may."""

OF_ACCOUNT = frozenset({"billing:read", "billing:write", "keys:create", "keys:list", "keys:revoke"})
"""Operations on the account itself. A key that a member made may do only those that the member may
do now. It keeps all others, whatever becomes of the member: it serves an integration, which should
not stop when somebody leaves."""


def allows(scopes: Collection[str], operation: str) -> bool:
    """Return whether a key of these scopes may do something."""
    return not scopes or not MATRIX[operation].isdisjoint(scopes)


def is_wider(scope: str, than: Collection[str]) -> bool:
    """Return whether a scope allows anything that these scopes do not."""
    return any(allows((scope,), operation) and not allows(than, operation) for operation in MATRIX)
