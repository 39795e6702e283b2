"""What neighbours' other calls do to an organization's signatures: reading, changing, asking for keys that nobody has.

python -m tests.bench.neighbours
python -m tests.bench.neighbours --organizations 6 --seconds 10
python -m tests.bench.neighbours --kinds ListKeys GetUsage

An organization signs at a steady 20/s, quiet and beside a storm in turns: each of the neighbours has eight calls of a
kind out at any time. The storm comes from a process and a session of its own. The mark is that of the flood of
signatures: p99 at most twice the quiet one; the table has the p50, too, since the p99 of a hundred calls is rough.
"""

import argparse
import asyncio
import itertools
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass

import grpc
from rich.console import Console
from rich.table import Table

from popsigner_server.gen.popsigner.v1 import api_key_pb2, audit_pb2, billing_pb2, key_pb2, sign_pb2
from tests.bench.generators import generators
from tests.bench.load import Measured, middle, open_loop
from tests.integration.promises.site import founded_tenant, open_database
from tests.support.load import PATIENCE, Item, Refused, Wire, reason_of
from tests.support.pop import Pop
from tests.support.wrong_keys import signing_key

TURNS = 3
MARK = 2.0
PER_SECOND = 20
IN_FLIGHT = 8
KEYS = 2_000
# Seconds that a storm has before and after what is measured.
MARGIN = 0.7

Ask = Callable[[Wire, Sequence[str]], Awaitable[object]]


def ask(service: str, method: str, request: Callable[[Sequence[str]], object]) -> Ask:
    """One call of a neighbour; `request` makes its message, given the ids of some of its keys."""

    def call(wire: Wire, keys: Sequence[str]) -> Awaitable[object]:
        sent: Awaitable[object] = getattr(getattr(wire, service), method)(
            request(keys), metadata=wire.metadata, timeout=PATIENCE
        )
        return sent

    return call


def name() -> str:
    return f"made-{os.urandom(8).hex()}"


KINDS: dict[str, Ask] = {
    "ListKeys": ask("keys", "ListKeys", lambda _: key_pb2.ListKeysRequest(page_size=100)),
    "ListKeys, 1 000": ask("keys", "ListKeys", lambda _: key_pb2.ListKeysRequest(page_size=1000)),
    "ListLogs, 1 000": ask("audit", "ListLogs", lambda _: audit_pb2.ListLogsRequest(page_size=1000)),
    "GetKey": ask("keys", "GetKey", lambda keys: key_pb2.GetKeyRequest(key_id=random.choice(keys))),
    "GetUsage": ask("billing", "GetUsage", lambda _: billing_pb2.GetUsageRequest()),
    "Sign, unknown keys": ask("signing", "Sign", lambda _: sign_pb2.SignRequest(key_id=f"production/{name()}")),
    "UpdateKey": ask(
        "keys", "UpdateKey", lambda keys: key_pb2.UpdateKeyRequest(key_id=random.choice(keys), metadata={"a": name()})
    ),
    "CreateKey": ask("keys", "CreateKey", lambda _: key_pb2.CreateKeyRequest(name=name())),
    "CreateApiKey": ask(
        "api_keys",
        "CreateApiKey",
        lambda _: api_key_pb2.CreateApiKeyRequest(name=name(), scopes=["api:keys:sign"]),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """An organization's API key and the ids of some of its keys, for another process."""

    api_key: str
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Of one kind, medians of its turns. ends: how the storm's calls ended; per_second: how many of them."""

    quiet: Measured
    beside: Measured
    ends: Counter[str]
    per_second: float


def storm(address: str, neighbours: Sequence[Neighbour], kind: str, seconds: float) -> Counter[str]:
    """Closed loops of every neighbour, for a process of its own; how their calls ended."""
    ends: Counter[str] = Counter()

    async def loop(wire: Wire, keys: Sequence[str], end: float) -> None:
        while time.monotonic() < end:
            try:
                await KINDS[kind](wire, keys)
                ends["OK"] += 1
            except grpc.aio.AioRpcError as error:
                ends[reason_of(error)] += 1

    async def run() -> None:
        async with AsyncExitStack() as stack:
            wires = [await stack.enter_async_context(Wire(address, each.api_key)) for each in neighbours]
            end = time.monotonic() + seconds
            pairs = itertools.product(zip(wires, neighbours, strict=True), range(IN_FLIGHT))
            await asyncio.gather(*(loop(wire, each.keys, end) for (wire, each), _ in pairs))

    asyncio.run(run())
    return ends


async def keys_of(wire: Wire, count: int) -> tuple[str, ...]:
    """The ids of so many new keys."""
    made: list[str] = []
    while len(made) < count:
        names = [key_pb2.KeyName(name=name()) for _ in range(50)]
        request = key_pb2.BatchCreateKeysRequest(keys=names)
        made += [
            key.id for key in (await wire.keys.BatchCreateKeys(request, metadata=wire.metadata, timeout=PATIENCE)).keys
        ]
    return tuple(made)


async def measure(
    pop: Pop, processes: ProcessPoolExecutor, kinds: Sequence[str], organizations: int, seconds: float
) -> dict[str, Found]:
    """Each kind, quiet and beside the storm in turns."""
    database, address = open_database(pop), pop.grpc_socket
    try:
        async with AsyncExitStack() as stack:
            tenants = [
                await stack.enter_async_context(founded_tenant(database, [address])) for _ in range(organizations + 1)
            ]
            *theirs, ours = tenants
            neighbours = [
                Neighbour(api_key=each.api_key, keys=await keys_of(each.owners[0], KEYS // organizations))
                for each in theirs
            ]
            item = Item(key_id=await signing_key(ours.owners[0], "quiet"), data=b"x" * 200)

            async def sign() -> None:
                (outcome,) = await ours.owners[0].sign_one([item])
                assert not isinstance(outcome, Refused), outcome.reason

            await open_loop(sign, per_second=PER_SECOND, seconds=2.0)
            return {
                kind: await in_turns(processes, sign, (address, neighbours, kind), seconds=seconds) for kind in kinds
            }
    finally:
        await database.dispose()


async def in_turns(
    processes: ProcessPoolExecutor,
    sign: Callable[[], Awaitable[None]],
    blowing: tuple[str, list[Neighbour], str],
    *,
    seconds: float,
) -> Found:
    """One kind."""
    loop = asyncio.get_running_loop()
    quiet, beside, ends = [], [], Counter[str]()
    for _ in range(TURNS):
        quiet.append(await open_loop(sign, per_second=PER_SECOND, seconds=seconds))
        under_way = loop.run_in_executor(processes, storm, *blowing, seconds + 2 * MARGIN)
        await asyncio.sleep(MARGIN)
        beside.append(await open_loop(sign, per_second=PER_SECOND, seconds=seconds, warm_up=0.0))
        ends += await under_way
    per_second = ends.total() / TURNS / (seconds + 2 * MARGIN)
    return Found(quiet=middle(quiet), beside=middle(beside), ends=ends, per_second=per_second)


def show(found: dict[str, Found], *, organizations: int) -> None:
    """Print the table."""
    title = f"Sign at {PER_SECOND}/s beside {organizations} organizations, each with {IN_FLIGHT} calls out; ms"
    table = Table(title=title)
    for column in ("the neighbours' calls", "a second", "quiet p50", "p99", "beside p50", "p99", "ratio p50", "p99"):
        table.add_column(column, justify="left" if not table.columns else "right")
    table.add_column(f"p99 <= {MARK:g}")
    table.add_column("ends")
    for kind, each in found.items():
        quiet, beside = each.quiet, each.beside
        figures = (quiet.p50, quiet.p99, beside.p50, beside.p99, beside.p50 / quiet.p50, beside.p99 / quiet.p99)
        mark = "reached" if beside.p99 <= MARK * quiet.p99 else "MISSED"
        ends = ", ".join(f"{count:,} {end}" for end, count in sorted(each.ends.items()))
        table.add_row(kind, f"{each.per_second:,.0f}", *(f"{figure:.2f}" for figure in figures), mark, ends)
    Console(width=150).print(table)


async def _run(kinds: Sequence[str], organizations: int, seconds: float) -> dict[str, Found]:
    with generators(1) as processes, Pop.started() as pop:
        return await measure(pop, processes, kinds, organizations, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), metavar="KIND")
    parser.add_argument("--organizations", type=int, default=1, help="neighbours that storm")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each turn")
    chosen = parser.parse_args()
    if not 1 <= chosen.organizations <= 20:
        parser.error("--organizations must be 1 to 20")
    found = asyncio.run(_run(chosen.kinds, chosen.organizations, chosen.seconds))
    show(found, organizations=chosen.organizations)


if __name__ == "__main__":
    main()
