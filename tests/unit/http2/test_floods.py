"""Peers that send what costs them little and the server much: they are told to calm down, others are not."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from popsigner_http2 import frames
from popsigner_http2.connection import BUFFER_BYTES
from popsigner_http2.frames import Code, frame
from tests.unit.http2.parts import (
    BLOCK,
    GREETING,
    WITHOUT_TABLE,
    Calls,
    Served,
    Wire,
    asking,
    frames_in,
    of_kind,
    reset,
    without_waiting,
)

BURST = 2_000
SECOND = 500
Floods = dict[str, Callable[[int], bytes]]

# What a peer may do so often, by the number of the time.
FLOODS: Floods = {
    "requests that are reset": lambda number: asking(2 * number + 3) + reset(2 * number + 3),
    "settings": lambda number: frames.settings({}),
    "windows to and fro": lambda number: frames.settings({frames.INITIAL_WINDOW_SIZE: number % 2 * 2**30}),
    "malformed requests": lambda number: asking(2 * number + 3, block=BLOCK + b"\x00\x01A\x00"),
    "requests on one stream": lambda number: asking(1, flags=frames.END_HEADERS),
}


class Peer:
    """What sends to a connection without a socket."""

    def __init__(self) -> None:
        self.served = Served(answer=None)
        self.connection = self.served.connection()
        self.wire = Wire(self.connection)

    @property
    def calls(self) -> Calls:
        return self.connection.calls

    @property
    def hung_up(self) -> bool:
        return self.wire.is_closing()

    async def say(self, data: bytes) -> None:
        """Send all, as fast as it is read."""
        while (data or not self.wire.reading) and not self.hung_up:
            if self.wire.reading:
                self.wire.feed(data[:BUFFER_BYTES])
                data = data[BUFFER_BYTES:]
            await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def times(self, flood: Callable[[int], bytes], first: int, count: int) -> int:
        """So often, one by one, as long as nobody hangs up; how often it was."""
        for number in range(first, first + count):
            await self.say(flood(number))
            if self.hung_up:
                return number - first
        return count


def _run(work: Callable[[Peer], Coroutine[Any, Any, None]]) -> None:
    async def begun() -> None:
        peer = Peer()
        await peer.say(WITHOUT_TABLE)
        await work(peer)

    without_waiting(begun())


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_ends_its_connection(name: str) -> None:
    async def flood(peer: Peer) -> None:
        await peer.say(b"".join(FLOODS[name](number) for number in range(2 * BURST)))
        assert peer.hung_up
        last = frames_in(bytes(peer.wire.written))[-1]
        assert last.kind == frames.GOAWAY
        assert last.payload == frames.goaway(peer.calls.last, Code.ENHANCE_YOUR_CALM)[9:]
        assert peer.calls.over
        assert len(peer.calls.begun) <= BURST + 1
        assert len(peer.calls.forgotten) <= BURST
        assert len(peer.served.told) == 1
        assert not peer.served.open

    _run(flood)


@pytest.mark.parametrize("name", FLOODS)
def test_a_burst_is_borne_and_then_so_many_a_second(name: str) -> None:
    async def bursts(peer: Peer) -> None:
        # Of the settings that begin the connection one was counted.
        assert await peer.times(FLOODS[name], 0, BURST - 1) == BURST - 1
        await asyncio.sleep(1)
        assert await peer.times(FLOODS[name], BURST, SECOND) == SECOND
        await asyncio.sleep(0.1)
        assert await peer.times(FLOODS[name], 2 * BURST, SECOND) in range(SECOND // 10 - 1, SECOND // 10 + 2)
        assert peer.hung_up

    _run(bursts)


@pytest.mark.parametrize("name", FLOODS)
def test_a_modest_rate_is_borne_for_ever_and_saves_nothing_up(name: str) -> None:
    async def modest(peer: Peer) -> None:
        for second in range(15):
            sent = b"".join(FLOODS[name](second * SECOND + number) for number in range(SECOND * 9 // 10))
            await peer.say(sent)
            assert not peer.hung_up, f"after {second} seconds"
            await asyncio.sleep(1)
        await asyncio.sleep(3_600)
        assert await peer.times(FLOODS[name], 100_000, 2 * BURST) in (BURST, BURST + 1)

    _run(modest)


def test_resets_of_calls_that_are_over_are_no_flood() -> None:
    async def late(peer: Peer) -> None:
        for number in range(3, 6 * BURST, 2):
            await peer.say(asking(number))
            peer.calls.answer(number, b"x")
            await peer.say(reset(number) + reset(1))
        assert not peer.hung_up

    _run(late)


def test_requests_that_are_not_reset_are_no_flood() -> None:
    async def many(peer: Peer) -> None:
        for number in range(3, 5 * BURST, 2):
            await peer.say(asking(number))
            peer.calls.answer(number, b"x")
        await peer.say(b"")
        assert not peer.hung_up
        answered = of_kind(frames.DATA, bytes(peer.wire.written))
        assert [each.stream for each in answered] == list(range(3, 5 * BURST, 2))

    _run(many)


def test_a_first_word_that_is_only_acknowledged_settings_is_none() -> None:
    async def acknowledge() -> None:
        peer = Peer()
        await peer.say(frames.PREFACE + frame(frames.SETTINGS, frames.ACK, 0))
        assert peer.hung_up

    without_waiting(acknowledge())


def test_what_comes_after_a_fault_is_not_heard() -> None:
    async def fault() -> None:
        peer = Peer()
        await peer.say(GREETING + asking(1) + frame(frames.DATA, 0, 0, b"x") + asking(3))
        assert peer.calls.begun == [1]
        await peer.say(asking(5))
        assert peer.calls.begun == [1]
        assert [each.payload for each in of_kind(frames.GOAWAY, bytes(peer.wire.written))] == [
            frames.goaway(1, Code.PROTOCOL_ERROR)[9:]
        ]

    without_waiting(fault())
