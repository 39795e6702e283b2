"""What is no call, or none that is taken: too large, compressed, another protocol, broken; and what looks like that and
is one."""

import struct
from typing import Any

import grpc
import h2.events
import pytest

from popsigner_http2 import frames
from popsigner_http2.frames import Code, frame
from popsigner_server.gen.popsigner.v1 import sign_pb2
from popsigner_server.transport.body import MAX_MESSAGE, STREAM_WINDOW
from tests.integration.server.front import SIGN, STREAM, asked, on_uvloop, reason_of, served, status_in
from tests.integration.server.front_peer import CEILING, CHECK, PREFIX, Peer, framed

TOO_LARGE = (grpc.StatusCode.RESOURCE_EXHAUSTED, "REQUEST_TOO_LARGE")
MALFORMED = (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST")


def bare(channel: grpc.aio.Channel, path: str = SIGN) -> Any:
    return channel.unary_unary(path, request_serializer=bytes, response_deserializer=bytes)


async def test_a_message_of_one_byte_more_is_refused_with_its_reason_and_the_next_is_answered() -> None:
    async with served() as front, front.channel() as channel:
        call = bare(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(asked(MAX_MESSAGE + 1), timeout=CEILING)
        assert reason_of(refused.value) == TOO_LARGE
        assert len(await call(asked(MAX_MESSAGE), timeout=CEILING)) == MAX_MESSAGE


async def test_on_a_stream_it_is_refused_behind_the_answers_to_those_before_it() -> None:
    async with served() as front, front.channel() as channel:
        call = channel.stream_stream(STREAM, request_serializer=bytes, response_deserializer=bytes)
        answers: Any = call(iter([asked(1_000, 1), asked(MAX_MESSAGE, 2), asked(MAX_MESSAGE + 1, 3)]), timeout=CEILING)
        assert [len(await answers.read()) for _ in range(2)] == [1_000, MAX_MESSAGE]
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await answers.read()
        assert reason_of(refused.value) == TOO_LARGE


@pytest.mark.parametrize("path", [SIGN, STREAM])
@pytest.mark.parametrize("size", [MAX_MESSAGE + 1, (1 << 32) - 1])
@on_uvloop
async def test_a_message_too_large_is_refused_before_more_of_it_than_its_length_is_there(path: str, size: int) -> None:
    async with served() as front, front.dialled() as peer:
        stream = peer.begin(path)
        peer.send(stream, struct.pack(">BL", 0, size))
        assert status_in(fields := await peer.refused(stream)) == TOO_LARGE
        assert str(size) in fields["grpc-message"]
        assert await peer.reset_by(stream) == Code.NO_ERROR
        assert peer.granted(stream) == STREAM_WINDOW
        await peer.alive()


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_messages_are_not_taken(compression: grpc.Compression) -> None:
    async with served() as front, front.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await bare(channel)(asked(10_000), compression=compression, timeout=CEILING)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert len(await bare(channel)(asked(10_000), timeout=CEILING)) == 10_000


@pytest.mark.parametrize("path", [SIGN, STREAM, CHECK])
@pytest.mark.parametrize("encoding", ["gzip", "snappy", "identity, gzip"])
@on_uvloop
async def test_who_compresses_is_told_what_is_taken_instead(path: str, encoding: str) -> None:
    async with served() as front, front.dialled() as peer:
        stream = peer.begin(path, {"grpc-encoding": encoding})
        fields = await peer.refused(stream)
        assert fields["grpc-status"] == str(grpc.StatusCode.UNIMPLEMENTED.value[0])
        assert fields["grpc-accept-encoding"] == "identity"
        assert await peer.reset_by(stream) == Code.NO_ERROR
        await peer.alive()


@pytest.mark.parametrize("path", [SIGN, STREAM])
@on_uvloop
async def test_a_message_that_is_compressed_without_saying_how_is_malformed(path: str) -> None:
    async with served() as front, front.dialled() as peer:
        stream = peer.call(path, framed(b"", compressed=1), {"grpc-encoding": "identity"})
        assert status_in(await peer.refused(stream)) == MALFORMED
        await peer.alive()


@pytest.mark.parametrize(
    "more",
    [
        {":method": "GET"},
        {":method": "PUT"},
        {"content-type": ""},
        {"content-type": "text/html"},
        {"content-type": "application/json"},
        {"content-type": "application/grpc-web"},
        {"content-type": "application/grpc-web+proto"},
        {"content-type": "application/grpcx"},
        {":method": "GET", "content-type": ""},
    ],
)
@pytest.mark.parametrize("end", [True, False])
@on_uvloop
async def test_what_is_not_grpc_is_told_so_by_http(more: dict[str, str], end: bool) -> None:
    async with served() as front, front.dialled() as peer:
        stream = peer.begin(SIGN, more, end=end)
        assert await peer.refused(stream) == {":status": "415"}
        if not end:
            assert await peer.reset_by(stream) == Code.NO_ERROR
            peer.raw(frame(frames.DATA, frames.END_STREAM, stream, b"what it had to say"))
        await peer.alive()


@pytest.mark.parametrize("kind", ["application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8"])
@on_uvloop
async def test_grpc_by_its_other_names_is_answered(kind: str) -> None:
    async with served() as front, front.dialled() as peer:
        assert await peer.answer(peer.call(SIGN, framed(b""), {"content-type": kind})) == [b""]


BODIES = {
    "nothing": b"",
    "a part of the prefix": b"\0\0\0",
    "a message that is cut": framed(asked(1_000))[:-1],
    "the prefix alone": framed(asked(1_000))[:PREFIX],
    "two messages": framed(asked(100)) * 2,
    "a message and a part of another": framed(asked(100)) + b"\0",
    "bytes that are no message": framed(b"\xff\xff\xff"),
    "a message that ends early": framed(asked(1_000)[:-1]),
    "text that is none": framed(sign_pb2.SignRequest(key_id="k").SerializeToString().replace(b"k", b"\xff")),
}


@pytest.mark.parametrize("name", BODIES)
@on_uvloop
async def test_a_body_that_is_not_one_message_is_malformed(name: str) -> None:
    async with served() as front, front.dialled() as peer:
        stream = peer.call(SIGN, BODIES[name])
        assert status_in(await peer.refused(stream)) == MALFORMED
        await peer.alive()


@on_uvloop
async def test_headers_that_end_the_call_are_a_body_of_nothing() -> None:
    async with served() as front, front.dialled() as peer:
        assert status_in(await peer.refused(peer.begin(SIGN, end=True))) == MALFORMED
        # A stream may have no message.
        assert await peer.answer(peer.begin(STREAM, end=True)) == []


@pytest.mark.parametrize("name", ["a part of the prefix", "a message that is cut", "bytes that are no message"])
@on_uvloop
async def test_a_stream_that_breaks_off_is_malformed_behind_its_answers(name: str) -> None:
    async with served() as front, front.dialled() as peer:
        stream = peer.call(STREAM, framed(asked(500, 1)) + framed(asked(500, 2)) + BODIES[name])
        trailers = await peer.until(h2.events.TrailersReceived, stream)
        assert status_in(dict(trailers.headers)) == MALFORMED
        assert len(peer.content(stream)) == 2 * (PREFIX + 500)
        await peer.alive()


@pytest.mark.parametrize("timeout", ["1", "S", "x", "1s", "1.5S", "-1S", " 1S", "123456789m", "१S"])
@on_uvloop
async def test_a_deadline_that_is_none_ends_its_call_alone(timeout: str) -> None:
    async with served() as front, front.dialled() as peer:
        peer.http.config.validate_outbound_headers = False
        peer.http.config.normalize_outbound_headers = False
        stream = peer.call(SIGN, framed(b""), {"grpc-timeout": timeout})
        assert await peer.reset_by(stream) == Code.PROTOCOL_ERROR
        await peer.alive()


@pytest.mark.parametrize("timeout", ["99999999H", "1M", "30S", "30000m", "30000000u", "99999999n"])
@on_uvloop
async def test_a_deadline_in_any_unit_is_one(timeout: str) -> None:
    async with served() as front, front.dialled() as peer:
        assert await peer.answer(peer.call(SIGN, framed(b""), {"grpc-timeout": timeout})) == [b""]


def cut(content: bytes, size: int) -> list[bytes]:
    return [content[start : start + size] for start in range(0, len(content), size)]


@pytest.mark.parametrize(("path", "size"), [(SIGN, 1), (SIGN, 7), (STREAM, 1), (STREAM, 7), (STREAM, 999)])
@on_uvloop
async def test_messages_may_be_cut_into_frames_anywhere(path: str, size: int) -> None:
    one = path == SIGN
    messages = [asked(3_000)] if one else [asked(number, number) for number in range(6, 80)]
    async with served() as front, front.dialled() as peer:
        stream = peer.begin(path)
        for part in cut(b"".join(map(framed, messages)), size):
            peer.send(stream, part)
            peer.send(stream, b"")
        peer.send(stream, b"", end=True)
        assert [len(answer) for answer in await peer.answer(stream)] == [len(message) for message in messages]


async def pour_padded(peer: Peer, stream: int, content: bytes) -> None:
    """As much padding as windows allow behind each of few bytes."""
    while content:
        room = peer.http.local_flow_control_window(stream)
        if not room:
            await peer.more()
            continue
        part = content[: max(1, min(3_000, room - 256))]
        content = content[len(part) :]
        padding = min(255, room - 1 - len(part))
        peer.http.send_data(stream, part, pad_length=None if padding < 0 else padding)
        peer.flush()
    peer.send(stream, b"", end=True)


@pytest.mark.parametrize("size", [1_000, 200_000, MAX_MESSAGE])
@on_uvloop
async def test_padding_takes_nothing_of_the_room_that_a_message_needs(size: int) -> None:
    async with served() as front, front.dialled() as peer:
        stream = peer.begin(SIGN)
        await pour_padded(peer, stream, framed(asked(size)))
        assert [len(answer) for answer in await peer.answer(stream)] == [size]


@on_uvloop
async def test_neither_does_padding_alone() -> None:
    async with served() as front, front.dialled() as peer:
        stream = peer.begin(STREAM)
        for _ in range(2 * STREAM_WINDOW // 256):
            while peer.http.local_flow_control_window(stream) < 256:
                await peer.more()
            peer.http.send_data(stream, b"", pad_length=255)
            peer.flush()
        await peer.pour(stream, framed(asked(1_000, 1)))
        assert [len(answer) for answer in await peer.answer(stream)] == [1_000]
