"""The gate's connection: what it says is what PostgreSQL committed."""

import asyncio
import os
from uuid import uuid4

import psycopg
import pytest

from popsigner_server.ledger.columns import elements, int4, int4_column, text_column, uuid_column
from popsigner_server.ledger.line import Line

ECHO = "SELECT $1::int4[], $2::uuid[], $3::text[], cardinality($2)"
# Fails when it is committed, after its row was answered.
LATE = """
CREATE TABLE late (n INTEGER UNIQUE DEFERRABLE INITIALLY DEFERRED);
CREATE FUNCTION twice() RETURNS INTEGER LANGUAGE sql AS 'INSERT INTO late VALUES (1), (1); SELECT 1';
"""


async def test_columns_arrive_as_they_were_sent(database: str) -> None:
    line = await Line.opened(database, ECHO)
    for count in (1, 2, 300):
        numbers = [n - 1 for n in range(count)]
        ids = [uuid4() for _ in range(count)]
        texts = [f"ключ {n} \"'{{,}}\\" for n in range(count)]
        answer = await line.run([int4_column(numbers, shift=1), uuid_column(ids), text_column(texts)])
        assert [int4(cell) for cell in elements(answer[0])] == [number + 1 for number in numbers]
        assert elements(answer[1]) == [each.bytes for each in ids]
        assert [cell.decode() for cell in elements(answer[2])] == texts
        assert answer[3] is not None
        assert int4(answer[3]) == count
    await line.close()


async def test_nulls_and_empty_columns_are_told_apart(database: str) -> None:
    line = await Line.opened(
        database, "SELECT array_length($1::int4[], 1), ($2::uuid[])[2] IS NULL, ($3::text[])[1] IS NULL, $4::text[]"
    )
    one = uuid4()
    answer = await line.run([int4_column([]), uuid_column([one, None]), text_column([None, ""]), None])
    assert answer == [None, b"\x01", b"\x01", None]
    assert elements(answer[3]) == []
    await line.close()


async def test_a_commit_that_fails_after_the_row_was_answered_is_an_error(database: str) -> None:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute(LATE)
    line = await Line.opened(database, "SELECT twice()")
    with pytest.raises(psycopg.Error, match="late_n_key"):
        await line.run([])
    # The connection is whole: the next answer is the next statement's.
    with pytest.raises(psycopg.Error, match="late_n_key"):
        await line.run([])
    await line.close()


async def test_a_large_argument_is_written_to_its_end(database: str) -> None:
    line = await Line.opened(database, "SELECT length($1::bytea), sha256($1)")
    data = os.urandom(32 << 20)
    length, _ = await asyncio.wait_for(line.run([data]), 60)
    assert length is not None
    assert int4(length) == len(data)
    await line.close()


async def test_a_statement_that_cannot_be_prepared_says_why_and_leaves_no_connection(database: str) -> None:
    with pytest.raises(psycopg.Error, match="no_such_function"):
        await Line.opened(database, "SELECT no_such_function()", application_name="nobody")
    async with await psycopg.AsyncConnection.connect(database) as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'nobody'"
        for _ in range(50):
            row = await (await connection.execute(query)).fetchone()
            if row == (0,):
                return
            await asyncio.sleep(0.1)
    raise AssertionError("the connection is still there")


async def test_an_idle_connection_that_ends_is_closed(database: str) -> None:
    line = await Line.opened(database, "SELECT pg_backend_pid()")
    (pid,) = await line.run([])
    assert pid is not None
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute("SELECT pg_terminate_backend(%s)", [int4(pid)])
    for _ in range(100):
        if line.closed:
            break
        await asyncio.sleep(0.05)
    assert line.closed
    await line.close()
