"""How calls end other than well: cancelled, late, failed, too many; what of that reaches handler and peer."""

import asyncio
import gc
from contextlib import suppress
from typing import Any

import grpc
import h2.events
import h2.settings
import pytest

from popsigner_http2 import frames
from popsigner_http2.frames import Code, frame
from popsigner_server.gen.popsigner.v1 import sign_pb2
from popsigner_server.transport import calls
from popsigner_server.transport.exchange import Exchange
from popsigner_server.transport.interceptors.base import Call
from popsigner_server.transport.interceptors.deadline import Deadline
from popsigner_server.transport.interceptors.errors import Errors
from tests.integration.server.front import SIGN, STREAM, Slow, asked, on_uvloop, served, status_in, until
from tests.integration.server.front_peer import CEILING, CHECK, Peer, framed

LATE = grpc.StatusCode.DEADLINE_EXCEEDED
SECRET = "what only the operator may see"


async def test_a_client_that_cancels_stops_its_handler_and_no_other() -> None:
    slow = Slow()
    async with served(slow) as front, front.channel() as channel:
        ask = channel.unary_unary(SIGN, request_serializer=bytes, response_deserializer=bytes)
        stopped, other = ask(b"", timeout=CEILING), ask(asked(100), timeout=CEILING)
        await until(lambda: slow.begun == 2)
        stopped.cancel()
        await until(lambda: slow.cancelled == 1)
        slow.go_on.set()
        assert len(await other) == 100
        assert slow.cancelled == 1


@pytest.mark.parametrize(("path", "end"), [(SIGN, True), (STREAM, True), (STREAM, False)])
@on_uvloop
async def test_a_reset_stops_its_handler_and_is_not_answered(path: str, end: bool) -> None:
    slow = Slow()
    async with served(slow, slow) as front, front.dialled() as peer:
        stopped, other = peer.call(path, framed(b""), end=end), peer.call(SIGN, framed(asked(100)))
        await until(lambda: slow.begun == 2)
        peer.reset(stopped)
        await until(lambda: slow.cancelled == 1)
        slow.go_on.set()
        assert await peer.answer(other)
        await peer.alive()
        assert not [kind for kind, stream in peer.frames if stream == stopped]


@pytest.mark.parametrize(
    ("kind", "flags", "payload"),
    [
        (frames.DATA, 0, b"more"),
        (frames.DATA, frames.END_STREAM, b""),
        (frames.HEADERS, frames.END_STREAM | frames.END_HEADERS, b"\0\1a\1b"),
    ],
)
@on_uvloop
async def test_who_goes_on_after_its_last_word_is_stopped(kind: int, flags: int, payload: bytes) -> None:
    slow = Slow()
    async with served(slow) as front, front.dialled() as peer:
        stream = peer.call(SIGN, framed(b""))
        await until(lambda: slow.begun == 1)
        peer.raw(frame(kind, flags, stream, payload))
        assert await peer.reset_by(stream) == Code.STREAM_CLOSED
        await until(lambda: slow.cancelled == 1)
        await peer.alive()


@on_uvloop
async def test_a_lost_connection_stops_all_its_handlers_and_no_others() -> None:
    slow = Slow()
    async with served(slow, slow) as front, front.dialled() as other:
        stream = other.call(SIGN, framed(b""))
        async with front.dialled() as peer:
            for _ in range(100):
                peer.call(SIGN, framed(b""))
                peer.call(STREAM, framed(b""), end=False)
            await until(lambda: slow.begun == 201)
        await until(lambda: slow.cancelled == 200)
        slow.go_on.set()
        assert await other.answer(stream)


@on_uvloop
async def test_a_handler_that_goes_on_after_its_end_says_nothing_more() -> None:
    done = 0

    async def stubborn(call: Call, request: Any) -> sign_pb2.SignResponse:
        nonlocal done
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await call.context.write(sign_pb2.SignStreamResponse(correlation_id=1))
            done += 1
        return sign_pb2.SignResponse(signature=b"late")

    async with served(stubborn, stubborn) as front, front.dialled() as peer:
        streams = [peer.call(path, framed(b"")) for path in (SIGN, STREAM)]
        await peer.alive()
        for stream in streams:
            peer.reset(stream)
        await until(lambda: done == 2)
        await peer.alive()
        assert not [kind for kind, stream in peer.frames if stream in streams]


@pytest.mark.parametrize(("path", "end"), [(SIGN, True), (STREAM, True), (STREAM, False)])
@on_uvloop
async def test_a_deadline_stops_the_handler_and_is_told_to_who_does_not_count(path: str, end: bool) -> None:
    slow = Slow()
    async with served(slow, slow) as front, front.dialled() as peer:
        stream = peer.call(path, framed(b""), {"grpc-timeout": "100m"}, end=end)
        assert status_in(await peer.refused(stream))[0] is LATE
        await until(lambda: slow.cancelled == 1 and front.calls == 0)
        if not end:
            assert await peer.reset_by(stream) == Code.NO_ERROR
        await peer.alive()


@on_uvloop
async def test_so_it_is_behind_the_messages_of_a_stream() -> None:
    async with served() as front, front.dialled() as peer:
        stream = peer.call(STREAM, framed(b"") * 3, {"grpc-timeout": "200m"}, end=False)
        trailers = await peer.until(h2.events.TrailersReceived, stream)
        assert status_in(dict(trailers.headers))[0] is LATE
        assert peer.content(stream) == framed(b"") * 3
        assert await peer.reset_by(stream) == Code.NO_ERROR


@pytest.mark.parametrize("timeout", ["0n", "1n", "0S"])
@on_uvloop
async def test_a_call_that_comes_too_late_is_refused(timeout: str) -> None:
    slow = Slow()
    async with served(slow, interceptors=[Errors(), Deadline()]) as front, front.dialled() as peer:
        for _ in range(20):
            assert status_in(await peer.refused(peer.call(SIGN, framed(b""), {"grpc-timeout": timeout})))[0] is LATE
        assert slow.begun == slow.cancelled


@on_uvloop
async def test_an_answer_in_time_is_followed_by_no_word_of_its_deadline() -> None:
    async with served() as front, front.dialled() as peer:
        stream = peer.call(SIGN, framed(b""), {"grpc-timeout": "100m"})
        await peer.answer(stream)
        await asyncio.sleep(0.2)
        await peer.alive()
        said = [kind for kind, number in peer.frames if number == stream]
        assert said == [frames.HEADERS, frames.DATA, frames.HEADERS]


@on_uvloop
async def test_nothing_of_an_answered_call_is_kept_until_its_deadline() -> None:
    # What other tests have left behind does not count.
    before = {id(each) for each in gc.get_objects() if isinstance(each, Exchange)}
    async with served() as front, front.dialled() as peer:
        for _ in range(20):
            await peer.answer(peer.call(SIGN, framed(b""), {"grpc-timeout": "30S"}))
        gc.collect()
        assert not {id(each) for each in gc.get_objects() if isinstance(each, Exchange)} - before


@pytest.mark.parametrize("interceptors", [[], [Errors()]])
@pytest.mark.parametrize("begun", [False, True])
@on_uvloop
async def test_an_exception_is_an_internal_fault_that_says_nothing_of_itself(
    interceptors: list[Any], begun: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    async def fail(call: Call, requests: object) -> None:
        if begun:
            await call.context.write(sign_pb2.SignStreamResponse(correlation_id=1))
        raise ValueError(SECRET)

    async with served(stream=fail, interceptors=interceptors) as front, front.dialled() as peer:
        stream = peer.call(STREAM, framed(b""))
        kind = h2.events.TrailersReceived if begun else h2.events.ResponseReceived
        fields = dict((await peer.until(kind, stream)).headers)
        assert fields["grpc-status"] == str(grpc.StatusCode.INTERNAL.value[0])
        assert SECRET not in repr(peer.events)
        assert ("grpc-message" in fields) == bool(interceptors)
        await peer.alive()
    assert SECRET in "".join(capfd.readouterr())


def unbounded(peer: Peer) -> None:
    """Let the library open more streams than the server allows."""
    peer.http.remote_settings[h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS] = 1 << 30
    peer.http.remote_settings.acknowledge()


@on_uvloop
async def test_a_call_too_many_is_refused_until_another_ends() -> None:
    slow = Slow()
    async with served(slow) as front, front.dialled() as peer, front.dialled() as other:
        unbounded(peer)
        streams = [peer.call(SIGN, framed(b"")) for _ in range(calls.STREAMS)]
        for _ in range(3):
            assert await peer.reset_by(peer.call(SIGN, framed(b""))) == Code.REFUSED_STREAM
        await other.alive()
        peer.reset(streams[0])
        await peer.alive()
        assert slow.begun == calls.STREAMS
        slow.go_on.set()
        for stream in streams[1:]:
            assert await peer.answer(stream)


@on_uvloop
async def test_handlers_that_end_slowly_count_after_their_calls_were_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "HANDLERS", 20)
    go_on = asyncio.Event()

    async def stay(call: Call, request: object) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await go_on.wait()

    async with served(stay) as front, front.dialled() as peer:
        for _ in range(20):
            stream = peer.call(SIGN, framed(b""))
            await until(lambda: front.calls == 1)
            peer.reset(stream)
            await until(lambda: front.calls == 0)
        assert await peer.reset_by(peer.call(CHECK, framed(b""))) == Code.REFUSED_STREAM
        go_on.set()
        await asyncio.sleep(0.05)
        await peer.alive()


@on_uvloop
async def test_who_opens_and_resets_calls_in_a_loop_is_hung_up_on_and_others_are_answered_meanwhile() -> None:
    slow = Slow()
    async with served(slow) as front, front.dialled() as peer, front.dialled() as other:
        answered = 0

        async def ask() -> None:
            nonlocal answered
            while True:
                await other.alive()
                other.events.clear()
                answered += 1

        asking = asyncio.ensure_future(ask())
        for first in range(1, 20_000, 400):
            peer.raw(b"".join(begun_and_reset(stream) for stream in range(first, first + 400, 2)))
            peer.raw(frame(frames.PING, 0, 0, b"%8d" % first))
            while not {h2.events.PingAckReceived, h2.events.ConnectionTerminated} & set(map(type, peer.events)):
                await peer.more()
            if end := peer.seen(h2.events.ConnectionTerminated):
                break
            peer.events.clear()
        assert end[0].error_code == Code.ENHANCE_YOUR_CALM
        await until(lambda: len(front.server._open) == 1)
        await until(lambda: slow.begun == slow.cancelled)
        during = answered
        await until(lambda: answered > during > 0)
        assert not asking.done()
        asking.cancel()


def begun_and_reset(stream: int) -> bytes:
    block = b"\x83\x86\x44" + bytes((len(SIGN),)) + SIGN.encode() + b"\x5f\x10application/grpc"
    return frame(frames.HEADERS, frames.END_HEADERS, stream, block) + frame(frames.RST_STREAM, 0, stream, bytes(4))


@on_uvloop
async def test_one_connection_too_many_is_hung_up_on_and_those_that_are_there_go_on() -> None:
    async with served() as front, front.dialled() as peer:
        front.server._most = 2
        async with front.dialled(unix=True):
            for _ in range(3):
                reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
                with suppress(ConnectionResetError):
                    assert await reader.read() == b""
                writer.close()
            await peer.alive()
            assert len(front.server._open) == 2
        await until(lambda: len(front.server._open) == 1)
        async with front.dialled() as next_one:
            await next_one.alive()
