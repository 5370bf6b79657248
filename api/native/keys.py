"""Keys: issue, show, change, rotate, suspend, resume, revoke, verify."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec
from msgspec import UnsetType

from api.beside.characters import NoSuchCharacter
from api.http.exchange import Answer
from api.native import bodies, views
from api.native.routing import Ask, done_answer, encode, found_answer, page_answer, route
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

REVERIE = "reverie"
"""The dialect whose keys have a default character."""


@route(
    "POST",
    "/accounts/{account_id}/keys",
    body=bodies.KeyBody,
    answer=views.KeyView,
    status=201,
    example={
        "name": "Support bot",
        "dialect": "bve",
        "limits": [{"kind": "requests", "window": "rolling:60", "ceiling": "60"}],
    },
    refusals=(404, 409, 422, 429),
)
async def issue_key(ask: Ask[bodies.KeyBody]) -> Answer:
    """Issue a key; its secret is in this answer and nowhere else."""
    account_id, body, caller = ask.account_id(), ask.body, ask.caller
    if body.dialect == REVERIE and body.default_character:
        await _require_character(ask, account_id, body.default_character)
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
    issued = await ask.services.ledger.keys.issue(ask.asked(_shown), account_id, terms, issuer)
    return _issued_answer(issued, status=201)


def _shown(key: Key, _recorded: Sequence[Recorded], at: Instant) -> views.KeyView:
    return views.key_view(key, at)


def _issued_answer(issued: Issued, *, status: int = 200) -> Answer:
    """Answer with the secret, unless it is a stored reply: there it is not."""
    made = done_answer(issued.done, status=status)
    made.headers.append((b"cache-control", b"no-store"))
    if issued.secret is not None:
        shown = views.key_view(issued.key, issued.done.at)
        made.body = encode(msgspec.structs.replace(shown, secret=issued.secret))
    return made


async def _require_character(ask: Ask[Any], account_id: AccountId, model: str) -> None:
    """Refuse a default character that the account may not talk to."""
    try:
        await ask.services.characters.of_model(account_id, model)
    except NoSuchCharacter as error:
        problem = "names no character that the account may talk to"
        raise InvalidField("default_character", problem) from error


@route("GET", "/accounts/{account_id}/keys", answer=views.Page, query=("limit", "after"))
async def list_keys(ask: Ask[None]) -> Answer:
    """List an account's keys, newest first."""
    ask.call.require_only("limit", "after")
    after = ask.after("key")
    found = await ask.services.queries.keys.page(
        ask.account_id(), after=after, most=ask.page_size(), only_of=ask.caller.only_own_keys
    )
    at = ask.services.clock.now()
    return page_answer(
        found, lambda key: views.key_view(key, at), lambda key: format_id("key", key.key_id)
    )


@route("GET", "/keys/{key_id}", answer=views.KeyView)
async def get_key(ask: Ask[None]) -> Answer:
    """Show a key with its limits and what counts against them."""
    key_id = await ask.key_id()
    key, position = await ask.services.queries.keys.one(key_id, only_of=ask.caller.only_own_keys)
    view = views.key_view(key, ask.services.clock.now())
    return found_answer(view, position, view.version)


@route(
    "PATCH",
    "/keys/{key_id}",
    body=bodies.KeyChanges,
    answer=views.KeyView,
    example={"name": "Support bot, EU"},
    refusals=(404, 409, 412, 422),
)
async def change_key(ask: Ask[bodies.KeyChanges]) -> Answer:
    """Change a key's terms; ``If-Match`` with its version guards against a lost update."""
    key_id, body = await ask.key_id(), ask.body
    if not isinstance(body.default_character, UnsetType) and body.default_character:
        key, _ = await ask.services.queries.keys.one(key_id, only_of=ask.caller.only_own_keys)
        if key.dialect == REVERIE:
            await _require_character(ask, key.account_id, body.default_character)
    changes = keys.Changes(
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
    done = await ask.services.ledger.keys.change(
        ask.asked(_shown),
        key_id,
        changes,
        expected_version=ask.call.expected_version,
        only_of=ask.caller.only_own_keys,
    )
    return done_answer(done)


@route(
    "POST",
    "/keys/{key_id}/rotate",
    body=bodies.RotateBody,
    optional_body=True,
    answer=views.KeyView,
    example={"grace_seconds": 86_400},
    refusals=(404, 409, 422),
)
async def rotate_key(ask: Ask[bodies.RotateBody]) -> Answer:
    """Give a key another secret; limits, credit and history stay with the key."""
    key_id = await ask.key_id()
    issued = await ask.services.ledger.keys.rotate(
        ask.asked(_shown),
        key_id,
        grace=timedelta(seconds=ask.body.grace_seconds),
        only_of=ask.caller.only_own_keys,
    )
    return _issued_answer(issued)


@route(
    "POST",
    "/keys/{key_id}/suspend",
    body=bodies.Body,
    optional_body=True,
    answer=views.KeyView,
    refusals=(404, 409, 422),
)
async def suspend_key(ask: Ask[bodies.Body]) -> Answer:
    """Stop a key until it resumes."""
    key_id = await ask.key_id()
    done = await ask.services.ledger.keys.suspend(
        ask.asked(_shown), key_id, only_of=ask.caller.only_own_keys
    )
    return done_answer(done)


@route(
    "POST",
    "/keys/{key_id}/resume",
    body=bodies.Body,
    optional_body=True,
    answer=views.KeyView,
    refusals=(404, 409, 422),
)
async def resume_key(ask: Ask[bodies.Body]) -> Answer:
    """Let a suspended key work again."""
    key_id = await ask.key_id()
    done = await ask.services.ledger.keys.resume(
        ask.asked(_shown), key_id, only_of=ask.caller.only_own_keys
    )
    return done_answer(done)


@route(
    "POST",
    "/keys/{key_id}/revoke",
    body=bodies.Body,
    optional_body=True,
    answer=views.KeyView,
    refusals=(404, 409, 422),
)
async def revoke_key(ask: Ask[bodies.Body]) -> Answer:
    """Withdraw a key for good: no decision after this answer accepts it."""
    key_id = await ask.key_id()
    done = await ask.services.ledger.keys.revoke(
        ask.asked(_shown), key_id, only_of=ask.caller.only_own_keys
    )
    return done_answer(done)


@route(
    "POST",
    "/keys/verify",
    body=bodies.VerifyBody,
    answer=views.VerifyView,
    example={"secret": "ryv_0000000000000000000000000000000000000"},
    refusals=(),
)
async def verify_key(ask: Ask[bodies.VerifyBody]) -> Answer:
    """Tell whether a secret opens a key now."""
    body = ask.body
    found = await ask.services.queries.keys.verify(body.secret, scope=body.scope, model=body.model)
    if found is None:
        return found_answer(views.NO_KEY)
    return found_answer(views.verify_view(found.facts), found.position)
