"""What stands around the package here: calls that answer at once, a transport without a socket, a clock that does not
wait, frames taken apart."""

import asyncio
import selectors
import struct
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple, TypeVar

from popsigner_http2 import frames, grpc
from popsigner_http2.connection import BUFFER_BYTES, Connection, Terms
from popsigner_http2.frames import frame
from popsigner_http2.headers import Request
from popsigner_http2.outgoing import Outgoing, Stream

T = TypeVar("T")

BLOCK = b"\x83\x86\x44\x0c/t.Test/Echo\x5f\x10application/grpc"
GREETING = frames.PREFACE + frames.settings({})
SETTLED = GREETING + frame(frames.SETTINGS, frames.ACK, 0)
# With what gRPC's clients say, and a key.
ORDINARY = BLOCK + b"".join(
    (
        grpc.literal(b"te", b"trailers"),
        grpc.literal(b"user-agent", b"grpc-python/1.80.0 grpc-c/50.0.0 (linux; chttp2)"),
        grpc.literal(b"grpc-accept-encoding", b"identity, deflate, gzip"),
        grpc.literal(b"authorization", b"Bearer psk_0123456789abcdefghijklmnopqrstuvwxyz"),
    )
)
ENDS = frames.END_HEADERS | frames.END_STREAM


def asking(stream: int, *, flags: int = ENDS, block: bytes = BLOCK) -> bytes:
    """A request in one frame."""
    return frame(frames.HEADERS, flags, stream, block)


def requests(count: int, *, first: int = 1) -> bytes:
    """So many ordinary ones, as a peer without a table asks."""
    return b"".join(asking(first + 2 * number, block=ORDINARY) for number in range(count))


WITHOUT_TABLE = SETTLED + asking(1, block=b"\x20" + BLOCK)


def reset(stream: int) -> bytes:
    return frame(frames.RST_STREAM, 0, stream, struct.pack(">L", frames.Code.CANCEL))


def widening(more: int, stream: int = 0) -> bytes:
    return frame(frames.WINDOW_UPDATE, 0, stream, struct.pack(">L", more))


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes


def frames_in(data: bytes) -> list[Frame]:
    """The frames that these bytes are, all of them whole."""
    found = []
    while data:
        high, low, kind, flags, stream = frames.HEAD.unpack_from(data)
        end = frames.HEAD_BYTES + (high << 16 | low)
        assert len(data) >= end, "a frame that is not whole"
        found.append(Frame(kind, flags, stream, data[frames.HEAD_BYTES : end]))
        data = data[end:]
    return found


def of_kind(kind: int, data: bytes) -> list[Frame]:
    return [each for each in frames_in(data) if each.kind == kind]


class Answer(Stream):
    """A stream that is forgotten when all of it has left."""

    def __init__(self, number: int, forget: Callable[[int], object]) -> None:
        super().__init__(number)
        self.forget = forget

    def sent(self) -> None:
        self.forget(self.number)


class Calls:
    """Answers each request with the same bytes, or leaves it open where there are none. said: all that streams said, in
    its order."""

    def __init__(self, send: Callable[[bytes], None], outgoing: Outgoing, answer: bytes | None = b"") -> None:
        self.last = 0
        self.begun: list[int] = []
        self.said: list[tuple[Any, ...]] = []
        self.forgotten: list[int] = []
        self.open: dict[int, Answer] = {}
        self.over = False
        self._send = send
        self._outgoing = outgoing
        self._answer = answer

    def begin(self, stream: int, asked: Request, *, ended: bool) -> None:
        self.begun.append(stream)
        self.said.append(("begin", stream, asked, ended))
        answer = self.open[stream] = Answer(stream, self._done)
        self._outgoing.open(answer)
        if self._answer is not None:
            self.answer(stream, self._answer)

    def answer(self, stream: int, content: bytes) -> None:
        if self._outgoing.take(self.open[stream], len(content)):
            self._send(grpc.small(stream, content))
            self._done(stream)
        else:
            self._send(grpc.beginning(stream))
            self._outgoing.say(self.open[stream], content, grpc.ending(stream))

    def data(self, stream: int, content: bytes, size: int, *, ended: bool) -> None:
        self.said.append(("data", stream, content, size, ended))

    def end(self, stream: int) -> None:
        self.said.append(("end", stream))

    def forget(self, stream: int) -> bool:
        self.forgotten.append(stream)
        return self._done(stream)

    def forget_all(self) -> None:
        self.over = True

    def _done(self, stream: int) -> bool:
        self._outgoing.drop(stream)
        return self.open.pop(stream, None) is not None


class Served:
    """What a server has: terms, connections, what it was told of broken ones."""

    def __init__(self, *, answer: bytes | None = b"", keep_alive: float | None = None) -> None:
        self.told: list[str] = []
        self.open: set[Connection[Calls]] = set()
        self._answer = answer
        self._terms = Terms(1_024, 2**20, 2**17, keep_alive, self.told.append)
        self._buffer = memoryview(bytearray(BUFFER_BYTES))

    def connection(self) -> Connection[Calls]:
        return Connection(self._terms, self._calls, self.open, self._buffer)

    def _calls(self, send: Callable[[bytes], None], outgoing: Outgoing, _: object) -> Calls:
        return Calls(send, outgoing, self._answer)


class Wire(asyncio.Transport):
    """A transport without a socket. written: all that was said. reading: whether more would be read. lingers: whether
    the peer does not take the last of it, so that closing does not end."""

    def __init__(self, connection: Connection[Calls]) -> None:
        super().__init__()
        self.written = bytearray()
        self.writes = 0
        self.reading = True
        self.aborted = False
        self.lingers = False
        self._closing = False
        self._lost = False
        self._connection = connection
        connection.connection_made(self)

    def feed(self, data: bytes) -> None:
        """What the peer says, as one read; at most the buffer."""
        self._connection.get_buffer(-1)[: len(data)] = data
        self._connection.buffer_updated(len(data))

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data
        self.writes += 1

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True
        if not self.lingers:
            self._lose()

    def abort(self) -> None:
        self._closing = self.aborted = True
        self._lose()

    def _lose(self) -> None:
        if not self._lost:
            self._lost = True
            asyncio.get_running_loop().call_soon(self._connection.connection_lost, None)


class _Selector(selectors.DefaultSelector):
    """Looks at sockets, and lets the time that a loop would wait be over."""

    def __init__(self) -> None:
        super().__init__()
        self.passed = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "waits for what nobody will do"
        self.passed += max(timeout, 0.0)
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._passing = _Selector()
        super().__init__(self._passing)

    def time(self) -> float:
        return self._passing.passed


def without_waiting(work: Coroutine[Any, Any, T]) -> T:
    """Run what sleeps for minutes, on a clock of its own that takes none."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(work)
