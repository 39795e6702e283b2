"""Who is refused before the request is read: answered without its body, which may come all the same, and is dropped."""

from typing import Any
from uuid import UUID

import grpc
import pytest

from popsigner_http2 import frames
from popsigner_http2.frames import Code, frame
from popsigner_server import errors
from popsigner_server.signing.signer import Signer
from popsigner_server.transport import server as transport
from popsigner_server.transport.body import STREAM_WINDOW
from popsigner_server.transport.interceptors.auth import Auth
from popsigner_server.transport.interceptors.base import Call, Interceptor
from popsigner_server.transport.interceptors.deadline import Deadline
from popsigner_server.transport.interceptors.errors import Errors
from popsigner_server.transport.interceptors.pressure import Pressure
from tests.integration.server.front import SIGN, STREAM, Owned, asked, on_uvloop, served, status_in
from tests.integration.server.front_peer import Peer, framed

BATCH = "/popsigner.v1.SignService/BatchSign"
NOWHERE = "/popsigner.v1.SignService/Forge"
UNAUTHENTICATED = (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_MISSING")
QUEUE_FULL = (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
UNKNOWN = (grpc.StatusCode.UNIMPLEMENTED, "METHOD_UNKNOWN")
OF_ONE = {"x-organization": "1"}


async def unreached(call: Call, request: object) -> Any:
    raise AssertionError("who is refused reaches no room")


class FullQueue:
    """As the signer's batcher is when its queue is full."""

    def check_room(self, organization: UUID, items: int) -> None:
        raise errors.QueueFull(retry_after=0.5)


def strict() -> list[Interceptor]:
    """Nobody who brings no credential is let in."""
    nobody: Any = None
    return [Errors(), Deadline(), Auth(nobody, nobody, gateway_secret=b"0" * 64, trust_gateway=False)]


def full() -> list[Interceptor]:
    nothing: Any = None
    queue: Any = FullQueue()
    return [Errors(), Owned(), Pressure(Signer(nothing, queue, nothing))]


REFUSALS = {
    "no credential": (strict, SIGN, UNAUTHENTICATED),
    "no credential for a stream": (strict, STREAM, UNAUTHENTICATED),
    "no room in the queue": (full, SIGN, QUEUE_FULL),
    "no room for a batch": (full, BATCH, QUEUE_FULL),
    "no such RPC": (strict, NOWHERE, UNKNOWN),
}


@pytest.mark.parametrize("name", REFUSALS)
@on_uvloop
async def test_a_refusal_does_not_wait_for_the_body(name: str) -> None:
    interceptors, path, status = REFUSALS[name]
    async with served(unreached, unreached, interceptors=interceptors()) as front, front.dialled() as peer:
        stream = peer.begin(path, OF_ONE)
        assert status_in(await peer.refused(stream)) == status
        assert await peer.reset_by(stream) == Code.NO_ERROR
        assert peer.granted(stream) == STREAM_WINDOW
        assert front.calls == 0
        await peer.alive()


@pytest.mark.parametrize("name", REFUSALS)
@on_uvloop
async def test_what_was_sent_as_a_whole_is_not_told_to_stop(name: str) -> None:
    interceptors, path, status = REFUSALS[name]
    async with served(unreached, unreached, interceptors=interceptors()) as front, front.dialled() as peer:
        stream = peer.call(path, framed(asked(50_000)), OF_ONE)
        assert status_in(await peer.refused(stream)) == status
        await peer.alive()
        assert (frames.RST_STREAM, stream) not in peer.frames


async def late(peer: Peer, stream: int, size: int) -> None:
    """The body of a call that is over, as far as the connection's window allows."""
    sent = 0
    while sent < size:
        while peer.granted(0) - sent < frames.FRAME_BYTES:
            await peer.more()
        peer.raw(frame(frames.DATA, 0, stream, bytes(frames.FRAME_BYTES)))
        await peer.writer.drain()
        sent += frames.FRAME_BYTES
    peer.raw(frame(frames.DATA, frames.END_STREAM, stream))


@pytest.mark.parametrize("name", REFUSALS)
@on_uvloop
async def test_a_body_that_comes_late_is_dropped_and_the_connection_lives_on(name: str) -> None:
    interceptors, path, _ = REFUSALS[name]
    async with served(unreached, unreached, interceptors=interceptors()) as front, front.dialled() as peer:
        for _ in range(3):
            stream = peer.begin(path, OF_ONE)
            await peer.refused(stream)
            peer.raw(frame(frames.DATA, 0, stream, framed(asked(3_000))))
            peer.raw(frame(frames.DATA, frames.END_STREAM, stream, bytes(100)))
            await peer.alive()
            assert front.held == 0


@on_uvloop
async def test_so_are_megabytes_of_it_for_which_the_connections_window_is_given_back() -> None:
    size = 3 * transport.WINDOW
    async with served(unreached, interceptors=strict()) as front, front.dialled() as peer:
        stream = peer.begin(SIGN)
        await peer.refused(stream)
        await late(peer, stream, size)
        await peer.alive()
        assert front.held == 0
        # What comes after it has the whole window again, but for what is not worth a frame yet.
        assert peer.granted(0) - size >= transport.WINDOW // 2


@on_uvloop
async def test_all_other_ends_of_a_call_that_is_over_are_taken_as_well() -> None:
    async with served(unreached, interceptors=strict()) as front, front.dialled() as peer:
        for kind, flags, payload in (
            (frames.RST_STREAM, 0, frames.NUMBER.pack(Code.CANCEL)),
            (frames.WINDOW_UPDATE, 0, frames.NUMBER.pack(100)),
            (frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, b"\0\1a\1b"),
            (frames.DATA, frames.PADDED, b"\x02a\0\0"),
        ):
            stream = peer.begin(SIGN)
            await peer.refused(stream)
            peer.raw(frame(kind, flags, stream, payload))
            await peer.alive()
            assert front.calls == 0


async def test_grpcs_own_client_is_told_why_while_it_still_sends() -> None:
    async with served(unreached, unreached, interceptors=strict()) as front, front.channel() as channel:
        for _ in range(20):
            call = channel.unary_unary(SIGN, request_serializer=bytes, response_deserializer=bytes)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(asked(2_000_000), timeout=20)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert len(front.server._open) == 1
