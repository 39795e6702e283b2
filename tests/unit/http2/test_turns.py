"""How much of one connection is worked on while the others wait."""

import asyncio
from collections.abc import Callable

from popsigner_http2 import frames, grpc
from popsigner_http2.connection import BUFFER_BYTES
from popsigner_http2.frames import frame
from popsigner_http2.headers import Request
from popsigner_http2.outgoing import Outgoing
from tests.unit.http2.parts import BLOCK, WITHOUT_TABLE, Calls, Served, Wire, asking, of_kind, requests
from tests.unit.http2.sockets import dialled

# Ordinary requests of one turn.
TURN = 80


async def by_turns(wire: Wire, calls: Calls, count: int) -> list[int]:
    """How much each turn of the loop hears of streams, until there was so much."""
    turns, before = [], 0
    while len(calls.said) < count:
        turns.append(len(calls.said) - before)
        before = len(calls.said)
        assert not wire.reading
        assert len(turns) < 10 * count
        await asyncio.sleep(0)
    return [*turns, len(calls.said) - before]


async def test_one_turn_takes_so_many_requests_and_the_others_the_rest() -> None:
    connection = Served().connection()
    wire = Wire(connection)
    wire.feed(WITHOUT_TABLE + requests(279, first=3))
    turns = await by_turns(wire, connection.calls, 280)
    assert TURN // 2 < turns[0] <= TURN
    assert max(turns) <= TURN
    await settled()
    assert wire.reading
    assert [each.stream for each in of_kind(frames.DATA, bytes(wire.written))] == list(range(1, 560, 2))


async def test_long_headers_count_for_more() -> None:
    connection = Served().connection()
    wire = Wire(connection)
    block = BLOCK + grpc.literal(b"a", b"b" * 2_000)
    wire.feed(WITHOUT_TABLE)
    wire.feed(b"".join(asking(2 * number + 3, block=block) for number in range(30)))
    assert max(await by_turns(wire, connection.calls, 31)) <= TURN // 4


async def test_frames_of_nothing_are_counted() -> None:
    connection = Served().connection()
    wire = Wire(connection)
    wire.feed(WITHOUT_TABLE + asking(3, flags=frames.END_HEADERS))
    wire.feed(frame(frames.DATA, 0, 3) * 7_000)
    assert max(await by_turns(wire, connection.calls, 7_002)) <= 3_000
    await settled()
    assert wire.reading


async def settled() -> None:
    """A few turns in which nothing happens any more."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_full_buffer_is_the_end_of_a_turn() -> None:
    connection = Served().connection()
    wire = Wire(connection)
    wire.feed(WITHOUT_TABLE)
    part = frame(0xFA, 0, 0, bytes(16_375))
    assert len(part) * 4 == BUFFER_BYTES
    seen = []
    for parts in (4, 3):
        wire.feed(part * parts)
        seen.append(wire.reading)
        await asyncio.sleep(0)
        seen.append(wire.reading)
    assert seen == [False, True, True, True]


async def test_a_connection_that_ends_within_its_turn_begins_no_more() -> None:
    served = Served()
    for end in ("close", "abort"):
        connection = served.connection()
        wire = Wire(connection)
        wire.feed(WITHOUT_TABLE + requests(200, first=3))
        getattr(connection, end)()
        await settled()
        assert len(connection.calls.begun) <= TURN
        assert connection.calls.over
        assert connection.lost.done()
        assert not wire.reading


async def test_a_turn_that_is_over_does_not_read_a_peer_that_does_not() -> None:
    connection = Served().connection()
    wire = Wire(connection)
    wire.feed(WITHOUT_TABLE + requests(200, first=3))
    connection.pause_writing()
    await settled()
    assert len(connection.calls.begun) <= TURN
    assert not wire.reading
    connection.resume_writing()
    assert max(await by_turns(wire, connection.calls, 201)) <= TURN
    await settled()
    assert len(of_kind(frames.DATA, bytes(wire.written))) == 201
    connection.pause_writing()
    connection.resume_writing()
    assert len(await by_turns(wire, connection.calls, 201)) == 1


class Marking(Calls):
    """Notes in whose order requests begin."""

    order: list[Calls]

    def begin(self, stream: int, asked: Request, *, ended: bool) -> None:
        self.order.append(self)
        super().begin(stream, asked, ended=ended)


class Noting(Served):
    """Serves connections whose requests are noted in one list."""

    def __init__(self) -> None:
        super().__init__()
        self.order: list[Calls] = []

    def _calls(self, send: Callable[[bytes], None], outgoing: Outgoing, _: object) -> Calls:
        calls = Marking(send, outgoing)
        calls.order = self.order
        return calls


async def test_other_connections_are_served_while_one_sends_thousands_of_requests() -> None:
    served, count = Noting(), 5_000
    async with dialled(served) as loud, dialled(served) as quiet:
        await quiet.say(WITHOUT_TABLE)
        await quiet.hear(frames.DATA, 1)
        flood = asyncio.ensure_future(loud.say(WITHOUT_TABLE + requests(count - 1, first=3)))
        listening = asyncio.ensure_future(loud.hear(frames.DATA, count))
        waits = []
        for number in range(3, 23, 2):
            before = len(served.order)
            await quiet.say(asking(number))
            await quiet.hear(frames.DATA, (number + 1) // 2)
            waits.append(served.order[before:].index(quiet.calls))
        # What it takes to be sent and read, and the turns meanwhile; a buffer is three hundred requests.
        assert max(waits) <= 5 * TURN, waits
        await flood
        answered = await listening
        assert loud.calls.begun == list(range(1, 2 * count, 2))
        assert [each.stream for each in answered] == loud.calls.begun
