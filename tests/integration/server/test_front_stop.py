"""A server that stops: what is under way is answered, what is new is refused by name, what remains is ended, nothing is
left."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import h2.events
import pytest

from popsigner_http2 import frames
from popsigner_http2.connection import Connection
from popsigner_http2.frames import Code
from popsigner_server.gen.popsigner.v1 import sign_pb2
from popsigner_server.limits.pace import Pace
from popsigner_server.transport import server as transport
from popsigner_server.transport.contract import rpcs
from popsigner_server.transport.interceptors.base import Call
from popsigner_server.transport.interceptors.draining import Draining
from popsigner_server.transport.server import Server
from tests.integration.server.front import (
    SIGN,
    STREAM,
    WATCH,
    Front,
    Slow,
    asked,
    echo,
    on_uvloop,
    reason_of,
    served,
    status_in,
    until,
)
from tests.integration.server.front_peer import CEILING, Peer, framed
from tests.integration.server.test_front_health import REFLECTION

DRAINING = (grpc.StatusCode.UNAVAILABLE, "DRAINING")
# The field `grpc-status: 14` as it is on the wire.
UNAVAILABLE = b"\x0bgrpc-status\x0214"


@pytest.fixture(autouse=True)
def _in_few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "LAST_WORDS", 0.1)


def stopping(front: Front, grace: float) -> "asyncio.Future[None]":
    return asyncio.ensure_future(front.server.stop(grace, front.draining))


async def begun(front: Front) -> None:
    """Wait until new calls are refused."""
    await until(front.draining._begun.is_set)


@on_uvloop
async def test_what_is_under_way_is_answered_what_is_new_is_refused_and_everybody_is_told_to_go() -> None:
    slow = Slow()
    async with served(slow) as front, front.dialled() as peer, front.dialled() as idle:
        streams = [peer.call(SIGN, framed(asked(100))) for _ in range(20)]
        await until(lambda: slow.begun == 20)
        stop = stopping(front, CEILING)
        # First to go elsewhere with what is new, if it is not on its way.
        for each in (peer, idle):
            await each.until(h2.events.ConnectionTerminated)
        await begun(front)
        assert status_in(await peer.refused(peer.call(SIGN, framed(b"")))) == DRAINING
        assert status_in(await idle.refused(idle.call(STREAM, framed(b"")))) == DRAINING
        assert not stop.done()
        slow.go_on.set()
        for stream in streams:
            assert await peer.answer(stream)
        await stop
        assert slow.begun == 20
        assert asyncio.all_tasks() == {asyncio.current_task()}
        # And then what was the last.
        assert await farewells(peer) == [frames.WINDOW_LIMIT, 41]
        assert await farewells(idle) == [frames.WINDOW_LIMIT, 1]


async def farewells(peer: Peer) -> list[int]:
    """The last streams in all GOAWAYs until the connection ends."""
    while len(ends := peer.seen(h2.events.ConnectionTerminated)) < 2:
        await peer.more()
    assert {end.error_code for end in ends} == {Code.NO_ERROR}
    assert await peer.reader.read() == b""
    return [end.last_stream_id for end in ends]


@on_uvloop
async def test_nobody_is_let_in_while_calls_are_answered() -> None:
    slow = Slow()
    async with served(slow) as front, front.dialled() as peer:
        stream = peer.call(SIGN, framed(b""))
        await until(lambda: slow.begun == 1)
        stop = stopping(front, CEILING)
        await begun(front)
        await refuses(front)
        slow.go_on.set()
        assert await peer.answer(stream)
        await stop
        await refuses(front)


async def refuses(front: Front) -> None:
    with pytest.raises(OSError, match="refused"):
        await asyncio.open_connection("127.0.0.1", front.port)
    with pytest.raises(OSError, match="refused"):
        await asyncio.open_unix_connection(front.socket)


@on_uvloop
async def test_what_is_not_done_when_the_grace_ends_is_told_to_come_again() -> None:
    slow = Slow()
    async with served(slow) as front, front.dialled() as peer:
        whole = peer.call(SIGN, framed(b""))
        part = peer.call(SIGN, framed(asked(1_000))[:-1], end=False)
        await peer.alive()
        await until(lambda: slow.begun == 1)
        began = asyncio.get_running_loop().time()
        await asyncio.wait_for(stopping(front, 0.5), CEILING)
        assert asyncio.get_running_loop().time() - began >= 0.5
        said = await peer.reader.read()
        assert frames.goaway(5, Code.NO_ERROR) in said
        for stream in (whole, part):
            trailers = frames.HEAD.pack(0, 0, frames.HEADERS, 5, stream)[3:]
            fields = said[said.index(trailers) + len(trailers) :]
            assert UNAVAILABLE in fields[:100]
        assert slow.cancelled == 1
        assert (front.held, asyncio.all_tasks()) == (0, {asyncio.current_task()})


async def test_grpcs_own_client_is_told_so() -> None:
    slow = Slow()
    async with served(slow) as front, front.channel() as channel:
        ask = channel.unary_unary(SIGN, request_serializer=bytes, response_deserializer=bytes)
        under_way = ask(b"", timeout=CEILING)
        await until(lambda: slow.begun == 1)
        stop = stopping(front, 0.5)
        await begun(front)
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await under_way
        assert (ended.value.code(), ended.value.details()) == (
            grpc.StatusCode.UNAVAILABLE,
            "This server has stopped; retry.",
        )
        await stop


async def test_who_is_refused_by_name_finds_another_process_of_the_same_address_at_once() -> None:
    async with served() as front, front.channel() as channel:
        ask = channel.unary_unary(SIGN, request_serializer=bytes, response_deserializer=bytes)

        async def insist() -> None:
            try:
                await ask(b"", timeout=CEILING)
            except grpc.aio.AioRpcError as refused:
                if reason_of(refused) != DRAINING:
                    raise
                await ask(b"", timeout=CEILING)

        await insist()
        second = Server(dict.fromkeys(rpcs(), echo), [], [f"127.0.0.1:{front.port}"], Pace())
        await second.start()
        stop = stopping(front, CEILING)
        while not stop.done() or not second._open:
            await asyncio.gather(*[insist() for _ in range(20)])
        await second.stop(0, Draining())


async def test_a_stream_is_answered_what_it_asked_and_then_told_that_the_server_drains() -> None:
    async with served() as front, front.channel() as channel:
        call = channel.stream_stream(STREAM, request_serializer=bytes, response_deserializer=bytes)(timeout=CEILING)
        for number in range(1, 4):
            await call.write(asked(100, number))
        answers: list[Any] = [await call.read() for _ in range(3)]
        assert [sign_pb2.SignStreamResponse.FromString(answer).correlation_id for answer in answers] == [1, 2, 3]
        stop = stopping(front, CEILING)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call.read()
        assert reason_of(refused.value) == DRAINING
        await stop


@on_uvloop
async def test_a_stream_that_goes_on_answering_is_ended_after_the_grace() -> None:
    async def forever(call: Call, requests: AsyncIterator[Any]) -> None:
        while True:
            await call.context.write(sign_pb2.SignStreamResponse(correlation_id=1))
            await asyncio.sleep(0.01)

    async with served(stream=forever) as front, front.dialled() as peer:
        stream = peer.call(STREAM, framed(b""))
        await peer.until(h2.events.DataReceived, stream)
        await asyncio.wait_for(stopping(front, 0.3), CEILING)
        assert UNAVAILABLE in await peer.reader.read()


@on_uvloop
async def test_a_handler_that_will_not_stop_does_not_keep_the_server() -> None:
    go_on = asyncio.Event()

    async def stubborn(call: Call, request: object) -> None:
        while not go_on.is_set():
            try:
                await go_on.wait()
            except asyncio.CancelledError:
                continue

    async with served(stubborn) as front, front.dialled() as peer:
        peer.call(SIGN, framed(b""))
        await peer.alive()
        await asyncio.wait_for(stopping(front, 0), CEILING)
        assert await peer.reader.read()
        go_on.set()


@on_uvloop
async def test_peers_that_say_nothing_do_not_keep_it_either() -> None:
    async with served() as front:
        silent = [await asyncio.open_connection("127.0.0.1", front.port) for _ in range(5)]
        await until(lambda: len(front.server._open) == 5)
        await asyncio.wait_for(stopping(front, CEILING), CEILING / 2)
        for reader, writer in silent:
            assert (await reader.read()).endswith(frames.goaway(0, Code.NO_ERROR))
            writer.close()


@pytest.mark.parametrize("path", [WATCH, REFLECTION])
@on_uvloop
async def test_questions_without_an_end_do_not_keep_it(path: str) -> None:
    async with served() as front, front.dialled() as peer:
        stream = peer.call(path, framed(b""), end=path == WATCH)
        await peer.alive()
        await until(lambda: front.calls == 1)
        await asyncio.wait_for(stopping(front, CEILING), CEILING / 2)
        await peer.until(h2.events.StreamEnded, stream)
        # They have answered something before.
        (end,) = peer.seen(h2.events.TrailersReceived, stream)
        assert dict(end.headers)["grpc-status"] == "14"


def answered(size: int) -> bytes:
    """What `echo` says to such a request."""
    request = sign_pb2.SignRequest.FromString(asked(size))
    return sign_pb2.SignResponse(signature=request.data).SerializeToString()


@on_uvloop
async def test_a_call_that_was_on_its_way_is_taken_after_everybody_was_told_to_go() -> None:
    async with served() as front, front.dialled() as peer:
        await peer.alive()
        stop = stopping(front, CEILING)
        await peer.until(h2.events.ConnectionTerminated)
        assert not front.draining._begun.is_set()
        assert await peer.answer(peer.call(SIGN, framed(asked(100)))) == [answered(100)]
        await stop


@on_uvloop
async def test_an_answer_whose_reader_is_slow_is_read_to_its_end() -> None:
    size = 300_000
    async with served() as front, front.dialled() as peer:
        # Of its own the connection's window takes 65 535 bytes of it.
        stream = peer.begin(SIGN)
        await peer.pour(stream, framed(asked(size)))
        await until(lambda: front.calls == 1 and any(c.calls.unread for c in front.server._open))
        stop = stopping(front, CEILING)
        await begun(front)
        await asyncio.sleep(0.5)
        assert not stop.done()
        assert await peer.answer(stream) == [answered(size)]
        await stop


@on_uvloop
async def test_an_answer_that_nobody_reads_keeps_it_no_longer_than_the_grace() -> None:
    async with served() as front, front.dialled(window=0) as peer:
        peer.call(SIGN, framed(asked(100)))
        await until(lambda: any(connection.calls.unread for connection in front.server._open))
        began = asyncio.get_running_loop().time()
        await asyncio.wait_for(stopping(front, 0.5), CEILING / 2)
        assert asyncio.get_running_loop().time() - began >= 0.5
        assert not front.server._open


@on_uvloop
async def test_who_reads_is_not_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    cut: list[Any] = []
    monkeypatch.setattr(Connection, "abort", cut.append)
    async with served() as front, front.dialled() as peer, front.dialled(unix=True) as other:
        for each in (peer, other):
            await each.alive()
        await stopping(front, 0)
        assert (cut, len(front.server._open)) == ([], 0)
