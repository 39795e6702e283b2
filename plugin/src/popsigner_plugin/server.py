"""The plugin's gRPC server: services on a unix socket behind mutual TLS."""

import asyncio
import ssl
from collections.abc import Iterable, Sequence
from pathlib import Path

from popsigner_plugin.connection import Connection
from popsigner_plugin.rpc import Service


class Server:
    """Serves the methods of these services to whoever dials."""

    def __init__(self, services: Iterable[Service]) -> None:
        self._methods = {path.encode(): method for service in services for path, method in service.methods().items()}
        self._open: set[Connection] = set()
        self._listening: asyncio.Server | None = None

    async def start(self, socket: Path, *, tls: ssl.SSLContext | None) -> None:
        """Listen. tls: our side of it, None in tests alone."""
        self._listening = await asyncio.get_running_loop().create_unix_server(
            lambda: Connection(self._methods, self._open), str(socket), ssl=tls
        )

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


async def _within(timeout: float, awaited: Sequence[asyncio.Future[None]]) -> None:
    if awaited:
        await asyncio.wait(awaited, timeout=timeout)
