"""venice's routes about keys: each calls one operation."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec

from api.dialects import account_keys
from api.dialects.venice import bodies, credentials, terms, views
from api.dialects.venice.credentials import Manager
from api.dialects.venice.errors import (
    KEY_COULD_NOT_BE_FOUND,
    KEY_NOT_FOUND,
    KEY_NOT_FOUND_OR_EXPIRED,
)
from api.http import reading
from api.http.exchange import Answer
from api.http.failure import Failure, Kind, invalid
from api.http.routing import Ask, Routes
from api.operations import Asked, Issuer
from api.queries import SpendLine, SpendTerms
from ledger.clock import Instant
from ledger.errors import KeyIsExpired, KeyIsRevoked, NoSuchKey
from ledger.state import Key

WEEK = timedelta(days=6)
"""Today and the six days of UTC before it."""

routes = Routes()
_delete = msgspec.json.Decoder(bodies.DeleteKey)


@routes(
    "GET",
    "/api/v1/api_keys",
    who=credentials.manager,
    permission="list_keys",
    answer=views.ApiKeyList,
)
async def list_api_keys(ask: Ask[None, Manager]) -> Answer:
    """List the keys that are neither revoked nor expired, newest first."""
    ask.query()
    at = ask.services.clock.now()
    found = await account_keys.keys_of(
        ask.services,
        ask.caller.account_id,
        credentials.DIALECT,
        only_of=ask.caller.only_own_keys,
        where=lambda key: not key.ended(at),
    )
    week = await _week(ask, at)
    rows = [views.with_usage(key, week.get(key.key_id, ()), at) for key in found]
    return views.answer(views.ApiKeyList(data=rows))


async def _week(ask: Ask[None, Manager], at: Instant) -> Mapping[UUID, Sequence[SpendLine]]:
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


@routes(
    "POST",
    "/api/v1/api_keys",
    who=credentials.manager,
    permission="issue_key",
    body=bodies.CreateKey,
    answer=views.CreatedKey,
    refusals=(429,),
    example={"apiKeyType": "INFERENCE", "description": "Example API Key"},
)
async def create_api_key(ask: Ask[bodies.CreateKey, Manager]) -> Answer:
    """Create a key; its secret is in this answer and nowhere else."""
    caller = ask.caller
    issuer = Issuer(caller.member_id, bool(caller.only_own_keys))
    made = terms.issued(ask.body, issuer, by=caller.actor)
    key, secret = await account_keys.issue(ask.services, caller.account_id, made, issuer)
    return views.answer(views.created(key, secret), headers={"Cache-Control": "no-store"})


@routes(
    "PATCH",
    "/api/v1/api_keys",
    who=credentials.manager,
    permission="change_key",
    body=bodies.UpdateKey,
    answer=views.UpdatedKey,
    example={"id": "e28e82dc-9df2-4b47-b726-d0a222ef2ab5", "description": "Updated API Key"},
)
async def update_api_key(ask: Ask[bodies.UpdateKey, Manager]) -> Answer:
    """Change a key's description, expiry, caps, period or privacy; what is left out stays."""
    changes = terms.changed(ask.body)
    key = await _key(ask, ask.body.id, KEY_NOT_FOUND_OR_EXPIRED)
    try:
        done = await ask.services.ledger.keys.change(Asked(ask.caller.actor), key.key_id, changes)
    except (NoSuchKey, KeyIsRevoked, KeyIsExpired) as error:
        raise Failure(Kind.NOT_FOUND, KEY_NOT_FOUND_OR_EXPIRED, error=error) from error
    assert done.facts is not None
    return views.answer(views.UpdatedKey(data=views.shown(done.facts)))


@routes(
    "DELETE",
    "/api/v1/api_keys",
    who=credentials.manager,
    permission="revoke_key",
    body=bodies.DeleteKey,
    raw=True,
    answer=views.Done,
    query=("id",),
)
async def delete_api_key(ask: Ask[None, Manager]) -> Answer:
    """Revoke a key, named by the query or by the body; it is refused from the next request on."""
    key = await _key(ask, await _named(ask), KEY_COULD_NOT_BE_FOUND)
    absent = Failure(Kind.NOT_FOUND, KEY_COULD_NOT_BE_FOUND)
    try:
        done = await ask.services.ledger.keys.revoke(Asked(ask.caller.actor), key.key_id)
    except KeyIsExpired as error:
        raise absent from error
    if not done.recorded:
        # It was revoked before; of two at once, one revoked it.
        raise absent
    return views.answer(views.Done())


async def _named(ask: Ask[None, Manager]) -> str:
    query = ask.query("id")
    body = await ask.call.body()
    if not body:
        if "id" not in query:
            raise invalid("id", "is required")
        return query["id"]
    named = reading.decode(_delete, body).id
    if query.get("id", named) != named:
        raise invalid("id", "is another one in the query")
    return named


@routes(
    "GET",
    "/api/v1/api_keys/{id}",
    who=credentials.manager,
    permission="get_key",
    answer=views.ApiKeyDetails,
)
async def get_api_key(ask: Ask[None, Manager]) -> Answer:
    """Show one key with what it used, its caps and its expiry."""
    ask.query()
    key = await _key(ask, ask.path("id"), KEY_NOT_FOUND)
    if key.status == "revoked":
        raise Failure(Kind.NOT_FOUND, KEY_NOT_FOUND)
    at = ask.services.clock.now()
    week = await _week(ask, at)
    row = views.with_usage(key, week.get(key.key_id, ()), at)
    return views.answer(views.ApiKeyDetails(data=row))


async def _key(ask: Ask[Any, Manager], text: str, missing: str) -> Key:
    return await account_keys.key_of(
        ask.services,
        ask.caller.account_id,
        credentials.DIALECT,
        text,
        missing=missing,
        only_of=ask.caller.only_own_keys,
    )
