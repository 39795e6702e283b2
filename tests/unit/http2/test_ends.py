"""How a connection ends: with a warning, with a last word, without one."""

import asyncio

from popsigner_http2 import frames
from popsigner_http2.frames import Code
from tests.unit.http2.parts import GREETING, Served, Wire, asking, frames_in, of_kind

ALL = 2**31 - 1


async def begun(answer: bytes | None = None) -> tuple[Served, Wire]:
    served = Served(answer=answer)
    wire = Wire(served.connection())
    wire.feed(GREETING + asking(1) + asking(3))
    await asyncio.sleep(0)
    return served, wire


async def test_a_connection_that_is_to_end_takes_what_is_on_its_way_and_says_what_it_took() -> None:
    served, wire = await begun()
    (connection,) = served.open
    connection.forewarn()
    wire.feed(asking(5))
    connection.farewell()
    await asyncio.sleep(0)
    assert [each.payload for each in of_kind(frames.GOAWAY, bytes(wire.written))] == [
        frames.goaway(ALL, Code.NO_ERROR)[9:],
        frames.goaway(5, Code.NO_ERROR)[9:],
    ]
    for number in (1, 3, 5):
        connection.calls.answer(number, b"x")
    await asyncio.sleep(0)
    assert [each.stream for each in of_kind(frames.DATA, bytes(wire.written))] == [1, 3, 5]
    assert not wire.is_closing()


async def test_closing_says_what_was_left_and_forgets_the_calls() -> None:
    served, wire = await begun()
    (connection,) = served.open
    connection.calls.answer(3, b"x")
    connection.close()
    assert wire.is_closing()
    assert not wire.aborted
    assert [each.stream for each in of_kind(frames.DATA, bytes(wire.written))] == [3]
    assert connection.calls.over
    await asyncio.wait_for(connection.lost, 5)
    assert not served.open


async def test_aborting_says_nothing_more() -> None:
    served, wire = await begun()
    (connection,) = served.open
    said = bytes(wire.written)
    connection.calls.answer(3, b"x")
    connection.abort()
    await asyncio.wait_for(connection.lost, 5)
    await asyncio.sleep(0)
    assert wire.aborted
    assert wire.written == said
    assert connection.calls.over
    assert not served.open


async def test_a_connection_that_was_lost_can_be_told_all_the_same() -> None:
    served, wire = await begun()
    (connection,) = served.open
    wire.close()
    await asyncio.wait_for(connection.lost, 5)
    said = bytes(wire.written)
    connection.farewell()
    connection.close()
    connection.abort()
    connection.resume_writing()
    for _ in range(3):
        await asyncio.sleep(0)
    assert wire.written == said


async def test_what_one_turn_says_leaves_together() -> None:
    served, wire = await begun(answer=b"x")
    assert [each.kind for each in frames_in(bytes(wire.written))].count(frames.DATA) == 2
    assert wire.writes == 1
    wire.feed(asking(5) + asking(7))
    await asyncio.sleep(0)
    assert wire.writes == 2
    assert len(served.open) == 1
