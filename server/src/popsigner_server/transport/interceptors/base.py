"""What an interceptor is: it wraps the handler of one RPC, once, when the server is built.

A handler takes a call and its request (for a stream: the iterator of its requests) and returns the answer (for a
stream: nothing, it writes to `call.context`). In front of the handler itself the request is what will give its
messages: an interceptor that refuses does so before they are read.
"""

import base64
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

import grpc
from google.protobuf.message import Message

from popsigner_server.domain.principals import Caller, Person


@dataclass(frozen=True, slots=True, kw_only=True)
class Rpc:
    """One RPC of the contract, e.g. service `popsigner.v1.SignService`, name `Sign`."""

    service: str
    name: str
    streams: bool

    @property
    def path(self) -> str:
        """E.g. `/popsigner.v1.SignService/Sign`."""
        return f"/{self.service}/{self.name}"


Trailing = Sequence[tuple[str, str | bytes]]
"""Fields at the end of a call; names in lower case, those of bytes end in `-bin`."""


class Ended(Exception):
    """The call ends with this status instead of an answer."""

    def __init__(self, code: grpc.StatusCode, details: str, trailing: Trailing) -> None:
        super().__init__(details)
        self.code = code
        self.details = details
        self.trailing = trailing

    def fields(self) -> list[tuple[bytes, bytes]]:
        """`trailing` as it goes on the wire, bytes in base64 without padding (gRPC over HTTP/2)."""
        return [
            (name.encode(), value.encode() if isinstance(value, str) else base64.b64encode(value).rstrip(b"="))
            for name, value in self.trailing
        ]


class Context(Protocol):
    """What a call's handlers and interceptors ask of the wire."""

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        """The request's fields in their order."""
        ...

    def peer(self) -> str:
        """As gRPC writes it: `ipv4:127.0.0.1:50000`, `ipv6:[::1]:50000`, `unix:`."""
        ...

    def claim(self, owner: UUID) -> None:
        """The request is this organization's or person's: what of it is unread counts as theirs."""
        ...

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline; None where it set none."""
        ...

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing: Trailing = ()) -> Any:
        """End the call with this status. Raises Ended."""
        ...

    async def write(self, message: Message) -> None:
        """Send one message of a stream, and wait until it has left; does nothing once the call is over."""
        ...


async def _unlimited() -> None:
    """Where nothing is counted."""


class Call:
    """One call on its way: what the interceptors learn about it for the handler."""

    __slots__ = ("_caller", "_person", "admit", "code", "context", "deadline", "metadata")

    def __init__(self, context: Context) -> None:
        self.context = context
        self.metadata = context.invocation_metadata()
        # In the event loop's time; None for no deadline.
        self.deadline: float | None = None
        # How it ended, as a gRPC status code; 0 until the errors interceptor says otherwise.
        self.code = 0
        # Counts one message of a stream; raises RateLimited.
        self.admit: Callable[[], Awaitable[None]] = _unlimited
        self._caller: Caller | None = None
        self._person: Person | None = None

    def header(self, name: str) -> str | None:
        """The first value of a metadata entry (lower-case name)."""
        for key, value in self.metadata:
            if key == name:
                return value
        return None

    @property
    def caller(self) -> Caller:
        """Who calls; known behind the auth interceptor."""
        assert self._caller is not None  # noqa: S101 - auth runs before every handler
        return self._caller

    @caller.setter
    def caller(self, caller: Caller) -> None:
        self._caller = caller

    @property
    def known_caller(self) -> Caller | None:
        """Who calls in which organization; None for a person who has named none (access.Who.ANYONE)."""
        return self._caller

    @property
    def person(self) -> Person:
        """The person who calls; known behind the auth interceptor for RPCs of persons."""
        assert self._person is not None  # noqa: S101 - auth runs before every handler
        return self._person

    @person.setter
    def person(self, person: Person) -> None:
        self._person = person

    @property
    def known_person(self) -> Person | None:
        """The person who calls; None for an API key (access.Who.ANYONE)."""
        return self._person


Handler = Callable[[Call, Any], Awaitable[Any]]


class Interceptor(Protocol):
    """Wraps the handler of an RPC."""

    def wrap(self, rpc: Rpc, proceed: Handler) -> Handler: ...


def compose(rpc: Rpc, interceptors: Sequence[Interceptor], handler: Handler) -> Handler:
    """The handler behind its interceptors; the first one is the outermost."""
    for interceptor in reversed(interceptors):
        handler = interceptor.wrap(rpc, handler)
    return handler
