"""When pings are answered: with what is said anyway, soon by themselves, at once when they are many."""

import asyncio

from popsigner_http2 import frames
from popsigner_http2.frames import frame
from tests.unit.http2.parts import BLOCK, SETTLED, Served, Wire, asking, frames_in, of_kind, without_waiting


def ping(number: int) -> bytes:
    return frame(frames.PING, 0, 0, b"%8d" % number)


async def _settled() -> Wire:
    wire = Wire(Served().connection())
    wire.feed(SETTLED)
    await asyncio.sleep(1)
    wire.written.clear()
    return wire


def test_a_ping_waits_a_moment_for_what_else_is_said() -> None:
    async def said() -> None:
        wire = await _settled()
        wire.feed(ping(1))
        await asyncio.sleep(0)
        assert not wire.written
        wire.feed(asking(1, block=b"\x20" + BLOCK))
        await asyncio.sleep(0)
        assert [each.kind for each in frames_in(bytes(wire.written))] == [
            frames.PING,
            frames.HEADERS,
            frames.DATA,
            frames.HEADERS,
        ]
        await asyncio.sleep(1)
        assert len(of_kind(frames.PING, bytes(wire.written))) == 1

    without_waiting(said())


def test_a_ping_is_answered_when_nothing_else_is_said() -> None:
    async def silent() -> None:
        wire = await _settled()
        for number in range(3):
            wire.feed(ping(number))
            await asyncio.sleep(0.01)
            assert wire.written.endswith(frame(frames.PING, frames.ACK, 0, b"%8d" % number))

    without_waiting(silent())


def test_many_pings_are_answered_at_once_and_none_is_kept() -> None:
    async def flood() -> None:
        wire = await _settled()
        for first in range(0, 30_000, 3_000):
            wire.feed(b"".join(map(ping, range(first, first + 3_000))))
            # Two turns, since one ends within.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        answered = of_kind(frames.PING, bytes(wire.written))
        assert [int(each.payload) for each in answered] == list(range(30_000))
        assert wire.reading

    without_waiting(flood())
