"""The gRPC server: the contract's services, health and reflection, on TCP and a unix socket.

It speaks HTTP/2 itself (`popsigner_http2`), where grpc.aio would take two thirds of what a Sign costs this process;
docs/architecture.md has the measurements, and what is done about what a library would do.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import structlog
from grpc_health.v1 import health, health_pb2

from popsigner_http2.connection import BUFFER_BYTES, Connection, Terms
from popsigner_http2.outgoing import Outgoing
from popsigner_server.limits.pace import Pace
from popsigner_server.transport.body import STREAM_WINDOW, Rooms
from popsigner_server.transport.calls import STREAMS, Calls
from popsigner_server.transport.contract import SERVICES, CallTurns, methods_of, unknown
from popsigner_server.transport.interceptors.base import Handler, Interceptor
from popsigner_server.transport.interceptors.draining import Draining
from popsigner_server.transport.open_files import connections

# Bytes of all streams of a connection that may be under way: what is bounded is what they leave here (body.Rooms).
WINDOW = 8 << 20
# Seconds of silence after which a peer is asked whether it is there; after as many more it is let go.
KEEP_ALIVE = 20.0
BACKLOG = 1024
# Seconds that calls have which are on their way when a server says that it goes, and a task or a connection to end.
LAST_WORDS = 0.25
# Seconds between two looks whether answers have been read, which nobody is told.
LOOK = 0.02
# Seconds between two lines in the log about peers that do not speak HTTP/2, or for which there is no room.
TELLING = 10.0

log = structlog.get_logger(__name__)


class _NoRoom(asyncio.Protocol):
    """In place of one connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).abort()


class Server:
    """Serves until it is told to stop."""

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        interceptors: Sequence[Interceptor],
        addresses: Sequence[str],
        pace: Pace,
    ) -> None:
        """addresses: `host:port` or `unix:path`. pace: at which calls run that do not sign. Raises ValueError where an
        RPC has no handler."""
        self._health = health.aio.HealthServicer()
        self.turns = CallTurns()
        self._methods = methods_of(handlers, interceptors, self.turns, pace, self._health)
        self._unknown = unknown(interceptors)
        self._names = ["", *[service.full_name for service in SERVICES]]
        self._addresses = list(addresses)
        self._listening: list[asyncio.Server] = []
        self._open: set[Connection[Calls]] = set()
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._rooms = Rooms()
        self._serving: bool | None = None
        self._told = -TELLING
        self._most = connections()

    async def start(self) -> None:
        """Bind and serve, NOT_SERVING at first. Raises OSError when an address is taken."""
        await self.set_serving(False)
        for address in self._addresses:
            try:
                self._listening.append(await self._listen(address))
            except OSError as error:
                raise OSError(f"cannot listen on {address}: {error.strerror or error}") from error

    async def _listen(self, address: str) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        if address.startswith("unix:"):
            return await loop.create_unix_server(self._connection, address.removeprefix("unix:"), backlog=BACKLOG)
        host, _, port = address.rpartition(":")
        # Server processes of one POP share the address.
        return await loop.create_server(self._connection, host.strip("[]"), int(port), reuse_port=True, backlog=BACKLOG)

    def _connection(self) -> asyncio.BaseProtocol:
        if len(self._open) >= self._most:
            # Those of the database and the vault are made of the same files.
            self._tell("connection refused, there are too many", connections=len(self._open))
            return _NoRoom()
        terms = Terms(STREAMS, WINDOW, STREAM_WINDOW, keep_alive=KEEP_ALIVE, broken=self._broken)
        return Connection(terms, self._calls, self._open, self._buffer)

    def _calls(self, send: Callable[[bytes], None], outgoing: Outgoing, peername: Any) -> Calls:
        return Calls(self._methods, self._unknown, self._rooms, send, outgoing, peername)

    def _broken(self, why: str) -> None:
        self._tell("connection ended, its peer breaks HTTP/2", why=why)

    def _tell(self, what: str, **more: object) -> None:
        # Not for each: a log can be filled by whoever reaches the port.
        if time.monotonic() - self._told >= TELLING:
            self._told = time.monotonic()
            log.info(what, **more)

    async def set_serving(self, serving: bool) -> None:
        """What health says."""
        if serving is self._serving:
            return
        self._serving = serving
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in self._names:
            await self._health.set(name, status)

    async def stop(self, grace: float, draining: Draining) -> None:
        """Refuse new calls, give those under way `grace` seconds, then end them."""
        loop = asyncio.get_running_loop()
        end = loop.time() + grace
        await self._health.enter_graceful_shutdown()
        # Who comes anew finds the other processes of this address, and who is here goes there, while calls under way
        # are answered.
        for listening in self._listening:
            listening.close()
        for connection in self._open:
            connection.forewarn()
        # What was on its way when that was said is still taken.
        await asyncio.sleep(min(LAST_WORDS, grace))
        await draining.begin(end - loop.time())
        # And what comes all the same is refused by name, before nobody is there.
        await asyncio.sleep(LAST_WORDS)
        for connection in self._open:
            connection.farewell()
        await self._hang_up(end)

    async def _hang_up(self, end: float) -> None:
        """Wait until answers have been read, and end what is left: questions that have no end (Watch, reflection), and
        calls whose time is over."""
        loop = asyncio.get_running_loop()
        while loop.time() < end and any(connection.calls.unread for connection in self._open):  # noqa: ASYNC110
            await asyncio.sleep(LOOK)
        tasks = [task for connection in self._open for task in connection.calls.tasks]
        for task in tasks:
            task.cancel()
        await _settled(tasks, LAST_WORDS)
        lost = [connection.lost for connection in self._open]
        for connection in list(self._open):
            connection.close()
        await _settled(lost, max(LAST_WORDS, end - loop.time()))
        for connection in list(self._open):
            connection.abort()
        await _settled(lost, LAST_WORDS)


async def _settled(awaited: "Sequence[asyncio.Future[None]]", seconds: float) -> None:
    """Wait for all of these, at most so long."""
    if awaited and seconds > 0:
        await asyncio.wait(awaited, timeout=seconds)
