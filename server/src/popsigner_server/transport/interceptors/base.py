"""What an interceptor is: it wraps the handler of one RPC, once, when the server is built.

They are composed here and not as grpc.aio's own interceptors: those build new handler objects for every call. A handler
takes a call and its request (for a stream: the iterator of its requests) and returns the answer (for a stream:
nothing, it writes to `call.context`).
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import grpc

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


async def _unlimited() -> None:
    """Where nothing is counted."""


class Call:
    """One call on its way: what the interceptors learn about it for the handler."""

    __slots__ = ("_caller", "_person", "admit", "code", "context", "deadline", "metadata")

    def __init__(self, context: "grpc.aio.ServicerContext[Any, Any]") -> None:
        self.context = context
        self.metadata: Sequence[tuple[str, str | bytes]] = tuple(context.invocation_metadata() or ())
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
                return value if isinstance(value, str) else value.decode("latin-1")
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
