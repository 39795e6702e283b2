"""Any order of what streams say and what a peer takes: held against a model that keeps books alone."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from popsigner_http2 import frames
from tests.unit.http2.sending import Sending

STREAMS = (1, 3, 5)
_sizes = st.sampled_from([1, 2, 100, 16_384, 16_385, 40_000])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.sampled_from(STREAMS), _sizes),
        st.tuples(st.just("take"), st.sampled_from(STREAMS), _sizes),
        st.tuples(st.just("widen"), st.sampled_from((0, *STREAMS)), _sizes),
        st.tuples(st.just("limits"), st.just(0), st.sampled_from([0, 1, 100, 65_535, 100_000])),
        st.tuples(st.just("pause"), st.just(0), st.integers(0, 1)),
    ),
    max_size=40,
)


class Books:
    """What was said, taken, and allowed, without an order."""

    def __init__(self) -> None:
        self.initial = frames.WINDOW_BYTES
        self.rooms = dict.fromkeys((0, *STREAMS), frames.WINDOW_BYTES)
        self.said = dict.fromkeys(STREAMS, b"")
        self.taken = dict.fromkeys(STREAMS, 0)
        self.paused = False

    def note(self, kind: str, stream: int, size: int) -> None:
        if kind == "widen":
            self.rooms[stream] += size
        elif kind == "limits":
            for number in STREAMS:
                self.rooms[number] += size - self.initial
            self.initial = size
        elif kind == "pause":
            self.paused = bool(size)

    def left(self, sending: Sending, stream: int) -> int:
        """Bytes that may still leave: of one stream, or of all together (0)."""
        used = {number: len(sending.of(number)) + self.taken[number] for number in STREAMS}
        return self.rooms[stream] - (used[stream] if stream else sum(used.values()))

    def check(self, sending: Sending, before: dict[int, int]) -> None:
        """before: bytes that had left of each stream when the last step began."""
        waiting = {number for number in STREAMS if len(sending.of(number)) < len(self.said[number])}
        for number in STREAMS:
            assert self.said[number].startswith(sending.of(number))
            if len(sending.of(number)) > before[number]:
                assert not self.paused
                assert min(self.left(sending, 0), self.left(sending, number)) >= 0
        # Who waits does so for a reason.
        if not self.paused and self.left(sending, 0) > 0:
            assert all(self.left(sending, number) <= 0 for number in waiting)


@given(steps=STEPS)
@settings(deadline=None)
def test_streams_send_what_windows_allow_and_never_wait_for_nothing(steps: list[tuple[str, int, int]]) -> None:
    sending, books = Sending(), Books()
    streams = {number: sending.opened(number) for number in STREAMS}
    for at, (kind, number, size) in enumerate(steps):
        before = {each: len(sending.of(each)) for each in STREAMS}
        books.note(kind, number, size)
        if kind == "say":
            content = bytes([at]) * size
            books.said[number] += content
            sending.outgoing.say(streams[number], content, b"")
        elif kind == "take":
            fits = size <= min(books.left(sending, 0), books.left(sending, number), frames.FRAME_BYTES)
            behind = books.paused or any(books.said[each] != sending.of(each) for each in STREAMS)
            taken = sending.outgoing.take(streams[number], size)
            # Others may wait for windows of their own, and then they are in nobody's way.
            assert taken <= fits
            assert taken or behind or not fits
            books.taken[number] += size * taken
        else:
            _tell(sending, kind, number, size)
        books.check(sending, before)
    _tell(sending, "pause", 0, 0)
    for number in (0, *STREAMS):
        sending.outgoing.widen(number, 10**7)
    assert {number: sending.of(number) for number in STREAMS} == books.said


def _tell(sending: Sending, kind: str, number: int, size: int) -> Any:
    if kind == "widen":
        return sending.outgoing.widen(number, size)
    if kind == "limits":
        return sending.outgoing.limits(window=size, frame_bytes=None)
    return sending.outgoing.pause(bool(size))
