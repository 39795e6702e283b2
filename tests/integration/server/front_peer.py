"""A peer of the server that speaks HTTP/2 with a library that is not ours and, where that would not break the protocol,
without it."""

import asyncio
from collections.abc import Mapping
from typing import Any

import h2.events
from h2.config import H2Configuration
from h2.connection import ConnectionState, H2Connection
from h2.settings import SettingCodes, Settings

from popsigner_http2.frames import HEAD_BYTES, WINDOW_BYTES
from popsigner_server.transport.body import STREAM_WINDOW

CHECK = "/grpc.health.v1.Health/Check"
HEADERS = {":method": "POST", ":scheme": "http", ":authority": "x", "content-type": "application/grpc"}
# Bytes in front of a message: whether it is compressed, and its length.
PREFIX = 5
# Seconds that anything here may take.
CEILING = 30.0


def framed(message: bytes, *, compressed: int = 0) -> bytes:
    """A message as it goes into DATA (gRPC over HTTP/2)."""
    return bytes((compressed,)) + len(message).to_bytes(4, "big") + message


class Peer:
    """h2's client on one connection; `events` are all that came, in their order, `frames` the kinds and streams also of
    what it ignores."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, window: int = WINDOW_BYTES) -> None:
        self.http = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.http.local_settings = Settings(client=True, initial_values={SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.reader = reader
        self.writer = writer
        self.events: list[Any] = []
        self.frames: list[tuple[int, int]] = []
        self.rest = b""
        self.http.initiate_connection()
        self.flush()

    def flush(self) -> None:
        self.writer.write(self.http.data_to_send())

    def raw(self, data: bytes) -> None:
        """Past the library, which does not break the protocol, and says nothing on a stream that is over."""
        self.writer.write(data)

    def begin(self, path: str, more: Mapping[str, str] | None = None, *, end: bool = False) -> int:
        """Send a call's headers; its stream. more: instead of the usual ones and after them, without empty ones."""
        stream = self.http.get_next_available_stream_id()
        fields = {":path": path} | HEADERS | dict(more or {})
        self.http.send_headers(stream, [field for field in fields.items() if field[1]], end_stream=end)
        self.flush()
        return int(stream)

    def call(self, path: str, content: bytes, more: Mapping[str, str] | None = None, *, end: bool = True) -> int:
        """Begin a call with as much of its body as windows take at once. content: as `framed`."""
        stream = self.begin(path, more)
        self.send(stream, content, end=end)
        return stream

    def send(self, stream: int, content: bytes, *, end: bool = False) -> None:
        size = self.http.max_outbound_frame_size
        for at in range(0, len(content) or 1, size):
            self.http.send_data(stream, content[at : at + size], end_stream=end and at + size >= len(content))
        self.flush()

    async def pour(self, stream: int, content: bytes) -> None:
        """Send all there is to say as windows allow."""
        while content:
            room = min(len(content), self.http.local_flow_control_window(stream))
            if room:
                self.send(stream, content[:room], end=room == len(content))
                content = content[room:]
            else:
                await self.more()

    def reset(self, stream: int) -> None:
        self.http.reset_stream(stream)
        self.flush()

    async def more(self) -> None:
        """Take what comes next, and let what was read be sent anew."""
        data = await asyncio.wait_for(self.reader.read(1 << 16), CEILING)
        assert data, f"the server hung up; {self.events[-10:]}"
        self.rest += data
        while len(self.rest) >= (size := HEAD_BYTES + int.from_bytes(self.rest[:3], "big")):
            self.frames.append((self.rest[3], int.from_bytes(self.rest[5:HEAD_BYTES], "big")))
            for event in self.http.receive_data(self.rest[:size]):
                self.events.append(event)
                if isinstance(event, h2.events.DataReceived) and event.flow_controlled_length:
                    self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            self.rest = self.rest[size:]
            # The library takes and says nothing after GOAWAY; gRPC's clients do.
            self.http.state_machine.state = ConnectionState.CLIENT_OPEN
        self.flush()

    def seen(self, kind: type, stream: int | None = None) -> list[Any]:
        """The events of this kind that have come (on this stream)."""
        return [e for e in self.events if isinstance(e, kind) and stream in (None, getattr(e, "stream_id", None))]

    async def until(self, kind: type, stream: int | None = None) -> Any:
        """The first event of this kind (on this stream)."""
        while not (found := self.seen(kind, stream)):
            await self.more()
        return found[0]

    async def answer(self, stream: int) -> list[bytes]:
        """The messages of a call's whole answer, which must be OK."""
        trailers = await self.until(h2.events.TrailersReceived, stream)
        assert dict(trailers.headers) == {"grpc-status": "0"}
        content, messages = self.content(stream), []
        while content:
            end = PREFIX + int.from_bytes(content[1:PREFIX], "big")
            messages.append(content[PREFIX:end])
            content = content[end:]
        return messages

    async def refused(self, stream: int) -> dict[str, str]:
        """The fields of an answer without a message."""
        await self.until(h2.events.StreamEnded, stream)
        assert not self.content(stream)
        return dict(self.seen(h2.events.ResponseReceived, stream)[0].headers)

    async def reset_by(self, stream: int) -> Any:
        """The code with which the server resets the stream."""
        return (await self.until(h2.events.StreamReset, stream)).error_code

    def content(self, stream: int) -> bytes:
        return b"".join(event.data or b"" for event in self.seen(h2.events.DataReceived, stream))

    def granted(self, stream: int) -> int:
        """Bytes that the server has allowed in all: on one stream, or together (0)."""
        given: int = sum(event.delta for event in self.seen(h2.events.WindowUpdated, stream))
        return given + (STREAM_WINDOW if stream else WINDOW_BYTES)

    async def alive(self) -> None:
        """The connection answers a call, which asks no handler of a test's."""
        assert await self.answer(self.call(CHECK, framed(b"")))
