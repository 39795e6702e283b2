"""The calls of one connection: what came of each, which are being answered, what waits for the peer's window."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from google.protobuf.message import Message

from popsigner_plugin import frames, rpc
from popsigner_plugin.frames import Code, ConnectionFault, StreamFault, frame
from popsigner_plugin.headers import Request
from popsigner_plugin.rpc import Heard, Refused, Status, Unary

STREAMS: Final = 128
# A large batch fits into a stream's window, so that the peer does not wait for one that it does not fill.
STREAM_WINDOW: Final = 4 * 2**20
# What calls that have not arrived as a whole may hold together; more is refused, call by call.
HELD_BYTES: Final = 96 * 2**20

_log: Final = logging.getLogger(__name__)


class _Call:
    """One stream. received: bytes that are no whole message yet. uncredited: bytes of its window that were used.
    window: what the peer takes. answer: what is left to send."""

    __slots__ = ("answer", "ended", "method", "received", "stream", "task", "uncredited", "window")

    def __init__(self, stream: int, method: Unary | Heard, window: int) -> None:
        self.stream = stream
        self.method = method
        self.window = window
        self.received = bytearray()
        self.uncredited = 0
        self.ended = False
        self.task: asyncio.Task[None] | None = None
        self.answer = b""


class Calls:
    """Takes what streams say, answers through `send`. Raises StreamFault, ConnectionFault where the peer is wrong."""

    def __init__(self, methods: Mapping[bytes, Unary | Heard], send: Callable[[bytes], None]) -> None:
        self._methods = methods
        self._send = send
        self._calls: dict[int, _Call] = {}
        self._waiting: dict[int, _Call] = {}
        self._held = 0
        self._window = frames.WINDOW_BYTES
        self._call_window = frames.WINDOW_BYTES
        self._frame_bytes = frames.FRAME_BYTES
        self._paused = False
        self.last = 0
        # Of streams that the peer has reset, too: it must not start calls faster than they end.
        self.tasks: set[asyncio.Task[None]] = set()

    def begin(self, stream: int, request: Request, *, ended: bool) -> None:
        """A new stream with its headers."""
        if len(self._calls) >= STREAMS or len(self.tasks) >= STREAMS:
            raise StreamFault(Code.REFUSED_STREAM, "too many calls at once")
        method = self._methods.get(request.path)
        if request.method != b"POST" or not request.content_type.startswith(b"application/grpc"):
            refused = Refused(Status.INTERNAL, "this is no gRPC call")
        elif method is None:
            refused = Refused(Status.UNIMPLEMENTED, "there is no such method")
        elif request.encoding not in (b"", b"identity"):
            refused = Refused(Status.UNIMPLEMENTED, "compressed messages are not taken")
        else:
            self._calls[stream] = _Call(stream, method, self._call_window)
            if ended:
                self.end(stream)
            return
        self._say_refused(stream, refused, ended=ended)

    def data(self, stream: int, content: bytes, size: int, *, ended: bool) -> None:
        """Content of a stream. size: with its padding, as windows count it."""
        call = self._calls.get(stream)
        # Of a stream that was answered early or reset more may be under way.
        if call is None:
            return
        if call.ended:
            raise StreamFault(Code.STREAM_CLOSED, "DATA after the end")
        call.uncredited += size
        if call.uncredited > STREAM_WINDOW:
            raise StreamFault(Code.FLOW_CONTROL_ERROR, "DATA beyond the stream's window")
        call.received += content
        self._held += len(content)
        if self._held > HELD_BYTES:
            self._refuse(call, Refused(Status.RESOURCE_EXHAUSTED, "the calls under way hold too much already"))
        elif ended:
            self.end(stream)
        else:
            self._more(call)

    def end(self, stream: int) -> None:
        """The peer has said its last on this stream."""
        call = self._calls.get(stream)
        if call is None:
            return
        if call.ended:
            raise StreamFault(Code.STREAM_CLOSED, "an end after the end")
        call.ended = True
        try:
            if isinstance(call.method, Heard):
                self._hear(call, call.method)
                self._heard(call, call.method)
            else:
                self._answer(call, call.method)
        except Refused as refused:
            self._refuse(call, refused)

    def forget(self, stream: int) -> None:
        """The stream is over; whoever works on its answer is told to stop."""
        call = self._calls.pop(stream, None)
        if call is not None:
            self._waiting.pop(stream, None)
            self._held -= len(call.received)
            if call.task is not None:
                call.task.cancel()

    def forget_all(self) -> None:
        """The connection is over."""
        for stream in list(self._calls):
            self.forget(stream)

    def widen(self, stream: int, more: int) -> None:
        """The peer takes more bytes: of one stream, or of all together (0)."""
        if not stream:
            self._window += more
            if not more or self._window > frames.WINDOW_LIMIT:
                raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "a WINDOW_UPDATE that is none")
        elif (call := self._calls.get(stream)) is not None:
            call.window += more
            if not more or call.window > frames.WINDOW_LIMIT:
                raise StreamFault(Code.FLOW_CONTROL_ERROR, "a WINDOW_UPDATE that is none")
        self._send_waiting()

    def limits(self, *, window: int | None, frame_bytes: int | None) -> None:
        """What the peer's SETTINGS say of streams and frames, None where they say nothing."""
        if window is not None:
            for call in self._calls.values():
                call.window += window - self._call_window
                if call.window > frames.WINDOW_LIMIT:
                    raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "a stream's window that is too large")
            self._call_window = window
        if frame_bytes is not None:
            self._frame_bytes = frame_bytes
        self._send_waiting()

    def pause(self, paused: bool) -> None:
        """Whether the peer reads too slowly for answers to be sent."""
        self._paused = paused
        self._send_waiting()

    def _more(self, call: _Call) -> None:
        try:
            if isinstance(call.method, Heard):
                self._hear(call, call.method)
            else:
                rpc.check_size(call.received)
        except Refused as refused:
            self._refuse(call, refused)
            return
        if call.uncredited > STREAM_WINDOW // 2:
            self._send(frame(frames.WINDOW_UPDATE, 0, call.stream, frames.NUMBER.pack(call.uncredited)))
            call.uncredited = 0

    def _hear(self, call: _Call, method: Heard) -> None:
        while (message := self._taken(call)) is not None:
            method.hear(message)

    def _heard(self, call: _Call, method: Heard) -> None:
        if call.received:
            raise Refused(Status.INTERNAL, "the call ends within a message")
        if not method.lasting:
            self._send(rpc.beginning(call.stream) + rpc.ending(call.stream))
            self.forget(call.stream)

    def _taken(self, call: _Call) -> Message | None:
        before = len(call.received)
        try:
            return rpc.message(call.method.request, call.received)
        finally:
            self._held -= before - len(call.received)

    def _answer(self, call: _Call, method: Unary) -> None:
        message = self._taken(call)
        if message is None or call.received:
            raise Refused(Status.INTERNAL, "the call does not carry one message")
        answer = method.answer(message)
        if isinstance(answer, Message):
            self._say(call, rpc.packed(answer))
        else:
            call.task = asyncio.ensure_future(self._answered(call, answer))
            self.tasks.add(call.task)
            call.task.add_done_callback(self.tasks.discard)

    async def _answered(self, call: _Call, answer: Awaitable[Message]) -> None:
        try:
            content = rpc.packed(await answer)
        except Exception as error:
            # Without its text, which could quote the request.
            _log.error("unexpected %s in a call", type(error).__name__)
            call.task = None
            self._refuse(call, Refused(Status.UNKNOWN, "the call failed; the engine's log has more"))
            return
        call.task = None
        if call.stream in self._calls:
            self._say(call, content)

    def _say(self, call: _Call, content: bytes) -> None:
        room = 0 if self._paused or self._waiting else min(self._window, call.window, self._frame_bytes)
        if len(content) <= room:
            self._window -= len(content)
            self._send(rpc.small(call.stream, content))
            self.forget(call.stream)
            return
        self._send(rpc.beginning(call.stream))
        call.answer = content
        self._waiting[call.stream] = call
        self._send_waiting()

    def _send_waiting(self) -> None:
        if self._paused or not self._waiting:
            return
        for call in list(self._waiting.values()):
            while call.answer:
                room = min(self._window, call.window, self._frame_bytes)
                if room <= 0:
                    break
                part, call.answer = call.answer[:room], call.answer[room:]
                self._window -= len(part)
                call.window -= len(part)
                self._send(frame(frames.DATA, 0, call.stream, part))
            else:
                self._send(rpc.ending(call.stream))
                self.forget(call.stream)

    def _refuse(self, call: _Call, refused: Refused) -> None:
        if call.stream in self._calls:
            self.forget(call.stream)
            self._say_refused(call.stream, refused, ended=call.ended)

    def _say_refused(self, stream: int, refused: Refused, *, ended: bool) -> None:
        self._send(rpc.refusal(stream, refused.status, str(refused)))
        if not ended:
            # There is no use in sending the rest.
            self._send(frame(frames.RST_STREAM, 0, stream, frames.NUMBER.pack(Code.NO_ERROR)))
