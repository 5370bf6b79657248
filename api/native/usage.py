"""The hot path: record, reserve, settle, release. One body, one command, one receipt."""

import asyncio
from collections.abc import Awaitable, Sequence

import msgspec
from msgspec import UNSET, UnsetType

from api.http import reading
from api.http.answers import Answer
from api.http.failure import Failure, Kind, invalid
from api.http.handlers import Rendered, Reply, get, hot
from api.native import bodies, errors, views
from api.native.asking import (
    Ask,
    caller,
    decided_answer,
    found_answer,
)
from api.operations import Asked, Ledger, fingerprint, notes_of
from api.queries.resolve import Owned, Proof, Resolver
from ledger.clock import Instant
from ledger.codec import Recorded
from ledger.errors import LedgerError, NoSuchRequest, Refused
from ledger.ids import AccountId, KeyId, Position
from ledger.record.batch import Command, Outcome
from ledger.requests import Record, Release, Reserve, Settle, others_of, report_of

CLOUD_TYPE = "dev.keyledger.usage"
"""The one ``type`` of CloudEvents that is accepted."""
NDJSON = ("application/x-ndjson", "application/jsonl")
CLOUD = "application/cloudevents+json"
CLOUD_BATCH = "application/cloudevents-batch+json"
PART = 500
"""Items of a batch that are read, and later answered, before other requests get their turn."""
CONTENT_TYPES = ("application/json", *NDJSON, CLOUD, CLOUD_BATCH)

_usage = msgspec.json.Decoder(bodies.UsageBody)
_cloud = msgspec.json.Decoder(bodies.CloudEvent)
_cloud_data = msgspec.json.Decoder(bodies.CloudUsage)


Subject = Proof | Owned
"""The key of a request: a secret proved it, or the operator vouches for it."""


async def subject_of(ask: Ask, key_id: str | UnsetType, secret: str | UnsetType) -> Subject:
    """Find the key that a body names by id or by secret.

    Raises:
        Failure: It names both or none.
        NoSuchKey: There is no such key.
    """
    if secret is not UNSET:
        if key_id is not UNSET:
            raise invalid("secret", "is sent together with key_id; send one of them")
        return await ask.services.resolver.secret(secret)
    if key_id is UNSET:
        raise invalid("key_id", "is required, unless secret is sent")
    return ask.owned(await ask.services.resolver.key(key_id))


def known_subject(ask: Ask, resolver: Resolver, body: bodies.UsageBody) -> Owned | None:
    """Find the key that a body names by id in memory; None: it has to be looked up."""
    if body.secret is not UNSET or body.key_id is UNSET:
        return None
    known = resolver.known_key(body.key_id)
    if known is None:
        return None
    return ask.owned(known)


@hot(
    "POST",
    "/ledger/v1/usage",
    guards=[caller],
    large=True,
    example={
        "request_id": "chatcmpl-9f2c",
        "key_id": "key_019363d0c5a07b3f9c0e000000000001",
        "model": "gpt-4o-mini",
        "usage": {"input": 812, "cache_read": 1024, "output": 96},
    },
    refusals=(402, 404, 409, 415, 422, 429),
    body_types=CONTENT_TYPES,
    takes=bodies.UsageBody | list[bodies.UsageBody],
    gives=views.Receipt | views.Results,
)
async def record_usage(request: Ask) -> Reply:
    """Record what requests used: one request, or many with a result for each."""
    kind = request.kind
    raw = await request.body()
    if kind in {"application/json", ""}:
        if raw.lstrip()[:1] == b"[":
            return await _many(request, reading.array_items(raw), cloud=False)
        return await _one(request, reading.decode(_usage, raw), raw)
    if kind in NDJSON:
        return await _many(request, reading.lines(raw), cloud=False)
    if kind == CLOUD:
        return await _one(request, usage_of_cloud(raw), raw)
    if kind == CLOUD_BATCH:
        return await _many(request, reading.array_items(raw), cloud=True)
    raise Failure(Kind.UNSUPPORTED_MEDIA_TYPE, f"Send one of {', '.join(CONTENT_TYPES)}.")


async def _one(ask: Ask, body: bodies.UsageBody, raw: bytes) -> Answer:
    resolver = ask.services.resolver
    subject: Subject | None = known_subject(ask, resolver, body)
    if subject is None:
        subject = await subject_of(ask, body.key_id, body.secret)
    record = _record_of(body, subject, ask.caller.actor)
    asked = _asked(ask, raw)
    ledger = ask.services.ledger
    made = await ledger.requests.record(subject.account_id, subject.key_id, record, asked)
    return _receipt_answer(ask, subject.account_id, made)


def _receipt_answer(ask: Ask, account_id: AccountId, made: Outcome, *, status: int = 200) -> Answer:
    """Answer with the receipt of a request that a lane decided."""
    return decided_answer(
        _receipt_of(made),
        Position(ask.services.ledger.lane_of(account_id), made.position),
        replayed=not made.events,
        status=status,
    )


def _receipt_of(made: Outcome) -> bytes:
    if made.events:
        return views.receipt_bytes(made.events[0])
    if made.reply is not None:
        return made.reply
    assert made.replay is not None
    return views.receipt_bytes(made.replay, made.rated)


def _rendered(event: Recorded, _recorded: Sequence[Recorded], _at: Instant) -> bytes:
    return views.receipt_bytes(event)


def _asked(ask: Ask, raw: bytes, *parts: str) -> Asked[Recorded] | None:
    """Return the idempotency terms of a metered request; None: it has only its request id."""
    key = ask.idempotency_key
    if not key:
        return None
    content = msgspec.json.decode(raw or b"{}")
    made = fingerprint(ask.operation, *parts, body=content)
    return Asked(ask.caller.actor, key, made, _rendered)


def _record_of(body: bodies.UsageBody, subject: Subject, by: str) -> Record:
    occurred_at: Instant | None = None
    if body.occurred_at is not UNSET:
        occurred_at = bodies.instant_of("occurred_at", body.occurred_at)
    used = bodies.used_of(body)
    return Record(
        request_id=body.request_id,
        model=body.model,
        usage=used.usage,
        others=others_of(used),
        category=body.category,
        condition=body.condition,
        scope=body.scope,
        by=by,
        secret=subject.secret,
        occurred_at=occurred_at,
        delivered=body.delivered,
        estimated=body.estimated,
        notes=notes_of(body.metadata, body.end_user),
        doubts=used.doubts,
        served_condition=None if body.condition else used.condition,
        served_model="" if used.served_model == body.model else used.served_model,
        report=report_of(used),
    )


def usage_of_cloud(raw: bytes) -> bodies.UsageBody:
    """Read a CloudEvent as a metered request. ``source`` and ``id`` together are its request id.

    Raises:
        Failure: It is not one that we accept.
    """
    event = reading.decode(_cloud, raw)
    if event.specversion != "1.0":
        raise invalid("specversion", "must be 1.0")
    if event.type != CLOUD_TYPE:
        raise invalid("type", f"must be {CLOUD_TYPE}")
    if any(char.isspace() for char in event.source):
        raise invalid("source", "must be a URI reference, without spaces")
    data = reading.decode(_cloud_data, bytes(event.data), "data.")
    named = data.key_id
    if isinstance(named, UnsetType) and isinstance(data.secret, UnsetType):
        named = event.subject
    # No URI holds a space, so no two pairs make the same id.
    request_id = f"{event.source} {event.id}"
    if len(request_id) > 255:  # noqa: PLR2004
        raise invalid("id", "must have, together with source, at most 254 characters")
    return bodies.UsageBody(
        request_id=request_id,
        model=data.model,
        key_id=named,
        secret=data.secret,
        usage=data.usage,
        provider_format=data.provider_format,
        provider_usage=data.provider_usage,
        category=data.category,
        condition=data.condition,
        scope=data.scope,
        occurred_at=event.time,
        delivered=data.delivered,
        estimated=data.estimated,
        metadata=data.metadata,
        end_user=data.end_user,
    )


class _Part:
    """Some items of a batch: those refused at once, and those that the lanes have."""

    def __init__(self, count: int) -> None:
        self.results = [b""] * count
        self.places: list[int] = []
        """Which items the commands belong to."""
        self.commands: list[Command] = []
        self.outcomes: Awaitable[list[Outcome | Exception]]

    async def finish(self, ledger: Ledger, positions: dict[int, int]) -> list[bytes]:
        """Wait for the lanes, and render what became of every item."""
        outcomes = await self.outcomes
        for place, command, outcome in zip(self.places, self.commands, outcomes, strict=True):
            if isinstance(outcome, Exception):
                self.results[place] = _failure(outcome)
                continue
            if outcome.events:
                lane, said = outcome.events[0].envelope.lane, b'{"ok":true,'
            else:
                lane, said = ledger.lane_of(command.account_id), b'{"ok":true,"replayed":true,'
            self.results[place] = said + b'"receipt":' + _receipt_of(outcome) + b"}"
            positions[lane] = max(positions.get(lane, 0), outcome.position)
        return self.results


async def _many(ask: Ask, items: list[bytes], *, cloud: bool) -> Answer:
    """Record many requests. Each item has its own outcome; none undoes another."""
    if ask.idempotency_key:
        raise invalid("Idempotency-Key", "is not for batches: each item has its request_id")
    ledger = ask.services.ledger
    parts: list[_Part] = []
    for start in range(0, len(items), PART):
        parts.append(await _read(ask, items[start : start + PART], cloud=cloud))
        await asyncio.sleep(0)  # others get their turn
    # All or none are accepted; in parts, so that receipts are rendered while the lanes go on.
    ledger.requests.require_room([command for part in parts for command in part.commands])
    for part in parts:
        part.outcomes = ledger.requests.hand_in(part.commands)
    positions: dict[int, int] = {}
    results: list[bytes] = []
    for part in parts:
        results += await part.finish(ledger, positions)
        await asyncio.sleep(0)
    return _batch_answer(results, positions)


async def _read(ask: Ask, items: list[bytes], *, cloud: bool) -> _Part:
    """Turn items into commands, or into failures."""
    part = _Part(len(items))
    read: list[tuple[int, bodies.UsageBody]] = []
    for place, raw in enumerate(items):
        try:
            body = usage_of_cloud(raw) if cloud else reading.decode(_usage, raw)
        except Failure as error:
            part.results[place] = _failure(error)
        else:
            read.append((place, body))
    # Out of the loop, which is the hot path of a batch.
    resolver, requests = ask.services.resolver, ask.services.ledger.requests
    actor = ask.caller.actor
    await resolver.learn(body.key_id for _, body in read if body.key_id is not UNSET)
    for place, body in read:
        try:
            subject: Subject | None = known_subject(ask, resolver, body)
            if subject is None:
                subject = await subject_of(ask, body.key_id, body.secret)
            record = _record_of(body, subject, actor)
        except (Failure, Refused) as error:
            part.results[place] = _failure(error)
            continue
        command = requests.recording(subject.account_id, subject.key_id, record)
        part.places.append(place)
        part.commands.append(command)
    return part


def _failure(error: Exception) -> bytes:
    if not isinstance(error, Failure | LedgerError):
        error = Failure(Kind.INTERNAL)
    return b'{"ok":false,"problem":' + errors.encode(error) + b"}"


def _batch_answer(results: list[bytes], positions: dict[int, int]) -> Answer:
    good = sum(result.startswith(b'{"ok":true') for result in results)
    counts = f'{{"recorded":{good},"refused":{len(results) - good},"results":['.encode()
    answer = Answer(counts + b",".join(results) + b"]}")
    if positions:
        reached = ", ".join(str(Position(*pair)) for pair in sorted(positions.items()))
        answer.headers.append((b"ledger-position", reached.encode()))
    return answer


_reserve = msgspec.json.Decoder(bodies.ReserveBody)
_settle = msgspec.json.Decoder(bodies.SettleBody)
_release = msgspec.json.Decoder(bodies.ReleaseBody)


@hot(
    "POST",
    "/ledger/v1/requests",
    guards=[caller],
    status=201,
    example={
        "request_id": "chatcmpl-9f2d",
        "key_id": "key_019363d0c5a07b3f9c0e000000000001",
        "model": "gpt-4o-mini",
        "usage": {"input": 900, "output": 4096},
        "ttl_seconds": 300,
    },
    refusals=(402, 404, 409, 422, 429),
    takes=bodies.ReserveBody,
    gives=views.Receipt,
)
async def reserve_request(request: Ask) -> Reply:
    """Hold the worst case of a request against credit and every limit."""
    raw = await request.body()
    body = reading.decode(_reserve, raw)
    subject = await subject_of(request, body.key_id, body.secret)
    reserve = Reserve(
        request_id=body.request_id,
        model=body.model,
        usage=bodies.used_of(body).usage,
        category=body.category,
        condition=body.condition,
        scope=body.scope,
        by=request.caller.actor,
        secret=subject.secret,
        ttl_seconds=body.ttl_seconds,
        notes=notes_of(body.metadata, body.end_user),
    )
    made = await request.services.ledger.requests.reserve(
        subject.account_id, subject.key_id, reserve, _asked(request, raw)
    )
    return _receipt_answer(request, subject.account_id, made, status=201)


async def _whose(
    ask: Ask, body: bodies.SettleBody | bodies.ReleaseBody
) -> tuple[AccountId, KeyId | None]:
    """Find whose reservation a body means: by key, by secret or by account."""
    if not isinstance(body.account_id, UnsetType):
        return ask.allowed_account(body.account_id), None
    subject = await subject_of(ask, body.key_id, body.secret)
    return subject.account_id, subject.key_id


@hot(
    "POST",
    "/ledger/v1/requests/{request_id:str}/settle",
    guards=[caller],
    example={
        "key_id": "key_019363d0c5a07b3f9c0e000000000001",
        "usage": {"input": 880, "output": 512},
    },
    refusals=(404, 409, 422),
    takes=bodies.SettleBody,
    gives=views.Receipt,
)
async def settle_request(request: Ask) -> Reply:
    """Charge a reserved request what it used and free the rest, even after it expired."""
    raw = await request.body()
    body = reading.decode(_settle, raw)
    account_id, key_id = await _whose(request, body)
    request_id = request.path("request_id")
    used = bodies.used_of(body)
    settle = Settle(
        request_id=request_id,
        usage=used.usage,
        by=request.caller.actor,
        others=others_of(used),
        model=body.model,
        condition=used.condition,
        served_model=used.served_model,
        doubts=used.doubts,
        report=report_of(used),
        estimated=body.estimated,
        interrupted=body.interrupted,
    )
    asked = _asked(request, raw, request_id)
    made = await request.services.ledger.requests.settle(account_id, key_id, settle, asked)
    return _receipt_answer(request, account_id, made)


@hot(
    "POST",
    "/ledger/v1/requests/{request_id:str}/release",
    guards=[caller],
    example={"key_id": "key_019363d0c5a07b3f9c0e000000000001", "reason": "Upstream refused"},
    refusals=(404, 409, 422),
    takes=bodies.ReleaseBody,
    gives=views.Receipt,
)
async def release_request(request: Ask) -> Reply:
    """Release a reservation unused."""
    raw = await request.body()
    body = reading.decode(_release, raw)
    account_id, key_id = await _whose(request, body)
    request_id = request.path("request_id")
    release = Release(
        request_id=request_id, by=request.caller.actor, reason=body.reason, failed=body.failed
    )
    asked = _asked(request, raw, request_id)
    made = await request.services.ledger.requests.release(account_id, key_id, release, asked)
    return _receipt_answer(request, account_id, made)


@get(
    "/ledger/v1/requests/{request_id:str}",
    guards=[caller],
    query=("account_id", "key_id"),
    refusals=(404,),
)
async def get_request(request: Ask) -> Rendered[views.RequestView]:
    """Show what became of a request: its first event and the one that ended it."""
    query = request.parameters()
    key: KeyId | None = None
    if "key_id" in query:
        key, account_id = await request.allowed_key(query["key_id"])
    elif "account_id" in query:
        account_id = request.allowed_account(query["account_id"])
    elif request.caller.account_id is not None:
        account_id = request.caller.account_id
    else:
        raise invalid("account_id", "is required, unless key_id is sent")
    request_id = request.path("request_id")
    known, position = await request.services.ledger.requests.find(account_id, request_id)
    if key is not None and known.first.envelope.key_id != key:
        raise NoSuchRequest
    beside = await request.services.queries.requests.beside(account_id, request_id)
    view = views.RequestView(
        first=views.receipt(known.first, known.rated if known.last is None else ()),
        last=None if known.last is None else views.receipt(known.last, known.rated),
        metadata=beside.metadata,
        end_user=beside.end_user,
        provider_report=None if beside.report is None else views.report_view(beside.report),
    )
    return found_answer(view, position)


HANDLERS = (record_usage, reserve_request, settle_request, release_request, get_request)
