"""One connection of a gRPC server over HTTP/2 (RFC 9113): frames in, frames out.

For few and short calls from one peer: what most of them need, two frames in and three out, takes one pass and one
write. The peer is OpenBao, behind mutual TLS, and is trusted with nothing: what it sends is bounded in streams, bytes
and running calls; a broken frame ends the connection, a broken call ends itself.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Final, cast

from popsigner_plugin import frames
from popsigner_plugin.calls import STREAM_WINDOW, STREAMS, Calls
from popsigner_plugin.frames import Code, ConnectionFault, StreamFault, frame
from popsigner_plugin.headers import BLOCK_BYTES, HeaderBlocks, request
from popsigner_plugin.rpc import Heard, Unary

WINDOW: Final = 16 * 2**20
_BUFFER_BYTES: Final = 65_536
_PING_SECONDS: Final = 0.005
_PINGS: Final = 8

_SETTINGS: Final = {
    frames.HEADER_TABLE_SIZE: 0,
    frames.MAX_CONCURRENT_STREAMS: STREAMS,
    frames.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
    frames.MAX_HEADER_LIST_SIZE: BLOCK_BYTES,
}
_log: Final = logging.getLogger(__name__)


class Connection(asyncio.BufferedProtocol):
    """Serves methods by their path. open: where the server keeps its connections."""

    def __init__(self, methods: Mapping[bytes, Unary | Heard], open: "set[Connection]") -> None:
        self.calls = Calls(methods, self._send)
        self._open = open
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self.lost = self._loop.create_future()
        # One that stays: for whoever has none, uvloop makes and drops 256 KiB for each record, and dropping overwrites.
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        self._rest = b""
        self._greeted = False
        self._settled = False
        self._blocks = HeaderBlocks()
        # The header block that CONTINUATION frames go on with: stream, flags of its HEADERS, what is there.
        self._block: tuple[int, int, bytes] | None = None
        self._uncredited = 0
        self._out: list[bytes] = []
        self._pongs: list[bytes] = []
        self._handlers = {
            frames.DATA: self._data,
            frames.HEADERS: self._headers,
            frames.PRIORITY: self._priority,
            frames.RST_STREAM: self._reset,
            frames.SETTINGS: self._settings,
            frames.PUSH_PROMISE: self._push,
            frames.PING: self._ping,
            frames.WINDOW_UPDATE: self._window_update,
            frames.CONTINUATION: self._continuation,
        }

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._open.add(self)
        more = frames.NUMBER.pack(WINDOW - frames.WINDOW_BYTES)
        self._send(frames.settings(_SETTINGS) + frame(frames.WINDOW_UPDATE, 0, 0, more))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        data = bytes(self._buffer[:nbytes])
        try:
            self._rest = self._consumed(self._rest + data if self._rest else data)
        except ConnectionFault as fault:
            _log.warning("what came from OpenBao is not HTTP/2: %s", fault)
            self._send(frames.goaway(self.calls.last, fault.code))
            self.close()

    def pause_writing(self) -> None:
        # Who does not read is not read: else acknowledgements and answers would pile up here.
        if self._transport is not None:
            self._transport.pause_reading()
        self.calls.pause(True)

    def resume_writing(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()
        self.calls.pause(False)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._rest = b""
        self._open.discard(self)
        self.calls.forget_all()
        if not self.lost.done():
            self.lost.set_result(None)

    def farewell(self) -> None:
        """Tell the peer to begin no further call."""
        self._send(frames.goaway(self.calls.last, Code.NO_ERROR))

    def close(self) -> None:
        """Say what is left, and hang up."""
        self._leave()
        self.calls.forget_all()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Hang up without a word."""
        if self._transport is not None:
            self._transport.abort()

    def _send(self, data: bytes) -> None:
        """Let it leave when this turn of the loop is over.

        What one turn says leaves together: over TLS each write is a record, a system call, and a reader on the other
        side that wakes up for it.
        """
        if not self._out:
            self._loop.call_soon(self._leave)
        self._out.append(data)

    def _pong(self) -> None:
        if self._pongs:
            self._send(b"")

    def _leave(self) -> None:
        if self._out:
            self._out, self._pongs = self._pongs + self._out, []
            data, self._out = b"".join(self._out), []
            if self._transport is not None and not self._transport.is_closing():
                self._transport.write(data)

    def _consumed(self, data: bytes) -> bytes:
        """Work on all frames that are there as a whole; the rest."""
        position, end = 0, len(data)
        if not self._greeted:
            if not frames.PREFACE.startswith(data[: len(frames.PREFACE)]):
                raise ConnectionFault(Code.PROTOCOL_ERROR, "not HTTP/2's preface")
            if end < len(frames.PREFACE):
                return data
            self._greeted, position = True, len(frames.PREFACE)
        while end - position >= frames.HEAD_BYTES:
            high, low, kind, flags, stream = frames.HEAD.unpack_from(data, position)
            size = high << 16 | low
            if size > frames.FRAME_BYTES:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, f"a frame of {size} bytes")
            start = position + frames.HEAD_BYTES
            position = start + size
            if position > end:
                return data[start - frames.HEAD_BYTES :]
            self._frame(kind, flags, stream & 0x7FFFFFFF, data[start:position])
        return data[position:]

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if self._block is not None and (kind != frames.CONTINUATION or stream != self._block[0]):
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a header block that was not gone on with")
        if not self._settled and (kind != frames.SETTINGS or flags & frames.ACK):
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a first frame that is not SETTINGS")
        handler = self._handlers.get(kind)
        # Unknown kinds are extensions, and a peer that says GOAWAY finishes what it has begun and hangs up.
        if handler is not None:
            try:
                handler(flags, stream, payload)
            except StreamFault as fault:
                self.calls.forget(stream)
                self._send(frame(frames.RST_STREAM, 0, stream, frames.NUMBER.pack(fault.code)))

    def _headers(self, flags: int, stream: int, payload: bytes) -> None:
        if stream % 2 == 0:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "HEADERS on a stream that a client cannot open")
        self._gathered(stream, flags, frames.unpadded(payload, flags), flags)

    def _continuation(self, flags: int, stream: int, payload: bytes) -> None:
        if self._block is None:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "CONTINUATION of nothing")
        _, first, block = self._block
        # An empty one could be repeated for ever.
        if not payload and not flags & frames.END_HEADERS:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "CONTINUATION without content")
        self._gathered(stream, first, block + payload, flags)

    def _gathered(self, stream: int, first: int, block: bytes, flags: int) -> None:
        if len(block) > BLOCK_BYTES:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "a header block that is too long")
        if not flags & frames.END_HEADERS:
            self._block = (stream, first, block)
            return
        self._block = None
        fields = self._blocks.fields(block)
        ended = bool(first & frames.END_STREAM)
        if stream > self.calls.last:
            self.calls.last = stream
            self.calls.begin(stream, request(fields), ended=ended)
        elif not ended:
            raise StreamFault(Code.PROTOCOL_ERROR, "a second request on one stream")
        else:
            self.calls.end(stream)

    def _data(self, flags: int, stream: int, payload: bytes) -> None:
        if not 0 < stream <= self.calls.last:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "DATA on a stream that is not open")
        size = len(payload)
        self._credit(size)
        content = frames.unpadded(payload, flags & frames.PADDED) if flags & frames.PADDED else payload
        self.calls.data(stream, content, size, ended=bool(flags & frames.END_STREAM))

    def _credit(self, size: int) -> None:
        self._uncredited += size
        if self._uncredited > WINDOW:
            raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "DATA beyond the connection's window")
        if self._uncredited > WINDOW // 2:
            self._send(frame(frames.WINDOW_UPDATE, 0, 0, frames.NUMBER.pack(self._uncredited)))
            self._uncredited = 0

    def _priority(self, flags: int, stream: int, payload: bytes) -> None:
        if not stream or len(payload) != 5:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "a broken PRIORITY")

    def _push(self, flags: int, stream: int, payload: bytes) -> None:
        raise ConnectionFault(Code.PROTOCOL_ERROR, "PUSH_PROMISE from a client")

    def _reset(self, flags: int, stream: int, payload: bytes) -> None:
        frames.number(payload, "RST_STREAM")
        if not 0 < stream <= self.calls.last:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "RST_STREAM of a stream that is not open")
        self.calls.forget(stream)

    def _settings(self, flags: int, stream: int, payload: bytes) -> None:
        if stream:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & frames.ACK:
            if payload:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, "an acknowledgement with content")
            self._blocks.no_table()
            return
        self._settled = True
        window = frame_bytes = None
        for name, value in frames.settings_of(payload):
            if name == frames.INITIAL_WINDOW_SIZE:
                if value > frames.WINDOW_LIMIT:
                    raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "an INITIAL_WINDOW_SIZE that is none")
                window = value
            elif name == frames.MAX_FRAME_SIZE:
                if not frames.FRAME_BYTES <= value < 1 << 24:
                    raise ConnectionFault(Code.PROTOCOL_ERROR, "a MAX_FRAME_SIZE that is none")
                frame_bytes = value
            elif name == frames.ENABLE_PUSH and value > 1:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "an ENABLE_PUSH that is none")
        self._send(frame(frames.SETTINGS, frames.ACK, 0))
        self.calls.limits(window=window, frame_bytes=frame_bytes)

    def _ping(self, flags: int, stream: int, payload: bytes) -> None:
        if stream:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "PING of a broken length")
        if not flags & frames.ACK:
            self._pongs.append(frame(frames.PING, frames.ACK, 0, payload))
            # OpenBao pings after each answer, to learn how wide windows should be. A write for that alone would cost as
            # much as an answer, so it leaves with the next one, if that comes soon.
            if len(self._pongs) == 1:
                self._loop.call_later(_PING_SECONDS, self._pong)
            elif len(self._pongs) == _PINGS:
                self._pong()

    def _window_update(self, flags: int, stream: int, payload: bytes) -> None:
        more = frames.number(payload, "WINDOW_UPDATE") & frames.WINDOW_LIMIT
        if stream > self.calls.last:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "WINDOW_UPDATE of a stream that is not open")
        self.calls.widen(stream, more)
