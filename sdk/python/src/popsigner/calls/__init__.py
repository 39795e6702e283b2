"""What can be asked of a POP, independent of how it is carried.

A call is built by one function (`calls.keys.create`, …) and performed by either client: that function is the single
implementation, with its signature, its checks and the reading of its answer.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, Generic, TypeAlias, TypeVar

import betterproto2

from ..errors import InternalError

R = TypeVar("R")
T = TypeVar("T")
Q = TypeVar("Q", bound=betterproto2.Message)
A = TypeVar("A", bound=betterproto2.Message)


class Repeat(Enum):
    """Whether a call may be sent again when its answer is missing."""

    NEVER = "it changes something, and twice is not once"
    ALWAYS = "it only reads"
    WITH_EXPECTED_VERSION = "a repetition finds the version that was made, and makes no second one"
    WITH_REQUEST_ID = "deterministic nonces give the same signature, and the request id makes it count once"


@dataclass(frozen=True, slots=True)
class Rpc(Generic[Q, A]):
    """One RPC of the contract: gRPC path, the types of its messages, and how they become bytes and come from them."""

    path: str
    request: type[Q]
    response: type[A]
    repeat: Repeat
    encode: Callable[[Q], bytes] = bytes
    decode: Callable[[bytes], A] | None = None

    @property
    def read(self) -> Callable[[bytes], A]:
        """How the bytes of an answer become its message."""
        return self.decode or self.response.parse


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[R]):
    """One request, ready to be sent, and how its answer is read (each of them, where there are many). `timeout` in
    seconds for all attempts together; None means the client's."""

    rpc: Rpc[Any, Any]
    request: betterproto2.Message
    result: Callable[[Any], R]
    timeout: float | None


# Several calls one after another, as a generator that is sent the answer of each, or thrown its error. What is no call
# is work that takes a while; an event loop does not wait for it.
Steps: TypeAlias = Generator[Call[Any] | Callable[[], Any], Any, R]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    """Some entries of a list; `next_cursor` is empty on the last page."""

    entries: tuple[T, ...]
    next_cursor: str


def call(rpc: Rpc[Q, A], request: Q, result: Callable[[A], R], timeout: float | None) -> Call[R]:
    """Put a request together with the reading of its answer."""
    if timeout is not None and timeout <= 0:
        raise ValueError("timeout is in seconds and above 0")
    return Call(rpc=rpc, request=request, result=result, timeout=timeout)


def present(part: T | None) -> T:
    """The part of an answer that the contract promises."""
    if part is None:
        raise InternalError("the POP's answer is incomplete; is this a POP of another version?")
    return part


def aware(moment: datetime | None, name: str) -> datetime | None:
    """The moment, if it says which one it is. Raises ValueError for a time without a zone."""
    if moment is not None and moment.tzinfo is None:
        raise ValueError(f"{name} needs a time zone, as in datetime.now(UTC) + timedelta(days=30)")
    return moment
