"""One connection of a gRPC server over HTTP/2 (RFC 9113): frames in, frames out.

What a short call needs, two frames in and three out, takes one pass and one write. The peer is trusted with nothing:
what it sends is bounded in streams, in bytes, and in what one turn of the event loop works on; a broken frame ends the
connection, a broken call ends itself.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final, Generic, NamedTuple, TypeVar, cast

from popsigner_http2 import frames
from popsigner_http2.frames import Code, ConnectionFault, frame
from popsigner_http2.headers import BLOCK_BYTES
from popsigner_http2.outgoing import Outgoing
from popsigner_http2.reader import TURN, Calls, Reader
from popsigner_http2.writer import Writer

BUFFER_BYTES: Final = 65_536

C = TypeVar("C", bound=Calls)


class Terms(NamedTuple):
    """What the connections of a server have in common. window, stream_window: bytes that a peer may send of all and of
    each stream before it is given more. keep_alive: seconds of silence after which a peer is asked whether it is there,
    and after as many more taken for gone; None to wait for ever. broken: is told why a connection is ended."""

    streams: int
    window: int
    stream_window: int
    keep_alive: float | None
    broken: Callable[[str], None]


class Connection(asyncio.BufferedProtocol, Generic[C]):
    """Hands what streams say to its calls. Those are made with what sends frames, what sends answers, and the peer's
    address."""

    def __init__(
        self,
        terms: Terms,
        calls: Callable[[Callable[[bytes], None], Outgoing, Any], C],
        open: "set[Connection[C]]",
        buffer: memoryview,
    ) -> None:
        """open: where the server keeps its connections. buffer: BUFFER_BYTES; those of one event loop can share one,
        since each has copied what it read before the next one reads."""
        self.calls: C
        self._reader: Reader
        self.lost = asyncio.get_running_loop().create_future()
        self._terms = terms
        self._make_calls = calls
        self._open = open
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._buffer = buffer
        self._rest = b""
        self._writer = Writer()
        self._outgoing = Outgoing(self._writer.send)
        # Why it is not read: the peer does not read either; the turn is over.
        self._unread = False
        self._turned = False
        self._silent = 0
        self._alive: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        writer = self._writer
        writer.begin(self._transport)
        self.calls = self._make_calls(writer.send, self._outgoing, transport.get_extra_info("peername"))
        self._reader = Reader(
            self.calls, self._outgoing, window=self._terms.window, send=writer.send, pong=writer.answer_ping
        )
        self._open.add(self)
        settings = {
            frames.HEADER_TABLE_SIZE: 0,
            frames.MAX_CONCURRENT_STREAMS: self._terms.streams,
            frames.INITIAL_WINDOW_SIZE: self._terms.stream_window,
            frames.MAX_HEADER_LIST_SIZE: BLOCK_BYTES,
        }
        more = frames.NUMBER.pack(self._terms.window - frames.WINDOW_BYTES)
        self._writer.send(frames.settings(settings) + frame(frames.WINDOW_UPDATE, 0, 0, more))
        if self._terms.keep_alive is not None:
            self._alive = self._loop.call_later(self._terms.keep_alive, self._look, self._terms.keep_alive)

    def _look(self, seconds: float) -> None:
        """Look whether the peer has said anything, or let go of it."""
        if self._transport is None:
            return
        if self._silent > 1 or not self._reader.greeted or self._transport.is_closing():
            self.abort()
            return
        if self._silent == 1:
            self._writer.send(frame(frames.PING, 0, 0, bytes(8)))
        self._silent += 1
        self._alive = self._loop.call_later(seconds, self._look, seconds)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._silent = 0
        self._rest += self._buffer[:nbytes]
        self._work()
        # There is more, and uvloop would read it before anybody else is.
        if nbytes == len(self._buffer):
            self._end_turn()

    def _work(self) -> None:
        """Go through what is there, as far as it makes whole frames and one turn allows."""
        if self._transport is None or self._transport.is_closing():
            return
        data, self._rest = self._rest, b""
        try:
            self._rest = self._reader.read(data)
        except ConnectionFault as fault:
            self._terms.broken(str(fault))
            self._writer.send(frames.goaway(self.calls.last, fault.code))
            self.close()
        else:
            if self._reader.turn >= TURN:
                self._end_turn()

    def _end_turn(self) -> None:
        if not self._turned and self._transport is not None and not self._transport.is_closing():
            self._turned = True
            self._transport.pause_reading()
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._turned = False
        if not self._unread:
            self._work()
            if not self._turned and self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()

    def pause_writing(self) -> None:
        # Who does not read is not read: else acknowledgements and answers would pile up here.
        self._unread = True
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()
        self._outgoing.pause(True)

    def resume_writing(self) -> None:
        self._unread = False
        self._outgoing.pause(False)
        if not self._turned:
            self._turned = True
            self._loop.call_soon(self._go_on)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._writer.end()
        self._rest = b""
        self._open.discard(self)
        if self._alive is not None:
            self._alive.cancel()
        self.calls.forget_all()
        if not self.lost.done():
            self.lost.set_result(None)

    def forewarn(self) -> None:
        """Ask the peer to begin its further calls elsewhere; those on their way are still taken (RFC 9113, 6.8)."""
        self._writer.send(frames.goaway(frames.WINDOW_LIMIT, Code.NO_ERROR))

    def farewell(self) -> None:
        """Tell the peer to begin no further call."""
        self._writer.send(frames.goaway(self.calls.last, Code.NO_ERROR))

    def close(self) -> None:
        """Say what is left, and hang up."""
        self._writer.leave()
        self.calls.forget_all()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Hang up without a word."""
        if self._transport is not None:
            self._transport.abort()
