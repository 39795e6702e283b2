"""The real server in front of handlers of a test's choice, and what its refusals say."""

import asyncio
import base64
import functools
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import patch
from uuid import UUID

import grpc
import h2.events
import uvloop
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from popsigner_http2.frames import WINDOW_BYTES
from popsigner_server.gen.popsigner.v1 import sign_pb2
from popsigner_server.limits.pace import Pace
from popsigner_server.transport import server as transport
from popsigner_server.transport.contract import rpcs
from popsigner_server.transport.interceptors.base import Call, Handler, Interceptor, Rpc
from popsigner_server.transport.interceptors.draining import Draining
from popsigner_server.transport.interceptors.errors import Errors
from popsigner_server.transport.server import Server
from tests.integration.server.front_peer import CEILING, Peer

SIGN = "/popsigner.v1.SignService/Sign"
STREAM = "/popsigner.v1.SignService/SignStream"
WATCH = "/grpc.health.v1.Health/Watch"


async def echo(call: Call, request: sign_pb2.SignRequest) -> sign_pb2.SignResponse:
    return sign_pb2.SignResponse(signature=request.data)


async def echo_each(call: Call, requests: AsyncIterator[sign_pb2.SignStreamRequest]) -> None:
    async for request in requests:
        answers = [sign_pb2.SignResult(signature=item.data) for item in request.requests]
        await call.context.write(sign_pb2.SignStreamResponse(correlation_id=request.correlation_id, signatures=answers))


class Owned:
    """In front of every handler: the call is the organization's whose number its headers have, or a person's."""

    def wrap(self, rpc: Rpc, proceed: Handler) -> Handler:
        async def handle(call: Call, request: Any) -> Any:
            known: Any = call
            if number := call.header("x-organization"):
                known.caller = SimpleNamespace(principal=SimpleNamespace(organization_id=UUID(int=int(number))))
            elif number := call.header("x-person"):
                known.person = SimpleNamespace(user_id=UUID(int=int(number)))
            return await proceed(call, request)

        return handle


class Slow:
    """Echoes when it is told to."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.begun = 0
        self.cancelled = 0

    async def __call__(self, call: Call, request: sign_pb2.SignRequest) -> sign_pb2.SignResponse:
        self.begun += 1
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return await echo(call, request)


def asked(size: int, number: int | None = None) -> bytes:
    """A request with so many bytes, as has the answer to it: of Sign and `echo`, or with a number of SignStream and
    `echo_each`."""
    room = size
    while True:
        message: Message = sign_pb2.SignRequest(data=bytes(room))
        if number is not None:
            message = sign_pb2.SignStreamRequest(correlation_id=number, requests=[sign_pb2.SignItem(data=bytes(room))])
        if (more := message.ByteSize() - size) <= 0:
            return message.SerializeToString()
        room -= more


class Front(NamedTuple):
    """A server under test: on TCP and a unix socket."""

    server: Server
    draining: Draining
    port: int
    socket: Path

    @property
    def held(self) -> int:
        """Bytes of unfinished requests; connections and owners have the same together as the process."""
        rooms = self.server._rooms
        each = [*(connection.calls._room for connection in self.server._open), *rooms._owned.values()]
        assert rooms.all.held == sum(room.held for room in each)
        return rooms.all.held

    @property
    def calls(self) -> int:
        """Those that are not over."""
        return sum(len(connection.calls._exchanges) for connection in self.server._open)

    @asynccontextmanager
    async def dialled(self, *, window: int = WINDOW_BYTES, unix: bool = False) -> AsyncIterator[Peer]:
        """window: of each of its streams."""
        if unix:
            reader, writer = await asyncio.open_unix_connection(self.socket)
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        peer = Peer(reader, writer, window)
        try:
            await peer.until(h2.events.WindowUpdated, 0)
            yield peer
        finally:
            writer.transport.abort()

    def channel(self, *, options: Sequence[tuple[str, Any]] = ()) -> grpc.aio.Channel:
        """A client's own connection."""
        own = ("grpc.use_local_subchannel_pool", 1)
        return grpc.aio.insecure_channel(f"127.0.0.1:{self.port}", options=[own, *options])


@asynccontextmanager
async def served(
    sign: Handler = echo, stream: Handler = echo_each, *, interceptors: Sequence[Interceptor] | None = None
) -> AsyncIterator[Front]:
    """Both handlers behind Errors and Draining, or these interceptors. However its calls end, nothing stays counted."""
    draining = Draining()
    between: Sequence[Interceptor] = [Errors(), draining] if interceptors is None else interceptors
    handlers = dict.fromkeys(rpcs(), sign) | {STREAM: stream}
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        socket = Path(folder) / "s"
        server = Server(handlers, between, ["127.0.0.1:0", f"unix:{socket}"], Pace())
        await server.start()
        front = Front(server, draining, server._listening[0].sockets[0].getsockname()[1], socket)
        try:
            yield front
        finally:
            with patch.object(transport, "LAST_WORDS", 0.02):
                await asyncio.wait_for(server.stop(0, draining), CEILING)
            await until(lambda: not server._open)
            assert front.held == 0


def on_uvloop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Runs a test on the loop that the server has in production, on one of its own, and looks that no task is left."""

    async def whole(*args: Any, **kwargs: Any) -> None:
        async with asyncio.timeout(CEILING):
            await test(*args, **kwargs)
        await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        uvloop.run(whole(*args, **kwargs))

    return run


async def until(true: Callable[[], bool]) -> None:
    """Wait for what others do."""
    for _ in range(2_000):
        if true():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come to pass")


def _reason(details: bytes) -> str:
    info = error_details_pb2.ErrorInfo()
    assert status_pb2.Status.FromString(details).details[0].Unpack(info)
    return str(info.reason)


def reason_of(refused: grpc.aio.AioRpcError) -> tuple[grpc.StatusCode, str]:
    """How gRPC's client was refused: the code and the reason in `grpc-status-details-bin`."""
    details = dict(refused.trailing_metadata())["grpc-status-details-bin"]
    assert isinstance(details, bytes)
    return refused.code(), _reason(details)


def status_in(fields: Mapping[str, str]) -> tuple[grpc.StatusCode, str]:
    """The same in an answer's fields; without a reason it is ""."""
    (code,) = [code for code in grpc.StatusCode if str(code.value[0]) == fields["grpc-status"]]
    details = fields.get("grpc-status-details-bin", "")
    return code, _reason(base64.b64decode(details + "=" * (-len(details) % 4))) if details else ""
