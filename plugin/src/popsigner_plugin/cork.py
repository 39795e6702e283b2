"""Fewer writes: what one turn of the event loop says to OpenBao leaves together.

The gRPC library writes headers, message and trailers one by one. Over TLS each is a record, a system call, and a reader
on the other side that wakes up for it.
"""

import asyncio
from typing import Any, cast

from grpclib.protocol import H2Protocol
from grpclib.server import Server


class Corked:
    """A transport that gathers what is written in one turn of the loop, in order."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._parts: list[bytes] = []
        self._loop = asyncio.get_running_loop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Let it leave when this turn is over."""
        if not self._parts:
            self._loop.call_soon(self._leave)
        self._parts.append(data)

    def close(self) -> None:
        """Say what is left, and close."""
        self._leave()
        self._transport.close()

    def _leave(self) -> None:
        if self._parts:
            data, self._parts = b"".join(self._parts), []
            self._transport.write(data)


class CorkedServer(Server):
    """A gRPC server over such transports."""

    def _protocol_factory(self) -> H2Protocol:
        protocol = super()._protocol_factory()
        made = protocol.connection_made

        def connection_made(transport: asyncio.BaseTransport) -> None:
            made(cast(asyncio.BaseTransport, Corked(cast(asyncio.Transport, transport))))

        protocol.connection_made = connection_made  # type: ignore[method-assign]
        return protocol
