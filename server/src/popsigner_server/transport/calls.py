"""The calls of one connection: begun with their headers, fed, answered, ended by whoever is first."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

import grpc
import structlog

from popsigner_http2.frames import NUMBER, RST_STREAM, Code, StreamFault, frame
from popsigner_http2.grpc import beginning, ending, is_grpc, not_grpc, prefixed, refusal, small
from popsigner_http2.headers import Request
from popsigner_http2.outgoing import Outgoing
from popsigner_server.transport.body import Body, Rooms
from popsigner_server.transport.exchange import Exchange, Method
from popsigner_server.transport.interceptors.base import Ended
from popsigner_server.transport.wire import address_of, seconds_of

# Calls of one connection at once; a client that asks for more waits by itself (RFC 9113, section 5.1.2).
STREAMS: Final = 1024
# Handlers of one connection, with those that were told to stop and have not yet: a peer that resets its calls must not
# begin others faster than they end.
HANDLERS: Final = 2 * STREAMS
# Seconds within which a call that is reset was hardly meant. One that has lasted longer has held one of STREAMS.
SOON: Final = 0.05

log = structlog.get_logger(__name__)


class Calls:
    """Takes what streams say, runs their handlers, and sends what those answer. Raises StreamFault where the peer is
    wrong."""

    def __init__(
        self,
        methods: Mapping[bytes, Method],
        unknown: Method,
        rooms: Rooms,
        send: Callable[[bytes], None],
        outgoing: Outgoing,
        peername: Any,
    ) -> None:
        """unknown: answers paths that are none. peername: of the socket."""
        self.last = 0
        self.peer = address_of(peername)
        self.send = send
        self.outgoing = outgoing
        self.rooms = rooms
        self.tasks: set[asyncio.Task[None]] = set()
        self._methods = methods
        self._unknown = unknown
        self._room = rooms.connection()
        self._loop = asyncio.get_running_loop()
        self._exchanges: dict[int, Exchange] = {}

    @property
    def unread(self) -> bool:
        """Whether an answer waits for its reader."""
        return any(exchange.ending for exchange in self._exchanges.values())

    def begin(self, stream: int, asked: Request, *, ended: bool) -> None:
        """A new stream with its headers: its handler starts without its messages, so that who may not call, or finds
        the queue full, is told before they are read."""
        if len(self._exchanges) >= STREAMS or len(self.tasks) >= HANDLERS:
            raise StreamFault(Code.REFUSED_STREAM, "too many calls at once")
        if asked.method != b"POST" or not is_grpc(asked.content_type):
            self.send(not_grpc(stream))
            self._hush(stream, ended)
            return
        if asked.encoding not in (b"", b"identity"):
            # A small message that becomes a large one is an attack, and signatures and digests do not get smaller.
            said = "Compressed messages are not taken; send them as they are."
            more = [(b"grpc-accept-encoding", b"identity")]
            self.send(refusal(stream, grpc.StatusCode.UNIMPLEMENTED.value[0], said, more))
            self._hush(stream, ended)
            return
        seconds = seconds_of(asked.timeout)
        now = self._loop.time()
        deadline = None if seconds is None else now + seconds
        body = Body(stream, self.send, self._room)
        method = self._methods.get(asked.path, self._unknown)
        exchange = self._exchanges[stream] = Exchange(stream, method, self, body, asked.metadata, now, deadline)
        self.outgoing.open(exchange)
        if deadline is not None:
            exchange.timer = self._loop.call_at(deadline, self._expire, exchange)
        if ended:
            body.end()
        exchange.task = self._loop.create_task(self._serve(exchange))
        self.tasks.add(exchange.task)
        exchange.task.add_done_callback(self.tasks.discard)

    def data(self, stream: int, content: bytes, size: int, *, ended: bool) -> None:
        """Content of a stream. size: with its padding, as windows count it."""
        # Of a stream that was answered early or reset more may be under way.
        if (exchange := self._exchanges.get(stream)) is not None:
            if content or size:
                exchange.body.feed(content, size)
            if ended:
                exchange.body.end()

    def end(self, stream: int) -> None:
        """The peer has said its last on this stream."""
        if (exchange := self._exchanges.get(stream)) is not None:
            exchange.body.end()

    def forget(self, stream: int) -> bool:
        """The stream is over; whoever works on its answer is told to stop. Whether it was soon after its beginning."""
        exchange = self._exchanges.pop(stream, None)
        if exchange is None:
            return False
        exchange.over = True
        exchange.body.drop()
        exchange.wake()
        self.outgoing.drop(stream)
        if exchange.timer is not None:
            exchange.timer.cancel()
        if exchange.task is not None:
            exchange.task.cancel()
            # A cancelled task keeps its error, that its frames, and those the exchange.
            exchange.task = None
        return self._loop.time() - exchange.since < SOON

    def forget_all(self) -> None:
        """The connection is over."""
        for stream in list(self._exchanges):
            self.forget(stream)

    async def _serve(self, exchange: Exchange) -> None:
        try:
            answer = await exchange.method.serve(exchange)
        except Ended as end:
            self._refuse(exchange, end)
        except asyncio.CancelledError:
            self._refuse(exchange, Ended(grpc.StatusCode.UNAVAILABLE, "This server has stopped; retry.", ()))
            raise
        except Exception as error:
            # Behind the interceptors everything has a name; this is from in front of them.
            log.exception("internal fault", error=type(error).__name__)
            self._refuse(exchange, Ended(grpc.StatusCode.INTERNAL, "", ()))
        else:
            self._answer(exchange, answer)

    def _answer(self, exchange: Exchange, answer: bytes | None) -> None:
        if exchange.over:
            return
        # The one who answers is not to be stopped by its own end.
        exchange.task = None
        number = exchange.number
        if answer is None:
            content = b""
        else:
            content = prefixed(answer)
            if exchange.body.ended and self.outgoing.take(exchange, len(content)):
                self.send(small(number, content))
                self.forget(number)
                return
        if not exchange.begun:
            self.send(beginning(number))
        self.outgoing.say(exchange, content, ending(number) + self._no_more(exchange))

    def _refuse(self, exchange: Exchange, end: Ended) -> None:
        if exchange.over:
            return
        exchange.task = None
        number = exchange.number
        said = refusal(number, end.code.value[0], end.details, end.fields(), begun=exchange.begun)
        self.outgoing.say(exchange, b"", said + self._no_more(exchange))

    def _expire(self, exchange: Exchange) -> None:
        """The deadline has passed: its caller has gone, or will not be told more than that."""
        if exchange.over:
            return
        if exchange.task is None:
            # The answer is there, and its reader is not.
            self.send(frame(RST_STREAM, 0, exchange.number, NUMBER.pack(Code.CANCEL)))
        else:
            end = Ended(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", ())
            self.send(
                refusal(exchange.number, end.code.value[0], end.details, begun=exchange.begun) + self._no_more(exchange)
            )
        self.forget(exchange.number)

    def _no_more(self, exchange: Exchange) -> bytes:
        """What tells a peer that has not said its last that nobody listens (RFC 9113, section 8.1)."""
        return b"" if exchange.body.ended else frame(RST_STREAM, 0, exchange.number, NUMBER.pack(Code.NO_ERROR))

    def _hush(self, stream: int, ended: bool) -> None:
        if not ended:
            self.send(frame(RST_STREAM, 0, stream, NUMBER.pack(Code.NO_ERROR)))
