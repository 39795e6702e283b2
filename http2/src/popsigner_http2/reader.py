"""What the peer's frames say, in their order (RFC 9113, sections 4 to 6): which are whole, which are broken, what
becomes of each. Knows no socket."""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from popsigner_http2 import frames
from popsigner_http2.frames import Code, ConnectionFault, StreamFault, frame
from popsigner_http2.headers import BLOCK_BYTES, HeaderBlocks, Request
from popsigner_http2.outgoing import Outgoing

# What one turn of the loop takes of one connection: a frame counts one, a request 16 more and one for each 16 bytes of
# its headers, so that a turn is some 70 requests; SETTINGS 64 more, since they can move the windows of all open
# streams. Sixty thousand bytes can be a thousand requests or seven thousand empty frames, and all other connections
# would wait for them.
TURN: Final = 2_048
_REQUEST: Final = 16
_HEADER_BYTES: Final = 16
_SETTINGS: Final = 64
# What costs us more than the peer, frames that reset or that settle anew: so many at once, and so many a second.
_PATIENCE: Final = 2_000.0
_PATIENCE_SECOND: Final = 500.0


class Calls(Protocol):
    """What becomes of the streams of one connection. Raises StreamFault, ConnectionFault where the peer is wrong."""

    last: int
    """The highest stream that was begun."""

    def begin(self, stream: int, asked: Request, *, ended: bool) -> None:
        """A new stream with its headers."""

    def data(self, stream: int, content: bytes, size: int, *, ended: bool) -> None:
        """Content of a stream. size: with its padding, as windows count it."""

    def end(self, stream: int) -> None:
        """The peer has said its last on this stream."""

    def forget(self, stream: int) -> bool:
        """The stream is over; whoever works on its answer is told to stop. Whether it was soon after its beginning."""

    def forget_all(self) -> None:
        """The connection is over."""


class Reader:
    """Hands what streams say to their calls, and what the peer says of windows to what sends."""

    def __init__(
        self,
        calls: Calls,
        outgoing: Outgoing,
        *,
        window: int,
        send: Callable[[bytes], None],
        pong: Callable[[bytes], None],
    ) -> None:
        """window: bytes that all streams together may send before they are given more. pong: takes what a PING
        carries."""
        self.greeted = False
        self.turn = 0
        self._calls = calls
        self._outgoing = outgoing
        self._window = window
        self._send = send
        self._pong = pong
        self._settled = False
        self._blocks = HeaderBlocks()
        # The header block that CONTINUATION frames go on with: stream, flags of its HEADERS, what is there.
        self._block: tuple[int, int, bytes] | None = None
        self._uncredited = 0
        self._clock = asyncio.get_running_loop().time
        self._patience, self._patience_at = _PATIENCE, self._clock()

    def read(self, data: bytes) -> bytes:
        """Work on the frames that are there as a whole, until the turn is over; the rest. Raises ConnectionFault."""
        self.turn = 0
        position, end = 0, len(data)
        if not self.greeted:
            if not frames.PREFACE.startswith(data[: len(frames.PREFACE)]):
                raise ConnectionFault(Code.PROTOCOL_ERROR, "not HTTP/2's preface")
            if end < len(frames.PREFACE):
                return data
            self.greeted, position = True, len(frames.PREFACE)
        while end - position >= frames.HEAD_BYTES and self.turn < TURN:
            high, low, kind, flags, stream = frames.HEAD.unpack_from(data, position)
            size = high << 16 | low
            if size > frames.FRAME_BYTES:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, f"a frame of {size} bytes")
            start = position + frames.HEAD_BYTES
            if start + size > end:
                break
            position = start + size
            self.turn += 1
            self._frame(kind, flags, stream & 0x7FFFFFFF, data[start:position])
        return data[position:]

    def _calm(self) -> None:
        """Count a frame of which a peer needs few. Raises ConnectionFault."""
        now = self._clock()
        earned = (now - self._patience_at) * _PATIENCE_SECOND
        self._patience, self._patience_at = min(_PATIENCE, self._patience + earned) - 1, now
        if self._patience < 0:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "too many streams reset, or settings changed too often")

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if self._block is not None and (kind != frames.CONTINUATION or stream != self._block[0]):
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a header block that was not gone on with")
        if not self._settled and (kind != frames.SETTINGS or flags & frames.ACK):
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a first frame that is not SETTINGS")
        handler = _HANDLERS.get(kind)
        # Unknown kinds are extensions.
        if handler is not None:
            try:
                handler(self, flags, stream, payload)
            except StreamFault as fault:
                self._calm()
                self._calls.forget(stream)
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
        self.turn += _REQUEST + len(block) // _HEADER_BYTES
        ended = bool(first & frames.END_STREAM)
        if stream > self._calls.last:
            self._calls.last = stream
            self._calls.begin(stream, self._blocks.request(block), ended=ended)
            return
        # Trailers say nothing that we need, but change what the next block means.
        self._blocks.fields(block)
        if not ended:
            raise StreamFault(Code.PROTOCOL_ERROR, "a second request on one stream")
        self._calls.end(stream)

    def _data(self, flags: int, stream: int, payload: bytes) -> None:
        if not 0 < stream <= self._calls.last:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "DATA on a stream that is not open")
        size = len(payload)
        self._credit(size)
        content = frames.unpadded(payload, flags & frames.PADDED) if flags & frames.PADDED else payload
        self._calls.data(stream, content, size, ended=bool(flags & frames.END_STREAM))

    def _credit(self, size: int) -> None:
        self._uncredited += size
        if self._uncredited > self._window:
            raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "DATA beyond the connection's window")
        if self._uncredited > self._window // 2:
            self._send(frame(frames.WINDOW_UPDATE, 0, 0, frames.NUMBER.pack(self._uncredited)))
            self._uncredited = 0

    def _priority(self, flags: int, stream: int, payload: bytes) -> None:
        if not stream:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "PRIORITY on no stream")
        if len(payload) != 5:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "PRIORITY of a broken length")

    def _push(self, flags: int, stream: int, payload: bytes) -> None:
        raise ConnectionFault(Code.PROTOCOL_ERROR, "PUSH_PROMISE from a client")

    def _reset(self, flags: int, stream: int, payload: bytes) -> None:
        frames.number(payload, "RST_STREAM")
        if not 0 < stream <= self._calls.last:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "RST_STREAM of a stream that is not open")
        # One that was answered already, or whose caller has waited, costs no more than any call does.
        if self._calls.forget(stream):
            self._calm()

    def _settings(self, flags: int, stream: int, payload: bytes) -> None:
        if stream:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & frames.ACK:
            if payload:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, "an acknowledgement with content")
            return
        self._calm()
        self.turn += _SETTINGS
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
        self._outgoing.limits(window=window, frame_bytes=frame_bytes)

    def _ping(self, flags: int, stream: int, payload: bytes) -> None:
        if stream:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "PING of a broken length")
        if not flags & frames.ACK:
            self._pong(payload)

    def _goaway(self, flags: int, stream: int, payload: bytes) -> None:
        # Who says it finishes what it has begun and hangs up.
        if stream:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < 8:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "GOAWAY of a broken length")

    def _window_update(self, flags: int, stream: int, payload: bytes) -> None:
        more = frames.number(payload, "WINDOW_UPDATE") & frames.WINDOW_LIMIT
        if stream > self._calls.last:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "WINDOW_UPDATE of a stream that is not open")
        self._outgoing.widen(stream, more)


# Not of bound methods: a reader that holds itself would outlive its connection.
_HANDLERS: Final[dict[int, Callable[[Reader, int, int, bytes], None]]] = {
    frames.DATA: Reader._data,
    frames.HEADERS: Reader._headers,
    frames.PRIORITY: Reader._priority,
    frames.RST_STREAM: Reader._reset,
    frames.SETTINGS: Reader._settings,
    frames.PUSH_PROMISE: Reader._push,
    frames.PING: Reader._ping,
    frames.GOAWAY: Reader._goaway,
    frames.WINDOW_UPDATE: Reader._window_update,
    frames.CONTINUATION: Reader._continuation,
}
