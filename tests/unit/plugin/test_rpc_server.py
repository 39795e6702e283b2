"""The plugin's gRPC server, asked by an HTTP/2 library that is not ours, and by peers that break the protocol."""

import asyncio
import struct
import tempfile
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popsigner_http2 import frames, grpc
from popsigner_http2.frames import Code, frame
from popsigner_plugin import calls, rpc
from popsigner_plugin.gen.goplugin.goplugin_pb2 import ConnInfo, StdioData
from popsigner_plugin.rpc import Heard, Unary
from popsigner_plugin.server import Server

HEADERS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/t.Test/Echo"),
    (":authority", "localhost"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
]


class Echo:
    """Answers what it was sent: at once, later, never, or not."""

    def __init__(self) -> None:
        self.heard: list[int] = []
        self.cancelled = 0
        self.go_on = asyncio.Event()

    def methods(self) -> Mapping[str, Unary | Heard]:
        return {
            "/t.Test/Echo": Unary(request=StdioData, answer=lambda message: message),
            "/t.Test/Later": Unary(request=StdioData, answer=self._later),
            "/t.Test/Fails": Unary(request=StdioData, answer=self._fails),
            "/t.Test/Listen": Heard(request=ConnInfo, hear=lambda place: self.heard.append(place.service_id)),
            "/t.Test/Stay": Heard(request=ConnInfo, hear=lambda place: self.heard.append(-1), lasting=True),
        }

    async def _later(self, message: StdioData) -> StdioData:
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return message

    def _fails(self, message: StdioData) -> Awaitable[StdioData]:
        async def fail() -> StdioData:
            raise ValueError(message.data)

        return fail()


class Peer:
    """h2's client on one connection; `events` are all that came, by their stream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.reader = reader
        self.writer = writer
        self.events: list[Any] = []
        self.http.initiate_connection()
        self.flush()

    def flush(self) -> None:
        self.writer.write(self.http.data_to_send())

    def call(self, method: str, content: bytes, *, end: bool = True, more: Mapping[str, str] | None = None) -> int:
        """Begin a call; its stream. content: as it goes into DATA, with the message's prefix."""
        stream = self.http.get_next_available_stream_id()
        fields = [(name, f"/t.Test/{method}" if name == ":path" else value) for name, value in HEADERS]
        self.http.send_headers(stream, fields + list((more or {}).items()))
        self.send(stream, content, end=end)
        return stream

    def send(self, stream: int, content: bytes, *, end: bool) -> None:
        size = self.http.max_outbound_frame_size
        while len(content) > size:
            self.http.send_data(stream, content[:size])
            content = content[size:]
        self.http.send_data(stream, content, end_stream=end)
        self.flush()

    async def until(self, kind: type, stream: int | None = None, *, credit: bool = True) -> Any:
        """The first event of this kind (on this stream); what comes before it is kept."""
        while True:
            for event in self.events:
                if isinstance(event, kind) and stream in (None, getattr(event, "stream_id", None)):
                    return event
            data = await asyncio.wait_for(self.reader.read(65_536), 5)
            assert data, f"the server hung up; {self.events}"
            for event in self.http.receive_data(data):
                self.events.append(event)
                if credit and isinstance(event, h2.events.DataReceived) and event.flow_controlled_length:
                    self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            self.flush()

    async def answer(self, stream: int) -> bytes:
        """A call's whole answer, which must be OK; the message."""
        trailers = await self.until(h2.events.TrailersReceived, stream)
        assert dict(trailers.headers) == {"grpc-status": "0"}
        return self.content(stream)[5:]

    async def refusal(self, stream: int) -> str:
        """The status of an answer without a message."""
        response = await self.until(h2.events.ResponseReceived, stream)
        return str(dict(response.headers)["grpc-status"])

    def content(self, stream: int) -> bytes:
        data = (e for e in self.events if isinstance(e, h2.events.DataReceived) and e.stream_id == stream)
        return b"".join(e.data for e in data if e.data)


@asynccontextmanager
async def served() -> AsyncIterator[tuple[Echo, Path]]:
    echo = Echo()
    server = Server([echo])
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        socket = Path(folder) / "s"
        await server.start(socket, tls=None)
        try:
            yield echo, socket
        finally:
            await server.close(timeout=0.2)


@asynccontextmanager
async def dialled() -> AsyncIterator[tuple[Echo, Peer]]:
    async with served() as (echo, socket):
        reader, writer = await asyncio.open_unix_connection(socket)
        yield echo, Peer(reader, writer)
        writer.close()


def said(data: bytes) -> bytes:
    return rpc.packed(StdioData(data=data))


def heard(number: int) -> bytes:
    return rpc.packed(ConnInfo(service_id=number))


async def test_calls_on_one_connection_are_answered_each_with_its_own() -> None:
    async with dialled() as (echo, peer):
        later = peer.call("Later", said(b"later"))
        for number in range(300):
            stream = peer.call("Echo", said(b"%d" % number))
            assert StdioData.FromString(await peer.answer(stream)).data == b"%d" % number
        echo.go_on.set()
        assert StdioData.FromString(await peer.answer(later)).data == b"later"


@pytest.mark.parametrize("size", [0, 16_300, 16_384, 65_530, 65_536, 6_000_000])
async def test_messages_of_every_size_pass_both_ways(size: int) -> None:
    async with dialled() as (_, peer):
        await peer.until(h2.events.RemoteSettingsChanged)
        await peer.until(h2.events.WindowUpdated)
        content = said(bytes(size))
        stream = peer.call("Echo", content[:1000], end=False)
        rest = content[1000:]
        while True:
            room = min(peer.http.local_flow_control_window(stream), peer.http.max_outbound_frame_size)
            if len(rest) <= room:
                break
            if room:
                peer.send(stream, rest[:room], end=False)
                rest = rest[room:]
            else:
                peer.events.clear()
                await peer.until(h2.events.WindowUpdated, stream)
        peer.send(stream, rest, end=True)
        assert await peer.answer(stream) == content[5:]


async def test_an_answer_waits_for_the_peers_window_and_others_after_it() -> None:
    async with dialled() as (_, peer):
        large = peer.call("Echo", said(bytes(60_000)))
        await peer.until(h2.events.StreamEnded, large, credit=False)
        first, second = peer.call("Echo", said(bytes(30_000))), peer.call("Echo", said(bytes(30_000)))
        await peer.until(h2.events.ResponseReceived, second, credit=False)
        assert len(peer.content(large) + peer.content(first) + peer.content(second)) <= 65_535
        peer.http.increment_flow_control_window(200_000)
        peer.flush()
        for stream in (first, second):
            assert len(StdioData.FromString(await peer.answer(stream)).data) == 30_000


async def test_a_smaller_initial_window_slows_calls_that_are_open() -> None:
    async with dialled() as (echo, peer):
        stream = peer.call("Later", said(bytes(3_000)))
        peer.http.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1_000})
        peer.flush()
        await peer.until(h2.events.SettingsAcknowledged)
        echo.go_on.set()
        await peer.until(h2.events.DataReceived, stream, credit=False)
        assert len(peer.content(stream)) == 1_000
        peer.http.increment_flow_control_window(5_000, stream)
        peer.flush()
        assert len(StdioData.FromString(await peer.answer(stream)).data) == 3_000


async def test_a_stream_is_heard_message_by_message_until_its_end() -> None:
    async with dialled() as (echo, peer):
        stream = peer.call("Listen", heard(1), end=False)
        peer.send(stream, heard(2) + heard(3)[:4], end=False)
        peer.send(stream, heard(3)[4:], end=True)
        await peer.until(h2.events.StreamEnded, stream)
        assert echo.heard == [1, 2, 3]


async def test_a_lasting_stream_outlives_what_the_peer_says() -> None:
    async with dialled() as (echo, peer):
        stream = peer.call("Stay", heard(1))
        await peer.answer(peer.call("Echo", said(b"x")))
        assert echo.heard == [-1]
        assert not [event for event in peer.events if getattr(event, "stream_id", None) == stream]


async def test_a_reset_stops_the_work_on_its_call_alone() -> None:
    async with dialled() as (echo, peer):
        stopped, other = peer.call("Later", said(b"a")), peer.call("Later", said(b"b"))
        await peer.answer(peer.call("Echo", said(b"x")))
        peer.http.reset_stream(stopped)
        peer.flush()
        await peer.answer(peer.call("Echo", said(b"x")))
        assert echo.cancelled == 1
        echo.go_on.set()
        assert StdioData.FromString(await peer.answer(other)).data == b"b"


async def test_a_lost_connection_stops_its_calls() -> None:
    async with dialled() as (echo, peer):
        peer.call("Later", said(b"a"))
        await peer.answer(peer.call("Echo", said(b"x")))
        peer.writer.close()
        for _ in range(200):
            if echo.cancelled:
                break
            await asyncio.sleep(0.01)
        assert echo.cancelled == 1


@pytest.mark.parametrize(
    ("method", "content", "more", "status"),
    [
        ("Nothing", said(b""), {}, rpc.Status.UNIMPLEMENTED),
        ("Echo", said(b""), {"grpc-encoding": "gzip"}, rpc.Status.UNIMPLEMENTED),
        ("Echo", b"\1" + said(b"")[1:], {}, rpc.Status.UNIMPLEMENTED),
        ("Echo", b"", {}, rpc.Status.INTERNAL),
        ("Echo", said(b"x")[:-1], {}, rpc.Status.INTERNAL),
        ("Echo", said(b"x") * 2, {}, rpc.Status.INTERNAL),
        ("Echo", b"\0\0\0\0\1\xff", {}, rpc.Status.INTERNAL),
        ("Echo", struct.pack(">BL", 0, 2**31), {}, rpc.Status.RESOURCE_EXHAUSTED),
        ("Listen", heard(1)[:-1], {}, rpc.Status.INTERNAL),
        ("Fails", said(b"x"), {}, rpc.Status.UNKNOWN),
    ],
)
async def test_a_call_that_is_none_is_refused_and_the_next_is_answered(
    method: str, content: bytes, more: dict[str, str], status: rpc.Status
) -> None:
    async with dialled() as (_, peer):
        assert await peer.refusal(peer.call(method, content, more=more)) == str(status.value)
        await peer.answer(peer.call("Echo", said(b"x")))


async def test_a_message_too_long_is_refused_before_it_is_there() -> None:
    async with dialled() as (_, peer):
        stream = peer.call("Echo", struct.pack(">BL", 0, rpc.MESSAGE_BYTES + 1), end=False)
        assert await peer.refusal(stream) == str(rpc.Status.RESOURCE_EXHAUSTED.value)
        assert (await peer.until(h2.events.StreamReset, stream)).error_code == Code.NO_ERROR


async def test_calls_hold_no_more_than_a_bound_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "HELD_BYTES", 20_000)
    async with dialled() as (_, peer):
        held = peer.call("Echo", said(bytes(15_000))[:-1], end=False)
        refused = peer.call("Echo", said(bytes(15_000))[:-1], end=False)
        assert await peer.refusal(refused) == str(rpc.Status.RESOURCE_EXHAUSTED.value)
        peer.send(held, b"\0", end=True)
        await peer.answer(held)
        await peer.answer(peer.call("Echo", said(bytes(15_000))))


async def test_no_more_calls_run_than_a_bound_even_when_they_are_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "STREAMS", 3)
    async with dialled() as (_, peer):
        streams = [peer.call("Later", said(b"a")) for _ in range(4)]
        assert (await peer.until(h2.events.StreamReset, streams[3])).error_code == Code.REFUSED_STREAM


async def test_closing_finishes_the_calls_that_are_being_answered() -> None:
    echo = Echo()
    server = Server([echo])
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        await server.start(Path(folder) / "s", tls=None)
        peer = Peer(*await asyncio.open_unix_connection(Path(folder) / "s"))
        stream = peer.call("Later", said(b"last"))
        await peer.answer(peer.call("Echo", said(b"x")))
        closing = asyncio.ensure_future(server.close(timeout=3))
        await peer.until(h2.events.ConnectionTerminated)
        echo.go_on.set()
        # h2 takes nothing after GOAWAY.
        assert b"last" in await asyncio.wait_for(peer.reader.read(), 5)
        assert stream == 1
        peer.writer.close()
        await closing


async def test_ping_is_answered_with_its_own_content() -> None:
    async with dialled() as (_, peer):
        peer.http.ping(b"12345678")
        peer.flush()
        assert (await peer.until(h2.events.PingAckReceived)).ping_data == b"12345678"


async def test_a_ping_is_answered_before_the_answer_that_comes_next_and_many_at_once() -> None:
    async with dialled() as (_, peer):
        for number in range(20):
            peer.http.ping(b"%8d" % number)
        await peer.answer(peer.call("Echo", said(b"x")))
        pings = [event.ping_data for event in peer.events if isinstance(event, h2.events.PingAckReceived)]
        assert pings == [b"%8d" % number for number in range(20)]


BLOCK = b"\x83\x86\x44\x0c/t.Test/Echo\x5f\x10application/grpc"
GREETING = frames.PREFACE + frames.settings({})
BEGUN = GREETING + frame(frames.HEADERS, frames.END_HEADERS, 1, BLOCK)

BROKEN = {
    "another protocol": (b"GET / HTTP/1.1\r\n\r\n", Code.PROTOCOL_ERROR),
    "no SETTINGS first": (frames.PREFACE + frame(frames.PING, 0, 0, bytes(8)), Code.PROTOCOL_ERROR),
    "a frame too long": (GREETING + struct.pack(">BHBBL", 0, 16_385, 0, 0, 1), Code.FRAME_SIZE_ERROR),
    "an even stream": (GREETING + frame(frames.HEADERS, frames.END_HEADERS, 2, BLOCK), Code.PROTOCOL_ERROR),
    "stream 0": (GREETING + frame(frames.HEADERS, frames.END_HEADERS, 0, BLOCK), Code.PROTOCOL_ERROR),
    "DATA before HEADERS": (GREETING + frame(frames.DATA, 0, 1, b"x"), Code.PROTOCOL_ERROR),
    "DATA on stream 0": (BEGUN + frame(frames.DATA, 0, 0, b"x"), Code.PROTOCOL_ERROR),
    "padding too long": (BEGUN + frame(frames.DATA, frames.PADDED, 1, b"\x09abc"), Code.PROTOCOL_ERROR),
    "padding of nothing": (BEGUN + frame(frames.DATA, frames.PADDED, 1), Code.FRAME_SIZE_ERROR),
    "CONTINUATION of nothing": (GREETING + frame(frames.CONTINUATION, 4, 1, BLOCK), Code.PROTOCOL_ERROR),
    "a block that is broken off": (
        GREETING + frame(frames.HEADERS, 0, 1, BLOCK[:5]) + frame(frames.PING, 0, 0, bytes(8)),
        Code.PROTOCOL_ERROR,
    ),
    "CONTINUATION without content": (
        GREETING + frame(frames.HEADERS, 0, 1, BLOCK[:5]) + frame(frames.CONTINUATION, 0, 1),
        Code.ENHANCE_YOUR_CALM,
    ),
    "a block without end": (
        GREETING + frame(frames.HEADERS, 0, 1, bytes(9_000)) + frame(frames.CONTINUATION, 0, 1, bytes(9_000)),
        Code.ENHANCE_YOUR_CALM,
    ),
    "a block that does not decode": (GREETING + frame(frames.HEADERS, 4, 1, b"\xff\xff\xff"), Code.COMPRESSION_ERROR),
    "a block that ends early": (GREETING + frame(frames.HEADERS, 4, 1, b"\x44\x20/t"), Code.COMPRESSION_ERROR),
    "RST_STREAM of nothing": (GREETING + frame(frames.RST_STREAM, 0, 1, bytes(4)), Code.PROTOCOL_ERROR),
    "RST_STREAM too short": (BEGUN + frame(frames.RST_STREAM, 0, 1, bytes(3)), Code.FRAME_SIZE_ERROR),
    "SETTINGS on a stream": (GREETING + frame(frames.SETTINGS, 0, 1), Code.PROTOCOL_ERROR),
    "SETTINGS of a broken length": (GREETING + frame(frames.SETTINGS, 0, 0, bytes(5)), Code.FRAME_SIZE_ERROR),
    "an acknowledgement with content": (GREETING + frame(frames.SETTINGS, 1, 0, bytes(6)), Code.FRAME_SIZE_ERROR),
    "an initial window too large": (GREETING + frames.settings({4: 2**31}), Code.FLOW_CONTROL_ERROR),
    "a frame size that is none": (GREETING + frames.settings({5: 16_383}), Code.PROTOCOL_ERROR),
    "a push setting that is none": (GREETING + frames.settings({2: 2}), Code.PROTOCOL_ERROR),
    "a push": (GREETING + frame(frames.PUSH_PROMISE, 4, 1, bytes(4)), Code.PROTOCOL_ERROR),
    "PING on a stream": (GREETING + frame(frames.PING, 0, 1, bytes(8)), Code.PROTOCOL_ERROR),
    "PING of a broken length": (GREETING + frame(frames.PING, 0, 0, bytes(7)), Code.FRAME_SIZE_ERROR),
    "PRIORITY of a broken length": (GREETING + frame(frames.PRIORITY, 0, 1, bytes(4)), Code.FRAME_SIZE_ERROR),
    "a window of nothing": (GREETING + frame(frames.WINDOW_UPDATE, 0, 0, bytes(4)), Code.PROTOCOL_ERROR),
    "a window too large": (
        GREETING + frame(frames.WINDOW_UPDATE, 0, 0, b"\x7f" + b"\xff" * 3),
        Code.FLOW_CONTROL_ERROR,
    ),
    "a window of no stream": (GREETING + frame(frames.WINDOW_UPDATE, 0, 1, b"\0\0\0\1"), Code.PROTOCOL_ERROR),
}


async def spoken(socket: Path, data: bytes) -> bytes:
    """What the server says to these bytes until it hangs up."""
    reader, writer = await asyncio.open_unix_connection(socket)
    writer.write(data)
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    return answer


@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_frame_ends_its_connection_and_no_other(name: str) -> None:
    data, code = BROKEN[name]
    async with dialled() as (_, peer):
        path = peer.writer.get_extra_info("peername")
        answer = await spoken(Path(path), data)
        assert answer[-17:-8] == struct.pack(">BHBBL", 0, 8, frames.GOAWAY, 0, 0)
        assert answer[-4:] == struct.pack(">L", code)
        await peer.answer(peer.call("Echo", said(b"x")))


BROKEN_STREAMS = {
    "no path": (frame(frames.HEADERS, 4, 3, b"\x83\x86"), Code.PROTOCOL_ERROR),
    "two methods": (frame(frames.HEADERS, 4, 3, b"\x83" + BLOCK), Code.PROTOCOL_ERROR),
    "a pseudo-header last": (frame(frames.HEADERS, 4, 3, BLOCK[1:] + b"\x83"), Code.PROTOCOL_ERROR),
    "HTTP/1.1's connection": (frame(frames.HEADERS, 4, 3, BLOCK + b"\0\x07upgrade\1x"), Code.PROTOCOL_ERROR),
    "a name in capitals": (frame(frames.HEADERS, 4, 3, BLOCK + b"\0\1X\1x"), Code.PROTOCOL_ERROR),
    "headers twice": (frame(frames.HEADERS, 4, 3, BLOCK) * 2, Code.PROTOCOL_ERROR),
    "DATA after the end": (
        frame(frames.HEADERS, 4, 3, BLOCK.replace(b"Echo", b"Stay"))
        + frame(frames.DATA, 1, 3)
        + frame(frames.DATA, 0, 3, b"x"),
        Code.STREAM_CLOSED,
    ),
    "a window too large": (
        frame(frames.HEADERS, 4, 3, BLOCK) + frame(frames.WINDOW_UPDATE, 0, 3, b"\x7f" + b"\xff" * 3),
        Code.FLOW_CONTROL_ERROR,
    ),
}


@pytest.mark.parametrize("name", BROKEN_STREAMS)
async def test_a_broken_stream_is_reset_and_the_next_answered(name: str) -> None:
    data, code = BROKEN_STREAMS[name]
    good = frame(frames.HEADERS, 4, 5, BLOCK) + frame(frames.DATA, 1, 5, said(b"x"))
    async with served() as (_, socket):
        reader, writer = await asyncio.open_unix_connection(socket)
        writer.write(GREETING + data + good)
        expected = frame(frames.RST_STREAM, 0, 3, struct.pack(">L", code)) + grpc.small(5, said(b"x"))
        got = b""
        while expected not in got:
            chunk = await asyncio.wait_for(reader.read(65_536), 5)
            assert chunk, got
            got += chunk
        writer.close()


CONVERSATION = (
    GREETING
    + frame(frames.HEADERS, 0, 1, BLOCK[:7])
    + frame(frames.CONTINUATION, 4, 1, BLOCK[7:])
    + frame(frames.DATA, frames.PADDED, 1, b"\x03" + said(b"one")[:4] + bytes(3))
    + frame(frames.SETTINGS, frames.ACK, 0)
    + frame(frames.DATA, 1, 1, said(b"one")[4:])
    + frame(frames.PRIORITY, 0, 3, bytes(5))
    + frame(0xFA, 0xFF, 3, b"an extension")
    + frame(frames.HEADERS, 4 | 0x20, 3, bytes(5) + b"\x20" + BLOCK)
    + frame(frames.DATA, 0, 3, said(b"two"))
    + frame(frames.HEADERS, 5, 3, b"\0\1a\1b")
    + frame(frames.HEADERS, 4, 5, BLOCK)
    + frame(frames.DATA, 1, 5, said(b"three"))
)
ANSWERS = grpc.small(1, said(b"one")) + grpc.small(3, said(b"two")) + grpc.small(5, said(b"three"))


@given(cuts=st.lists(st.integers(1, len(CONVERSATION) - 1), max_size=12))
@settings(max_examples=60, deadline=None)
def test_frames_may_be_cut_anywhere(cuts: list[int]) -> None:
    asyncio.run(_cut(sorted(cuts)))


async def _cut(cuts: list[int]) -> None:
    async with served() as (_, socket):
        reader, writer = await asyncio.open_unix_connection(socket)
        for low, high in zip([0, *cuts], [*cuts, len(CONVERSATION)], strict=True):
            writer.write(CONVERSATION[low:high])
            await writer.drain()
            await asyncio.sleep(0)
        got = b""
        while not got.endswith(ANSWERS[-60:]):
            chunk = await asyncio.wait_for(reader.read(65_536), 5)
            assert chunk, got
            got += chunk
        without = got.replace(frame(frames.SETTINGS, frames.ACK, 0), b"")
        assert without.endswith(ANSWERS)
        writer.close()


@given(noise=st.binary(max_size=400), kind=st.integers(0, 12), flags=st.integers(0, 255), stream=st.integers(0, 9))
@settings(max_examples=150, deadline=None)
def test_whatever_comes_the_server_answers_or_hangs_up(noise: bytes, kind: int, flags: int, stream: int) -> None:
    asyncio.run(_noise(BEGUN + frame(kind, flags, stream, noise) + noise))


async def _noise(data: bytes) -> None:
    async with served() as (_, socket):
        reader, writer = await asyncio.open_unix_connection(socket)
        writer.write(data)
        writer.write_eof()
        await asyncio.wait_for(reader.read(), 5)
        writer.close()
        good = await asyncio.open_unix_connection(socket)
        peer = Peer(*good)
        await peer.answer(peer.call("Echo", said(b"x")))
        peer.writer.close()
