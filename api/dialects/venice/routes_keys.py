"""venice's routes about keys: each calls one operation."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import timedelta
from uuid import UUID

from litestar.params import JSONBody

from api.dialects import account_keys
from api.dialects.venice import bodies, credentials, terms, views
from api.dialects.venice.credentials import Principal
from api.dialects.venice.errors import (
    KEY_COULD_NOT_BE_FOUND,
    KEY_NOT_FOUND,
    KEY_NOT_FOUND_OR_EXPIRED,
)
from api.http.failure import Failure, Kind, invalid
from api.http.handlers import Rendered, delete, get, patch, post
from api.operations import Asked, Issuer
from api.queries import SpendLine, SpendTerms
from api.services import Ask
from ledger.clock import Instant
from ledger.errors import KeyIsExpired, KeyIsRevoked, NoSuchKey
from ledger.state import Key

WEEK = timedelta(days=6)
"""Today and the six days of UTC before it."""


@get("/api/v1/api_keys", guards=[credentials.admin_key_or_session], permission="list_keys")
async def list_api_keys(request: Ask[Principal]) -> views.ApiKeyList:
    """List the keys that are neither revoked nor expired, newest first."""
    request.parameters()
    at = request.services.clock.now()
    found = await account_keys.keys_of(
        request.services,
        request.caller.account_id,
        credentials.DIALECT,
        only_of=request.caller.only_own_keys,
        where=lambda key: not key.ended(at),
    )
    week = await _week(request, at)
    rows = [views.with_usage(key, week.get(key.key_id, ()), at) for key in found]
    return views.ApiKeyList(data=rows)


async def _week(ask: Ask[Principal], at: Instant) -> Mapping[UUID, Sequence[SpendLine]]:
    asked = SpendTerms(
        day=False,
        integration=False,
        model=False,
        key=True,
        start=(at - WEEK).date(),
        end=None,
    )
    lines, _ = await ask.services.queries.spend.sums(ask.caller.account_id, asked)
    found: dict[UUID, list[SpendLine]] = defaultdict(list)
    for line in lines:
        assert line.key_id is not None
        found[line.key_id].append(line)
    return found


@post(
    "/api/v1/api_keys",
    guards=[credentials.admin_key_or_session],
    permission="issue_key",
    refusals=(429,),
    example={"apiKeyType": "INFERENCE", "description": "Example API Key"},
)
async def create_api_key(
    request: Ask[Principal], data: JSONBody[bodies.CreateKey]
) -> Rendered[views.CreatedKey]:
    """Create a key; its secret is in this answer and nowhere else."""
    caller = request.caller
    issuer = Issuer(caller.member_id, bool(caller.only_own_keys))
    made = terms.issued(data, issuer, by=caller.actor)
    key, secret = await account_keys.issue(request.services, caller.account_id, made, issuer)
    return Rendered(views.created(key, secret))


@patch(
    "/api/v1/api_keys",
    guards=[credentials.admin_key_or_session],
    permission="change_key",
    example={"id": "e28e82dc-9df2-4b47-b726-d0a222ef2ab5", "description": "Updated API Key"},
)
async def update_api_key(
    request: Ask[Principal], data: JSONBody[bodies.UpdateKey]
) -> views.UpdatedKey:
    """Change a key's description, expiry, caps, period or privacy; what is left out stays."""
    changes = terms.changed(data)
    key = await _key(request, data.id, KEY_NOT_FOUND_OR_EXPIRED)
    try:
        done = await request.services.ledger.keys.change(
            Asked(request.caller.actor), key.key_id, changes
        )
    except (NoSuchKey, KeyIsRevoked, KeyIsExpired) as error:
        raise Failure(Kind.NOT_FOUND, KEY_NOT_FOUND_OR_EXPIRED, error=error) from error
    assert done.facts is not None
    return views.UpdatedKey(data=views.shown(done.facts))


@delete(
    "/api/v1/api_keys",
    guards=[credentials.admin_key_or_session],
    permission="revoke_key",
    query=("id",),
)
async def delete_api_key(
    request: Ask[Principal], data: JSONBody[bodies.DeleteKey | None] = None
) -> views.Success:
    """Revoke a key, named by the query or by the body; it is refused from the next request on."""
    key = await _key(request, _named(request, data), KEY_COULD_NOT_BE_FOUND)
    absent = Failure(Kind.NOT_FOUND, KEY_COULD_NOT_BE_FOUND)
    try:
        done = await request.services.ledger.keys.revoke(Asked(request.caller.actor), key.key_id)
    except KeyIsExpired as error:
        raise absent from error
    if not done.recorded:
        # It was revoked before, perhaps by a request at the same time.
        raise absent
    return views.Success()


def _named(ask: Ask[Principal], body: bodies.DeleteKey | None) -> str:
    named = ask.parameters().get("id") if body is None else body.id
    if named is None:
        raise invalid("id", "is required")
    if ask.parameters().get("id", named) != named:
        raise invalid("id", "differs between the query and the body")
    return named


@get("/api/v1/api_keys/{id:str}", guards=[credentials.admin_key_or_session], permission="get_key")
async def get_api_key(request: Ask[Principal]) -> views.ApiKeyDetails:
    """Show one key with what it used, its caps and its expiry."""
    request.parameters()
    key = await _key(request, request.path("id"), KEY_NOT_FOUND)
    if key.status == "revoked":
        raise Failure(Kind.NOT_FOUND, KEY_NOT_FOUND)
    at = request.services.clock.now()
    week = await _week(request, at)
    row = views.with_usage(key, week.get(key.key_id, ()), at)
    return views.ApiKeyDetails(data=row)


async def _key(ask: Ask[Principal], text: str, missing: str) -> Key:
    return await account_keys.key_of(
        ask.services,
        ask.caller.account_id,
        credentials.DIALECT,
        text,
        missing=missing,
        only_of=ask.caller.only_own_keys,
    )


HANDLERS = (
    list_api_keys,
    create_api_key,
    update_api_key,
    delete_api_key,
    get_api_key,
)
