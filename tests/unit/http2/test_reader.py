"""What frames say, in whatever pieces they come: blocks in many parts, content, windows that are given back."""

from collections.abc import Callable
from typing import Any

import pytest
from hpack import Encoder

from popsigner_http2 import frames, grpc
from popsigner_http2.frames import Code, ConnectionFault, StreamFault, frame
from popsigner_http2.headers import BLOCK_BYTES, Request
from popsigner_http2.outgoing import Outgoing
from popsigner_http2.reader import Reader
from tests.unit.http2.blocks import START
from tests.unit.http2.parts import BLOCK, ENDS, GREETING, SETTLED, Calls, asking, of_kind, reset, widening

ENDED, DONE = frames.END_STREAM, frames.END_HEADERS


class Reading:
    """A reader on bytes alone, with what it sends and whom it pings back. heard: pieces without a fault."""

    def __init__(self, *, window: int = 2**20, calls: type[Calls] = Calls) -> None:
        self.sent: list[bytes] = []
        self.pongs: list[bytes] = []
        outgoing = Outgoing(self.sent.append)
        self.calls = calls(self.sent.append, outgoing)
        self.reader = Reader(self.calls, outgoing, window=window, send=self.sent.append, pong=self.pongs.append)
        self.rest = b""
        self.heard = 0

    def hear(self, *parts: bytes) -> None:
        for part in parts:
            self.rest = self.reader.read(self.rest + part)
            self.heard += 1

    def all(self) -> tuple[Any, ...]:
        return self.calls.said, self.calls.forgotten, b"".join(self.sent), self.pongs, self.rest


CONVERSATION = (
    SETTLED
    + frame(frames.HEADERS, DONE | frames.PADDED, 1, b"\x05\x20" + BLOCK + bytes(5))
    + frame(frames.DATA, frames.PADDED, 1, b"\x03one" + bytes(3))
    + frame(frames.PING, 0, 0, b"12345678")
    + frame(frames.HEADERS, frames.PRIORITISED | frames.PADDED, 3, b"\x02" + bytes(5) + BLOCK[:9] + bytes(2))
    + frame(frames.CONTINUATION, 0, 3, BLOCK[9:20])
    + frame(frames.CONTINUATION, DONE, 3, BLOCK[20:])
    + frame(frames.DATA, ENDED, 1)
    + frame(frames.PRIORITY, 0, 9, bytes(5))
    + frame(0xFA, 0xFF, 3, b"an extension")
    + widening(70_000)
    + widening(70_000, 3)
    + frame(frames.DATA, 0, 3 | 1 << 31, b"two")
    + frames.settings({frames.INITIAL_WINDOW_SIZE: 70_000, frames.MAX_FRAME_SIZE: 20_000, 0xFF: 1})
    + frame(frames.HEADERS, ENDS, 3, b"\0\1a\1b")
    + asking(11, flags=DONE)
    + reset(11)
    + frame(frames.DATA, ENDED, 11, b"late")
    + frame(frames.GOAWAY, 0, 0, bytes(8))
    + frame(frames.PING, frames.ACK, 0, b"-answer-")
    + asking(13)
    + frame(frames.DATA, 0, 13, bytes(40))[:30]
)


async def test_frames_say_the_same_wherever_they_are_cut() -> None:
    whole = Reading()
    whole.hear(CONVERSATION)
    expected = whole.all()
    assert [each[:2] for each in expected[0]] == [
        ("begin", 1),
        ("data", 1),
        ("begin", 3),
        ("data", 1),
        ("data", 3),
        ("end", 3),
        ("begin", 11),
        ("data", 11),
        ("begin", 13),
    ]
    assert expected[3] == [b"12345678"]
    for at in range(1, len(CONVERSATION)):
        cut = Reading()
        cut.hear(CONVERSATION[:at], CONVERSATION[at:])
        assert cut.all() == expected, at
    single = Reading()
    single.hear(*[bytes((byte,)) for byte in CONVERSATION])
    assert single.all() == expected


async def test_content_is_handed_on_without_its_padding_and_counted_with_it() -> None:
    reading = Reading()
    reading.hear(GREETING + asking(1, flags=DONE), frame(frames.DATA, frames.PADDED | ENDED, 1, b"\x03one" + bytes(3)))
    assert reading.calls.said[-1] == ("data", 1, b"one", 7, True)


async def test_bytes_are_given_back_when_half_the_window_is_used_whoever_they_were_for() -> None:
    reading = Reading(window=40_000)
    reading.hear(GREETING + asking(1, flags=DONE) + asking(3, flags=DONE) + reset(3))
    for number, size in ((1, 10_000), (3, 10_000)):
        reading.hear(frame(frames.DATA, 0, number, bytes(size)))
    assert not of_kind(frames.WINDOW_UPDATE, b"".join(reading.sent))
    reading.hear(frame(frames.DATA, frames.PADDED, 3, bytes(1)), frame(frames.DATA, 0, 1, bytes(20_000)[:16_384]))
    assert reading.sent[-1] == widening(20_001)
    reading.hear(frame(frames.DATA, 0, 1, bytes(3_617)))
    assert reading.sent[-1] == widening(20_001)
    assert len(of_kind(frames.WINDOW_UPDATE, b"".join(reading.sent))) == 2


async def test_content_beyond_the_connections_window_ends_it() -> None:
    reading = Reading(window=12_000)
    reading.hear(GREETING + asking(1, flags=DONE), frame(frames.DATA, 0, 1, bytes(6_000)))
    with pytest.raises(ConnectionFault) as fault:
        reading.hear(frame(frames.DATA, 0, 1, bytes(6_001)))
    assert fault.value.code == Code.FLOW_CONTROL_ERROR


class Refusing(Calls):
    """Takes no request for another path than Echo's."""

    def begin(self, stream: int, asked: Request, *, ended: bool) -> None:
        if asked.path != b"/t.Test/Echo":
            raise StreamFault(Code.REFUSED_STREAM, "not this one")
        super().begin(stream, asked, ended=ended)


async def test_a_fault_of_a_stream_resets_it_alone() -> None:
    reading = Reading(calls=Refusing)
    reading.hear(GREETING + asking(1, flags=DONE) + asking(5, block=BLOCK.replace(b"Echo", b"Ohce")))
    reading.hear(frame(frames.DATA, 0, 5, b"on its way"), asking(7))
    assert frame(frames.RST_STREAM, 0, 5, b"\0\0\0\x07") in reading.sent
    assert reading.calls.forgotten == [5]
    assert reading.calls.begun == [1, 7]
    reading.hear(frame(frames.DATA, 0, 1, b"x"))
    assert reading.calls.said[-1] == ("data", 1, b"x", 1, False)


async def test_a_block_of_many_small_parts_is_one() -> None:
    reading = Reading()
    first, *others = [BLOCK[at : at + 1] for at in range(len(BLOCK))]
    reading.hear(GREETING + frame(frames.HEADERS, ENDED, 1, first))
    reading.hear(*[frame(frames.CONTINUATION, 0, 1, part) for part in others], frame(frames.CONTINUATION, DONE, 1))
    assert [(each[0], each[2].path, each[3]) for each in reading.calls.said] == [("begin", b"/t.Test/Echo", True)]


async def test_a_block_may_be_as_long_as_was_said() -> None:
    reading = Reading()
    block = BLOCK + grpc.literal(b"a", b"b" * (BLOCK_BYTES - len(BLOCK) - 6))
    assert len(block) == BLOCK_BYTES
    reading.hear(
        GREETING + frame(frames.HEADERS, 0, 1, block[:9_000]) + frame(frames.CONTINUATION, DONE, 1, block[9_000:])
    )
    assert reading.calls.begun == [1]


@pytest.mark.parametrize("part", [1, 100, 9_000])
async def test_a_block_without_end_is_not_gathered(part: int) -> None:
    reading = Reading()
    reading.hear(GREETING + frame(frames.HEADERS, 0, 1, b"\x83"))
    reading.heard = 0
    parts = [frame(frames.CONTINUATION, 0, 1, bytes(part))] * (2 * BLOCK_BYTES)
    with pytest.raises(ConnectionFault) as fault:
        reading.hear(*parts)
    assert fault.value.code == Code.ENHANCE_YOUR_CALM
    assert 1 + reading.heard * part <= BLOCK_BYTES < 1 + (reading.heard + 1) * part


async def test_a_block_is_not_gathered_from_parts_of_nothing() -> None:
    reading = Reading()
    reading.hear(GREETING + frame(frames.HEADERS, 0, 1))
    with pytest.raises(ConnectionFault) as fault:
        reading.hear(frame(frames.CONTINUATION, 0, 1))
    assert fault.value.code == Code.ENHANCE_YOUR_CALM


BETWEEN: dict[str, Callable[[], bytes]] = {
    "another stream's part": lambda: frame(frames.CONTINUATION, DONE, 3, BLOCK[5:]),
    "another request": lambda: asking(3),
    "content": lambda: frame(frames.DATA, 0, 1, b"x"),
    "a reset": lambda: reset(1),
    "settings": lambda: frames.settings({}),
    "an extension": lambda: frame(0xFA, 0, 1, b"x"),
    "an extension on its stream": lambda: frame(0xFA, 0, 5, b"x"),
    "its own beginning": lambda: asking(5),
}


@pytest.mark.parametrize("name", BETWEEN)
async def test_nothing_comes_between_the_parts_of_a_block(name: str) -> None:
    reading = Reading()
    reading.hear(GREETING + asking(1, flags=DONE) + frame(frames.HEADERS, 0, 5, BLOCK[:5]))
    with pytest.raises(ConnectionFault) as fault:
        reading.hear(BETWEEN[name]())
    assert fault.value.code == Code.PROTOCOL_ERROR


async def test_trailers_and_requests_that_are_refused_count_for_what_the_next_block_means() -> None:
    reading, encoder = Reading(calls=Refusing), Encoder()
    other = [*START[:2], (b":path", b"/other"), (b"x", b"1")]
    echo = [*START[:2], (b":path", b"/t.Test/Echo")]
    reading.hear(GREETING, asking(1, flags=DONE, block=encoder.encode(echo)))
    reading.hear(asking(3, block=encoder.encode(other)), asking(1, block=encoder.encode([(b"y", b"2")])))
    reading.hear(asking(5, block=encoder.encode([*echo, (b"x", b"1"), (b"y", b"2")])))
    assert reading.calls.said[-1][2].metadata == (("x", "1"), ("y", "2"))


async def test_a_stream_that_comes_late_is_not_begun() -> None:
    reading = Reading()
    reading.hear(GREETING + asking(7) + asking(5))
    assert reading.calls.begun == [7]


@pytest.mark.parametrize("size", [16_384, 16_385])
async def test_a_frame_may_be_as_long_as_both_sides_start_with(size: int) -> None:
    reading = Reading()
    reading.hear(GREETING + asking(1, flags=DONE))
    if size > frames.FRAME_BYTES:
        with pytest.raises(ConnectionFault) as fault:
            reading.hear(frame(frames.DATA, 0, 1, bytes(size))[:9])
        assert fault.value.code == Code.FRAME_SIZE_ERROR
    else:
        reading.hear(frame(frames.DATA, 0, 1, bytes(size)))
        assert reading.calls.said[-1] == ("data", 1, bytes(size), size, False)


GOODBYES = {
    "on a stream": (frame(frames.GOAWAY, 0, 1, bytes(8)), Code.PROTOCOL_ERROR),
    "too short": (frame(frames.GOAWAY, 0, 0, bytes(7)), Code.FRAME_SIZE_ERROR),
}


@pytest.mark.parametrize("name", GOODBYES)
async def test_a_goodbye_that_is_none_ends_the_connection(name: str) -> None:
    said, code = GOODBYES[name]
    reading = Reading()
    reading.hear(GREETING + asking(1))
    with pytest.raises(ConnectionFault) as fault:
        reading.hear(said)
    assert fault.value.code == code
