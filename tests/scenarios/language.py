"""The language of stories: one line, one thing that happens, and what is to come of it.

``verb  NAMES…  terms=…   -> expectation   # why``

====================================  ==========================================================
``at 2026-11-21T10:00:00Z``           set the clock
``wait 90s`` (``s m h d``)            let time pass
``prices mini input=0.15``            publish a version of the rate card; per million
``account A1 overdraft=5``            open an account (``pays_with=CREDIT,USD unpriced=record``)
``policy A1 pays_with=CREDIT,USD``    let other assets pay
``grant A1 5 USD expires=2h``         add credit (``kind=promotional priority=10 starts=1h``)
``issue K1 account=A1``               issue a key (limits: ``requests_per_minute=60``,
                                      ``tokens_per_day=…``, ``spend_per_month=…`` …)
``limit K1 requests_per_day=5``       replace a key's limits
``meter K1 R1 input=1000``            record a request (``secret=2 model=… delivered=yes``)
``reserve | settle | release``        the two phases (``ttl=60s interrupted=yes``)
``rate R1``                           price what was unpriced
``rotate K1 grace=60s``               another secret
``revoke suspend resume void reduce`` ``void A1 lot=1``, ``reduce A1 2 USD``
``spend K1``, ``balance A1``,         ask; amounts in USD, or of ``asset=…``
``held A1``, ``history A1``
====================================  ==========================================================

An account or key that nobody opened is opened on its first use: account ``A1`` with an unlimited
overdraft. Amounts are plain decimals.
"""

import re
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Protocol

from ledger import accounts, keys
from ledger import credits as credit
from ledger import events as e
from ledger.clock import Instant, format_instant, parse_instant
from ledger.codec import Recorded
from ledger.errors import CreditIsExhausted, InvalidField, LimitIsReached, Refused
from ledger.ids import OPERATOR_ACCOUNT
from ledger.limits import written
from ledger.money import format_pico, parse_pico
from ledger.record.batch import Command, Outcome
from ledger.state import parts_of
from ledger.usage import CLASSES, Usage
from tests.properties import core

SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
WINDOWS = {"minute": "rolling:60", "hour": "rolling:3600"}
LIMIT = re.compile(r"(requests|tokens|spend|failures)_per_(\w+)")


class Backend(Protocol):
    """Where a story plays: the pure core, or a writer over PostgreSQL."""

    at: Instant
    log: list[Recorded]

    def submit(self, command: Command) -> Outcome | Refused:
        """Decide one command."""


@dataclass
class Line:
    """A line of a story."""

    number: int
    verb: str
    names: list[str]
    terms: dict[str, str]
    expected: str


def read(path: Path) -> list[Line]:
    """Read a story."""
    lines = []
    for number, text in enumerate(path.read_text("utf-8").splitlines(), 1):
        told, arrow, expected = text.partition("#")[0].partition("->")
        verb, *words = told.split() or [""]
        if not verb:
            continue
        terms = dict(word.split("=", 1) for word in words if "=" in word)
        names = [word for word in words if "=" not in word]
        wanted = " ".join(expected.split()) if arrow else ""
        lines.append(Line(number, verb, names, terms, wanted))
    return lines


def seconds(text: str) -> int:
    """Read ``90s``, ``2h``."""
    return int(text[:-1]) * SECONDS[text[-1]]


class Story:
    """Tells a story to a backend, line by line."""

    def __init__(self, backend: Backend) -> None:
        """Begin with the usual prices of one model."""
        self.backend = backend
        self._account_of: dict[str, str] = {}
        self._versions = 0
        self._key_of_request: dict[str, str] = {}
        self._do(core.open_account(OPERATOR_ACCOUNT))
        self.prices(["mini"], {"input": "0.15", "output": "0.6"})

    def tell(self, line: Line) -> str:
        """Let one line happen; say what came of it."""
        return getattr(self, line.verb)(line.names, line.terms)

    def _do(self, command: Command) -> str:
        outcome = self.backend.submit(command)
        return refusal(outcome) if isinstance(outcome, Refused) else answer(outcome)

    # Time and prices.

    def at(self, names, _terms) -> str:
        """Set the clock."""
        (text,) = names
        self.backend.at = parse_instant(text)
        return ""

    def wait(self, names, _terms) -> str:
        """Let time pass."""
        (text,) = names
        self.backend.at += timedelta(seconds=seconds(text))
        return ""

    def prices(self, names, terms) -> str:
        """Publish the next version of the rate card, with one more model."""
        (model,) = names
        self._versions += 1
        self._models = {**getattr(self, "_models", {}), model: terms}
        card = core.a_card(self._models, version=self._versions)
        return self._do(core.publish(card, confirm=True))

    # Accounts and credit.

    def account(self, names, terms) -> str:
        """Open an account."""
        (name,) = names
        given = {"rate_card": "standard"}
        if "overdraft" in terms:
            given["overdraft"] = {"USD": terms["overdraft"]}
        if "pays_with" in terms:
            given["pays_with"] = tuple(terms["pays_with"].split(","))
        if "unpriced" in terms:
            given["unpriced"] = terms["unpriced"]
        self._account_of.setdefault(name, name)
        return self._do(core.open_account(core.account_id(name), **given, limits=limits_of(terms)))

    def policy(self, names, terms) -> str:
        """Let other assets pay for an account."""
        account = core.account_id(names[0])
        return self._do(core.set_paying(account, *terms["pays_with"].split(",")))

    def grant(self, names, terms) -> str:
        """Grant credit."""
        name, amount, asset = names
        at = self.backend.at
        given = {key: terms[key] for key in ("kind", "reason") if key in terms}
        if "priority" in terms:
            given["priority"] = int(terms["priority"])
        if "expires" in terms:
            given["expires_at"] = at + timedelta(seconds=seconds(terms["expires"]))
        if "starts" in terms:
            given["effective_at"] = at + timedelta(seconds=seconds(terms["starts"]))
        return self._do(core.grant(core.account_id(name), amount, asset, **given))

    def void(self, names, terms) -> str:
        """Withdraw a grant."""
        return self._do(core.void(core.account_id(names[0]), int(terms["lot"])))

    def reduce(self, names, _terms) -> str:
        """Take credit away."""
        name, amount, asset = names
        return self._do(core.reduce(core.account_id(name), amount, asset))

    # Keys.

    def issue(self, names, terms) -> str:
        """Issue a key."""
        (name,) = names
        account = terms.get("account", "A1")
        if account not in self._account_of:
            self.account([account], {"overdraft": "unlimited"})
        self._account_of[name] = account
        given = {"name": terms.get("name", name), "dialect": terms.get("dialect", "bve")}
        if "expires" in terms:
            later = timedelta(seconds=seconds(terms["expires"]))
            given["expires_at"] = self.backend.at + later
        command = core.issue(*self._key(name), **given, limits=limits_of(terms))
        return self._do(command)

    def _key(self, name):
        return core.account_id(self._account_of[name]), core.key_id(name)

    def limit(self, names, terms) -> str:
        """Replace a key's limits."""
        return self._do(core.set_key_limits(*self._key(names[0]), *limits_of(terms)))

    def rename(self, names, terms) -> str:
        """Give an integration another name."""
        account, key = self._key(names[0])
        changes = keys.KeyPatch(name=terms["name"])
        return self._do(
            core.change(
                account,
                lambda f, at: keys.change(f.account, f.key, changes, by="operator", at=at),
                key,
            )
        )

    def revoke(self, names, _terms) -> str:
        """Withdraw a key."""
        return self._do(core.revoke(*self._key(names[0])))

    def rotate(self, names, terms) -> str:
        """Give a key another secret."""
        grace = seconds(terms.get("grace", "0s"))
        return self._do(core.rotate(*self._key(names[0]), grace))

    def suspend(self, names, _terms) -> str:
        """Stop a key or an account."""
        return self._switch(names[0], accounts.suspend, keys.suspend)

    def resume(self, names, _terms) -> str:
        """Let a key or an account work again."""
        return self._switch(names[0], accounts.resume, keys.resume)

    def close(self, names, _terms) -> str:
        """Close an account."""
        return self._switch(names[0], accounts.close, None)

    def _switch(self, name, of_account, of_key) -> str:
        if self._account_of[name] == name:
            account = core.account_id(name)
            rule = lambda f, at: of_account(f.account, by="operator")  # noqa: E731, ARG005
            return self._do(core.change(account, rule))
        account, key = self._key(name)
        return self._do(
            core.change(account, lambda f, at: of_key(f.key, by="operator", at=at), key)
        )

    # Requests.

    def meter(self, names, terms) -> str:
        """Record a request in one step."""
        key, request = names
        self._key_of_request[request] = key
        given = asked(terms)
        if "delivered" in terms:
            given["delivered"] = True
        return self._do(core.record(*self._key(key), request, usage_of(terms), **given))

    def reserve(self, names, terms) -> str:
        """Hold the worst case of a request."""
        key, request = names
        self._key_of_request[request] = key
        given = asked(terms)
        if "ttl" in terms:
            given["ttl_seconds"] = seconds(terms["ttl"])
        return self._do(core.reserve(*self._key(key), request, usage_of(terms), **given))

    def settle(self, names, terms) -> str:
        """Charge a reserved request what it used."""
        key, request = names
        given = {name: True for name in ("estimated", "interrupted") if name in terms}
        return self._do(core.settle(*self._key(key), request, usage_of(terms), **given))

    def release(self, names, _terms) -> str:
        """Give a reservation back."""
        key, request = names
        return self._do(core.release(*self._key(key), request))

    def rate(self, names, _terms) -> str:
        """Price what was unpriced."""
        (request,) = names
        unpriced = next(
            event
            for event in reversed(self.backend.log)
            if isinstance(event.body, e.RequestRecorded | e.RequestSettled)
            and event.body.request_id == request
        )
        return self._do(core.rate(*self._key(self._key_of_request[request]), unpriced))

    # Questions: answered from the events alone, but for what credit decides.

    def spend(self, names, _terms) -> str:
        """Sum what a key was charged, by whatever paid."""
        _, key = self._key(names[0])
        charged = (e.RequestRecorded, e.RequestSettled, e.RequestRated)
        total = sum(
            parse_pico(event.body.charge)
            for event in self.backend.log
            if isinstance(event.body, charged)
            and event.envelope.key_id == key
            and event.body.charge
        )
        return f"{format_pico(total)} USD"

    def balance(self, names, terms) -> str:
        """Ask what is unspent."""
        asset = terms.get("asset", "USD")
        account = core.fold(self.backend.log).accounts[core.account_id(names[0])]
        return f"{format_pico(account.balance(asset))} {asset}"

    def held(self, names, terms) -> str:
        """Ask what open reservations hold."""
        asset = terms.get("asset", "USD")
        account = core.fold(self.backend.log).accounts[core.account_id(names[0])]
        return f"{format_pico(account.pending(asset))} {asset}"

    def spendable(self, names, terms) -> str:
        """Ask what could be spent now, without overdraft."""
        asset = terms.get("asset", "USD")
        state = core.fold(self.backend.log)
        account = state.accounts[core.account_id(names[0])]
        lots = credit.spendable(account, (asset,), max(self.backend.at, state.last_recorded_at))
        return f"{format_pico(sum(lot.remaining - lot.held for lot in lots))} {asset}"

    def history(self, names, terms) -> str:
        """Name the last events of an account."""
        account = core.account_id(names[0])
        types = [e_.body.type for e_ in self.backend.log if e_.envelope.account_id == account]
        return " ".join(types[-int(terms.get("last", "0")) :])


def limits_of(terms: dict[str, str]) -> tuple[e.LimitRule, ...]:
    """Read limits such as ``requests_per_minute=60``."""
    found = []
    for name, ceiling in terms.items():
        match = LIMIT.fullmatch(name)
        if match:
            window = WINDOWS.get(match[2], match[2])
            found.append(e.LimitRule(kind=match[1], window=window, ceiling=ceiling))
    return tuple(found)


def usage_of(terms: dict[str, str]) -> Usage:
    """Read quantities such as ``input=1000``."""
    return Usage(**{name: int(terms[name]) for name in CLASSES if name in terms})


def asked(terms: dict[str, str]) -> dict[str, object]:
    """Read what requests share."""
    given: dict[str, object] = {"model": terms.get("model", "mini")}
    if "secret" in terms:
        given["secret"] = int(terms["secret"])
    if "category" in terms:
        given["category"] = terms["category"]
    return given


def answer(outcome: Outcome) -> str:
    """Say what came of a command, in a finance person's words."""
    if outcome.replay is not None:
        return said(outcome.replay.body)
    return " and ".join(said(event.body) for event in outcome.events) or "nothing new"


def said(body: e.AnyEvent) -> str:  # noqa: C901, PLR0911
    """Say an event."""
    match body:
        case e.RequestRecorded() | e.RequestSettled() | e.RequestRated():
            if not body.charge:
                return "unpriced"
            parts = ""
            if len(body.lots) > 1 or (body.lots and body.lots != (0,)):
                paid = (f"{format_pico(pico)} of lot {lot}" for lot, pico in parts_of(body))
                parts = ": " + ", ".join(paid).replace("lot 0", "overdraft")
            over = f", {body.overage} over" if getattr(body, "overage", "") else ""
            flags = "".join(f", {flag}" for flag in getattr(body, "flags", ()))
            lapsed = "".join(
                f", {amount} of lot {lot} lapsed" for lot, amount in getattr(body, "lapsed", ())
            )
            back = repaid_by(body) if isinstance(body, e.RequestSettled) else ""
            return f"charged {body.charge} {body.asset}{parts}{over}{flags}{lapsed}{back}"
        case e.RequestReserved():
            return f"held {body.held} {body.asset}" if body.held else "held unpriced"
        case e.RequestReleased():
            return f"released{repaid_by(body)}"
        case e.RequestExpired():
            return "expired"
        case e.CreditGranted():
            return f"lot {body.lot}{repaid_by(body)}"
        case e.AccountPolicySet():
            return f"set{repaid_by(body)}"
        case e.GrantVoided():
            return f"voided {body.amount} {body.asset}"
        case e.KeyRotated():
            return f"secret {body.secret}"
    return body.type


def repaid_by(body: e.Repaying) -> str:
    """Say what was repaid."""
    return "".join(f", {amount} {asset} repaid by lot {lot}" for lot, asset, amount in body.repaid)


def refusal(refused: Refused) -> str:
    """Say a refusal with its numbers."""
    text = f"refused {refused.code}"
    if isinstance(refused, LimitIsReached):
        write = partial(written, refused.kind)
        text += f" {refused.limit_id} used={write(refused.used)} pending={write(refused.pending)}"
        text += f" requested={write(refused.requested)} of={write(refused.ceiling)}"
        if refused.resets_at is not None:
            text += f" until={format_instant(refused.resets_at)}"
    elif isinstance(refused, CreditIsExhausted):
        text += f" available={format_pico(refused.available)}"
        text += f" pending={format_pico(refused.pending)}"
        text += f" requested={format_pico(refused.requested)} {refused.asset}"
    elif isinstance(refused, InvalidField):
        text += f" {refused.field}"
    return text
