"""Keys: issue, show, change, rotate, suspend, resume, revoke, verify."""

from collections.abc import Sequence
from datetime import timedelta

import msgspec
from litestar.params import JSONBody
from msgspec import UnsetType

from api.beside.characters import NoSuchCharacter
from api.http.answers import encode
from api.http.handlers import Passed, Rendered, get, patch, post
from api.native import bodies, views
from api.native.asking import (
    Ask,
    caller,
    decided_answer,
    done_answer,
    found_answer,
    page_answer,
)
from api.operations import (
    Issued,
    Issuer,
)
from ledger import events as e
from ledger import keys
from ledger.clock import Instant
from ledger.codec import Recorded
from ledger.errors import InvalidField
from ledger.ids import AccountId, format_id
from ledger.state import Key


@post(
    "/ledger/v1/accounts/{account_id:str}/keys",
    guards=[caller],
    status=201,
    example={
        "name": "Support bot",
        "dialect": "bve",
        "limits": [{"kind": "requests", "window": "rolling:60", "ceiling": "60"}],
    },
    refusals=(404, 409, 422, 429),
)
async def issue_key(request: Ask, data: JSONBody[bodies.KeyBody]) -> Rendered[views.KeyView]:
    """Issue a key; its secret is in this answer and nowhere else."""
    account_id, body, caller = request.account_id(), data, request.caller
    if body.default_character and body.dialect in request.services.dialects.with_characters:
        await _require_character(request, account_id, body.default_character)
    terms = e.KeyIssued(
        by=caller.actor,
        name=body.name,
        dialect=body.dialect,
        scopes=body.scopes,
        allowed_models=body.allowed_models,
        default_character=body.default_character,
        expires_at=bodies.expiry_of("expires_at", body.expires_at),
        rate_card=body.rate_card,
        limits=bodies.rules(body.limits),
        settings=body.settings,
    )
    issuer = Issuer(caller.member_id, bool(caller.only_own_keys))
    issued = await request.services.ledger.keys.issue(
        request.asked(_shown, body=data), account_id, terms, issuer
    )
    return _issued_answer(issued, status=201)


def _shown(key: Key, _recorded: Sequence[Recorded], at: Instant) -> views.KeyView:
    return views.key_view(key, at)


def _issued_answer(issued: Issued, *, status: int = 200) -> Passed[views.KeyView]:
    """Answer with the secret, unless it is a stored reply, which does not hold it."""
    done, body = issued.done, issued.done.reply
    if issued.secret is not None:
        shown = views.key_view(issued.key, done.at)
        body = encode(msgspec.structs.replace(shown, secret=issued.secret))
    made = decided_answer(body, done.position, replayed=done.replayed, status=status)
    return Passed(made)


async def _require_character(ask: Ask, account_id: AccountId, model: str) -> None:
    """Refuse a default character that the account may not talk to."""
    try:
        await ask.services.characters.of_model(account_id, model)
    except NoSuchCharacter as error:
        problem = "names no character that the account may talk to"
        raise InvalidField("default_character", problem) from error


@get(
    "/ledger/v1/accounts/{account_id:str}/keys",
    guards=[caller],
    query=("limit", "after"),
    refusals=(404,),
)
async def list_keys(request: Ask) -> Rendered[views.Page]:
    """List an account's keys, newest first."""
    request.parameters()
    after = request.after("key")
    found = await request.services.queries.keys.page(
        request.account_id(),
        after=after,
        most=request.page_size(),
        only_of=request.caller.only_own_keys,
    )
    at = request.services.clock.now()
    return page_answer(
        found, lambda key: views.key_view(key, at), lambda key: format_id("key", key.key_id)
    )


@get(
    "/ledger/v1/keys/{key_id:str}",
    guards=[caller],
    refusals=(404,),
)
async def get_key(request: Ask) -> Rendered[views.KeyView]:
    """Show a key with its limits and what counts against them."""
    key_id = await request.key_id()
    key, position = await request.services.queries.keys.one(
        key_id, only_of=request.caller.only_own_keys
    )
    view = views.key_view(key, request.services.clock.now())
    return found_answer(view, position, view.version)


@patch(
    "/ledger/v1/keys/{key_id:str}",
    guards=[caller],
    example={"name": "Support bot, EU"},
    refusals=(404, 409, 412, 422),
)
async def change_key(request: Ask, data: JSONBody[bodies.KeyChanges]) -> Rendered[views.KeyView]:
    """Change a key's terms; ``If-Match`` with its version guards against a lost update."""
    key_id, body = await request.key_id(), data
    if not isinstance(body.default_character, UnsetType) and body.default_character:
        key, _ = await request.services.queries.keys.one(
            key_id, only_of=request.caller.only_own_keys
        )
        if key.dialect in request.services.dialects.with_characters:
            await _require_character(request, key.account_id, body.default_character)
    changes = keys.KeyPatch(
        name=body.name,
        limits=body.limits if isinstance(body.limits, UnsetType) else bodies.rules(body.limits),
        scopes=body.scopes,
        allowed_models=body.allowed_models,
        default_character=body.default_character,
        expires_at=body.expires_at
        if isinstance(body.expires_at, UnsetType)
        else bodies.expiry_of("expires_at", body.expires_at),
        settings=body.settings,
    )
    done = await request.services.ledger.keys.change(
        request.asked(_shown, body=data),
        key_id,
        changes,
        expected_version=request.expected_version,
        only_of=request.caller.only_own_keys,
    )
    return done_answer(done)


@post(
    "/ledger/v1/keys/{key_id:str}/rotate",
    guards=[caller],
    example={"grace_seconds": 86_400},
    refusals=(404, 409, 422),
)
async def rotate_key(
    request: Ask, data: JSONBody[bodies.RotateBody | None] = None
) -> Rendered[views.KeyView]:
    """Issue a new secret for a key; limits, credit and history stay with the key."""
    data = data or bodies.RotateBody()
    key_id = await request.key_id()
    issued = await request.services.ledger.keys.rotate(
        request.asked(_shown, body=data),
        key_id,
        grace=timedelta(seconds=data.grace_seconds),
        only_of=request.caller.only_own_keys,
    )
    return _issued_answer(issued)


@post(
    "/ledger/v1/keys/{key_id:str}/suspend",
    guards=[caller],
    refusals=(404, 409, 422),
)
async def suspend_key(
    request: Ask, data: JSONBody[bodies.Body | None] = None
) -> Rendered[views.KeyView]:
    """Stop a key until it resumes."""
    data = data or bodies.Body()
    key_id = await request.key_id()
    done = await request.services.ledger.keys.suspend(
        request.asked(_shown, body=data), key_id, only_of=request.caller.only_own_keys
    )
    return done_answer(done)


@post(
    "/ledger/v1/keys/{key_id:str}/resume",
    guards=[caller],
    refusals=(404, 409, 422),
)
async def resume_key(
    request: Ask, data: JSONBody[bodies.Body | None] = None
) -> Rendered[views.KeyView]:
    """Lift a key's suspension."""
    data = data or bodies.Body()
    key_id = await request.key_id()
    done = await request.services.ledger.keys.resume(
        request.asked(_shown, body=data), key_id, only_of=request.caller.only_own_keys
    )
    return done_answer(done)


@post(
    "/ledger/v1/keys/{key_id:str}/revoke",
    guards=[caller],
    refusals=(404, 409, 422),
)
async def revoke_key(
    request: Ask, data: JSONBody[bodies.Body | None] = None
) -> Rendered[views.KeyView]:
    """Withdraw a key for good: no decision after this answer accepts it."""
    data = data or bodies.Body()
    key_id = await request.key_id()
    done = await request.services.ledger.keys.revoke(
        request.asked(_shown, body=data), key_id, only_of=request.caller.only_own_keys
    )
    return done_answer(done)


@post(
    "/ledger/v1/keys/verify",
    guards=[caller],
    example={"secret": "ryv_0000000000000000000000000000000000000"},
)
async def verify_key(request: Ask, data: JSONBody[bodies.VerifyBody]) -> Rendered[views.VerifyView]:
    """Say whether a secret opens a key now."""
    body = data
    found = await request.services.queries.keys.verify(
        body.secret, scope=body.scope, model=body.model
    )
    if found is None:
        return found_answer(views.NO_KEY)
    return found_answer(views.verify_view(found.facts), found.position)


HANDLERS = (
    issue_key,
    list_keys,
    get_key,
    change_key,
    rotate_key,
    suspend_key,
    resume_key,
    revoke_key,
    verify_key,
)
