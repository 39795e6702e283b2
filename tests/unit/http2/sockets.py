"""Connections on real sockets, with a peer that reads and writes when the test says so."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from popsigner_http2 import frames
from popsigner_http2.connection import Connection
from tests.unit.http2.parts import Calls, Frame, Served, frames_in

# Bytes that each side's socket keeps for the other, so that a peer that does not read is soon felt.
KEPT = 32_768
WAIT = 10


class Peer:
    """One side of a socket. heard: the frames that it has read. connection: the other side."""

    def __init__(self, connection: Connection[Calls], transport: asyncio.Transport, own: socket.socket) -> None:
        self.connection = connection
        self.transport = transport
        self.heard: list[Frame] = []
        self._rest = b""
        self._own = own
        self._loop = asyncio.get_running_loop()

    @property
    def calls(self) -> Calls:
        return self.connection.calls

    async def say(self, data: bytes) -> None:
        """Send all, however long the other side takes."""
        await asyncio.wait_for(self._loop.sock_sendall(self._own, data), WAIT)

    async def fill(self, data: bytes) -> bytes:
        """Send as much of this as the other side takes while nobody reads its answers; what it does not."""
        still = 0
        while still < 20:
            try:
                sent = self._own.send(data)
            except BlockingIOError:
                sent = 0
            data, still = data[sent:], 0 if sent else still + 1
            assert data, "it reads without end"
            await asyncio.sleep(0 if sent else 0.002)
        return data

    async def hear(self, kind: int, count: int) -> list[Frame]:
        """Read until so many frames of this kind have come; those."""
        while len(found := [each for each in self.heard if each.kind == kind]) < count:
            part = await asyncio.wait_for(self._loop.sock_recv(self._own, 2**20), WAIT)
            assert part, "the connection has ended"
            self._take(self._rest + part)
        return found

    def _take(self, data: bytes) -> None:
        end = 0
        while len(data) - end >= frames.HEAD_BYTES:
            high, low, *_ = frames.HEAD.unpack_from(data, end)
            after = end + frames.HEAD_BYTES + (high << 16 | low)
            if after > len(data):
                break
            end = after
        self.heard += frames_in(data[:end])
        self._rest = data[end:]

    def leave(self) -> None:
        self._own.close()


@asynccontextmanager
async def dialled(served: Served) -> AsyncIterator[Peer]:
    """A peer of a server."""
    theirs, own = socket.socketpair()
    for each in (theirs, own):
        each.setblocking(False)
        each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KEPT)
    transport, connection = await asyncio.get_running_loop().connect_accepted_socket(served.connection, theirs)
    peer = Peer(connection, transport, own)
    try:
        yield peer
    finally:
        peer.leave()
        connection.abort()
        await asyncio.wait_for(connection.lost, WAIT)
