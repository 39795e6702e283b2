"""What a Sign costs in a POP that has been used for a year, against one that is new, in turns.

python -m tests.bench.growth
python -m tests.bench.growth --keys 1000000 --organizations 100000 --audit-rows 20000000

Two POPs run beside each other: one with 10 keys and 10 signatures, and one that is filled (tests.support.filling): a
tenth of its keys and audit rows are the measured organization's own. Sign carries a request_id, so that it meets every
table that the release gate knows. The mark: p50 and p99 at most 1.2 times the new POP's. The other rows are for
comparison. Each figure is the median of its turns.
"""

import argparse
import asyncio
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import psycopg
from rich.console import Console
from rich.table import Table

from popsigner_node.postgres import EmbeddedPostgres
from popsigner_server.domain.ids import Prefix, parse
from popsigner_server.gen.popsigner.v1 import audit_pb2, billing_pb2, key_pb2, sign_pb2
from tests.bench.load import Call, Measured, closed_loop, middle, open_loop
from tests.integration.promises.site import database_url
from tests.support.filling import RECIPIENT, Filling
from tests.support.load import Wire
from tests.support.pop import Pop

TURNS = 6
MARK = 1.2
PER_SECOND = 50
SMALL = 10
# Keys of which each is asked for the first time by one Sign.
UNSEEN = 200
TIMEOUT = 30.0
DIGEST = os.urandom(32)
Pair = tuple[Measured, Measured]


class Site:
    """A POP, a connection to it, and the calls that are compared."""

    def __init__(self, pop: Pop, wire: Wire) -> None:
        self.pop = pop
        self.wire = wire
        self.keys: list[str] = []
        self.unseen: Iterator[str] = iter(())

    async def prepare(self) -> None:
        """Ten keys, and a signature of each."""
        self.keys = await self._create("bench", SMALL)
        for key in self.keys:
            await self._sign(key)

    async def make_unseen(self) -> None:
        """Keys that nobody has signed with."""
        self.unseen = iter(await self._create("unseen", UNSEEN))

    async def _create(self, prefix: str, count: int) -> list[str]:
        made: list[str] = []
        for start in range(0, count, 50):
            names = [key_pb2.KeyName(name=f"{prefix}-{n}") for n in range(start, min(count, start + 50))]
            answer = await self.ask(self.wire.keys.BatchCreateKeys, key_pb2.BatchCreateKeysRequest(keys=names))
            made += [key.id for key in answer.keys]
        return made

    async def ask(self, method: Callable[..., Any], request: object) -> Any:
        return await method(request, metadata=self.wire.metadata, timeout=TIMEOUT)

    async def _sign(self, key: str) -> None:
        request = sign_pb2.SignRequest(key_id=key, data=DIGEST, prehashed=True, request_id=os.urandom(16).hex())
        await self.ask(self.wire.signing.Sign, request)

    async def sign(self) -> None:
        await self._sign(self.keys[0])

    async def sign_unseen(self) -> None:
        await self._sign(next(self.unseen))

    async def get_key(self) -> None:
        await self.ask(self.wire.keys.GetKey, key_pb2.GetKeyRequest(key_id="production/bench-5"))

    async def list_keys(self) -> None:
        await self.ask(self.wire.keys.ListKeys, key_pb2.ListKeysRequest(page_size=100))

    async def list_logs(self) -> None:
        await self.ask(self.wire.audit.ListLogs, audit_pb2.ListLogsRequest(page_size=100))

    async def list_creations(self) -> None:
        await self.ask(self.wire.audit.ListLogs, audit_pb2.ListLogsRequest(page_size=100, event_type="key.created"))

    async def usage(self) -> None:
        await self.ask(self.wire.billing.GetUsage, billing_pb2.GetUsageRequest())

    async def change_key(self) -> None:
        request = key_pb2.UpdateKeyRequest(key_id=self.keys[1], metadata={"turn": os.urandom(4).hex()})
        await self.ask(self.wire.keys.UpdateKey, request)

    async def create_key(self) -> None:
        await self.ask(self.wire.keys.CreateKey, key_pb2.CreateKeyRequest(name=f"made-{os.urandom(8).hex()}"))


OTHERS: dict[str, Callable[[Site], Call]] = {
    "GetKey by name": lambda site: site.get_key,
    "ListKeys, first page of 100": lambda site: site.list_keys,
    "ListLogs, newest 100": lambda site: site.list_logs,
    "ListLogs of key.created": lambda site: site.list_creations,
    "GetUsage": lambda site: site.usage,
    "UpdateKey": lambda site: site.change_key,
    "CreateKey": lambda site: site.create_key,
}


async def in_turns(sites: list[Site], measure: Callable[[Site], Any], turns: int) -> Pair:
    """Each site in turns, so that a machine whose speed changes meanwhile changes both; who is first alternates."""
    found: dict[Site, list[Measured]] = {site: [] for site in sites}
    for turn in range(turns):
        for site in sites if turn % 2 == 0 else reversed(sites):
            found[site].append(await measure(site))
    small, large = (middle(found[site]) for site in sites)
    return small, large


async def measure(sites: list[Site], seconds: float) -> dict[str, Pair]:
    """`seconds` of each turn of Sign; a fifth of that for the other calls."""
    for site in sites:
        await closed_loop(site.sign, in_flight=4, seconds=2.0)
    rows = {
        f"Sign, steady {PER_SECOND}/s": await in_turns(
            sites, lambda site: open_loop(site.sign, per_second=PER_SECOND, seconds=seconds), TURNS
        ),
        "Sign, 1 in flight": await in_turns(
            sites, lambda site: closed_loop(site.sign, in_flight=1, seconds=seconds / 2), TURNS
        ),
    }
    for site in sites:
        await site.make_unseen()
    rows["Sign, its key's first one"] = await in_turns(
        sites, lambda site: open_loop(site.sign_unseen, per_second=PER_SECOND, seconds=1.5, warm_up=0), 2
    )
    for name, call in OTHERS.items():

        async def alone(site: Site, call: Callable[[Site], Call] = call) -> Measured:
            return await closed_loop(call(site), in_flight=1, seconds=seconds / 5)

        rows[name] = await in_turns(sites, alone, 2)
    return rows


def seal_too(pop: Pop) -> None:
    """New keys are sealed for recovery in both POPs."""
    with psycopg.connect(database_url(pop)) as database:
        database.execute(
            "INSERT INTO recovery_recipients (org_id, recipient, since) SELECT id, %s, now() FROM organizations",
            (RECIPIENT,),
        )


def settle(pop: Pop) -> str:
    """Let nothing of the filling be written during the measurement; the database's size."""
    cluster = EmbeddedPostgres(folder=pop.data_dir / "postgres", sockets=Path(pop.grpc_socket[7:]).parent)
    with psycopg.connect(cluster.superuser_url(), autocommit=True) as database:
        database.execute("CHECKPOINT")
        (size,) = database.execute("SELECT pg_size_pretty(pg_database_size(current_database()))").fetchone() or ("",)
    return str(size)


def fill(pop: Pop, filling: Filling, console: Console) -> None:
    began = time.perf_counter()
    filling.write(database_url(pop), parse(Prefix.ORGANIZATION, pop.organization), told=console.print)
    seconds = time.perf_counter() - began
    console.print(f"filled in {seconds:.0f} s; {shutil.disk_usage(pop.data_dir).free >> 30} GiB are free")


def show(rows: dict[str, Pair], filling: Filling, sizes: list[str], console: Console) -> None:
    title = f"{filling.keys:,} keys, {filling.organizations:,} organizations, {filling.audit_rows:,} audit rows"
    table = Table("", "new p50", "filled p50", "ratio", "new p99", "filled p99", "ratio", "mark", title=title)
    for name, (small, large) in rows.items():
        p50, p99 = large.p50 / small.p50, large.p99 / small.p99
        mark = ("reached" if max(p50, p99) <= MARK else "MISSED") if name in list(rows)[:2] else ""
        cells = [small.p50, large.p50, p50, small.p99, large.p99, p99]
        table.add_row(name, *(f"{cell:.2f}" for cell in cells), mark)
    console.print(table)
    console.print(f"milliseconds; mark: both ratios at most {MARK}; database {sizes[0]} and {sizes[1]}")


async def run(filling: Filling, seconds: float, console: Console) -> None:
    with ExitStack() as pops:
        small, large = (pops.enter_context(Pop.started()) for _ in range(2))
        seal_too(small)
        fill(large, filling, console)
        async with AsyncExitStack() as wires:
            sites = [
                Site(pop, await wires.enter_async_context(Wire(pop.grpc_socket, pop.api_key))) for pop in (small, large)
            ]
            for site in sites:
                await site.prepare()
            sizes = [settle(site.pop) for site in sites]
            rows = await measure(sites, seconds)
    show(rows, filling, sizes, console)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=50_000)
    parser.add_argument("--organizations", type=int, default=5_000)
    parser.add_argument("--audit-rows", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each turn of Sign")
    chosen = parser.parse_args()
    filling = Filling(organizations=chosen.organizations, keys=chosen.keys, audit_rows=chosen.audit_rows)
    asyncio.run(run(filling, chosen.seconds, Console(width=120)))


if __name__ == "__main__":
    main()
