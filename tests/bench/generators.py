"""Load from processes of its own: what it costs its sender is then no part of the measuring process.

Spawned, not forked: gRPC's threads would be missing in a fork. API keys go through a pipe, never through argv. Each is
a session of its own: Linux shares the cores among sessions first (sched(7), autogroup), as each part of a POP is one,
and a flood must not be measured by what it leaves to the measuring process of their common share.
"""

import asyncio
import multiprocessing
import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

from tests.bench.calls import Signer, raw_rate, unary
from tests.bench.load import Measured, closed_loop, open_loop

CORES = len(os.sched_getaffinity(0))
_PASSES = 5_000


@contextmanager
def generators(count: int) -> Iterator[ProcessPoolExecutor]:
    """So many processes that have imported what they need."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context, initializer=os.setsid) as processes:
        for ready in [processes.submit(time.sleep, 0.2) for _ in range(count)]:
            ready.result()
        yield processes


def closed(signer: Signer, in_flight: int, seconds: float) -> Measured:
    """closed_loop of Sign, for a process of its own."""

    async def run() -> Measured:
        async with signer.channel() as channel:
            return await closed_loop(unary(signer, channel), in_flight=in_flight, seconds=seconds)

    return asyncio.run(run())


def opened(signer: Signer, items: int, per_second: float, seconds: float, deadline: float) -> Measured:
    """open_loop of BatchSign, for a process of its own. deadline: of each call, in seconds."""

    async def run() -> Measured:
        async with signer.channel() as channel:
            call = unary(signer, channel, items=items, timeout=deadline)
            return await open_loop(call, per_second=per_second, seconds=seconds, warm_up=0.0)

    return asyncio.run(run())


def spin(seconds: float) -> None:
    """Compute, and nothing else, for a process of its own."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def wake_time() -> float:
    """Microseconds from one process' write to another's return from its wait for it, on two cores where there are two;
    for a process of its own. A lone Sign is a chain of such waits."""
    cores = os.sched_getaffinity(0)
    here, there = socket.socketpair()
    with here, there:
        child = os.fork()
        if not child:
            # It must neither wait for itself if its parent is killed nor go on as a second one of the pool.
            try:
                here.close()
                os.sched_setaffinity(0, {max(cores)})
                for _ in range(_PASSES):
                    there.send(there.recv(1))
            finally:
                os._exit(0)
        os.sched_setaffinity(0, {min(cores)})
        began = time.perf_counter()
        for _ in range(_PASSES):
            here.send(b"x")
            here.recv(1)
        taken = time.perf_counter() - began
    os.waitpid(child, 0)
    os.sched_setaffinity(0, cores)
    return taken / _PASSES / 2 * 1e6


async def raw_rate_of_all(processes: ProcessPoolExecutor, *, seconds: float) -> float:
    """raw_rate on all cores at once, together. processes: CORES of them."""
    loop = asyncio.get_running_loop()
    runs = [loop.run_in_executor(processes, raw_rate, seconds) for _ in range(CORES)]
    return sum(await asyncio.gather(*runs))


async def together(
    processes: ProcessPoolExecutor, signer: Signer, *, count: int, in_flight: int, seconds: float
) -> float:
    """Calls a second of `count` processes that share `in_flight` between them."""
    loop = asyncio.get_running_loop()
    runs = [loop.run_in_executor(processes, closed, signer, in_flight // count, seconds) for _ in range(count)]
    return sum(each.rate for each in await asyncio.gather(*runs))
