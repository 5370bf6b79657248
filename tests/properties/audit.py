"""Independent checks over a log of events, and over what a database made of it."""

from collections import defaultdict
from itertools import groupby
from typing import NamedTuple
from uuid import UUID

from ledger import codec
from ledger import events as e
from ledger.clock import Instant
from ledger.codec import Recorded
from ledger.ids import request_hash
from ledger.money import parse_pico
from ledger.record import arrays
from ledger.record.batch import Wanted
from ledger.state import LaneState
from projections.registry import INLINE
from tests.properties.core import fold, plain
from tests.properties.postgres import connected, events_of

CHARGES = (e.RequestRecorded, e.RequestSettled, e.RequestRated)
Posting = tuple[str, str, int]
"""Book, asset, pico."""


def drawn(body) -> list[tuple[int, int]]:
    """Read which lots an event draws on, from the event alone."""
    whole = getattr(body, "charge", "") or getattr(body, "held", "") or getattr(body, "amount", "")
    amounts = body.parts or ((whole,) if body.lots else ())
    return list(zip(body.lots, map(parse_pico, amounts), strict=True))


def postings(body, assets: dict[int, str]) -> list[Posting]:  # noqa: C901
    """Write an event as double entry. ``assets`` tells which asset a lot is of."""
    made: list[Posting] = []

    def move(source: str, target: str, asset: str, pico: int) -> None:
        made.extend([(source, asset, -pico), (target, asset, pico)])

    match body:
        case e.CreditGranted():
            move("granted", f"lot {body.lot}", body.asset, parse_pico(body.amount))
        case e.GrantVoided() | e.GrantExpired():
            move(f"lot {body.lot}", "lapsed", body.asset, parse_pico(body.amount))
        case e.BalanceReduced():
            for lot, pico in drawn(body):
                move(f"lot {lot}", "reduced", body.asset, pico)
        case e.RequestRecorded() | e.RequestSettled() | e.RequestRated():
            for lot, pico in drawn(body):
                move(f"lot {lot}", "revenue", assets.get(lot, body.asset), pico)
    for lot, amount in getattr(body, "lapsed", ()):
        move(f"lot {lot}", "lapsed", assets[lot], parse_pico(amount))
    for lot, asset, amount in getattr(body, "repaid", ()):
        # At par: what leaves one asset comes in as the other.
        between = "lot 0" if assets[lot] == asset else "exchange"
        move(f"lot {lot}", between, assets[lot], parse_pico(amount))
        if between != "lot 0":
            move(between, "lot 0", asset, parse_pico(amount))
    return made


def books(log: list[Recorded]) -> dict[UUID, dict[tuple[str, str], int]]:
    """Sum the postings of every account, each event of which balances (Promise 7)."""
    found: dict[UUID, dict[tuple[str, str], int]] = defaultdict(lambda: defaultdict(int))
    assets: dict[UUID, dict[int, str]] = defaultdict(dict)
    for event in log:
        account, body = event.envelope.account_id, event.body
        if isinstance(body, e.CreditGranted):
            assets[account][body.lot] = body.asset
        sums: dict[str, int] = defaultdict(int)
        for book, asset, pico in postings(body, assets[account]):
            found[account][book, asset] += pico
            sums[asset] += pico
        assert not any(sums.values())
        if isinstance(body, CHARGES) and body.charge:
            assert sum(pico for _, pico in drawn(body)) == parse_pico(body.charge)
    return found


def check_chain(log: list[Recorded]) -> None:
    """Positions, versions and times have no gap and never go back; every hash follows."""
    versions: dict[UUID, int] = defaultdict(int)
    hashes: dict[UUID, bytes] = defaultdict(lambda: codec.GENESIS)
    for _, lane in groupby(log, key=lambda event: event.envelope.lane):
        last: Instant | None = None
        for seq, event in enumerate(lane, 1):
            envelope = event.envelope
            account = envelope.account_id
            assert envelope.lane_seq == seq
            assert envelope.version == versions[account] + 1
            assert last is None or envelope.recorded_at > last
            again = codec.record(envelope, event.body, hashes[account])
            assert (again.payload, again.hash) == (event.payload, event.hash)
            versions[account], hashes[account] = envelope.version, event.hash
            last = envelope.recorded_at


def check_charged_once(log: list[Recorded]) -> None:
    """No request id of an account is charged twice (Promise 4)."""
    seen: set[tuple[UUID, str]] = set()
    for event in log:
        if isinstance(event.body, CHARGES) and event.body.charge:
            slot = (event.envelope.account_id, event.body.request_id)
            assert slot not in seen
            seen.add(slot)


def check_credit(log: list[Recorded], state: LaneState) -> None:
    """Lots, overdraft and holds are what the postings say, and never more than there is."""
    found = books(log)
    for account_id, account in state.accounts.items():
        of_lots = {
            (book, asset): pico
            for (book, asset), pico in found[account_id].items()
            if book.startswith("lot ") and pico
        }
        lots = {(f"lot {lot.number}", lot.asset): lot.remaining for lot in account.lots.values()}
        owed = {("lot 0", asset): -pico for asset, pico in account.overdrawn.items() if pico}
        assert {**lots, **owed} == of_lots
        for lot in account.lots.values():
            assert 0 <= lot.held <= lot.remaining <= lot.amount
        assert all(pico >= 0 for pico in account.overdrawn.values())
        held: dict[int, int] = defaultdict(int)
        for reservation in state.reservations.values():
            if reservation.account_id == account_id:
                for number, pico in drawn(reservation.event):
                    held[number] += pico
        assert held.pop(0, 0) == sum(account.overdraft_held.values())
        assert {n: pico for n, pico in held.items() if pico} == {
            lot.number: lot.held for lot in account.lots.values() if lot.held
        }


def exempt(log: list[Recorded]) -> int:
    """Sum what was drawn of the overdraft by services delivered already: they are not refused."""
    total = 0
    reserved: dict[str, int] = {}
    for event in log:
        body = event.body
        if isinstance(body, e.RequestReserved):
            reserved[body.request_id] = dict(drawn(body)).get(0, 0)
        elif isinstance(body, e.RequestExpired | e.RequestReleased):
            reserved.pop(body.request_id)
        elif isinstance(body, e.RequestSettled):
            over = dict(drawn(body)).get(0, 0) - reserved.pop(body.request_id, 0)
            total += max(over, 0)
        elif isinstance(body, e.RequestRated) or (
            isinstance(body, e.RequestRecorded) and "delivered" in body.flags
        ):
            total += dict(drawn(body)).get(0, 0)
    return total


class Counted(NamedTuple):
    """What one admitted request counts for, and since when."""

    at: Instant
    quantity: int
    pending: bool


def counted(log: list[Recorded], measure) -> list[Counted]:
    """List what counts against a limit, by brute force: each request at its admission."""
    found: dict[str, Counted] = {}
    for event in log:
        at, body = event.envelope.recorded_at, event.body
        if isinstance(body, e.RequestRecorded):
            found[body.request_id] = Counted(at, measure(body), pending=False)
        elif isinstance(body, e.RequestReserved):
            found[body.request_id] = Counted(at, measure(body), pending=True)
        elif isinstance(body, e.RequestReleased | e.RequestExpired):
            del found[body.request_id]
        elif isinstance(body, e.RequestSettled):
            since = found[body.request_id].at if body.request_id in found else at
            found[body.request_id] = Counted(since, measure(body), pending=False)
    return list(found.values())


def tidy(state: LaneState) -> object:
    """Return a state as comparable data, without zeros that stand for nothing."""
    for account in state.accounts.values():
        account.overdrawn = {asset: pico for asset, pico in account.overdrawn.items() if pico}
        account.overdraft_held = {a: pico for a, pico in account.overdraft_held.items() if pico}
    return plain(state)


def check_database(url: str) -> list[Recorded]:
    """What stands in the tables is what the events say, row for row (Promise 7); return the events.

    Everything a decision reads is read back through the projections and compared with a fold of
    the lane from its first event; spend is compared with sums over the events.
    """
    log = events_of(url)
    check_chain(log)
    check_charged_once(log)
    by_lane = {lane: list(found) for lane, found in groupby(log, lambda ev: ev.envelope.lane)}
    with connected(url) as connection:
        arrays.register(connection)
        for lane, events in by_lane.items():
            state = fold(events)
            check_credit(events, state)
            head = connection.execute(
                "SELECT seq, chain FROM lane_heads WHERE lane = %s", (lane,)
            ).fetchone()
            assert (state.seq, state.chain) == (head[0], bytes(head[1]))
            stored = LaneState(
                seq=state.seq, chain=state.chain, last_recorded_at=state.last_recorded_at
            )
            rows = connection.execute(
                "SELECT request_hash FROM reservations WHERE lane = %s", (lane,)
            ).fetchall()
            wanted = Wanted(list(state.accounts), list(state.keys), [row[0] for row in rows])
            for load in (load for part in INLINE for load in part.load(lane, wanted)):
                load.absorb(stored, connection.execute(load.sql, load.parameters).fetchall())
            assert tidy(stored) == tidy(state)
        _check_spend(connection, log)
        _check_requests(connection, log)
    return log


def _check_spend(connection, log: list[Recorded]) -> None:
    revenue: dict[tuple[UUID, str], int] = {}
    for account, sums in books(log).items():
        for (book, asset), pico in sums.items():
            if book == "revenue" and pico:
                revenue[account, asset] = pico
    rows = connection.execute(
        "SELECT account_id, asset, sum(amount) FROM spend GROUP BY 1, 2 HAVING sum(amount) <> 0"
    ).fetchall()
    assert {(account, asset): int(amount) for account, asset, amount in rows} == revenue
    charged = sum(isinstance(ev.body, e.RequestRecorded | e.RequestSettled) for ev in log)
    requests = connection.execute("SELECT coalesce(sum(requests), 0) FROM spend").fetchone()[0]
    assert requests == charged
    waiting = connection.execute("SELECT count(*) FROM unpriced_requests").fetchone()[0]
    unpriced = sum(
        isinstance(ev.body, e.RequestRecorded | e.RequestSettled) and not ev.body.charge
        for ev in log
    )
    assert waiting == unpriced - sum(isinstance(ev.body, e.RequestRated) for ev in log)


def _check_requests(connection, log: list[Recorded]) -> None:
    first: dict[bytes, int] = {}
    for event in log:
        if isinstance(event.body, e.RequestRecorded | e.RequestReserved):
            hashed = request_hash(event.envelope.account_id, event.body.request_id)
            first[hashed] = event.envelope.lane_seq
    stored = dict(connection.execute("SELECT request_hash, lane_seq FROM request_ids").fetchall())
    assert first.items() <= stored.items()
