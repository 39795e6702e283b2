"""What is left to send of each stream's answer, within the peer's windows (RFC 9113, section 5.2)."""

from collections.abc import Callable

from popsigner_http2 import frames
from popsigner_http2.frames import Code, ConnectionFault, StreamFault, frame


class Stream:
    """One stream, as far as it answers. window: bytes that the peer takes of it. unsent: what waits to go into DATA
    frames. ending: the frames after those."""

    __slots__ = ("ending", "number", "unsent", "window")

    def __init__(self, number: int) -> None:
        self.number = number
        self.window = 0
        self.unsent = bytearray()
        self.ending = b""

    def sent(self) -> None:
        """All that was said has left."""


class Outgoing:
    """Sends what streams say, in their order, as far as windows and the reader allow; the rest when they do."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._streams: dict[int, Stream] = {}
        # Those that wait for the connection's window or for a peer that does not read. Who waits for a window of its
        # own is not among them: else a peer that widens in small steps would have all looked at for each.
        self._ready: dict[int, Stream] = {}
        self._window = frames.WINDOW_BYTES
        self._initial = frames.WINDOW_BYTES
        self._frame_bytes = frames.FRAME_BYTES
        self._paused = False

    def open(self, stream: Stream) -> None:
        """The stream will answer."""
        stream.window = self._initial
        self._streams[stream.number] = stream

    def drop(self, number: int) -> None:
        """The stream is over."""
        self._streams.pop(number, None)
        self._ready.pop(number, None)

    def take(self, stream: Stream, size: int) -> bool:
        """Whether so many bytes may leave at once, as one frame; they are then counted as sent."""
        if self._paused or self._ready or size > min(self._window, stream.window, self._frame_bytes):
            return False
        self._window -= size
        stream.window -= size
        return True

    def say(self, stream: Stream, content: bytes, ending: bytes = b"") -> None:
        """Send content as DATA, after what the stream has said before, and then these frames."""
        stream.unsent += content
        stream.ending = ending
        self._push(stream)

    def widen(self, number: int, more: int) -> None:
        """The peer takes more bytes: of one stream, or of all together (0). Raises StreamFault, ConnectionFault."""
        if not number:
            self._window += more
            if not more:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "a WINDOW_UPDATE of nothing")
            if self._window > frames.WINDOW_LIMIT:
                raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "a window that is too large")
            self._push_ready()
        elif (stream := self._streams.get(number)) is not None:
            stream.window += more
            if not more:
                raise StreamFault(Code.PROTOCOL_ERROR, "a WINDOW_UPDATE of nothing")
            if stream.window > frames.WINDOW_LIMIT:
                raise StreamFault(Code.FLOW_CONTROL_ERROR, "a window that is too large")
            if stream.unsent:
                self._push(stream)

    def limits(self, *, window: int | None, frame_bytes: int | None) -> None:
        """What the peer's SETTINGS say of streams and frames, None where they say nothing. Raises ConnectionFault."""
        if frame_bytes is not None:
            self._frame_bytes = frame_bytes
        if window is None:
            return
        difference, self._initial = window - self._initial, window
        for stream in list(self._streams.values()):
            stream.window += difference
            if stream.window > frames.WINDOW_LIMIT:
                raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "a stream's window that is too large")
            if stream.unsent:
                self._push(stream)

    def pause(self, paused: bool) -> None:
        """Whether the peer reads too slowly for answers to be sent."""
        self._paused = paused
        if not paused:
            self._push_ready()

    def _push_ready(self) -> None:
        for stream in list(self._ready.values()):
            if self._window <= 0:
                break
            self._push(stream)

    def _push(self, stream: Stream) -> None:
        unsent = stream.unsent
        while unsent:
            room = min(self._window, stream.window, self._frame_bytes)
            if self._paused or room <= 0:
                if stream.window > 0:
                    self._ready[stream.number] = stream
                else:
                    self._ready.pop(stream.number, None)
                return
            part = bytes(unsent[:room])
            del unsent[:room]
            self._window -= len(part)
            stream.window -= len(part)
            self._send(frame(frames.DATA, 0, stream.number, part))
        self._ready.pop(stream.number, None)
        if stream.ending:
            self._send(stream.ending)
        stream.sent()
