"""Streams that count what becomes of them, and an Outgoing with all that it has sent."""

from typing import Any

from popsigner_http2 import frames
from popsigner_http2.outgoing import Outgoing, Stream
from tests.unit.http2.parts import of_kind


class Said(Stream):
    """Counts how often all of it has left, and how often somebody looked whether there is more."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.left = 0
        self.looks = 0

    def __getattribute__(self, name: str) -> Any:
        if name == "unsent":
            self.looks += 1
        return super().__getattribute__(name)

    def sent(self) -> None:
        self.left += 1


class Sending:
    """An Outgoing, and what it has sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.outgoing = Outgoing(self.sent.append)

    def opened(self, number: int) -> Said:
        stream = Said(number)
        self.outgoing.open(stream)
        return stream

    def widened(self, *, streams: int = 0, connection: int = 0) -> None:
        """As a peer does at once when it connects: bytes of each stream, and of all together."""
        if streams:
            self.outgoing.limits(window=streams, frame_bytes=None)
        if connection:
            self.outgoing.widen(0, connection - frames.WINDOW_BYTES)

    def order(self) -> list[tuple[int, int]]:
        """The streams of DATA in their order, with the bytes of each frame."""
        return [(each.stream, len(each.payload)) for each in of_kind(frames.DATA, b"".join(self.sent))]

    def of(self, number: int) -> bytes:
        data = of_kind(frames.DATA, b"".join(self.sent))
        return b"".join(each.payload for each in data if each.stream == number)
