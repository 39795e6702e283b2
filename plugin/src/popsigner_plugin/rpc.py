"""gRPC's calls: the methods that services offer, their messages, statuses."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, Protocol

from google.protobuf.message import DecodeError, Message

from popsigner_http2 import grpc
from popsigner_http2.grpc import PREFIX

# OpenBao takes HTTP requests up to 32 MiB; beside what they hold come the request's own fields.
MESSAGE_BYTES: Final = 40 * 2**20


class Status(IntEnum):
    """gRPC's status codes, as far as the engine has a use for them."""

    OK = 0
    UNKNOWN = 2
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13


class Refused(Exception):
    """The call ends with this status and sentence."""

    def __init__(self, status: Status, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Unary:
    """One message in, one out. answer: the message, or what to await for it where that takes time."""

    request: type[Message]
    answer: Callable[[Any], Message | Awaitable[Message]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """Any number of messages in, none out. lasting: the call stays open after the peer has said its last."""

    request: type[Message]
    hear: Callable[[Any], None]
    lasting: bool = False


class Service(Protocol):
    """Something that answers calls."""

    def methods(self) -> Mapping[str, Unary | Heard]:
        """The methods by their path, as /package.Service/Method."""


def message(kind: type[Message], received: bytearray) -> Message | None:
    """Take the first message from what was received; None while it is not there as a whole. Raises Refused."""
    if len(received) < PREFIX.size:
        return None
    compressed, size = PREFIX.unpack_from(received)
    if compressed:
        raise Refused(Status.UNIMPLEMENTED, "compressed messages are not taken")
    check_size(received)
    end = PREFIX.size + size
    if len(received) < end:
        return None
    content = bytes(received[PREFIX.size : end])
    del received[:end]
    try:
        return kind.FromString(content)
    except DecodeError:
        raise Refused(Status.INTERNAL, f"the message is not a {kind.DESCRIPTOR.name}") from None


def check_size(received: bytearray) -> None:
    """Refuse a message that will be too long as soon as its length is there. Raises Refused."""
    if len(received) >= PREFIX.size and (size := PREFIX.unpack_from(received)[1]) > MESSAGE_BYTES:
        raise Refused(Status.RESOURCE_EXHAUSTED, f"a message may have {MESSAGE_BYTES} bytes, this one has {size}")


def packed(answer: Message) -> bytes:
    """A message as it goes into DATA frames."""
    return grpc.prefixed(answer.SerializeToString())
