"""Streams that misbehave: what they lose is their own."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import psutil
import pytest

from popsigner_server.gen.popsigner.v1 import errors_pb2, key_pb2, sign_pb2
from popsigner_server.transport.calls import STREAMS
from tests.integration.pop.wire import Wire
from tests.support.pop import Pop

pytestmark = pytest.mark.usefixtures("unharmed")

ITEMS = 16
# Large against an answer, so that what the transport buffers on the way in is many messages less than MOST_MESSAGES.
DATA = b"stream".ljust(4096)
# Seconds without progress after which a write counts as held back.
HELD = 1.5
MOST_MESSAGES = 1000
# The server's 64 messages in flight, and the answers that fit into the transport's windows and write buffers.
MOST_ANSWERED = 64 + 96
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


def message(number: int, key_id: str, items: int = ITEMS) -> sign_pb2.SignStreamRequest:
    item = sign_pb2.SignItem(key_id=key_id, data=DATA)
    return sign_pb2.SignStreamRequest(correlation_id=number, requests=[item] * items)


async def write_until_held(stream: Any, key_id: str) -> int:
    """Write without reading until the POP takes no more; returns how many messages went out."""
    for number in range(MOST_MESSAGES):
        # Not wait_for: a cancelled write would cancel the call.
        writing = asyncio.ensure_future(stream.write(message(number, key_id)))
        done, _ = await asyncio.wait({writing}, timeout=HELD)
        if not done:
            return number + 1
    raise AssertionError(f"the POP took {MOST_MESSAGES} messages of a stream that reads nothing")


async def collect(stream: Any) -> dict[int, sign_pb2.SignStreamResponse]:
    answers: dict[int, sign_pb2.SignStreamResponse] = {}
    async for answer in stream:
        assert answer.correlation_id not in answers
        answers[answer.correlation_id] = answer
    return answers


@pytest.fixture
async def stalled(pop: Pop, owner: Wire) -> AsyncIterator[Wire]:
    """A wire with a connection of its own, whose windows do not grow."""
    options = [
        *OWN_CONNECTION,
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", 65_536),
    ]
    async with grpc.aio.insecure_channel(pop.grpc, options=options) as channel:
        yield Wire(channel, owner.api_key)


async def test_a_stream_that_stops_reading_is_not_read_either_and_goes_on_when_it_reads_again(
    pop: Pop, owner: Wire, stalled: Wire, key: key_pb2.Key
) -> None:
    server = psutil.Process(pop.processes["server"])
    before, used = server.memory_info().rss, await owner.signatures_used()
    stream = stalled.stream(timeout=60)

    sent = await write_until_held(stream, key.id)

    held = await owner.signatures_used()
    assert 64 * ITEMS <= held - used <= MOST_ANSWERED * ITEMS
    # The others are served as if it were not there, and nothing more is signed for it.
    waits = []
    for _ in range(20):
        began = time.monotonic()
        await owner(sign_pb2.SignRequest(key_id=key.id, data=b"another caller"))
        waits.append(time.monotonic() - began)
    assert sorted(waits)[10] < 0.5
    assert await owner.signatures_used() == held + 20
    assert server.memory_info().rss - before < 64 << 20

    reading = asyncio.ensure_future(collect(stream))
    # Ends the writes in their order, behind the one that was held back.
    await asyncio.sleep(0.5)
    await stream.done_writing()
    answers = await reading
    assert sorted(answers) == list(range(sent))
    assert {len(answer.signatures) for answer in answers.values()} == {ITEMS}
    assert len({result.signature for answer in answers.values() for result in answer.signatures}) == 1
    assert (await stream.code()) is grpc.StatusCode.OK
    assert await owner.signatures_used() == used + sent * ITEMS + 20


async def test_a_stream_that_stops_reading_ends_when_it_is_cancelled_and_keeps_nothing(
    pop: Pop, owner: Wire, stalled: Wire, key: key_pb2.Key
) -> None:
    stream = stalled.stream(timeout=60)
    await write_until_held(stream, key.id)
    held = await owner.signatures_used()
    log = pop.data_dir / "logs" / "server.log"
    said = log.read_text()

    stream.cancel()

    assert (await stream.code()) is grpc.StatusCode.CANCELLED
    await asyncio.sleep(0.5)
    assert await owner.signatures_used() == held
    # A caller that leaves is no fault of the POP's.
    assert log.read_text() == said


async def test_a_message_that_is_wrong_is_answered_and_the_stream_goes_on(owner: Wire, key: key_pb2.Key) -> None:
    stream = owner.stream()
    good = message(7, key.id, items=1)
    mixed = sign_pb2.SignStreamRequest(
        correlation_id=3,
        requests=[
            sign_pb2.SignItem(key_id=key.id, data=bytes(31), prehashed=True),
            sign_pb2.SignItem(key_id="production/nobody", data=b"x"),
            sign_pb2.SignItem(key_id=key.id, data=b"x"),
        ],
    )
    for sent in (sign_pb2.SignStreamRequest(correlation_id=1), message(2, key.id, items=257), mixed, good):
        await stream.write(sent)
    await stream.done_writing()

    answers = await collect(stream)

    assert sorted(answers) == [1, 2, 3, 7]
    for number, reason in ((1, errors_pb2.BATCH_EMPTY), (2, errors_pb2.BATCH_TOO_LARGE)):
        assert answers[number].error.reason == reason
        assert answers[number].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
        assert not answers[number].signatures
    assert not answers[3].HasField("error")
    assert [result.error.reason for result in answers[3].signatures] == [
        errors_pb2.DIGEST_LENGTH,
        errors_pb2.KEY_NOT_FOUND,
        errors_pb2.ERROR_REASON_UNSPECIFIED,
    ]
    assert answers[7].signatures[0].signature
    assert (await stream.code()) is grpc.StatusCode.OK


async def test_an_empty_stream_ends_well(owner: Wire) -> None:
    stream = owner.stream()
    await stream.done_writing()

    assert await collect(stream) == {}
    assert (await stream.code()) is grpc.StatusCode.OK


async def test_messages_may_share_a_number_and_each_is_answered(owner: Wire, key: key_pb2.Key) -> None:
    stream = owner.stream()
    for _ in range(5):
        await stream.write(message(9, key.id, items=2))
    await stream.done_writing()

    answers = [answer async for answer in stream]

    assert [answer.correlation_id for answer in answers] == [9] * 5


async def test_a_stream_on_a_deadline_ends_with_it(owner: Wire, key: key_pb2.Key) -> None:
    stream = owner.stream(timeout=1)
    await stream.write(message(1, key.id, items=1))
    assert (await stream.read()).signatures[0].signature

    assert (await stream.code()) is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_many_streams_that_vanish_do_no_harm(pop: Pop, owner: Wire, key: key_pb2.Key) -> None:
    async def vanish() -> None:
        async with grpc.aio.insecure_channel(pop.grpc, options=OWN_CONNECTION) as channel:
            stream = Wire(channel, owner.api_key).stream()
            for number in range(4):
                await stream.write(message(number, key.id, items=16))

    await asyncio.gather(*(vanish() for _ in range(16)))

    assert (await owner(sign_pb2.SignRequest(key_id=key.id, data=b"x"))).signature


async def test_a_crowd_of_calls_on_one_connection_is_answered(owner: Wire, key: key_pb2.Key) -> None:
    request = sign_pb2.SignRequest(key_id=key.id, data=bytes(32), prehashed=True)
    answers = await asyncio.gather(*(owner(request) for _ in range(STREAMS - 124)))
    assert {len(answer.signature) for answer in answers} == {64}
