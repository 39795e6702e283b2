"""What the server says of itself to those who ask without a credential: they must neither stop it nor fill its log."""

import asyncio
from typing import Any

import grpc
import h2.events
import pytest
from grpc_health.v1 import health_pb2

from popsigner_server.transport import server as transport
from popsigner_server.transport.contract import SERVICES
from tests.integration.server.front import SIGN, WATCH, Front, Slow, on_uvloop, served, status_in, until
from tests.integration.server.front_peer import CEILING, CHECK, Peer, framed

Said = health_pb2.HealthCheckResponse
SERVING, NOT_SERVING, UNKNOWN = Said.SERVING, Said.NOT_SERVING, Said.SERVICE_UNKNOWN
NAMES = ["", *[service.full_name for service in SERVICES]]
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"


def about(service: str) -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=service)


def check(channel: grpc.aio.Channel) -> Any:
    return channel.unary_unary(
        CHECK,
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=Said.FromString,
    )


def watch(channel: grpc.aio.Channel, service: str) -> Any:
    call = channel.unary_stream(
        WATCH,
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=Said.FromString,
    )
    return call(about(service), timeout=CEILING)


async def test_every_service_is_checked_by_its_name() -> None:
    async with served() as front, front.channel() as channel:
        for serving, status in ((None, NOT_SERVING), (True, SERVING), (False, NOT_SERVING)):
            if serving is not None:
                await front.server.set_serving(serving)
            for name in NAMES:
                assert (await check(channel)(about(name), timeout=CEILING)).status == status


@pytest.mark.parametrize("name", ["popsigner.v1.Nothing", "popsigner.v1", "grpc.health.v1.Health", "x" * 3_000])
async def test_a_service_that_is_none_is_not_found(name: str) -> None:
    async with served() as front, front.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await check(channel)(about(name), timeout=CEILING)
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_watcher_is_told_each_change_once() -> None:
    async with served() as front, front.channel() as channel:
        watchers = [watch(channel, name) for name in ("", "popsigner.v1.SignService", "nobody.v1.Nothing")]
        before = False
        assert [(await each.read()).status for each in watchers] == [NOT_SERVING, NOT_SERVING, UNKNOWN]
        for serving in (True, True, False, True):
            await front.server.set_serving(serving)
            if serving is not before:
                said = [(await each.read()).status for each in watchers[:2]]
                assert said == [SERVING if serving else NOT_SERVING] * 2
            before = serving


async def test_a_server_that_stops_says_so_to_watchers_and_ends_them() -> None:
    async with served() as front, front.channel() as channel:
        await front.server.set_serving(True)
        watcher = watch(channel, "")
        assert (await watcher.read()).status == SERVING
        stopping = asyncio.ensure_future(front.server.stop(0.2, front.draining))
        assert (await watcher.read()).status == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await watcher.read()
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        await stopping


@on_uvloop
async def test_what_was_said_at_the_end_is_not_taken_back() -> None:
    slow = Slow()
    async with served(slow) as front, front.dialled() as peer:
        await front.server.set_serving(True)
        stream = peer.call(SIGN, framed(b""))
        await peer.alive()
        stopping = asyncio.ensure_future(front.server.stop(CEILING, front.draining))
        await told(peer, peer.call(WATCH, framed(b"")), NOT_SERVING)
        await front.server.set_serving(True)
        assert await peer.answer(peer.call(CHECK, framed(b""))) == [Said(status=NOT_SERVING).SerializeToString()]
        slow.go_on.set()
        assert await peer.answer(stream) == [b""]
        peer.writer.transport.abort()
        await stopping


@on_uvloop
async def test_a_watcher_that_does_not_read_holds_up_neither_others_nor_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transport, "LAST_WORDS", 0.05)
    async with served() as front, front.dialled(window=0) as deaf, front.dialled() as peer:
        await deaf.until(h2.events.ResponseReceived, deaf.call(WATCH, framed(b"")))
        stream = peer.call(WATCH, framed(b""))
        for serving in (True, False) * 3:
            await asyncio.wait_for(front.server.set_serving(serving), 5)
            await told(peer, stream, SERVING if serving else NOT_SERVING)
        await asyncio.wait_for(front.server.stop(0, front.draining), 5)
        assert not front.server._open


async def told(peer: Peer, stream: int, status: Any) -> None:
    last = framed(Said(status=status).SerializeToString())
    while not peer.content(stream).endswith(last):
        await peer.more()


@on_uvloop
async def test_a_watcher_that_leaves_is_forgotten() -> None:
    async with served() as front:
        async with front.dialled() as peer:
            streams = [peer.call(WATCH, framed(about(name).SerializeToString())) for name in ("", "a", "b")]
            for stream in streams:
                await peer.until(h2.events.DataReceived, stream)
            assert watched(front) == 3
            peer.reset(streams[1])
            await until(lambda: watched(front) == 2)
        await until(lambda: watched(front) == 0)


def watched(front: Front) -> int:
    health: Any = front.server._health
    return len(health._server_watchers)


BROKEN = {
    "nothing": b"",
    "garbage": framed(b"\xff\xff\xff"),
    "two messages": framed(b"") * 2,
    "cut": framed(b"\x0a\x05abcde")[:-1],
    "too large": framed(b"")[:1] + (1 << 30).to_bytes(4, "big"),
}


@pytest.mark.parametrize(
    ("path", "name"),
    [(path, name) for path in (CHECK, WATCH) for name in BROKEN]
    # A stream may have no message, or two.
    + [(REFLECTION, name) for name in ("garbage", "cut", "too large")],
)
@on_uvloop
async def test_a_question_that_is_none_is_its_peers_mistake_and_no_fault_in_the_log(
    path: str, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    async with served() as front, front.dialled() as peer:
        code, _ = status_in(await peer.refused(peer.call(path, BROKEN[name])))
        expected = grpc.StatusCode.RESOURCE_EXHAUSTED if name == "too large" else grpc.StatusCode.INVALID_ARGUMENT
        assert code is expected
        await peer.alive()
    out, err = capfd.readouterr()
    assert "fault" not in out + err
