"""One step each time round the event loop, for all that is run at this pace, and a share where others take long."""

import asyncio
import weakref
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from popsigner_server.limits.pace import Pace


class Clock:
    """Stands still, but for what the test says that something took."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Round:
    """Counts the rounds of the loop."""

    number = 0

    async def count(self) -> None:
        while True:
            self.number += 1
            await asyncio.sleep(0)


@asynccontextmanager
async def counted() -> AsyncIterator[Round]:
    round_ = Round()
    task = asyncio.create_task(round_.count())
    yield round_
    task.cancel()


async def test_no_two_steps_are_in_one_round_and_all_get_theirs() -> None:
    pace, steps = Pace(Clock()), 7
    async with counted() as round_:
        taken: Counter[int] = Counter()

        async def work(number: int) -> int:
            for _ in range(steps):
                taken[round_.number] += 1
                await asyncio.sleep(0)
            return number

        began = round_.number
        numbers = await asyncio.gather(*(pace.run(work(number)) for number in range(20)))
        rounds = round_.number - began
    assert numbers == list(range(20))
    # The counter's own task is before or behind a step in a round, so that two steps may show as one round's.
    assert taken.total() == 20 * steps
    assert max(taken.values()) <= 2
    # And none is lost to waiting: the last step of each returns.
    assert rounds <= 20 * (steps + 1) + 5


async def test_who_is_not_run_at_this_pace_waits_for_one_step_a_round() -> None:
    pace, steps = Pace(Clock()), 0

    async def work() -> None:
        nonlocal steps
        for _ in range(100):
            steps += 1
            await asyncio.sleep(0)

    async def run() -> None:
        await pace.run(work())

    crowd = [asyncio.create_task(run()) for _ in range(50)]
    await asyncio.sleep(0)
    before = steps
    for _ in range(10):
        await asyncio.sleep(0)
    assert 0 < steps - before <= 11
    for task in crowd:
        task.cancel()
    await asyncio.gather(*crowd, return_exceptions=True)


@pytest.mark.parametrize(("others", "in_a_round"), [(0.0, 1), (0.001, 1), (0.010, 4), (0.100, 49)])
async def test_where_others_take_long_its_steps_have_half_of_that(others: float, in_a_round: int) -> None:
    clock = Clock()
    pace, steps = Pace(clock), 0

    async def work() -> None:
        nonlocal steps
        for _ in range(1_000):
            steps += 1
            clock.now += 0.001
            await asyncio.sleep(0)

    async def run() -> None:
        await pace.run(work())

    async def flood() -> None:
        while True:
            clock.now += others
            await asyncio.sleep(0)

    crowd = [asyncio.create_task(run()) for _ in range(100)]
    flooding = asyncio.create_task(flood())
    # Until it has learned what a step takes.
    for _ in range(200):
        await asyncio.sleep(0)
    before = steps
    for _ in range(20):
        await asyncio.sleep(0)
    assert (steps - before) / 20 == pytest.approx(in_a_round, abs=1)
    for task in (*crowd, flooding):
        task.cancel()
    await asyncio.gather(*crowd, flooding, return_exceptions=True)


async def test_what_was_idle_begins_with_one_step() -> None:
    clock = Clock()
    pace, steps = Pace(clock), 0

    async def work() -> None:
        nonlocal steps
        steps += 1
        await asyncio.sleep(0)

    async def run() -> None:
        await pace.run(work())

    await run()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    clock.now += 1_000.0
    crowd = [asyncio.create_task(run()) for _ in range(20)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert steps <= 4
    await asyncio.gather(*crowd)


async def test_what_it_raises_is_raised_and_a_timeout_within_it_is_its_own() -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise LookupError("gone")

    async def impatient() -> str:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            return "late"
        return "never"

    with pytest.raises(LookupError, match="gone"):
        await Pace().run(fail())
    assert await Pace().run(impatient()) == "late"


@pytest.mark.parametrize("rounds", [0, 1, 2, 5])
async def test_a_cancellation_reaches_the_work_wherever_it_is(rounds: int) -> None:
    """Before its first step, while it waits for its turn, and while it waits for something of its own."""
    pace, told, ended = Pace(), 0, 0

    async def work() -> None:
        nonlocal told, ended
        try:
            await asyncio.sleep(0)
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            told += 1
            # It may still have something to give back, in steps.
            await asyncio.sleep(0)
            ended += 1
            raise

    async def run() -> None:
        await pace.run(work())

    tasks = [asyncio.create_task(run()) for _ in range(3)]
    for _ in range(rounds):
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    assert told == ended
    # Turns that nobody takes any more hold nobody up.
    assert await asyncio.wait_for(pace.run(asyncio.sleep(0, "on")), 1) == "on"


async def test_work_that_goes_on_after_a_cancellation_is_not_stopped() -> None:
    async def stubborn() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        return "done"

    async def run() -> str:
        return await Pace().run(stubborn())

    task = asyncio.create_task(run())
    await asyncio.sleep(0.01)
    task.cancel()
    assert await task == "done"


@pytest.mark.usefixtures("uncollected")
async def test_a_failure_leaves_nothing_to_the_collector() -> None:
    class Failure(Exception):
        pass

    left: list[weakref.ref[Failure]] = []

    async def fail(how: str) -> None:
        try:
            await asyncio.sleep(0)
            if how == "cancelled":
                await asyncio.Event().wait()
        finally:
            failure = Failure()
            left.append(weakref.ref(failure))
            try:
                raise failure
            finally:
                del failure

    async def run(how: str) -> None:
        try:
            await Pace().run(fail(how))
        except Failure:
            return

    await run("failed")
    task = asyncio.create_task(run("cancelled"))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait((task,))
    del task
    await asyncio.sleep(0)
    assert [each() for each in left] == [None, None]
