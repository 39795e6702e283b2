"""The load generator itself: what it counts, and that nothing it met is lost."""

import asyncio
import time

import pytest

from tests.bench.load import NotSigned, closed_loop, open_loop


async def test_an_arrival_counts_from_the_moment_it_was_meant_for() -> None:
    """One stall of the whole sender delays all that were meant to be sent meanwhile, and each of them says so."""
    stalled = False

    async def call() -> None:
        nonlocal stalled
        if not stalled:
            stalled = True
            time.sleep(0.5)  # noqa: ASYNC251 - the stall that is meant

    found = await open_loop(call, per_second=100, seconds=1.0, warm_up=0.0)
    # The 50 of the stall waited 0 to 0.5 s, evenly; a closed loop would have seen one of them.
    assert found.p99 > 400
    assert found.lateness > 400
    assert found.calls == 100


async def test_refusals_count_by_reason_and_leave_the_latencies() -> None:
    numbers = iter(range(1_000))

    async def call() -> None:
        if next(numbers) % 2:
            raise NotSigned("QUEUE_FULL")

    found = await open_loop(call, per_second=200, seconds=0.5, warm_up=0.0)
    assert found.failed == {"QUEUE_FULL": 50}
    assert (found.calls, found.rate) == (50, 100.0)


async def test_whatever_else_a_call_raises_ends_the_measurement() -> None:
    numbers = iter(range(1_000))

    async def call() -> None:
        if next(numbers) == 3:
            raise RuntimeError("lost")
        await asyncio.sleep(0.01)

    with pytest.raises(RuntimeError, match="lost"):
        await open_loop(call, per_second=200, seconds=0.2, warm_up=0.0)


async def test_a_closed_loop_counts_no_call_of_its_warm_up() -> None:
    async def call() -> None:
        await asyncio.sleep(0.01)

    found = await closed_loop(call, in_flight=4, seconds=0.5, warm_up=0.5)
    assert found.calls > 1.5 * found.rate * 0.5
    assert found.p50 >= 10
