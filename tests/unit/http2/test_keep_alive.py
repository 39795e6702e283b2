"""Peers that say nothing: who is asked, who is let go, when."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from popsigner_http2 import frames
from popsigner_http2.frames import frame
from tests.unit.http2.parts import GREETING, Served, Wire, asking, of_kind, without_waiting

SECONDS = 20.0
PING = frame(frames.PING, 0, 0, bytes(8))
PONG = frame(frames.PING, frames.ACK, 0, bytes(8))


def _run(work: Callable[[Served, Wire], Coroutine[Any, Any, None]], *, keep_alive: float | None = SECONDS) -> None:
    async def begun() -> None:
        served = Served(answer=None, keep_alive=keep_alive)
        await work(served, Wire(served.connection()))

    without_waiting(begun())


def pings(wire: Wire) -> int:
    return len(of_kind(frames.PING, bytes(wire.written)))


def test_a_silent_peer_is_asked_and_then_let_go() -> None:
    async def silent(served: Served, wire: Wire) -> None:
        wire.feed(GREETING + asking(1))
        (connection,) = served.open
        await asyncio.sleep(SECONDS - 1)
        assert not pings(wire)
        await asyncio.sleep(SECONDS + 2)
        assert wire.written.endswith(PING)
        assert pings(wire) == 1
        assert not wire.is_closing()
        await asyncio.sleep(SECONDS)
        assert wire.aborted
        assert pings(wire) == 1
        assert connection.calls.over
        assert connection.lost.done()
        assert not served.open

    _run(silent)


def test_a_peer_that_answers_stays() -> None:
    async def answering(served: Served, wire: Wire) -> None:
        await asyncio.sleep(SECONDS - 2)
        wire.feed(GREETING)
        for asked in range(1, 100):
            await asyncio.sleep(SECONDS + 3)
            assert pings(wire) == asked
            # As late as it may.
            await asyncio.sleep(SECONDS - 3)
            assert not wire.is_closing()
            wire.feed(PONG)

    _run(answering)


def test_a_peer_that_speaks_is_not_asked() -> None:
    async def speaking(served: Served, wire: Wire) -> None:
        wire.feed(GREETING)
        for number in range(1, 200, 2):
            await asyncio.sleep(SECONDS - 1)
            wire.feed(asking(number))
        assert not pings(wire)
        assert not wire.is_closing()

    _run(speaking)


@pytest.mark.parametrize("said", [b"", frames.PREFACE[:1], frames.PREFACE[:-1]])
def test_a_peer_that_does_not_greet_is_let_go_without_being_asked(said: bytes) -> None:
    async def silent(served: Served, wire: Wire) -> None:
        if said:
            wire.feed(said)
        await asyncio.sleep(SECONDS - 1)
        assert not wire.is_closing()
        await asyncio.sleep(2)
        assert wire.aborted
        assert not pings(wire)

    _run(silent)


def test_a_peer_that_greets_too_slowly_is_let_go() -> None:
    async def slow(served: Served, wire: Wire) -> None:
        for at in range(len(frames.PREFACE)):
            if wire.is_closing():
                break
            wire.feed(frames.PREFACE[at : at + 1])
            await asyncio.sleep(1)
        assert wire.aborted

    _run(slow)


def test_a_peer_that_does_not_read_is_let_go_though_it_would_speak() -> None:
    async def deaf(served: Served, wire: Wire) -> None:
        wire.feed(GREETING)
        (connection,) = served.open
        connection.pause_writing()
        assert not wire.reading
        await asyncio.sleep(3 * SECONDS + 1)
        assert wire.aborted

    _run(deaf)


def test_a_connection_that_does_not_get_closed_is_cut() -> None:
    async def lingering(served: Served, wire: Wire) -> None:
        wire.feed(GREETING)
        wire.lingers = True
        (connection,) = served.open
        connection.close()
        await asyncio.sleep(SECONDS - 1)
        assert served.open
        await asyncio.sleep(2)
        assert wire.aborted
        assert not served.open

    _run(lingering)


def test_nobody_is_asked_where_nobody_is_to_be() -> None:
    async def silent(served: Served, wire: Wire) -> None:
        await asyncio.sleep(1_000_000)
        assert not wire.is_closing()
        wire.feed(GREETING)
        await asyncio.sleep(1_000_000)
        assert not wire.is_closing()
        assert not pings(wire)

    _run(silent, keep_alive=None)


def test_a_connection_that_is_over_asks_nobody() -> None:
    async def over(served: Served, wire: Wire) -> None:
        wire.feed(GREETING)
        (connection,) = served.open
        connection.close()
        await asyncio.sleep(0)
        said = bytes(wire.written)
        await asyncio.sleep(10 * SECONDS)
        assert wire.written == said
        assert not wire.aborted
        # What still waits would keep the connection in memory.
        assert connection._alive is not None
        assert connection._alive.cancelled()

    _run(over)
