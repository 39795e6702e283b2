"""Load: closed loops, a steady arrival, and what they measured. Bounded in time; loopback only."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from statistics import median

Call = Callable[[], Awaitable[object]]
TURNS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Calls a second, and the latency of one call in milliseconds."""

    rate: float
    p50: float
    p99: float


def _measured(latencies: list[float], seconds: float) -> Measured:
    ordered = sorted(latencies)
    return Measured(
        rate=len(ordered) / seconds,
        p50=ordered[len(ordered) // 2] * 1e3,
        p99=ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1e3,
    )


async def closed_loop(call: Call, *, in_flight: int, seconds: float, warm_up: float = 0.5) -> Measured:
    """`in_flight` callers, each with one call out at a time."""
    clock = time.perf_counter
    latencies: list[float] = []
    begin = clock() + warm_up
    end = begin + seconds

    async def caller() -> None:
        while (sent := clock()) < end:
            await call()
            if sent >= begin:
                latencies.append(clock() - sent)

    await asyncio.gather(*(caller() for _ in range(in_flight)))
    return _measured(latencies, seconds)


async def alternated(one: Call, other: Call, *, in_flight: int, seconds: float) -> tuple[Measured, Measured]:
    """Two closed loops in turns, so that a machine whose speed changes meanwhile changes both; medians of the turns."""
    turns: tuple[list[Measured], list[Measured]] = ([], [])
    for _ in range(TURNS):
        for call, found in zip((one, other), turns, strict=True):
            found.append(await closed_loop(call, in_flight=in_flight, seconds=seconds / TURNS, warm_up=0.3))
    first, second = (
        Measured(
            rate=median(each.rate for each in found),
            p50=median(each.p50 for each in found),
            p99=median(each.p99 for each in found),
        )
        for found in turns
    )
    return first, second


async def open_loop(call: Call, *, per_second: int, seconds: float, warm_up: float = 0.5) -> Measured:
    """A constant arrival; the latency counts from the moment at which the call was meant to be sent."""
    clock = time.perf_counter
    latencies: list[float] = []
    begin = clock()
    tasks: set[asyncio.Task[None]] = set()

    async def one(meant: float) -> None:
        await call()
        if meant >= begin + warm_up:
            latencies.append(clock() - meant)

    for number in range(int(per_second * (warm_up + seconds))):
        meant = begin + number / per_second
        if (ahead := meant - clock()) > 0:
            await asyncio.sleep(ahead)
        task = asyncio.create_task(one(meant))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    return _measured(latencies, seconds)
