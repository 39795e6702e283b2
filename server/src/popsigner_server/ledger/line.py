"""A connection to PostgreSQL that runs one prepared statement, with binary arguments and a binary answer.

psycopg opens it (authentication, TLS) and brings libpq; what a general cursor does for a statement (adapting values,
looking for a prepared one, a waiter for each step) took a fifth of a lone signature's time.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg.pq import ConnStatus, ExecStatus
from psycopg.pq.abc import PGconn, PGresult

# What opening a connection, and a statement, fail with.
LineError = psycopg.Error
_NAME = b"popsigner"


class Line:
    """One connection, lent to one caller at a time. After an exception or a cancellation it may be in the middle of a
    statement: close it."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection
        self._libpq: PGconn = connection.pgconn
        # libpq forgets the number when it loses the connection, and the loop must be told it.
        self._socket = self._libpq.socket
        self._answer: asyncio.Future[list[PGresult]] | None = None
        self._results: list[PGresult] = []
        self._loop = asyncio.get_running_loop()
        # Once for all statements: an idle connection becomes readable when the server ends it.
        self._loop.add_reader(self._socket, self._readable)

    @classmethod
    async def opened(cls, conninfo: str, statement: str, **options: Any) -> "Line":
        """Connect and prepare the statement. Raises psycopg.Error."""
        connection = await psycopg.AsyncConnection.connect(conninfo, autocommit=True, **options)
        line = cls(connection)
        try:
            line._libpq.send_prepare(_NAME, statement.encode())
            await line._result(ExecStatus.COMMAND_OK)
        except BaseException:
            await line.close()
            raise
        return line

    @property
    def closed(self) -> bool:
        return self._libpq.status != ConnStatus.OK

    async def run(self, arguments: Sequence[bytes | None]) -> list[bytes | None]:
        """The only row of the answer. Raises psycopg.Error."""
        self._libpq.send_query_prepared(_NAME, arguments, (1,) * len(arguments), 1)
        result = await self._result(ExecStatus.TUPLES_OK)
        return [result.get_value(0, column) for column in range(result.nfields)]

    async def _result(self, wanted: ExecStatus) -> PGresult:
        """The result of what was sent, once the server is ready again: a commit that fails is told after the rows."""
        answer = self._answer = self._loop.create_future()
        if self._libpq.flush():
            self._loop.add_writer(self._socket, self._writable)
        try:
            results: list[PGresult] = await answer
        finally:
            self._answer = None
        for result in results:
            if result.status != wanted:
                raise psycopg.OperationalError(result.get_error_message())
        if len(results) != 1:
            raise psycopg.OperationalError("the server answered one statement with several results")
        return results[0]

    def _readable(self) -> None:
        libpq = self._libpq
        try:
            libpq.consume_input()
            while not libpq.is_busy():
                result = libpq.get_result()
                if result is None:
                    break
                self._results.append(result)
            else:
                return
        except psycopg.Error as error:
            self._loop.remove_reader(self._socket)
            self._settle(error)
            return
        self._settle(None)

    def _writable(self) -> None:
        try:
            if not self._libpq.flush():
                self._loop.remove_writer(self._socket)
        except psycopg.Error as error:
            self._loop.remove_writer(self._socket)
            self._settle(error)

    def _settle(self, error: Exception | None) -> None:
        results, self._results = self._results, []
        answer = self._answer
        if answer is not None and not answer.done():
            if error is None:
                answer.set_result(results)
            else:
                answer.set_exception(error)

    async def close(self) -> None:
        """End the connection, whatever it is in the middle of."""
        if not self.closed:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
        await self._connection.close()
