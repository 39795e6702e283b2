"""What a connection says: collected in a turn of the event loop, and written when it is over."""

import asyncio
from typing import Final

from popsigner_http2 import frames
from popsigner_http2.frames import frame

_PING_SECONDS: Final = 0.005
_PINGS: Final = 8


class Writer:
    """Writes frames in their order.

    Everything of a connection that speaks holds this and not the connection: so a connection that ended is no part of a
    cycle, and goes at once instead of waiting for a collector that comes once in many hours.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._pongs: list[bytes] = []

    def begin(self, transport: asyncio.Transport) -> None:
        """The connection is there."""
        self._transport = transport

    def end(self) -> None:
        """The connection is lost; what is said from now on is said to nobody."""
        self._transport = None

    def send(self, data: bytes) -> None:
        """Let it leave when this turn of the loop is over.

        What one turn says leaves together: each write is a system call, a record over TLS, and a reader on the other
        side that wakes up for it.
        """
        if not self._out:
            self._loop.call_soon(self.leave)
        self._out.append(data)

    def answer_ping(self, content: bytes) -> None:
        """Send it back."""
        # gRPC's clients ping after each answer, to learn how wide windows should be. A write for that alone would cost
        # as much as an answer, so it leaves with the next one, if that comes soon.
        self._pongs.append(frame(frames.PING, frames.ACK, 0, content))
        if len(self._pongs) == 1:
            self._loop.call_later(_PING_SECONDS, self._pong)
        elif len(self._pongs) == _PINGS:
            self._pong()

    def _pong(self) -> None:
        if self._pongs:
            self.send(b"")

    def leave(self) -> None:
        """Write all that was said."""
        if self._out:
            self._out, self._pongs = self._pongs + self._out, []
            data, self._out = b"".join(self._out), []
            if self._transport is not None and not self._transport.is_closing():
                self._transport.write(data)
