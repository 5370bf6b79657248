"""From a dialect's route to the gateway: what OpenAI-shaped surfaces have in common."""

from collections.abc import Mapping
from typing import Any

from api.gateway import headers, table, wishes
from api.gateway.forward import Admission, Decorate, GatewayRequest
from api.http.failure import Failure, Kind, of_error
from api.http.handlers import Reply
from api.identity.credentials import KeyCaller
from api.operations import Permits
from api.services import Ask
from ledger.errors import LimitIsReached


async def forward(
    ask: Ask[KeyCaller],
    name: str,
    *,
    document: Mapping[str, Any] | None = None,
    permits: Permits | None = None,
    scope: str = "",
    decorate: Decorate | None = headers.limits,
    own_errors: bool = False,
    **booked: str,
) -> Reply:
    """Serve a row of the gateway's table for a key.

    ``document``: the body, where the route has read it already. ``booked``: how the request is
    booked and shown, where not as it was asked: model, upstream_model, shown_model, condition.

    Raises:
        LedgerError: The ledger refuses it, or cannot decide.
        Failure: A limit is reached, the request is wrong, or no upstream answered.
    """
    entry = table.BY_NAME[name]
    caller = ask.caller
    if document is None and entry.meter.format:
        document = await document_of(ask)
    work = GatewayRequest(
        ask.request_id,
        entry,
        document=document,
        body=b"" if document is not None else await ask.body(),
        # With its parameters: a multipart body cannot be read without its boundary. A body that was
        # decoded is encoded anew, so its type no longer applies.
        content_type="" if document is not None else ask.header(b"content-type") or "",
        parameters={each: _segment(ask, each) for each in table.PARAMETER.findall(entry.path)},
        query=ask.scope["query_string"].decode("latin-1") if ask.query else "",
        headers=list(ask.scope["headers"]),
        own_errors=own_errors,
        **booked,
    )

    def wording(failure: Failure) -> bytes:
        return ask.surface.word(failure).body

    proof = (caller.account_id, caller.key_id, caller.secret, caller.by)
    admission = Admission(*proof, scope, permits)
    try:
        return await ask.services.gateway.serve(admission, work, wording=wording, decorate=decorate)
    except LimitIsReached as error:
        failure = of_error(error)
        failure.headers.update(headers.refused(error))
        raise failure from error


def _segment(ask: Ask[Any], name: str) -> str:
    """Return a path parameter; an upstream that tidies paths would read dots as another path.

    Raises:
        Failure: A part of it is one or two dots.
    """
    text = ask.path(name)
    if {".", ".."} & set(text.split("/")):
        raise Failure(Kind.NOT_FOUND, "There is nothing here")
    return text


async def document_of(ask: Ask[Any]) -> Mapping[str, Any]:
    """Read the body of an inference request.

    Raises:
        Failure: It is not sent as JSON, is no JSON object, or is too large.
    """
    ask.require_json()
    return wishes.decode(await ask.body())
