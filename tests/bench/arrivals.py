"""Constant arrivals: a steady rate with its marks, latency against offered load, and memory."""

import asyncio
import time
from collections.abc import Mapping

from tests.bench.calls import Signer, unary
from tests.bench.load import closed_loop, middle, open_loop
from tests.bench.meter import costed, memory_mib
from tests.bench.report import Figures

STEADY = 200
SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
# Calls of the curve give up after this many seconds.
PATIENCE = 10.0


async def steady(figures: Figures, roots: Mapping[str, int], signer: Signer, *, seconds: float, turns: int) -> None:
    """Sign at 200/s. Medians of the turns, since one stall of a shared machine is not the POP's."""
    found = []
    async with signer.channel() as channel:
        call = unary(signer, channel)
        for _ in range(turns):
            measured, cost = await costed(roots, open_loop(call, per_second=STEADY, seconds=seconds / turns))
            found.append(measured)
    row = middle(found)
    figures.rows[f"Sign, steady {STEADY}/s"] = (row, 1)
    figures.costs[f"Sign, steady {STEADY}/s"] = cost
    figures.checks[f"Sign, steady {STEADY}/s: sent late, p99, ms"] = row.lateness
    figures.at_most(f"Sign at a steady {STEADY}/s, p50, ms", row.p50, 4.0)
    figures.at_most(f"Sign at a steady {STEADY}/s, p99, ms", row.p99, 12.0)


async def curve(figures: Figures, signer: Signer, *, seconds: float) -> float:
    """Sign at shares of what a closed loop gets; returns that, in calls a second. Every point starts on an idle POP."""
    async with signer.channel() as channel:
        capacity = (await closed_loop(unary(signer, channel), in_flight=64, seconds=seconds)).rate
        call = unary(signer, channel, timeout=PATIENCE)
        for share in SHARES:
            await asyncio.sleep(0.5)
            offered = share * capacity
            figures.curve.append((offered, await open_loop(call, per_second=offered, seconds=seconds)))
    return capacity


async def note_memory(figures: Figures, roots: Mapping[str, int], began: float) -> None:
    """began: the load, by time.monotonic()."""
    sizes = await asyncio.to_thread(memory_mib, roots)
    figures.memory.append(((time.monotonic() - began) / 60, sizes))
