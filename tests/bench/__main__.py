"""One table and one JSON file from one run on real parts. Ratios count; absolute figures belong to the machine.

make bench                                      something over a minute
make bench-full                                 about eight minutes, with latency against offered load
make bench ARGS="--json bench-1.json"           the figures for a program, too
make bench-full ARGS="--plot latency.png"       the curve as a plot

An hour of mixed load is a program of its own: tests.bench.soak.
"""

import argparse
import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench import arrivals, pressure, rates
from tests.bench.calls import Signer
from tests.bench.echo import echo_server
from tests.bench.generators import CORES, generators
from tests.bench.meter import Machine, parts
from tests.bench.plot import draw
from tests.bench.report import OTHERS, Figures, show, write
from tests.integration.promises.site import founded_tenant, open_database
from tests.support.pop import Pop
from tests.support.wrong_keys import signing_key

ORGANIZATIONS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Seconds of each kind of measurement, and turns."""

    rate: float
    steady: float
    flood: float
    turns: int
    overload: float
    levels: tuple[int, ...]
    curve: float = 0.0


QUICK = Lengths(rate=1.2, steady=4.0, flood=4.0, turns=1, overload=4.0, levels=(1, 64))
FULL = Lengths(rate=8.0, steady=30.0, flood=10.0, turns=3, overload=60.0, levels=(1, 16, 64), curve=6.0)


@asynccontextmanager
async def organizations(pop: Pop) -> AsyncIterator[list[Signer]]:
    """Some organizations with a key each, at the server's own gRPC address."""
    database = open_database(pop)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(database.dispose)
        signers = []
        for number in range(ORGANIZATIONS):
            tenant = await stack.enter_async_context(founded_tenant(database, [pop.grpc_socket]))
            key_id = await signing_key(tenant.owners[0], f"bench-{number}")
            signers.append(Signer(address=pop.grpc, api_key=tenant.api_key, key_id=key_id))
        yield signers


async def under_pressure(figures: Figures, pop: Pop, quiet: Signer, loud: Signer, lengths: Lengths) -> None:
    """A flood beside a quiet organization, then overload."""
    with generators(CORES) as processes:
        able = await pressure.capacity(loud, seconds=lengths.rate)
        rate = able.rate * pressure.ITEMS
        beside = await pressure.neighbour(quiet, loud, processes, able=rate, seconds=lengths.flood, turns=lengths.turns)
        over = await pressure.overload(pop, quiet, loud, processes, able=rate, seconds=lengths.overload)
    figures.rows |= {
        f"BatchSign of {pressure.ITEMS}, 16 in flight": (able, pressure.ITEMS),
        f"quiet organization, Sign at {pressure.QUIET_RATE}/s": (beside.quiet, 1),
        "the same beside programs that only compute, one a core": (beside.crowded, 1),
        "the same beside a neighbour's flood": (beside.flooded, 1),
        "the neighbour's flood": (beside.flood, pressure.ITEMS),
        "overload": (over.sent, pressure.ITEMS),
    }
    figures.at_most("quiet organization's p99 beside a flood / alone", beside.flooded.p99 / beside.quiet.p99, 2.0)
    figures.at_most("quiet organization's calls that failed", sum(beside.flooded.failed.values()), 0)
    figures.at_most("overload: parts that ended", len(over.restarted), 0)
    figures.at_most("overload: calls neither answered in time nor refused at once", over.unanswered, 0)
    figures.at_most("overload: recovery, s", over.recovery, 2.0)
    figures.ratios["quiet organization's p99 beside programs that only compute / alone"] = (
        beside.crowded.p99 / beside.quiet.p99
    )
    figures.ratios["flood: signatures offered / capacity"] = beside.offered / rate
    figures.ratios["overload: signatures offered / capacity"] = over.offered / rate


async def measure(lengths: Lengths, plot: Path | None) -> Figures:
    """Transit first, in a server of its own; then one POP for everything else."""
    figures = Figures()
    await rates.transit_rates(figures, seconds=lengths.rate)
    with echo_server() as address, Pop.started() as pop:
        began = time.monotonic()
        async with organizations(pop) as signers:
            roots = parts(pop)
            first, *_, last = signers
            echo = Signer(address=address, api_key="", key_id=first.key_id)
            await arrivals.note_memory(figures, roots, began)
            with generators(CORES) as processes:
                await rates.stream_rates(figures, roots, processes, signers, seconds=2 * lengths.rate)
            await rates.echo_rates(figures, echo, first, levels=lengths.levels, seconds=lengths.rate)
            await rates.lone_calls(figures, pop, first, seconds=lengths.rate)
            await arrivals.steady(figures, roots, first, seconds=lengths.steady, turns=lengths.turns)
            await rates.costs(figures, pop, roots, first, seconds=lengths.rate)
            with generators(2) as processes:
                await rates.generator_checks(figures, roots, processes, echo, first, seconds=lengths.rate)
            if lengths.curve:
                capacity = await arrivals.curve(figures, first, seconds=lengths.curve)
                if plot:
                    draw(figures.curve, capacity=capacity, path=plot)
            await under_pressure(figures, pop, first, last, lengths)
            await arrivals.note_memory(figures, roots, began)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="longer measurements, and latency against offered load")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--plot", type=Path, help="with --full: draw the curve into this file (PNG)")
    chosen = parser.parse_args()
    if chosen.plot and not chosen.full:
        parser.error("--plot needs --full: the quick run measures no curve.")
    machine = Machine.now()
    figures = asyncio.run(measure(FULL if chosen.full else QUICK, chosen.plot))
    figures.checks[OTHERS] = machine.others()
    show(figures)
    if chosen.json:
        write(figures, chosen.json)


if __name__ == "__main__":
    main()
