"""Load: closed loops, constant arrivals, and what they measured. Bounded in time; loopback only.

A closed loop waits for its answers, so it shows what a POP can do and hides what a stall does to the others. A constant
arrival sends whether or not answers come, and counts each latency from the moment at which the call was meant to be
sent: who had to wait before it was sent has waited, too.
"""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

Call = Callable[[], Awaitable[object]]
TURNS = 4


class NotSigned(Exception):
    """A call or one of its items was refused. reason: the ErrorReason's name, or the gRPC code's."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Calls a second, and the latency of one call in milliseconds.

    calls: all that were answered, those of the warm-up too. lateness: p99 of what lay between the moment at which a
    call was meant to be sent and the one at which it was, ms. failed: reason to count.
    """

    rate: float
    p50: float
    p99: float
    calls: int = 0
    lateness: float = 0.0
    failed: dict[str, int] = field(default_factory=dict)


def at_share(values: Sequence[float], share: float) -> float:
    """The value below which this share of them lies; 0 where there is none."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else 0.0


def measured(
    latencies: Sequence[float],
    seconds: float,
    *,
    calls: int,
    late: Sequence[float] = (),
    failed: dict[str, int] | None = None,
) -> Measured:
    """Of latencies in seconds."""
    return Measured(
        rate=len(latencies) / seconds,
        p50=at_share(latencies, 0.5) * 1e3,
        p99=at_share(latencies, 0.99) * 1e3,
        calls=calls,
        lateness=at_share(late, 0.99) * 1e3,
        failed=dict(failed or {}),
    )


async def closed_loop(call: Call, *, in_flight: int, seconds: float, warm_up: float = 0.5) -> Measured:
    """`in_flight` callers, each with one call out at a time. A call that fails ends the measurement."""
    clock = time.perf_counter
    latencies: list[float] = []
    calls = 0
    begin = clock() + warm_up
    end = begin + seconds

    async def caller() -> None:
        nonlocal calls
        while (sent := clock()) < end:
            await call()
            calls += 1
            if sent >= begin:
                latencies.append(clock() - sent)

    await asyncio.gather(*(caller() for _ in range(in_flight)))
    return measured(latencies, seconds, calls=calls)


async def in_turns(calls: Sequence[Call], *, in_flight: int, seconds: float) -> list[Measured]:
    """Closed loops in turns, so that a machine whose speed changes meanwhile changes all; medians of the turns."""
    turns: list[list[Measured]] = [[] for _ in calls]
    for _ in range(TURNS):
        for call, found in zip(calls, turns, strict=True):
            found.append(await closed_loop(call, in_flight=in_flight, seconds=seconds / TURNS, warm_up=0.3))
    return [middle(found) for found in turns]


def middle(found: Sequence[Measured]) -> Measured:
    """The medians of several measurements of the same."""
    return Measured(
        rate=median(each.rate for each in found),
        p50=median(each.p50 for each in found),
        p99=median(each.p99 for each in found),
        calls=sum(each.calls for each in found),
        lateness=median(each.lateness for each in found),
        failed=dict(sum((Counter(each.failed) for each in found), Counter())),
    )


async def open_loop(call: Call, *, per_second: float, seconds: float, warm_up: float = 0.5) -> Measured:
    """A constant arrival. A call that raises NotSigned counts by its reason; whatever else it raises ends this."""
    clock = time.perf_counter
    latencies: list[float] = []
    late: list[float] = []
    failed: Counter[str] = Counter()
    tasks: set[asyncio.Task[None]] = set()
    begin = clock() + 0.01
    counted = begin + warm_up

    async def one(meant: float) -> None:
        if meant >= counted:
            late.append(clock() - meant)
        try:
            await call()
        except NotSigned as error:
            failed[error.reason] += 1
            return
        if meant >= counted:
            latencies.append(clock() - meant)

    def ended(task: asyncio.Task[None]) -> None:
        # One that failed stays, for the last gather to raise what it raised.
        if task.exception() is None:
            tasks.discard(task)

    def start(meant: float) -> None:
        task = asyncio.create_task(one(meant))
        tasks.add(task)
        task.add_done_callback(ended)

    number = int(per_second * (warm_up + seconds))
    await asyncio.to_thread(_pace, asyncio.get_running_loop(), start, begin, per_second, number)
    while tasks:
        await asyncio.gather(*tasks)
    return measured(latencies, seconds, calls=number - failed.total(), late=late, failed=failed)


def _pace(
    loop: asyncio.AbstractEventLoop, start: Callable[[float], None], begin: float, per_second: float, number: int
) -> None:
    """Call `start` in the loop at each moment. A thread's sleep is exact to some 0.1 ms; epoll's counts whole ones."""
    for position in range(number):
        meant = begin + position / per_second
        if (ahead := meant - time.perf_counter()) > 0:
            time.sleep(ahead)
        loop.call_soon_threadsafe(start, meant)
    handed_over = threading.Event()
    loop.call_soon_threadsafe(handed_over.set)
    handed_over.wait()
