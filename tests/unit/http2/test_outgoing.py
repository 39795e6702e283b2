"""What leaves when: the windows of streams and connection, the order among those that wait."""

from typing import Any, SupportsIndex

import pytest

from popsigner_http2 import frames
from popsigner_http2.frames import Code, ConnectionFault, StreamFault
from tests.unit.http2.parts import frames_in
from tests.unit.http2.sending import Sending

LIMIT = 2**31 - 1
ENDING = frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, 0, b"the end")


@pytest.fixture
def sending() -> Sending:
    return Sending()


def test_content_leaves_in_frames_of_the_size_that_the_peer_takes(sending: Sending) -> None:
    sending.outgoing.say(sending.opened(1), bytes(20_000))
    sending.outgoing.limits(window=None, frame_bytes=30_000)
    sending.outgoing.say(sending.opened(3), bytes(31_000))
    assert sending.order() == [(1, 16_384), (1, 3_616), (3, 30_000), (3, 1_000)]


def test_a_stream_sends_no_more_than_its_window_and_goes_on_as_it_is_widened(sending: Sending) -> None:
    sending.widened(streams=100, connection=10**6)
    first, second = sending.opened(1), sending.opened(3)
    sending.outgoing.say(first, bytes(range(250)))
    sending.outgoing.say(second, b"x" * 100)
    assert sending.order() == [(1, 100), (3, 100)]
    sending.outgoing.widen(1, 60)
    assert sending.order()[2:] == [(1, 60)]
    assert first.left == 0
    sending.outgoing.widen(1, 1_000)
    assert sending.of(1) == bytes(range(250))
    assert (first.left, second.left) == (1, 1)


def test_all_streams_together_send_no_more_than_the_connections_window(sending: Sending) -> None:
    sending.widened(streams=10**6)
    first, second, third = (sending.opened(number) for number in (1, 3, 5))
    for stream in (first, second, third):
        sending.outgoing.say(stream, bytes(40_000))
    assert len(sending.of(1)) == 40_000
    assert len(sending.of(3)) == 65_535 - 40_000
    assert not sending.of(5)
    sending.sent.clear()
    sending.outgoing.widen(0, 14_465 + 10_000)
    assert [number for number, _ in sending.order()] == [3, 5]
    assert len(sending.of(5)) == 10_000
    sending.outgoing.widen(0, 10**6)
    assert (first.left, second.left, third.left) == (1, 1, 1)


def test_who_waits_for_the_connection_is_served_in_the_order_of_coming(sending: Sending) -> None:
    sending.widened(streams=10**6)
    sending.outgoing.say(sending.opened(1), bytes(65_535))
    for number in (9, 3, 7, 5):
        sending.outgoing.say(sending.opened(number), bytes(10))
    sending.sent.clear()
    for _ in range(40):
        sending.outgoing.widen(0, 1)
    assert sending.order() == [(number, 1) for number in (9, 3, 7, 5) for _ in range(10)]


def test_a_stream_that_waits_for_its_own_window_is_not_looked_at_when_the_connections_widens(sending: Sending) -> None:
    sending.widened(streams=10)
    narrow = [sending.opened(number) for number in range(1, 100, 2)]
    for stream in narrow:
        sending.outgoing.say(stream, bytes(11))
        stream.looks = 0
    for _ in range(1_000):
        sending.outgoing.widen(0, 1)
    assert [stream.looks for stream in narrow] == [0] * 50


def test_a_stream_that_waited_for_its_own_window_waits_for_the_connections_next(sending: Sending) -> None:
    sending.widened(streams=10)
    narrow = sending.opened(1)
    sending.outgoing.say(narrow, bytes(30))
    wide, last = sending.opened(3), sending.opened(5)
    sending.outgoing.widen(3, 10**6)
    sending.outgoing.say(wide, bytes(65_525))
    sending.outgoing.say(last, bytes(10))
    sending.outgoing.widen(1, 100)
    sending.sent.clear()
    sending.outgoing.widen(0, 25)
    assert sending.order() == [(5, 10), (1, 15)]
    assert narrow.left == 0
    sending.outgoing.widen(0, 5)
    assert narrow.left == 1


def test_an_initial_window_moves_those_of_open_streams_both_ways(sending: Sending) -> None:
    stream = sending.opened(1)
    sending.outgoing.say(stream, bytes(50_000))
    sending.outgoing.limits(window=1_000, frame_bytes=None)
    assert stream.window == 1_000 - 50_000
    assert not sending.outgoing.take(stream, 0)
    sending.sent.clear()
    sending.outgoing.say(stream, bytes(5_000))
    sending.outgoing.widen(1, 49_000)
    assert not sending.sent
    sending.outgoing.widen(1, 1)
    assert sending.order() == [(1, 1)]
    sending.outgoing.limits(window=3_000, frame_bytes=None)
    assert sending.order()[1:] == [(1, 2_000)]
    later = sending.opened(3)
    assert later.window == 3_000


def test_a_stream_whose_window_is_taken_away_does_not_wait_for_the_connection_any_more(sending: Sending) -> None:
    sending.widened(streams=70_000)
    waiting, other = sending.opened(1), sending.opened(3)
    sending.outgoing.say(waiting, bytes(66_000))
    sending.outgoing.say(other, bytes(10))
    sending.outgoing.limits(window=65_000, frame_bytes=None)
    waiting.looks = 0
    sending.outgoing.widen(0, 5)
    assert sending.order()[-1] == (3, 5)
    assert waiting.looks == 0
    sending.outgoing.widen(0, 10**6)
    sending.outgoing.widen(1, 10**6)
    assert (waiting.left, other.left) == (1, 1)


def test_no_more_streams_are_looked_at_than_the_connection_has_bytes_for(sending: Sending) -> None:
    sending.widened(streams=10**6)
    waiting = [sending.opened(number) for number in range(1, 100, 2)]
    for stream in waiting:
        sending.outgoing.say(stream, bytes(65_535))
        stream.looks = 0
    for _ in range(1_000):
        sending.outgoing.widen(0, 1)
    assert waiting[1].looks > 0
    assert [stream.looks for stream in waiting[2:]] == [0] * 48


WIDENING = {0: Code.PROTOCOL_ERROR, LIMIT: Code.FLOW_CONTROL_ERROR}


@pytest.mark.parametrize("more", WIDENING)
def test_a_stream_is_widened_by_something_and_no_further_than_there_are_numbers(sending: Sending, more: int) -> None:
    sending.opened(1)
    with pytest.raises(StreamFault) as fault:
        sending.outgoing.widen(1, more)
    assert fault.value.code == WIDENING[more]


@pytest.mark.parametrize("more", WIDENING)
def test_so_is_a_connection(sending: Sending, more: int) -> None:
    with pytest.raises(ConnectionFault) as fault:
        sending.outgoing.widen(0, more)
    assert fault.value.code == WIDENING[more]


def test_windows_may_be_as_wide_as_there_are_numbers_and_an_initial_one_moves_none_beyond(sending: Sending) -> None:
    stream = sending.opened(1)
    sending.outgoing.widen(0, LIMIT - 65_535)
    sending.outgoing.widen(1, LIMIT - 65_535)
    assert stream.window == LIMIT
    with pytest.raises(ConnectionFault) as fault:
        sending.outgoing.limits(window=65_536, frame_bytes=None)
    assert fault.value.code == Code.FLOW_CONTROL_ERROR


def test_a_window_of_a_stream_that_is_over_says_nothing(sending: Sending) -> None:
    sending.outgoing.widen(7, LIMIT)
    sending.outgoing.widen(7, 0)
    assert not sending.sent


def test_nothing_leaves_while_the_peer_does_not_read_and_all_in_its_order_when_it_does(sending: Sending) -> None:
    streams = [sending.opened(number) for number in (5, 1, 3)]
    sending.outgoing.pause(True)
    for stream in streams:
        sending.outgoing.say(stream, bytes(10), ENDING)
    sending.outgoing.widen(0, 10)
    sending.outgoing.widen(1, 10)
    sending.outgoing.limits(window=70_000, frame_bytes=None)
    assert not sending.sent
    assert not sending.outgoing.take(sending.opened(7), 1)
    sending.outgoing.pause(False)
    assert sending.order() == [(5, 10), (1, 10), (3, 10)]
    assert sending.sent[1::2] == [ENDING] * 3


def test_nothing_is_taken_while_the_peer_does_not_read_though_nobody_waits(sending: Sending) -> None:
    stream = sending.opened(1)
    sending.outgoing.pause(True)
    assert not sending.outgoing.take(stream, 0)
    sending.outgoing.pause(False)
    assert sending.outgoing.take(stream, 10)


def test_the_ending_leaves_once_after_all_content(sending: Sending) -> None:
    sending.widened(streams=100)
    stream = sending.opened(1)
    sending.outgoing.say(stream, b"a" * 80)
    sending.outgoing.say(stream, b"b" * 80)
    sending.outgoing.say(stream, b"c" * 80, ENDING)
    assert ENDING not in sending.sent
    assert stream.left == 1
    for _ in range(140):
        sending.outgoing.widen(1, 1)
    assert sending.of(1) == b"a" * 80 + b"b" * 80 + b"c" * 80
    assert sending.sent.index(ENDING) == len(sending.sent) - 1
    assert stream.left == 2


def test_an_ending_alone_needs_no_window(sending: Sending) -> None:
    sending.widened(streams=0)
    sending.outgoing.limits(window=0, frame_bytes=None)
    stream = sending.opened(1)
    sending.outgoing.say(stream, b"", ENDING)
    assert sending.sent == [ENDING]
    assert stream.left == 1


def test_what_is_taken_counts_as_sent(sending: Sending) -> None:
    sending.widened(streams=100)
    first, second = sending.opened(1), sending.opened(3)
    assert sending.outgoing.take(first, 60)
    assert not sending.outgoing.take(first, 41)
    assert sending.outgoing.take(first, 40)
    assert sending.outgoing.take(first, 0)
    sending.outgoing.widen(1, 10)
    assert sending.outgoing.take(first, 10)
    assert sending.outgoing.take(second, 100)
    assert not sending.sent


def test_no_more_is_taken_than_one_frame_and_the_connections_window_hold(sending: Sending) -> None:
    sending.widened(streams=10**6)
    stream = sending.opened(1)
    assert not sending.outgoing.take(stream, 16_385)
    for _ in range(3):
        assert sending.outgoing.take(stream, 16_384)
    assert not sending.outgoing.take(stream, 16_384)
    assert sending.outgoing.take(stream, 16_383)
    assert not sending.outgoing.take(stream, 1)


def test_nothing_is_taken_while_others_wait(sending: Sending) -> None:
    sending.widened(streams=10**6)
    waiting, other = sending.opened(1), sending.opened(3)
    sending.outgoing.say(waiting, bytes(65_536))
    assert not sending.outgoing.take(other, 0)
    sending.outgoing.drop(1)
    assert sending.outgoing.take(other, 0)


def test_a_stream_that_was_dropped_says_no_more(sending: Sending) -> None:
    sending.widened(streams=10**6)
    gone, stays = sending.opened(1), sending.opened(3)
    for stream in (gone, stays):
        sending.outgoing.say(stream, bytes(65_536), ENDING)
    sending.outgoing.drop(1)
    sending.sent.clear()
    sending.outgoing.widen(1, 10**6)
    sending.outgoing.widen(0, 10**6)
    assert {each.stream for each in frames_in(b"".join(sending.sent))} == {0, 3}
    assert gone.left == 0


class Weighed(bytearray):
    """Counts the bytes that are copied out of it."""

    copied = 0

    def __getitem__(self, part: SupportsIndex | slice) -> Any:
        found = super().__getitem__(part)
        self.copied += len(found) if isinstance(found, bytearray) else 1
        return found

    def __bytes__(self) -> bytes:
        self.copied += len(self)
        return bytes(memoryview(self))


def test_a_long_answer_is_copied_once_however_small_the_steps(sending: Sending) -> None:
    size = 4 * 2**20
    sending.widened(streams=1, connection=size)
    stream = sending.opened(1)
    stream.unsent = Weighed()
    sending.outgoing.say(stream, bytes(size), ENDING)
    step = 1_024
    for _ in range(size // step - 1):
        sending.outgoing.widen(1, step)
    sending.outgoing.widen(1, step - 1)
    assert stream.left == 1
    assert len(sending.of(1)) == size
    assert isinstance(stream.unsent, Weighed)
    assert stream.unsent.copied == size
