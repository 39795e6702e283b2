"""The messages of one request, as they come: bounded before anybody knows who calls, and read as they are asked for."""

import asyncio
from collections.abc import Callable
from typing import Final
from uuid import UUID
from weakref import WeakValueDictionary

from popsigner_http2.frames import NUMBER, WINDOW_UPDATE, Code, StreamFault, frame
from popsigner_http2.grpc import PREFIX
from popsigner_server import errors
from popsigner_server.errors import SignerError

# Of one request and one answer, in bytes; the gateway's body limit is the same. A full batch of large messages does not
# fit on purpose: 256 MiB a call would be an attack.
MAX_MESSAGE: Final = 4 << 20
# Bytes that a stream may send before its handler asks for more: a usual batch, and of one whose caller is not known yet
# no more than that.
STREAM_WINDOW: Final = 128 << 10
# Bytes of unfinished requests: of one connection, while nobody knows whose they are; of one organization or person; of
# the process.
HELD: Final = 32 << 20
HELD_BY_ALL: Final = 256 << 20


class Room:
    """Bytes of requests that have come and were not taken yet.

    A room within another holds no more than that one has left for all others (dynamic thresholds: Choudhury and Hahne,
    1998): however many fill it, who comes with nothing finds as much as the largest of them has.
    """

    def __init__(self, most: int, outer: "Room | None" = None) -> None:
        self.held = 0
        self._most = most
        self._outer = outer

    def take(self, size: int) -> bool:
        """Whether there is room for so many more bytes; they are counted then."""
        held, outer = self.held + size, self._outer
        if held > self._most or (outer is not None and (held > outer.left - size or not outer.take(size))):
            return False
        self.held = held
        return True

    @property
    def left(self) -> int:
        """Bytes that may still be taken."""
        return self._most - self.held

    def give(self, size: int) -> None:
        """So many bytes were taken or dropped."""
        self.held -= size
        if self._outer is not None:
            self._outer.give(size)


class Rooms:
    """Whose unfinished requests are how many. What has an owner counts as the owner's alone: a connection can be a
    proxy's, with a thousand callers behind it, and one who sends much must not use up what the others may."""

    def __init__(self) -> None:
        self.all = Room(HELD_BY_ALL)
        # Those of which something is there.
        self._owned: WeakValueDictionary[UUID, Room] = WeakValueDictionary()

    def connection(self) -> Room:
        """For what a connection brings before its owner is known."""
        return Room(HELD, self.all)

    def of(self, owner: UUID) -> Room:
        """For what an organization or a person sends, over all connections."""
        room = self._owned.get(owner)
        if room is None:
            room = self._owned[owner] = Room(HELD, self.all)
        return room


class Body:
    """Gives a stream's messages one by one, or the only one of a unary call. Its window is widened for what the handler
    waits for: to the length of the message that has begun, at most MAX_MESSAGE."""

    __slots__ = (
        "_debt",
        "_dropped",
        "_failure",
        "_left",
        "_needed",
        "_number",
        "_received",
        "_room",
        "_send",
        "_waiter",
        "ended",
    )

    def __init__(self, number: int, send: Callable[[bytes], None], room: Room) -> None:
        self.ended = False
        self._number = number
        self._send = send
        self._room = room
        self._received = bytearray()
        self._needed = PREFIX.size
        # What the peer may still send, and what it may be given for what was taken; less than nothing once it has been
        # given more than that.
        self._left = STREAM_WINDOW
        self._debt = 0
        self._dropped = False
        self._failure: SignerError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def feed(self, content: bytes, size: int) -> None:
        """DATA has come. size: with its padding. Raises StreamFault."""
        if self.ended:
            raise StreamFault(Code.STREAM_CLOSED, "DATA after the end")
        self._left -= size
        if self._left < 0:
            raise StreamFault(Code.FLOW_CONTROL_ERROR, "DATA beyond the stream's window")
        if self._dropped:
            return
        if size > len(content):
            # Padding is held nowhere, and a message that has begun would wait for the room that it took.
            self._debt += size - len(content)
            self._give(size - len(content))
        if self._room.take(len(content)):
            self._received += content
        else:
            self._fail()
        if len(self._received) >= self._needed or self._failure is not None:
            self._wake()

    def end(self) -> None:
        """The peer has said its last. Raises StreamFault."""
        if self.ended:
            raise StreamFault(Code.STREAM_CLOSED, "an end after the end")
        self.ended = True
        self._wake()

    def drop(self) -> None:
        """Nobody will take what is there, or comes."""
        self._dropped = True
        self._room.give(len(self._received))
        self._received = bytearray()

    def claim(self, room: Room) -> None:
        """Its owner is known: what is there and what comes counts in this room."""
        held = len(self._received)
        self._room.give(held)
        self._room = room
        if not room.take(held):
            self._received = bytearray()
            self._fail()

    async def arrived(self) -> None:
        """The one message is there, and is still counted. Raises MalformedRequest, RequestTooLarge."""
        # Its end may come in a frame of its own: an answer that overtakes it is a fault to some clients.
        while not self.ended and self._failure is None:
            end = self._end()
            if end is not None:
                if len(self._received) > end:
                    raise errors.MalformedRequest
                self._needed = end + 1
            await self._more()
        if self._failure is not None:
            raise self._failure

    async def whole(self) -> bytes:
        """The one message. Raises MalformedRequest, RequestTooLarge."""
        await self.arrived()
        message = await self._next()
        if message is None or self._received:
            raise errors.MalformedRequest
        return message

    def __aiter__(self) -> "Body":
        return self

    async def __anext__(self) -> bytes:
        """The next message of a stream. Raises MalformedRequest, RequestTooLarge."""
        message = await self._next()
        if message is None:
            raise StopAsyncIteration
        return message

    async def _next(self) -> bytes | None:
        while True:
            if self._failure is not None:
                raise self._failure
            end = self._end()
            if end is not None:
                return self._take(end)
            if self.ended:
                if self._received:
                    raise errors.MalformedRequest
                return None
            await self._more()

    async def _more(self) -> None:
        self._give(max(0, self._needed - len(self._received) - self._left))
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _fail(self) -> None:
        self.drop()
        self._failure = errors.RequestTooLarge("Too many bytes of unfinished requests; send fewer large ones at once.")

    def _end(self) -> int | None:
        """Where the first message ends; None before it is there."""
        received = self._received
        if len(received) < PREFIX.size:
            return None
        compressed, size = PREFIX.unpack_from(received)
        # Without a `grpc-encoding`, and with another one the call was refused before.
        if compressed:
            raise errors.MalformedRequest
        if size > MAX_MESSAGE:
            raise errors.RequestTooLarge(f"A message may have {MAX_MESSAGE} bytes, this one has {size}.")
        self._needed = end = PREFIX.size + int(size)
        return None if len(received) < end else end

    def _take(self, end: int) -> bytes:
        message = bytes(self._received[PREFIX.size : end])
        del self._received[:end]
        self._needed = PREFIX.size
        self._room.give(end)
        self._debt += end
        if self._debt > STREAM_WINDOW // 2:
            self._give(self._debt)
        return message

    def _give(self, more: int) -> None:
        if more > 0 and not self.ended:
            self._left += more
            self._debt -= more
            self._send(frame(WINDOW_UPDATE, 0, self._number, NUMBER.pack(more)))

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
