"""Answers that are not read: they wait, as long as their deadline, in room of their own, and nobody waits for them."""

import asyncio

import h2.events
import pytest

from popsigner_http2.frames import WINDOW_BYTES, Code
from popsigner_server.gen.popsigner.v1 import sign_pb2
from popsigner_server.transport import server as transport
from popsigner_server.transport.interceptors.base import Call
from tests.integration.server.front import SIGN, STREAM, Front, asked, on_uvloop, served, until
from tests.integration.server.front_peer import framed


async def large(call: Call, request: sign_pb2.SignRequest) -> sign_pb2.SignResponse:
    return sign_pb2.SignResponse(signature=bytes(100_000))


# A tag and a length of three bytes.
LARGE = len(framed(bytes(100_000))) + 4


def unsent(front: Front) -> int:
    """Bytes of answers that wait for their readers."""
    return sum(len(each.unsent) for connection in front.server._open for each in connection.calls._exchanges.values())


@on_uvloop
async def test_answers_that_are_not_read_wait_and_others_are_served_meanwhile() -> None:
    async with served(large) as front, front.dialled(window=10) as deaf, front.dialled(window=1 << 20) as peer:
        streams = [deaf.call(SIGN, framed(b"")) for _ in range(100)]
        await until(lambda: unsent(front) == 100 * (LARGE - 10))
        for _ in range(50):
            assert await peer.answer(peer.call(SIGN, framed(b"")))
        assert unsent(front) == 100 * (LARGE - 10)
        deaf.reset(streams[0])
        await until(lambda: unsent(front) == 99 * (LARGE - 10))
        deaf.http.increment_flow_control_window(LARGE, streams[1])
        deaf.flush()
        assert [len(answer) for answer in await deaf.answer(streams[1])] == [LARGE - 5]


@on_uvloop
async def test_answers_that_are_not_read_are_dropped_at_their_deadline() -> None:
    async with served(large) as front, front.dialled(window=0) as deaf:
        streams = [deaf.call(SIGN, framed(b""), {"grpc-timeout": "300m"}) for _ in range(20)]
        for stream in streams:
            assert await deaf.reset_by(stream) == Code.CANCEL
        assert (unsent(front), front.calls) == (0, 0)


@on_uvloop
async def test_a_window_of_the_connection_is_shared_and_gone_on_with_in_order() -> None:
    async with served(large) as front, front.dialled(window=1 << 20) as peer:
        streams = [peer.call(SIGN, framed(b"")) for _ in range(10)]
        await until(lambda: unsent(front) == 10 * LARGE - WINDOW_BYTES)
        for stream in streams:
            assert await peer.answer(stream)
        assert (unsent(front), front.calls) == (0, 0)


@on_uvloop
async def test_a_peer_that_reads_nothing_at_all_is_not_read_either_and_holds_up_nobody() -> None:
    begun = 0

    async def count(call: Call, request: sign_pb2.SignRequest) -> sign_pb2.SignResponse:
        nonlocal begun
        begun += bool(request.data)
        return await large(call, request)

    async with served(count) as front, front.dialled(window=1 << 30) as deaf, front.dialled(window=1 << 20) as peer:
        deaf.http.increment_flow_control_window(1 << 30)
        # Answers of 100 MB: more than the kernel keeps for it.
        streams = [deaf.call(SIGN, framed(asked(3))) for _ in range(1_000)]
        await until(lambda: any(connection._unread for connection in front.server._open))
        for _ in range(50):
            assert await peer.answer(peer.call(SIGN, framed(b"")))
        assert front.calls <= begun < len(streams)
        for stream in streams:
            await deaf.until(h2.events.StreamEnded, stream)
            # It would be looked through for each.
            deaf.events.clear()
        await deaf.alive()


@on_uvloop
async def test_nor_is_the_server_held_up_by_it_when_it_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "LAST_WORDS", 0.05)
    async with served(large) as front, front.dialled(window=1 << 30) as deaf:
        deaf.http.increment_flow_control_window(1 << 30)
        for _ in range(1_000):
            deaf.call(SIGN, framed(asked(3)))
        await until(lambda: any(connection._unread for connection in front.server._open))
        await front.server.stop(0, front.draining)
        await until(lambda: not front.server._open)


@on_uvloop
async def test_a_stream_says_nothing_more_before_what_it_has_said_is_read() -> None:
    said = 0

    async def talk(call: Call, requests: object) -> None:
        nonlocal said
        for number in range(1, 6):
            await call.context.write(sign_pb2.SignStreamResponse(correlation_id=number))
            said = number

    each = framed(sign_pb2.SignStreamResponse(correlation_id=1).SerializeToString())
    async with served(stream=talk) as front, front.dialled(window=2 * len(each)) as peer:
        stream = peer.call(STREAM, framed(b""))
        await until(lambda: unsent(front) > 0)
        await asyncio.sleep(0.05)
        assert (said, unsent(front)) == (2, len(each))
        assert len(await peer.answer(stream)) == said == 5
