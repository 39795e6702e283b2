"""Frames that make no sense: each is heard or ends its connection, and nothing else happens."""

from collections.abc import Sequence
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from popsigner_http2 import frames
from popsigner_http2.frames import ConnectionFault, frame
from popsigner_http2.outgoing import Outgoing
from popsigner_http2.reader import Reader
from tests.unit.http2.blocks import BY_HAND
from tests.unit.http2.parts import BLOCK, GREETING, Calls, frames_in, without_waiting

_NUMBERS = st.sampled_from([0, 1, 2**31 - 1, 2**31, 2**32 - 1]) | st.integers(0, 2**17)
_PAYLOADS = st.one_of(
    st.sampled_from([b"", BLOCK, b"\x20" + BLOCK, b"\x02" + BLOCK + bytes(2), bytes(5) + BLOCK, bytes(8)]),
    BY_HAND,
    st.binary(max_size=20),
    _NUMBERS.map(frames.NUMBER.pack),
    st.lists(st.tuples(st.integers(0, 7), _NUMBERS), max_size=4).map(lambda each: frames.settings(dict(each))[9:]),
)
_FLAGS = st.sampled_from([0, 1, 4, 5, 8, 0x20, 0x2D]) | st.integers(0, 255)
FRAMES = st.lists(
    st.builds(frame, st.integers(0, 10), _FLAGS, st.sampled_from([0, 1, 1, 2, 3, 5, 2**31 - 1, 2**31 + 3]), _PAYLOADS),
    max_size=12,
)


@given(said=FRAMES, noise=st.binary(max_size=30))
@settings(max_examples=200, deadline=None)
def test_any_frames_are_heard_or_end_their_connection(said: Sequence[bytes], noise: bytes) -> None:
    without_waiting(_hear([*said, noise]))


async def _hear(parts: Sequence[bytes]) -> None:
    sent: list[bytes] = []
    outgoing = Outgoing(sent.append)
    calls = Calls(sent.append, outgoing, bytes(70_000))
    reader = Reader(calls, outgoing, window=2**20, send=sent.append, pong=sent.append)
    rest = GREETING
    with suppress(ConnectionFault):
        for part in parts:
            rest = reader.read(rest + part)
    assert calls.begun == sorted(set(calls.begun))
    assert all(number % 2 for number in calls.begun)
    assert calls.last >= max(calls.begun, default=0)
    # What was answered is whole frames of streams that were begun, but for what a PING carries.
    answered = frames_in(b"".join(each for each in sent if len(each) != 8))
    assert {each.stream for each in answered if each.kind == frames.DATA} <= set(calls.begun)
