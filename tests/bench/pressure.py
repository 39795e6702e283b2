"""More than a POP can do: a neighbour's flood beside a quiet organization, and overload with what comes after it.

Both are sent as BatchSign of 256 from a process of its own, since single calls at ten times the capacity would measure
the sender. The quiet organization's calls are also measured beside programs that only compute, one a core: what a full
machine alone does to them, without any neighbour.
"""

import asyncio
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from tests.bench.calls import Signer, unary
from tests.bench.generators import CORES, opened, spin
from tests.bench.load import Call, Measured, NotSigned, closed_loop, middle, open_loop
from tests.support.pop import Pop

ITEMS = 256
QUIET_RATE = 20
FLOOD = 10.0
OVERLOAD = 3.0
# Of each call of the overload, in seconds. A full queue (8 192 signatures) waits for less.
DEADLINE = 2.0
_PROBES = 20
_RECOVERY_LIMIT = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """The quiet organization's calls alone, beside programs that only compute, and beside the flood. offered: the
    flood's signatures a second."""

    quiet: Measured
    crowded: Measured
    flooded: Measured
    offered: float
    flood: Measured


@dataclass(slots=True, kw_only=True)
class Overload:
    """offered: signatures a second. recovery: seconds until single calls were as fast as before. restarted: parts
    that are another process now."""

    offered: float
    sent: Measured
    recovery: float
    restarted: list[str] = field(default_factory=list)

    @property
    def unanswered(self) -> int:
        """Calls that were neither answered within their deadline nor refused for a full queue."""
        return sum(count for reason, count in self.sent.failed.items() if reason != "QUEUE_FULL")


async def capacity(loud: Signer, *, seconds: float) -> Measured:
    """BatchSign of 256 of one organization, 16 in flight."""
    async with loud.channel() as channel:
        return await closed_loop(unary(loud, channel, items=ITEMS), in_flight=16, seconds=seconds)


async def neighbour(
    quiet: Signer, loud: Signer, processes: ProcessPoolExecutor, *, able: float, seconds: float, turns: int
) -> Neighbour:
    """Quiet, on a full machine, and flooded in turns. processes: CORES of them. able: signatures a second; seconds: of
    each turn."""
    alone, crowded, beside, floods = [], [], [], []
    run = asyncio.get_running_loop().run_in_executor
    per_second = FLOOD * able / ITEMS
    async with quiet.channel() as channel:
        call = unary(quiet, channel)
        for _ in range(turns):
            alone.append(await open_loop(call, per_second=QUIET_RATE, seconds=seconds))
            spinning = [run(processes, spin, seconds + 1.0) for _ in range(CORES)]
            crowded.append(await open_loop(call, per_second=QUIET_RATE, seconds=seconds, warm_up=1.0))
            await asyncio.gather(*spinning)
            running = run(processes, opened, loud, ITEMS, per_second, seconds + 1.0, DEADLINE)
            # The flood is on its way when the quiet calls begin to count.
            beside.append(await open_loop(call, per_second=QUIET_RATE, seconds=seconds, warm_up=1.0))
            floods.append(await running)
            await _recovered(call, at_most=_RECOVERY_LIMIT, as_fast_as=alone[-1].p99 / 1e3 * 2)
    flood = middle(floods)
    return Neighbour(
        quiet=middle(alone),
        crowded=middle(crowded),
        flooded=middle(beside),
        offered=_offered(per_second, seconds + 1.0, flood),
        flood=flood,
    )


async def overload(
    pop: Pop, quiet: Signer, loud: Signer, processes: ProcessPoolExecutor, *, able: float, seconds: float
) -> Overload:
    """Three times what the POP is able to do, and the time until it is as it was."""
    parts, per_second = pop.processes, OVERLOAD * able / ITEMS
    async with quiet.channel() as channel:
        call = unary(quiet, channel)
        before = await closed_loop(call, in_flight=1, seconds=1.0)
        began = time.perf_counter()
        running = asyncio.get_running_loop().run_in_executor(
            processes, opened, loud, ITEMS, per_second, seconds, DEADLINE
        )
        await asyncio.sleep(max(0.0, began + seconds - time.perf_counter()))
        recovery = await _recovered(call, at_most=_RECOVERY_LIMIT, as_fast_as=before.p99 / 1e3 * 2)
        sent = await running
    restarted = [name for name, pid in pop.processes.items() if parts.get(name) != pid]
    return Overload(offered=_offered(per_second, seconds, sent), sent=sent, recovery=recovery, restarted=restarted)


def _offered(per_second: float, seconds: float, found: Measured) -> float:
    """Signatures a second that were asked for: fewer than meant where the sender fell behind its own plan."""
    return per_second * ITEMS * seconds / (seconds + found.lateness / 1e3)


async def _recovered(call: Call, *, at_most: float, as_fast_as: float) -> float:
    """Seconds until the first of 20 calls in a row that are answered that fast (in seconds); at most `at_most`."""
    clock = time.perf_counter
    began = first = clock()
    in_a_row = 0
    while in_a_row < _PROBES and clock() < began + at_most:
        sent = clock()
        if not in_a_row:
            first = sent
        try:
            await call()
        except NotSigned:
            in_a_row = 0
            continue
        in_a_row = in_a_row + 1 if clock() - sent <= as_fast_as else 0
    return first - began if in_a_row >= _PROBES else at_most
