"""One budget in a Valkey for every process that counts in it, and what becomes of calls while it is away."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterator
from uuid import UUID

import pytest
import structlog

from popsigner_server.domain.ids import new_id
from popsigner_server.limits import StoreAway
from popsigner_server.limits.shared import LATE, PAUSE, TELL_AGAIN, SharedLimiter
from tests.support.valkey import Valkey

RATE = 100


class Clock:
    """Seconds of the circuit; the test lets them pass."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    with Valkey.started() as server:
        yield server


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def pair(valkey: Valkey, clock: Clock) -> AsyncIterator[list[SharedLimiter]]:
    """What two server processes have."""
    limiters = [SharedLimiter(valkey.url, clock=clock) for _ in range(2)]
    for limiter in limiters:
        await _until_it_answers(limiter)
    yield limiters
    for limiter in limiters:
        await limiter.close()


async def test_two_processes_share_one_budget_and_a_neighbour_has_its_own(pair: list[SharedLimiter]) -> None:
    loud, quiet = new_id(), new_id()
    began = time.monotonic()
    admitted = 0
    # A few at once: so many that wait for their turn would take the store's patience.
    for _ in range(100):
        answers = await asyncio.gather(*(_take(limiter, loud) for limiter in pair for _ in range(2)))
        admitted += sum(answers)
    elapsed = time.monotonic() - began
    assert RATE <= admitted <= math.ceil(RATE * (1 + elapsed)) + 2
    assert all([await _take(limiter, quiet) for limiter in pair for _ in range(RATE // 2)])


async def test_a_store_that_is_away_is_asked_once_a_pause_and_told_of_once_a_while(
    pair: list[SharedLimiter], valkey: Valkey, clock: Clock
) -> None:
    limiter, subject = pair[0], new_id()
    valkey.kill()
    with structlog.testing.capture_logs() as told:
        assert await _asked(limiter, subject, calls=50) == 1
        clock.now += PAUSE
        assert await _asked(limiter, subject, calls=50) == 1
    assert [line["event"] for line in told] == ["rate limit store is away, calls are let through"]
    clock.now += TELL_AGAIN
    with structlog.testing.capture_logs() as told:
        await _asked(limiter, subject, calls=50)
    assert len(told) == 1


async def test_a_store_that_is_back_counts_again(pair: list[SharedLimiter], valkey: Valkey, clock: Clock) -> None:
    limiter, subject = pair[0], new_id()
    valkey.kill()
    with pytest.raises(StoreAway):
        await limiter.take(subject, RATE)
    valkey.start()
    with pytest.raises(StoreAway):
        await limiter.take(subject, RATE)
    with structlog.testing.capture_logs() as told:
        for _ in range(100):
            clock.now += PAUSE
            try:
                assert await limiter.take(subject, RATE)
                break
            except StoreAway:
                await asyncio.sleep(0.01)
    assert told[-1]["event"] == "rate limit store answers again"
    assert await limiter.take(subject, RATE)


async def test_a_store_that_accepts_and_never_answers_costs_a_few_calls_their_patience(
    tmp_path_factory: pytest.TempPathFactory, clock: Clock
) -> None:
    silent = tmp_path_factory.mktemp("s") / "silent.sock"
    connected: list[asyncio.StreamWriter] = []
    server = await asyncio.start_unix_server(lambda _, writer: connected.append(writer), silent)
    limiter = SharedLimiter(f"unix://{silent}", clock=clock)
    try:
        assert await _asked(limiter, new_id(), calls=50) == LATE
        clock.now += PAUSE
        assert await _asked(limiter, new_id(), calls=50) == 1
    finally:
        await limiter.close()
        for writer in connected:
            writer.close()
        server.close()


@pytest.mark.parametrize("url", ["", "valkey", "http://valkey:6379", "valkey://", "postgresql://valkey"])
def test_a_url_that_can_be_no_store_is_a_sentence_without_the_url(url: str) -> None:
    with pytest.raises(ValueError, match="The rate limit store must be valkey://, "):
        SharedLimiter(url, clock=time.monotonic)


def test_a_url_that_cannot_be_read_keeps_its_password() -> None:
    with pytest.raises(ValueError, match="cannot be read") as mistake:
        SharedLimiter("valkey://:hidden@host:port/0", clock=time.monotonic)
    assert "hidden" not in str(mistake.value)
    assert mistake.value.__suppress_context__


async def _take(limiter: SharedLimiter, subject: UUID) -> bool:
    """A machine that stalls may let the patience end: that is no answer, and asked again."""
    while True:
        try:
            return await limiter.take(subject, RATE)
        except StoreAway:
            limiter._ask_again = 0.0


async def _until_it_answers(limiter: SharedLimiter) -> None:
    await _take(limiter, new_id())


async def _asked(limiter: SharedLimiter, subject: UUID, *, calls: int) -> int:
    """How many of the calls looked for the store; the others were told at once. None of them was counted."""
    asked = 0
    for _ in range(calls):
        with pytest.raises(StoreAway) as away:
            await limiter.take(subject, RATE)
        asked += away.value.__cause__ is not None
    return asked
