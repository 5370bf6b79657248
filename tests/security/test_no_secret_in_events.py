"""Promise 11 at its last gate: no text of any event holds a secret, whatever let it come so far.

The cases are made from the event types themselves: a field that is added is tried by construction.
"""

import asyncio
import secrets as random
from collections.abc import Iterator
from typing import Any, get_args
from uuid import UUID

import jwt
import msgspec
import pytest
from msgspec import inspect

from ledger import codec, secrets
from ledger import events as e
from ledger.clock import EARLIEST
from ledger.errors import InvalidField, LimitIsReached, RequestFailed
from ledger.ids import AccountId, KeyId, new_account_id, new_key_id
from ledger.ratecards import RateCards
from ledger.record.batch import Batch, Command, Outcome, RefusalLog, Ticket
from ledger.requests import Record
from ledger.state import LaneState
from ledger.usage import Usage
from tests.ledger.test_codec import INSTANCES

OWN = 'an operator\'s own "secret" ü'
"""As somebody may set it: of no form, and written in another way in JSON."""
UPSTREAM = "sk-upstream-0123456789abcdef"


def made() -> dict[str, str]:
    """Make one secret of every kind."""
    token = jwt.encode({"sub": "mbr_1"}, "k" * 64, algorithm="HS256")
    return {
        **{form.prefix: secrets.generate(form) for form in secrets.FORMATS},
        "operator": secrets.OPERATOR_PREFIX + random.token_urlsafe(32),
        "refresh": secrets.REFRESH_PREFIX + random.token_urlsafe(32),
        "jwt": token,
        "own": OWN,
        "upstream": UPSTREAM,
    }


SECRETS = made()
SECRET = SECRETS["rk_"]
KINDS = get_args(e.AnyEvent)
DEPTH = 6
"""How deep a text is planted: some types hold themselves."""


@pytest.fixture(autouse=True)
def told() -> None:
    """Tell the process of secrets that have no form, as its settings do."""
    secrets.keep_out([OWN, UPSTREAM, "none", ""])


# A value of every type that events are made of, and the same with a text planted in every place.


def sample(kind: inspect.Type) -> Any:  # noqa: PLR0911, C901 - one line per type
    """Return a value of a type, in builtins."""
    match kind:
        case inspect.StrType():
            return "1"
        case inspect.IntType():
            return 1
        case inspect.BoolType():
            return True
        case inspect.NoneType():
            return None
        case inspect.DateTimeType():
            return "2026-11-21T02:00:00Z"
        case inspect.StructType():
            return {f.encode_name: sample(f.type) for f in kind.fields if f.required}
        case inspect.DictType():
            return {"1": sample(kind.value_type)}
        case inspect.VarTupleType():
            return [sample(kind.item_type)]
        case inspect.TupleType():
            return [sample(each) for each in kind.item_types]
        case inspect.UnionType():
            return sample(kind.types[0])
        case inspect.Metadata():
            return sample(kind.type)
        case _:
            pytest.fail(f"{kind} is a type that no event had so far: say what a value of it is.")


def planted(kind: inspect.Type, text: str, depth: int = DEPTH) -> Iterator[Any]:  # noqa: C901
    """Yield values of a type with a text in one place of it, every place in turn."""
    inner = depth - 1
    match kind if depth else None:
        case inspect.StrType():
            yield text
        case inspect.StructType():
            base = sample(kind)
            for each in kind.fields:
                name, values = each.encode_name, planted(each.type, text, inner)
                yield from ({**base, name: value} for value in values)
        case inspect.DictType():
            if isinstance(kind.key_type, inspect.StrType):
                yield {text: sample(kind.value_type)}
            yield from ({"1": value} for value in planted(kind.value_type, text, inner))
        case inspect.VarTupleType():
            first = sample(kind.item_type)
            yield from ([first, value] for value in planted(kind.item_type, text, inner))
        case inspect.TupleType():
            for place, each in enumerate(kind.item_types):
                whole = sample(kind)
                for value in planted(each, text, inner):
                    yield [*whole[:place], value, *whole[place + 1 :]]
        case inspect.UnionType():
            for each in kind.types:
                yield from planted(each, text, depth)
        case inspect.Metadata():
            yield from planted(kind.type, text, depth)


def cases(text: str) -> Iterator[tuple[str, str, e.AnyEvent]]:
    """Yield every event type with a text in each place that takes one, and the field's name."""
    instances = {type(each): msgspec.to_builtins(each) for each in INSTANCES}
    for event in KINDS:
        kind = inspect.type_info(event)
        assert isinstance(kind, inspect.StructType)
        for field in kind.fields:
            for value in planted(field.type, text):
                told = {**instances[event], field.encode_name: value}
                yield event.type, field.encode_name, msgspec.convert(told, event)


PLACES = [
    pytest.param(event, field, body, id=f"{event}.{field}-{number}")
    for number, (event, field, body) in enumerate(cases(f"a {SECRET} b"))
]


def decide(*made: e.AnyEvent) -> tuple[Batch, Any]:
    """Have events decided by a lane that holds nothing yet; give it and the outcome."""

    async def main() -> tuple[Batch, Any]:
        batch = Batch(0, LaneState(), RateCards(), EARLIEST)
        account = AccountId(UUID(int=5))
        command = Command(
            account, lambda _facts, _at: (list(made), None), key_id=KeyId(UUID(int=6))
        )
        command.ticket = Ticket(1)
        batch.decide_run([command], RefusalLog())
        ((_, outcome),) = batch.results
        return batch, outcome

    return asyncio.run(main())


def test_every_event_type_has_texts_to_plant_in() -> None:
    """No event escapes: each has a text, most have several, and all of them are tried."""
    tried = {(param.values[0], param.values[1]) for param in PLACES}
    assert {event for event, _ in tried} == {kind.type for kind in KINDS} - {"key_expired"}
    assert {("key_issued", "settings"), ("request_recorded", "model")} <= tried
    assert {("rate_card_published", "card"), ("account_limits_set", "limits")} <= tried


@pytest.mark.parametrize(("event", "field", "body"), PLACES)
def test_an_event_that_holds_a_secret_is_refused(event: str, field: str, body: e.AnyEvent) -> None:
    """Whatever the field: it is named, its text is not, and nothing is recorded."""
    opened = e.AccountOpened(by="operator")
    batch, outcome = decide(opened, body)
    assert isinstance(outcome, InvalidField), event
    assert outcome.field.split(".")[0] == field
    assert SECRET not in str(outcome)
    assert batch.is_empty
    assert batch.state == LaneState()


@pytest.mark.parametrize("kind", SECRETS)
def test_every_kind_of_secret_is_found(kind: str) -> None:
    """Whatever stands around it, in any text, as it is and as JSON writes it."""
    secret = SECRETS[kind]
    for before, after in (("", ""), ("x", "x"), ("Bearer ", " 🤖"), ("m/", ":free"), ("_", "_")):
        text = before + secret + after
        assert secrets.is_in(text)
        assert secret not in secrets.redacted(text)
        with pytest.raises(InvalidField):
            codec.sealed(e.AccountSuspended(by="operator", reason=text))


def test_what_is_no_secret_passes() -> None:
    """Ids, hashes, names of models, instants; and short words that settings hold as keys."""
    for body in INSTANCES:
        assert codec.sealed(body) == codec.encode(body)
    for text in (
        f"req_{random.token_hex(16)}",
        random.token_hex(32),
        str(UUID(int=7)),
        "none",
        "ft:gpt-4o-mini-2024-07-18:somebody::" + "a" * 40,
        "sk-",
        "eyJ",
        "2026-11-21T02:00:00.123456Z",
        f"acct_{new_account_id().hex} key_{new_key_id(0).hex}",
    ):
        assert not secrets.is_in(text), text
        assert secrets.redacted(text) == text


@pytest.mark.parametrize("kind", SECRETS)
def test_a_refusal_holds_nothing_of_what_was_found(kind: str) -> None:
    """The event of a refused request says that it was refused, and repeats no secret."""
    secret = SECRETS[kind]
    limit = LimitIsReached(
        scope="key",
        limit_id=f"requests:{secret}/day",
        kind="requests",
        window="day",
        category=secret,
        ceiling=1,
        used=1,
        pending=0,
        requested=1,
        resets_at=None,
    )
    for refusal in (limit, RequestFailed(), InvalidField("model", "x")):
        batch = Batch(0, LaneState(), RateCards(), EARLIEST)
        account, key = AccountId(UUID(int=5)), KeyId(UUID(int=6))
        batch.append(account, None, e.AccountOpened(by="x"), EARLIEST)
        batch.append(account, key, e.KeyIssued(by="x", name="bot", dialect="bve"), EARLIEST)

        def refuse(_facts: Any, _at: Any, refusal: Exception = refusal) -> Any:
            raise refusal

        command = Command(
            account,
            refuse,
            key_id=key,
            metered=True,
            request_id=f"r {secret}",
            request=Record(
                request_id=f"r {secret}", model=secret, usage=Usage(input=1), category=f"{secret}!"
            ),
        )
        batch.decide_run([command], RefusalLog())
        *_, recorded = batch.changes.events
        assert isinstance(recorded.body, e.RequestRefused)
        assert not secrets.is_in(recorded.payload.decode())
        assert recorded.body.model == secrets.REDACTED


def test_a_command_whose_event_is_refused_leaves_its_neighbours_alone() -> None:
    """One of many in a batch is refused by itself; the outcome of the others stands."""
    batch, outcome = decide(e.AccountOpened(by="operator"), e.AccountResumed(by="operator"))
    assert isinstance(outcome, Outcome)
    assert len(batch.changes.events) == 2
