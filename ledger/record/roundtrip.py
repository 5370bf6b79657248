"""One round trip: statements sent together and answered together, each prepared at its first use.

psycopg's own pipeline does the same, with a wake-up of the event loop and a dozen objects for each
statement; a lane sends the same few over and over, and for a lone client they are most of its wait.
Below are libpq's calls as psycopg publishes them, and psycopg's way to wait.
"""

from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime
from typing import Any, LiteralString

from psycopg import AsyncConnection, OperationalError
from psycopg.abc import PQGen
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ConnStatus, ExecStatus, Format
from psycopg.pq.abc import PGresult
from psycopg.rows import TupleRow
from psycopg.waiting import Ready, Wait

from ledger.record.arrays import Array, instant_bytes
from ledger.record.store import Statement, numbered

PREPARED_MAX = 200
"""Statements kept prepared on a connection; beyond, the least recently used one goes."""

_BYTEA, _INT8, _TIMESTAMPTZ = 17, 20, 1184


class Pipeline:
    """A connection with what is prepared on it. After an error it is of no further use."""

    def __init__(self, connection: AsyncConnection) -> None:
        """Take a connection that nobody else uses."""
        self.connection = connection
        self._pgconn = connection.pgconn
        self._prepared: OrderedDict[str, bytes] = OrderedDict()
        self._numbers = 0

    async def exchange(self, statements: Sequence[Statement]) -> list[list[TupleRow]]:
        """Send statements; return the rows of each.

        Raises:
            psycopg.Error: The first that failed; those after it were not executed.
        """
        async with self.connection.lock:
            results = await self.connection.wait(self._exchange(statements))
        return [self._rows(result) for result in results]

    def _rows(self, result: PGresult) -> list[TupleRow]:
        if not result.ntuples:
            return []
        transformer = Transformer(self.connection)
        transformer.set_pgresult(result, format=Format.BINARY)
        return transformer.load_rows(0, result.ntuples, tuple)

    def _exchange(self, statements: Sequence[Statement]) -> PQGen[list[PGresult]]:
        pgconn = self._pgconn
        pgconn.enter_pipeline_mode()
        counted = [self._send(sql, parameters) for sql, parameters in statements]
        pgconn.pipeline_sync()
        yield from self._flush()
        results = yield from self._receive()
        pgconn.exit_pipeline_mode()
        answers: list[PGresult] = []
        for extra in counted:
            # What prepared the statement is answered before it.
            answers.append(results[extra])
            del results[: extra + 1]
        return answers

    def _send(self, sql: LiteralString, parameters: Sequence[Any]) -> int:
        """Send a statement; return how many answers come before its own."""
        values, oids = [], []
        for parameter in parameters:
            value, oid = _encoded(parameter)
            values.append(value)
            oids.append(oid)
        name, before = self._prepared.get(sql), 0
        if name is None:
            before = self._make_room()
            self._numbers += 1
            name = self._prepared[sql] = b"lane_%d" % self._numbers
            self._pgconn.send_prepare(name, numbered(sql).encode(), oids)
            before += 1
        else:
            self._prepared.move_to_end(sql)
        formats = [Format.BINARY] * len(values)
        self._pgconn.send_query_prepared(name, values, formats, Format.BINARY)
        return before

    def _make_room(self) -> int:
        if len(self._prepared) < PREPARED_MAX:
            return 0
        _, name = self._prepared.popitem(last=False)
        self._pgconn.send_query_params(b"DEALLOCATE " + name, None)
        return 1

    def _flush(self) -> PQGen[None]:
        """Send what is left; read what arrives meanwhile, or neither side goes on."""
        while self._pgconn.flush():
            ready = yield Wait.RW
            if ready & Ready.R:
                self._pgconn.consume_input()

    def _receive(self) -> PQGen[list[PGresult]]:
        """Take in every answer, up to the one that ends them."""
        results: list[PGresult] = []
        failed: PGresult | None = None
        try:
            while (result := (yield from self._next())).status != ExecStatus.PIPELINE_SYNC:
                results.append(result)
                if failed is None and result.status == ExecStatus.FATAL_ERROR:
                    failed = result
        except OperationalError:
            # Perhaps the server said why it ends the connection before it did.
            if failed is None:
                raise
        if failed is not None:
            raise error_from_result(failed, encoding="utf-8")
        return results

    def _next(self) -> PQGen[PGresult]:
        pgconn = self._pgconn
        while True:
            while pgconn.is_busy():
                yield Wait.R
                pgconn.consume_input()
            result = pgconn.get_result()
            if result is not None:
                return result
            if pgconn.status == ConnStatus.BAD:
                message = "The connection ended before everything was answered."
                raise OperationalError(message)


def _encoded(value: object) -> tuple[bytes, int]:
    """Return a parameter in the binary format, with its type."""
    match value:
        case Array():
            return value.data, value.oid
        case int():
            return value.to_bytes(8, signed=True), _INT8
        case bytes():
            return value, _BYTEA
        case datetime():
            return instant_bytes(value), _TIMESTAMPTZ
        case _:
            message = f"No statement of a lane takes a {type(value).__name__}."
            raise AssertionError(message)
