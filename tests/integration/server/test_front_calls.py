"""Calls as gRPC's own client makes them: of every size, in every number, with all that goes around the messages."""

import asyncio
import base64
import random
from collections.abc import AsyncIterator
from typing import Any

import grpc
import h2.events
import pytest

from popsigner_http2.frames import Code
from popsigner_server.gen.popsigner.v1 import sign_pb2
from popsigner_server.transport.body import MAX_MESSAGE
from popsigner_server.transport.calls import STREAMS
from popsigner_server.transport.interceptors.base import Call
from tests.integration.server.front import SIGN, STREAM, Front, Slow, asked, echo, on_uvloop, served, until
from tests.integration.server.front_peer import CEILING, framed

# Around HTTP/2's frames, its first windows, ours, and the largest message.
SIZES = [0, 3, 16_379, 16_380, 65_530, 65_531, 131_067, 131_068, 1 << 20, MAX_MESSAGE - 1, MAX_MESSAGE]


@pytest.fixture
async def front() -> AsyncIterator[Front]:
    async with served() as front:
        yield front


@pytest.fixture
async def channel(front: Front) -> AsyncIterator[grpc.aio.Channel]:
    async with front.channel() as channel:
        yield channel


def unary(channel: grpc.aio.Channel) -> Any:
    return channel.unary_unary(SIGN, request_serializer=bytes, response_deserializer=bytes)


def streamed(channel: grpc.aio.Channel) -> Any:
    return channel.stream_stream(STREAM, request_serializer=bytes, response_deserializer=bytes)


@pytest.mark.parametrize("size", SIZES)
async def test_a_message_of_any_size_comes_back_as_it_was(channel: grpc.aio.Channel, size: int) -> None:
    data = random.Random(size).randbytes(len(sign_pb2.SignRequest.FromString(asked(size)).data))
    request = sign_pb2.SignRequest(data=data).SerializeToString()
    assert len(request) == size
    answer = sign_pb2.SignResponse.FromString(await unary(channel)(request, timeout=CEILING))
    assert answer.signature == data


async def test_a_stream_passes_messages_of_every_size_in_their_order(channel: grpc.aio.Channel) -> None:
    requests = [asked(size, number) for number, size in enumerate([*SIZES[2:], *SIZES[:1:-1]], 1)]
    numbers = []
    answers = streamed(channel)(iter(requests), timeout=CEILING)
    async for raw in answers:
        answer = sign_pb2.SignStreamResponse.FromString(raw)
        numbers.append(answer.correlation_id)
        assert len(raw) == len(requests[len(numbers) - 1])
    assert numbers == list(range(1, 1 + len(requests)))


async def test_a_stream_may_have_no_message(channel: grpc.aio.Channel) -> None:
    assert [raw async for raw in streamed(channel)(iter([]), timeout=CEILING)] == []


async def test_many_messages_on_one_stream_are_answered_each_before_the_next_is_sent(
    channel: grpc.aio.Channel,
) -> None:
    call = streamed(channel)(timeout=CEILING)
    for number in range(1, 300):
        await call.write(asked(2_000, number))
        assert sign_pb2.SignStreamResponse.FromString(await call.read()).correlation_id == number
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_calls_of_all_sizes_at_once_get_each_its_own_answer(channel: grpc.aio.Channel) -> None:
    chance = random.Random(3)

    async def one(size: int) -> None:
        data = chance.randbytes(size)
        raw = await unary(channel)(sign_pb2.SignRequest(data=data).SerializeToString(), timeout=CEILING)
        assert sign_pb2.SignResponse.FromString(raw).signature == data

    await asyncio.gather(*[one(chance.choice([10, 1_000, 20_000, 70_000, 200_000])) for _ in range(300)])


async def test_five_thousand_calls_at_once_on_one_connection_are_all_answered() -> None:
    under_way = most = 0
    full = asyncio.Event()

    async def hold(call: Call, request: sign_pb2.SignRequest) -> sign_pb2.SignResponse:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        if under_way == STREAMS:
            full.set()
        # Nobody is answered before as many are here as may be.
        await full.wait()
        await asyncio.sleep(0)
        under_way -= 1
        return await echo(call, request)

    async with served(hold) as front, front.channel() as channel:
        calls = [
            unary(channel)(sign_pb2.SignRequest(data=b"%d" % number).SerializeToString(), timeout=CEILING)
            for number in range(5_000)
        ]
        for number, call in enumerate(calls):
            assert sign_pb2.SignResponse.FromString(await call).signature == b"%d" % number
        assert len(front.server._open) == 1
    assert most == STREAMS


async def test_metadata_reaches_the_handler_in_its_order_bytes_in_base64() -> None:
    seen: list[tuple[str, str]] = []

    async def note(call: Call, request: sign_pb2.SignRequest) -> sign_pb2.SignResponse:
        seen.extend(call.metadata)
        return await echo(call, request)

    raw = bytes(range(256))
    told = [("x-one", "first"), ("x-two", 'a, b; c="d" ~!'), ("x-one", "second"), ("x-raw-bin", raw)]
    async with served(note) as front, front.channel() as channel:
        await unary(channel)(b"", metadata=told, timeout=CEILING)
    ours = [(name, value) for name, value in seen if name.startswith("x-")]
    # The client sends those of one name together, in their order.
    for name in ("x-one", "x-two"):
        assert [v for n, v in ours if n == name] == [v for n, v in told if n == name]
    (value,) = [value for name, value in ours if name == "x-raw-bin"]
    assert base64.b64decode(value + "=" * (-len(value) % 4)) == raw
    names = {name for name, _ in seen}
    assert {"user-agent", "te", "content-type"} <= names
    assert not [name for name in names if name.startswith(":")]


@on_uvloop
async def test_a_name_in_capitals_ends_its_call_alone() -> None:
    name, value = b"X-Api-Key", b"psk"
    async with served() as front, front.dialled() as peer:
        peer.http.config.normalize_outbound_headers = False
        peer.http.config.validate_outbound_headers = False
        stream = peer.begin(SIGN, {name.decode(): value.decode()})
        assert await peer.reset_by(stream) == Code.PROTOCOL_ERROR
        await peer.alive()


SENTENCE = "100 % of it:\n\té, 署名"
TRAILING: list[tuple[str, str | bytes]] = [
    ("x-said", "plain text"),
    ("x-zero-bin", b""),
    ("x-raw-bin", bytes(range(256))),
    # More than one HTTP/2 frame takes.
    ("x-large-bin", random.Random(5).randbytes(40_000)),
]
LARGE_METADATA = [("grpc.max_metadata_size", 1 << 17), ("grpc.absolute_max_metadata_size", 1 << 18)]


def told_by(refused: grpc.aio.AioRpcError) -> list[tuple[str, str | bytes]]:
    return [(name, value) for name, value in refused.trailing_metadata() if name.startswith("x-")]


async def test_a_refusals_sentence_and_trailers_come_as_they_were_said() -> None:
    async def refuse(call: Call, request: sign_pb2.SignRequest) -> Any:
        await call.context.abort(grpc.StatusCode.ABORTED, SENTENCE, TRAILING)

    async with served(refuse) as front, front.channel(options=LARGE_METADATA) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await unary(channel)(b"", timeout=CEILING)
    assert (refused.value.code(), refused.value.details()) == (grpc.StatusCode.ABORTED, SENTENCE)
    assert told_by(refused.value) == TRAILING


async def test_so_do_those_behind_a_streams_messages() -> None:
    async def refuse(call: Call, requests: object) -> None:
        await call.context.write(sign_pb2.SignStreamResponse(correlation_id=7))
        await call.context.abort(grpc.StatusCode.ABORTED, SENTENCE, TRAILING)

    async with served(stream=refuse) as front, front.channel(options=LARGE_METADATA) as channel:
        call = streamed(channel)(timeout=CEILING)
        assert sign_pb2.SignStreamResponse.FromString(await call.read()).correlation_id == 7
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call.read()
    assert (refused.value.code(), refused.value.details()) == (grpc.StatusCode.ABORTED, SENTENCE)
    assert told_by(refused.value) == TRAILING


@on_uvloop
async def test_an_answer_is_headers_messages_and_trailers_in_this_order() -> None:
    async with served() as front, front.dialled() as peer:
        stream = peer.call(SIGN, framed(asked(100_000)))
        assert await peer.answer(stream) == [asked(100_000).replace(b"\x12", b"\x0a", 1)]
        ours = [event for event in peer.events if getattr(event, "stream_id", None) == stream]
        kinds = [type(event) for event in ours if not isinstance(event, h2.events.WindowUpdated)]
        assert kinds[0] is h2.events.ResponseReceived
        assert set(kinds[1:-2]) == {h2.events.DataReceived}
        assert kinds[-2:] == [h2.events.TrailersReceived, h2.events.StreamEnded]
        assert dict(ours[0].headers) == {":status": "200", "content-type": "application/grpc"}


@on_uvloop
async def test_a_call_begins_when_it_has_been_said_as_a_whole() -> None:
    slow = Slow()
    async with served(slow) as front, front.dialled() as peer:
        stream = peer.call(SIGN, framed(asked(100)), end=False)
        await peer.alive()
        assert slow.begun == 0
        peer.send(stream, b"", end=True)
        await until(lambda: slow.begun == 1)
        slow.go_on.set()
        assert await peer.answer(stream)


@on_uvloop
async def test_trailers_come_in_frames_that_every_peer_takes() -> None:
    async def refuse(call: Call, request: sign_pb2.SignRequest) -> Any:
        await call.context.abort(grpc.StatusCode.ABORTED, SENTENCE, TRAILING)

    async with served(refuse) as front, front.dialled() as peer:
        fields = await peer.refused(peer.call(SIGN, framed(b"")))
        assert base64.b64decode(fields["x-large-bin"] + "==") == dict(TRAILING)["x-large-bin"]
        await peer.alive()
