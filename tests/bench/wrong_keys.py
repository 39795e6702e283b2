"""What a flood of wrong API keys does to the signatures of another organization, on one server process.

python -m tests.bench.wrong_keys
python -m tests.bench.wrong_keys --seconds 20 --wrong 400 --good 50

Quiet and flooded turns alternate, so that a machine whose speed changes meanwhile changes both. The flood comes from a
process of its own: what it costs its sender is not the server's. The mark: the flooded p99 is at most twice the quiet
one.
"""

import argparse
import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from statistics import median

from rich.console import Console
from rich.table import Table
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.bench.generators import generators
from tests.bench.load import Measured, open_loop
from tests.integration.promises.site import founded_tenant, open_database
from tests.support.load import Item, Refused, Wire
from tests.support.pop import Pop
from tests.support.wrong_keys import argon2_runs, flood, server_process, signing_key, victims

TURNS = 4
MARK = 2.0


@dataclass(slots=True)
class Figures:
    """Of all turns."""

    quiet: list[Measured] = field(default_factory=list)
    flooded: list[Measured] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)
    argon2: int = 0
    sizes: list[int] = field(default_factory=list)
    good_refused: int = 0


def flooding(address: str, known: Sequence[str], per_second: int, calls: int) -> Counter[str]:
    """wrong_keys.flood, for a process of its own."""
    return asyncio.run(flood(address, known, per_second=per_second, calls=calls))


async def measure(
    pop: Pop, database: AsyncEngine, processes: ProcessPoolExecutor, *, seconds: float, wrong: int, good: int
) -> Figures:
    """Several turns of each; `wrong` and `good` are calls a second."""
    figures, address, loop = Figures(), pop.grpc_socket, asyncio.get_running_loop()
    async with (
        Wire(address, pop.api_key) as theirs,
        founded_tenant(database, [address]) as tenant,
    ):
        known, (ours,) = await victims(theirs, 6), tenant.owners
        item = Item(key_id=await signing_key(ours, "steady"), data=b"x" * 200)

        async def sign() -> None:
            (outcome,) = await ours.sign_one([item])
            figures.good_refused += isinstance(outcome, Refused)

        await open_loop(sign, per_second=good, seconds=2.0)
        await loop.run_in_executor(processes, flooding, address, known, wrong, wrong)
        before = await argon2_runs(pop)
        for _ in range(TURNS):
            figures.sizes.append(server_process(pop).memory_info().rss)
            figures.quiet.append(await open_loop(sign, per_second=good, seconds=seconds))
            calls = int(wrong * (seconds + 0.5))
            under_way = loop.run_in_executor(processes, flooding, address, known, wrong, calls)
            figures.flooded.append(await open_loop(sign, per_second=good, seconds=seconds))
            figures.ends += await under_way
        figures.sizes.append(server_process(pop).memory_info().rss)
        figures.argon2 = await argon2_runs(pop) - before
    return figures


def show(figures: Figures, *, wrong: int, good: int) -> None:
    def of(name: Callable[[Measured], float], found: list[Measured]) -> float:
        return median(name(each) for each in found)

    console = Console(width=100)
    table = Table(
        "", "signatures/s", "p50 ms", "p99 ms", title=f"{good}/s good, {wrong}/s wrong, medians of {TURNS} turns"
    )
    for title, found in (("quiet", figures.quiet), ("under the flood", figures.flooded)):
        cells = [of(lambda each: each.rate, found), of(lambda each: each.p50, found), of(lambda each: each.p99, found)]
        table.add_row(title, *(f"{cell:,.2f}" for cell in cells))
    console.print(table)
    ratio = of(lambda each: each.p99, figures.flooded) / of(lambda each: each.p99, figures.quiet)
    console.print(f"p99 flooded / quiet: {ratio:.2f} (mark: <= {MARK}, {'reached' if ratio <= MARK else 'MISSED'})")
    console.print(f"good calls refused: {figures.good_refused}; wrong calls: {dict(figures.ends)}")
    console.print(f"Argon2id runs meanwhile: {figures.argon2} (the good key's own, at most one)")
    sizes = ", ".join(f"{size / (1 << 20):.1f}" for size in figures.sizes)
    console.print(f"resident size of the server before each turn and at the end, MiB: {sizes}")


async def _run(seconds: float, wrong: int, good: int) -> Figures:
    with generators(1) as processes, Pop.started() as pop:
        database = open_database(pop)
        try:
            return await measure(pop, database, processes, seconds=seconds, wrong=wrong, good=good)
        finally:
            await database.dispose()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each turn")
    parser.add_argument("--wrong", type=int, default=200, help="wrong keys a second")
    parser.add_argument("--good", type=int, default=50, help="signatures a second of the other organization")
    chosen = parser.parse_args()
    figures = asyncio.run(_run(chosen.seconds, chosen.wrong, chosen.good))
    show(figures, wrong=chosen.wrong, good=chosen.good)


if __name__ == "__main__":
    main()
