"""One call on the wire, as its handler sees it: what its headers say, its messages, the way of its answer."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import grpc

from popsigner_http2.grpc import beginning, prefixed
from popsigner_http2.outgoing import Stream
from popsigner_server.transport.body import Body
from popsigner_server.transport.interceptors.base import Ended, Trailing

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from popsigner_server.transport.calls import Calls


@dataclass(frozen=True, slots=True)
class Method:
    """What a path leads to. serve: answers the exchange with the bytes of its one message, or with None where it has
    written what there was to say."""

    serve: "Callable[[Exchange], Awaitable[bytes | None]]"


class Exchange(Stream):
    """One call. It stands where a handler of grpc.aio has its context, with as much of it as is used here."""

    __slots__ = (
        "_calls",
        "_metadata",
        "_writer",
        "begun",
        "body",
        "deadline",
        "method",
        "over",
        "since",
        "task",
        "timer",
    )

    def __init__(
        self,
        number: int,
        method: Method,
        calls: "Calls",
        body: Body,
        metadata: Sequence[tuple[str, str]],
        since: float,
        deadline: float | None,
    ) -> None:
        """since, deadline: in the event loop's time; None for no deadline."""
        super().__init__(number)
        self.method = method
        self.body = body
        self.since = since
        self.deadline = deadline
        self.begun = False
        self.over = False
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self._calls = calls
        self._metadata = metadata
        self._writer: asyncio.Future[None] | None = None

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        """The request's fields in their order."""
        return self._metadata

    def peer(self) -> str:
        """As gRPC writes it: `ipv4:127.0.0.1:50000`, `ipv6:[::1]:50000`, `unix:`."""
        return self._calls.peer

    def claim(self, owner: UUID) -> None:
        """The request is this organization's or person's: what of it is unread counts as theirs."""
        self.body.claim(self._calls.rooms.of(owner))

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline; None where it set none."""
        return None if self.deadline is None else self.deadline - asyncio.get_running_loop().time()

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing: Trailing = ()) -> Any:
        """End the call with this status. Raises Ended."""
        raise Ended(code, details, trailing)

    def say(self, message: "Message") -> None:
        """Send one message of a stream; does nothing once the call is over."""
        if self.over:
            return
        if not self.begun:
            self.begun = True
            self._calls.send(beginning(self.number))
        self._calls.outgoing.say(self, prefixed(message.SerializeToString()))

    async def write(self, message: "Message") -> None:
        """Send one message of a stream, and wait until it has left; does nothing once the call is over."""
        self.say(message)
        while self.unsent and not self.over:
            self._writer = asyncio.get_running_loop().create_future()
            await self._writer

    def sent(self) -> None:
        if self.ending:
            self._calls.forget(self.number)
        else:
            self.wake()

    def wake(self) -> None:
        """Whoever writes looks again whether it has left."""
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)
