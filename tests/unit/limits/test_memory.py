"""Calls a second, counted in this process."""

import pytest

from popsigner_server.domain.ids import new_id
from popsigner_server.limits.memory import MemoryLimiter

RATE = 10


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limiter(clock: Clock) -> MemoryLimiter:
    return MemoryLimiter(clock)


async def admitted(limiter: MemoryLimiter, subject: object, *, of: int) -> int:
    return sum([await limiter.take(subject, RATE) for _ in range(of)])  # type: ignore[arg-type]


async def test_a_second_holds_as_many_calls_as_the_rate(limiter: MemoryLimiter) -> None:
    assert await admitted(limiter, new_id(), of=25) == RATE


async def test_subjects_do_not_count_for_each_other(limiter: MemoryLimiter) -> None:
    loud, quiet = new_id(), new_id()
    await admitted(limiter, loud, of=1_000)
    assert await admitted(limiter, quiet, of=RATE) == RATE


async def test_the_edge_of_a_second_lets_no_second_burst_through(limiter: MemoryLimiter, clock: Clock) -> None:
    subject = new_id()
    clock.now = 1_000.99
    assert await admitted(limiter, subject, of=25) == RATE
    clock.now = 1_001.01
    assert await admitted(limiter, subject, of=25) == 1
    clock.now = 1_001.5
    assert await admitted(limiter, subject, of=25) == RATE // 2 - 1


async def test_whoever_calls_evenly_below_the_rate_is_never_refused(limiter: MemoryLimiter, clock: Clock) -> None:
    subject = new_id()
    for number in range(100 * RATE):
        clock.now = 1_000 + number / (0.95 * RATE)
        assert await limiter.take(subject, RATE)


async def test_whoever_keeps_asking_too_often_still_gets_the_rate(limiter: MemoryLimiter, clock: Clock) -> None:
    subject, got = new_id(), 0
    for number in range(10 * 100):
        clock.now = 1_000 + number / 100
        got += await limiter.take(subject, RATE)
    assert 10 * RATE <= got <= 11 * RATE


async def test_two_seconds_later_everything_is_forgotten(limiter: MemoryLimiter, clock: Clock) -> None:
    subjects = [new_id() for _ in range(100)]
    for subject in subjects:
        await limiter.take(subject, RATE)
    clock.now += 2
    assert await admitted(limiter, subjects[0], of=25) == RATE
    assert len(limiter._counts) + len(limiter._before) == 1
