"""What a peer can make the server hold of requests that nobody has taken: of a stream, of a connection, of the process;
and that all of it is let go however a call ends."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import h2.events
import pytest

from popsigner_http2 import frames
from popsigner_http2.frames import Code, frame
from popsigner_server.gen.popsigner.v1 import sign_pb2
from popsigner_server.transport import body
from popsigner_server.transport import server as transport
from popsigner_server.transport.body import MAX_MESSAGE, STREAM_WINDOW
from popsigner_server.transport.interceptors.base import Call, Ended, Handler, Rpc
from popsigner_server.transport.interceptors.errors import Errors
from tests.integration.server.front import SIGN, STREAM, WATCH, Front, asked, on_uvloop, served, status_in, until
from tests.integration.server.front_peer import CHECK, PREFIX, Peer, framed

TOO_LARGE = (grpc.StatusCode.RESOURCE_EXHAUSTED, "REQUEST_TOO_LARGE")
HELD = 100_000


class Unsure:
    """In front of every handler: who calls is not known until somebody says so."""

    def __init__(self) -> None:
        self.known = asyncio.Event()

    def wrap(self, rpc: Rpc, proceed: Handler) -> Handler:
        async def handle(call: Call, request: Any) -> Any:
            await self.known.wait()
            return await proceed(call, request)

        return handle


def flood(peer: Peer, stream: int, size: int) -> None:
    """So many bytes of a large message, whatever windows say."""
    content = framed(asked(MAX_MESSAGE))[:size]
    for start in range(0, size, frames.FRAME_BYTES):
        peer.raw(frame(frames.DATA, 0, stream, content[start : start + frames.FRAME_BYTES]))


@pytest.mark.parametrize("path", [SIGN, STREAM])
@on_uvloop
async def test_nobody_sends_more_than_a_streams_window_before_it_is_known_who_calls(path: str) -> None:
    unsure = Unsure()
    async with served(interceptors=[Errors(), unsure]) as front, front.dialled() as peer:
        within, beyond = peer.begin(path), peer.begin(path)
        flood(peer, within, STREAM_WINDOW)
        flood(peer, beyond, STREAM_WINDOW + 1)
        assert await peer.reset_by(beyond) == Code.FLOW_CONTROL_ERROR
        await peer.alive()
        assert front.held == STREAM_WINDOW
        assert not peer.seen(h2.events.WindowUpdated, within)
        unsure.known.set()
        await peer.until(h2.events.WindowUpdated, within)


@pytest.mark.parametrize("size", [STREAM_WINDOW - PREFIX, STREAM_WINDOW - PREFIX + 1, 1 << 20, MAX_MESSAGE])
@on_uvloop
async def test_a_stream_is_widened_to_the_message_that_has_begun(size: int) -> None:
    async with served() as front, front.dialled() as peer:
        content = framed(asked(size))
        stream = peer.begin(SIGN)
        peer.send(stream, content[:PREFIX])
        await peer.alive()
        assert peer.granted(stream) == max(STREAM_WINDOW, PREFIX + size)
        await peer.pour(stream, content[PREFIX:])
        assert [len(answer) for answer in await peer.answer(stream)] == [size]


@on_uvloop
async def test_what_a_slow_handler_has_not_asked_for_is_at_most_a_streams_window() -> None:
    taking = asyncio.Event()

    async def slow(call: Call, requests: AsyncIterator[sign_pb2.SignStreamRequest]) -> None:
        async for _ in requests:
            await taking.wait()

    async with served(stream=slow) as front, front.dialled() as peer:
        stream = peer.begin(STREAM)
        message = framed(asked(10_000, 1))
        sent = 0
        for _ in range(2):
            while peer.http.local_flow_control_window(stream) >= len(message):
                peer.send(stream, message)
                sent += len(message)
            await peer.alive()
        # The first one was taken.
        assert front.held == sent - len(message) <= STREAM_WINDOW
        taking.set()
        await until(lambda: front.held == 0)
        await peer.pour(stream, message * 100)
        assert await peer.answer(stream) == []


@on_uvloop
async def test_a_connection_holds_no_more_than_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "HELD", HELD)
    request = framed(asked(60_000))
    async with served() as front, front.dialled() as peer, front.dialled() as other:
        waits = peer.call(SIGN, request[:-1], end=False)
        refused = peer.call(SIGN, request[:-1], end=False)
        assert status_in(await peer.refused(refused)) == TOO_LARGE
        assert await peer.reset_by(refused) == Code.NO_ERROR
        # Each connection has its own.
        assert await other.answer(other.call(SIGN, request))
        assert front.held == len(request) - 1
        peer.send(waits, request[-1:], end=True)
        assert await peer.answer(waits)
        assert await peer.answer(peer.call(SIGN, request))


@on_uvloop
async def test_who_sends_too_much_holds_nothing_while_it_waits_to_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "HELD", HELD)
    unsure = Unsure()
    async with served(interceptors=[Errors(), unsure]) as front, front.dialled() as peer:
        waits = peer.call(SIGN, framed(asked(60_000)))
        refused = peer.call(SIGN, framed(asked(60_000))[:-1], end=False)
        await peer.alive()
        assert front.held == PREFIX + 60_000
        peer.send(refused, b"\0", end=True)
        unsure.known.set()
        assert status_in(await peer.refused(refused)) == TOO_LARGE
        assert await peer.answer(waits)


@on_uvloop
async def test_what_a_stream_has_said_it_may_say_anew_before_its_window_is_used_up() -> None:
    async with served() as front, front.dialled() as peer:
        stream = peer.begin(STREAM)
        for number in range(1, 10):
            peer.send(stream, framed(asked(8_000, number)))
            await peer.alive()
        assert STREAM_WINDOW < peer.granted(stream) <= STREAM_WINDOW + 9 * (PREFIX + 8_000)
        peer.send(stream, b"", end=True)
        assert len(await peer.answer(stream)) == 9


@on_uvloop
async def test_all_connections_together_hold_no_more_than_the_process_has_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(body, "HELD_BY_ALL", 130_000)
    request = framed(asked(60_000))
    async with served() as front, front.dialled() as other:
        async with front.dialled() as peer:
            peer.call(SIGN, request[:-1], end=False)
            await peer.alive()
            refused = other.call(SIGN, request[:-1], end=False)
            assert status_in(await other.refused(refused)) == TOO_LARGE
            assert front.held == len(request) - 1
        await until(lambda: front.held == 0)
        assert await other.answer(other.call(SIGN, request))


async def answered(front: Front, peer: Peer, stream: int) -> None:
    peer.send(stream, framed(asked(60_000))[-1:], end=True)
    assert await peer.answer(stream)


async def reset(front: Front, peer: Peer, stream: int) -> None:
    peer.reset(stream)


async def lost(front: Front, peer: Peer, stream: int) -> None:
    peer.writer.transport.abort()


async def left(front: Front, peer: Peer, stream: int) -> None:
    peer.writer.write_eof()


async def cut(front: Front, peer: Peer, stream: int) -> None:
    peer.send(stream, b"", end=True)
    assert status_in(await peer.refused(stream))[1] == "MALFORMED_REQUEST"


async def spoken_on(front: Front, peer: Peer, stream: int) -> None:
    peer.send(stream, framed(asked(60_000))[-1:] + b"and more", end=True)
    assert status_in(await peer.refused(stream))[1] == "MALFORMED_REQUEST"


async def broken(front: Front, peer: Peer, stream: int) -> None:
    peer.raw(frame(frames.PING, 0, 0, b"short"))


async def stopped(front: Front, peer: Peer, stream: int) -> None:
    await front.server.stop(0, front.draining)


ENDS = [answered, reset, lost, left, cut, spoken_on, broken, stopped]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
@on_uvloop
async def test_however_a_call_ends_nothing_stays_counted(
    end: Callable[[Front, Peer, int], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "LAST_WORDS", 0.05)
    async with served() as front, front.dialled() as peer:
        stream = peer.call(SIGN, framed(asked(60_000))[:-1], end=False)
        await peer.alive()
        assert front.held == PREFIX + 60_000 - 1
        await end(front, peer, stream)
        await until(lambda: front.held == 0 and front.calls == 0)


@pytest.mark.parametrize("path", [SIGN, STREAM])
@on_uvloop
async def test_nor_after_its_deadline(path: str) -> None:
    async with served() as front, front.dialled() as peer:
        stream = peer.call(path, framed(asked(60_000))[:-1], {"grpc-timeout": "300m"}, end=False)
        await peer.alive()
        assert front.held == PREFIX + 60_000 - 1
        fields = await peer.refused(stream)
        assert status_in(fields)[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: front.held == 0 and front.calls == 0)


@pytest.mark.parametrize("error", [Ended(grpc.StatusCode.ABORTED, "", ()), ValueError("inside")])
@on_uvloop
async def test_nor_after_a_handler_that_failed_without_reading(error: Exception) -> None:
    go_on = asyncio.Event()

    async def fail(call: Call, requests: object) -> None:
        await go_on.wait()
        raise error

    async with served(stream=fail, interceptors=[]) as front, front.dialled() as peer:
        stream = peer.call(STREAM, framed(asked(60_000, 1)), end=False)
        await peer.alive()
        assert front.held == PREFIX + 60_000
        go_on.set()
        await peer.refused(stream)
        await until(lambda: front.held == 0 and front.calls == 0)


@on_uvloop
async def test_a_message_counts_until_its_end_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "HELD", HELD)
    async with served() as front, front.dialled() as peer:
        # Text of 60 000 bytes in its first field.
        request = framed(b"\x0a\xe0\xd4\x03" + b"x" * 60_000)
        stream = peer.call(SIGN, request, end=False)
        await peer.alive()
        assert front.held == len(request)
        assert status_in(await peer.refused(peer.call(SIGN, request, end=False)))[0] is TOO_LARGE[0]
        peer.send(stream, b"", end=True)
        await peer.until(h2.events.StreamEnded, stream)
        assert front.held == 0


@pytest.mark.parametrize("path", [SIGN, WATCH])
@on_uvloop
async def test_what_follows_the_only_message_of_a_call_is_not_held(path: str) -> None:
    async with served() as front, front.dialled() as peer:
        stream = peer.call(path, framed(b""), end=False)
        await peer.alive()
        peer.send(stream, bytes(1_000))
        assert status_in(await peer.refused(stream))[0] is grpc.StatusCode.INVALID_ARGUMENT
        assert front.held == 0


@on_uvloop
async def test_who_asks_for_health_and_does_not_finish_takes_nobodys_room() -> None:
    async with served() as front, front.dialled() as peer:
        for _ in range(100):
            peer.call(CHECK, framed(bytes(4_000))[:-1], end=False)
        await peer.alive()
        assert front.server._rooms.all.held == 0
        assert peer_holds(front) == 100 * (PREFIX + 3_999)
        large = peer.call(CHECK, framed(bytes(5_000))[:-1], end=False)
        assert status_in(await peer.refused(large))[0] is TOO_LARGE[0]
        assert await peer.answer(peer.call(SIGN, framed(asked(60_000))))


def peer_holds(front: Front) -> int:
    calls = [each for connection in front.server._open for each in connection.calls._exchanges.values()]
    return sum(len(each.body._received) for each in calls)
