"""The plugin's gRPC server: services on a unix socket behind mutual TLS."""

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from popsigner_http2.connection import BUFFER_BYTES, Connection, Terms
from popsigner_http2.outgoing import Outgoing
from popsigner_plugin.calls import STREAM_WINDOW, STREAMS, Calls
from popsigner_plugin.rpc import Service

_WINDOW: Final = 16 * 2**20

_log: Final = logging.getLogger(__name__)


class Server:
    """Serves the methods of these services to whoever dials."""

    def __init__(self, services: Iterable[Service]) -> None:
        self._methods = {path.encode(): method for service in services for path, method in service.methods().items()}
        self._open: set[Connection[Calls]] = set()
        # One that stays: for whoever has none, uvloop makes and drops 256 KiB for each record, and dropping overwrites.
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._listening: asyncio.Server | None = None

    async def start(self, socket: Path, *, tls: ssl.SSLContext | None) -> None:
        """Listen. tls: our side of it, None in tests alone."""
        self._listening = await asyncio.get_running_loop().create_unix_server(self._connection, str(socket), ssl=tls)

    def _connection(self) -> Connection[Calls]:
        # OpenBao ends with us, and we with it: neither asks whether the other is there.
        terms = Terms(STREAMS, _WINDOW, STREAM_WINDOW, keep_alive=None, broken=_broken)
        return Connection(terms, self._calls, self._open, self._buffer)

    def _calls(self, send: Callable[[bytes], None], outgoing: Outgoing, _: object) -> Calls:
        return Calls(self._methods, send, outgoing)

    async def close(self, *, timeout: float) -> None:
        """Take nothing more, finish the calls that are being answered, hang up. timeout: seconds, for each."""
        if self._listening is not None:
            self._listening.close()
        for connection in self._open:
            connection.farewell()
        await _within(timeout, [task for connection in self._open for task in connection.calls.tasks])
        lost = [connection.lost for connection in self._open]
        for connection in list(self._open):
            connection.close()
        # An event loop that is closed while TLS says its last waits for ever.
        await _within(timeout, lost)
        for connection in list(self._open):
            connection.abort()
        await _within(timeout, lost)


def _broken(why: str) -> None:
    _log.warning("what came from OpenBao is not HTTP/2: %s", why)


async def _within(timeout: float, awaited: Sequence[asyncio.Future[None]]) -> None:
    if awaited:
        await asyncio.wait(awaited, timeout=timeout)
