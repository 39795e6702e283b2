"""The calls of one connection: what came of each, and which are being answered."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from google.protobuf.message import Message

from popsigner_http2 import frames, grpc
from popsigner_http2.frames import Code, StreamFault, frame
from popsigner_http2.headers import Request
from popsigner_http2.outgoing import Outgoing, Stream
from popsigner_plugin import rpc
from popsigner_plugin.rpc import Heard, Refused, Status, Unary

STREAMS: Final = 128
# A large batch fits into a stream's window, so that the peer does not wait for one that it does not fill.
STREAM_WINDOW: Final = 4 * 2**20
# What calls that have not arrived as a whole may hold together; more is refused, call by call.
HELD_BYTES: Final = 96 * 2**20

_log: Final = logging.getLogger(__name__)


class _Call(Stream):
    """One stream. received: bytes that are no whole message yet. uncredited: bytes of its window that were used."""

    __slots__ = ("ended", "forget", "method", "received", "task", "uncredited")

    def __init__(self, number: int, method: Unary | Heard, forget: Callable[[int], bool]) -> None:
        super().__init__(number)
        self.method = method
        self.forget = forget
        self.received = bytearray()
        self.uncredited = 0
        self.ended = False
        self.task: asyncio.Task[None] | None = None

    def sent(self) -> None:
        self.forget(self.number)


class Calls:
    """Takes what streams say, answers through `send`. Raises StreamFault where the peer is wrong."""

    def __init__(
        self, methods: Mapping[bytes, Unary | Heard], send: Callable[[bytes], None], outgoing: Outgoing
    ) -> None:
        self.last = 0
        # Of streams that the peer has reset, too: it must not start calls faster than they end.
        self.tasks: set[asyncio.Task[None]] = set()
        self._methods = methods
        self._send = send
        self._outgoing = outgoing
        self._calls: dict[int, _Call] = {}
        self._held = 0

    def begin(self, stream: int, asked: Request, *, ended: bool) -> None:
        """A new stream with its headers."""
        if len(self._calls) >= STREAMS or len(self.tasks) >= STREAMS:
            raise StreamFault(Code.REFUSED_STREAM, "too many calls at once")
        method = self._methods.get(asked.path)
        if asked.method != b"POST" or not grpc.is_grpc(asked.content_type):
            refused = Refused(Status.INTERNAL, "this is no gRPC call")
        elif method is None:
            refused = Refused(Status.UNIMPLEMENTED, "there is no such method")
        elif asked.encoding not in (b"", b"identity"):
            refused = Refused(Status.UNIMPLEMENTED, "compressed messages are not taken")
        else:
            call = self._calls[stream] = _Call(stream, method, self.forget)
            self._outgoing.open(call)
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

    def forget(self, stream: int) -> bool:
        """The stream is over; whoever works on its answer is told to stop. Whether it was still open."""
        call = self._calls.pop(stream, None)
        if call is None:
            return False
        self._outgoing.drop(stream)
        self._held -= len(call.received)
        if call.task is not None:
            call.task.cancel()
        return True

    def forget_all(self) -> None:
        """The connection is over."""
        for stream in list(self._calls):
            self.forget(stream)

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
            self._send(frame(frames.WINDOW_UPDATE, 0, call.number, frames.NUMBER.pack(call.uncredited)))
            call.uncredited = 0

    def _hear(self, call: _Call, method: Heard) -> None:
        while (message := self._taken(call)) is not None:
            method.hear(message)

    def _heard(self, call: _Call, method: Heard) -> None:
        if call.received:
            raise Refused(Status.INTERNAL, "the call ends within a message")
        if not method.lasting:
            self._send(grpc.beginning(call.number) + grpc.ending(call.number))
            self.forget(call.number)

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
        if call.number in self._calls:
            self._say(call, content)

    def _say(self, call: _Call, content: bytes) -> None:
        if self._outgoing.take(call, len(content)):
            self._send(grpc.small(call.number, content))
            self.forget(call.number)
        else:
            self._send(grpc.beginning(call.number))
            self._outgoing.say(call, content, grpc.ending(call.number))

    def _refuse(self, call: _Call, refused: Refused) -> None:
        if call.number in self._calls:
            self.forget(call.number)
            self._say_refused(call.number, refused, ended=call.ended)

    def _say_refused(self, stream: int, refused: Refused, *, ended: bool) -> None:
        self._send(grpc.refusal(stream, refused.status, str(refused)))
        if not ended:
            # There is no use in sending the rest.
            self._send(frame(frames.RST_STREAM, 0, stream, frames.NUMBER.pack(Code.NO_ERROR)))
