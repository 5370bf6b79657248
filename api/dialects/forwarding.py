"""From a dialect's route to the gateway: what OpenAI-shaped surfaces have in common."""

from collections.abc import Mapping
from typing import Any

from api.gateway import headers, table, wishes
from api.gateway.forward import Admission, Decorate, Work
from api.http.exchange import Call
from api.http.failure import Failure, Kind, of_error
from api.http.routing import Ask, Reply, require_json
from api.identity.credentials import KeyCaller
from api.operations import Permits
from ledger.errors import LimitIsReached


async def forward(
    ask: Ask[Any, KeyCaller],
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

    ``document``: the body where the route has read it already. ``booked``: how the request is
    booked and shown where that is not as asked: model, upstream_model, shown_model, condition.

    Raises:
        LedgerError: The ledger says no, or cannot say.
        Failure: A limit is reached, the request is wrong, or no upstream answered.
    """
    entry = table.BY_NAME[name]
    caller, call = ask.caller, ask.call
    if document is None and entry.meter.format:
        document = await document_of(ask)
    work = Work(
        ask.request_id,
        entry,
        document=document,
        body=b"" if document is not None else await call.body(),
        # With its parameters: a multipart body cannot be read without its boundary. Of a body that
        # was decoded it says nothing any more: that is written anew.
        content_type="" if document is not None else call.header(b"content-type") or "",
        parameters={each: _segment(call, each) for each in table.PARAMETER.findall(entry.path)},
        query=call.scope["query_string"].decode("latin-1") if call.query else "",
        headers=call.scope["headers"],
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


def _segment(call: Call, name: str) -> str:
    """Give a path parameter; an upstream that tidies paths would read dots as another path.

    Raises:
        Failure: It is one or two dots.
    """
    text = call.path(name)
    if text in {".", ".."}:
        raise Failure(Kind.NOT_FOUND, "There is nothing here")
    return text


async def document_of(ask: Ask[Any, Any]) -> Mapping[str, Any]:
    """Read the body of an inference request.

    Raises:
        Failure: It says to be something else than JSON, is no JSON object, or too large.
    """
    require_json(ask)
    return wishes.decode(await ask.call.body())
