"""An hour of mixed load on a real POP: is the memory of every process flat after warm-up?

python -m tests.bench.soak --minutes 60
python -m tests.bench.soak --minutes 60 --json soak.json --plot soak.png
python -m tests.bench.soak --minutes 8 --signs 30        a look at whether everything is answered as it should be

Eight organizations sign with 200 keys, and with those that are made meanwhile: Sign with and without request_id,
BatchSign, two streams, JSON and gRPC through Envoy, new connections, cancelled calls, deadlines that pass, pages, lives
of keys and API keys, wrong API keys, malformed requests, and once a minute a flood until QUEUE_FULL. One organization
calls above its request rate, one signs above its quota.

In the first minutes what is rare comes four times as often, so that all of it has been met when memory is judged.
Memory, descriptors and threads of each process are read every 15 seconds. tests/bench/flatness.py has the rule by which
they are flat; it needs a run of 35 minutes. The exit code is 1 where a call ended as none should, a process ended, or
something was not flat. Ctrl-C ends the load and shows what was found so far.
"""

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

import psutil
import psycopg

from popsigner_node.postgres import EmbeddedPostgres
from tests.bench.churn import Churn
from tests.bench.flatness import warm_up
from tests.bench.meter import Machine, holdings, parts
from tests.bench.mix import NEEDED, Mix
from tests.bench.parties import Parties, founded, plans
from tests.bench.soak_report import Found, draw, show, write
from tests.bench.tally import Tally, arrive
from tests.support.pop import Pop

SAMPLE = 15.0
PROGRESS = 60.0
# Seconds between two looks at the clock, and those that are so many late say that this program was not running.
TICK = 0.5
HALT = 2.0
SIZES = {
    "database MiB": "SELECT pg_database_size(current_database()) / 1048576.0",
    "audit rows": "SELECT count(*) FROM audit_logs",
    "keys, with destroyed ones": "SELECT count(*) FROM keys",
}


async def sample(found: Found, pop: Pop, began: float, until: float) -> None:
    """Note what each part holds, every 15 s and at the end. A part that is another process now is noted by name."""
    roots = await asyncio.to_thread(parts, pop)
    meant = began
    while True:
        now = await asyncio.to_thread(parts, pop)
        found.restarted += [name for name, pid in now.items() if roots.get(name) != pid]
        roots = now
        try:
            held = await asyncio.to_thread(holdings, roots)
        except psutil.NoSuchProcess:
            # It has just ended; the next look finds its successor.
            held = {}
        if held:
            found.samples.append(((time.monotonic() - began) / 60, held))
        if time.monotonic() >= until:
            return
        # After a halt the samples that were missed are not taken all at once.
        meant = max(meant + SAMPLE, time.monotonic())
        await asyncio.sleep(min(meant, until) - time.monotonic())


async def tell(found: Found, began: float, until: float) -> None:
    """A line each minute."""
    minute = 0
    while (meant := began + (minute := minute + 1) * PROGRESS) <= until:
        await asyncio.sleep(meant - time.monotonic())
        held = found.samples[-1][1]
        sizes = ", ".join(f"{part} {held[part].own:.0f}" for part in found.parts if part in held)
        unexpected = found.tally.unexpected
        named = f" ({', '.join(end for end, _ in unexpected.most_common(3))})" if unexpected else ""
        counts = f"{found.tally.calls:,} calls, {unexpected.total():,} unexpected{named}"
        print(f"minute {minute} of {found.minutes:g}: {counts}; MiB: {sizes}", flush=True)


async def notice_halts(found: Found, began: float, until: float) -> None:
    """A machine that is paused, or a program that was stopped, makes calls late that the POP was not late with."""
    last = began
    while last < until:
        await asyncio.sleep(TICK)
        now = time.monotonic()
        if now - last > HALT:
            found.halts.append(((now - began) / 60, now - last))
        last = now


async def load(found: Found, pop: Pop, parties: Parties, *, signs: float) -> None:
    """Everything at once until the minutes are over, and until what is out has come back."""
    async with Mix.opened(pop, parties, found.tally) as mix:
        churn = Churn(parties=parties, tally=found.tally, server=pop.grpc_socket, http=pop.http, session=mix.session)
        began = time.monotonic()
        until = began + found.minutes * 60
        # The last third of the warm-up is like all that follows.
        warm = began + warm_up(found.minutes) * 60 * 2 / 3
        async with asyncio.TaskGroup() as tasks:
            for kind in [*mix.kinds(signs), *churn.kinds()]:
                tasks.create_task(arrive(kind, found.tally, until, warm=warm))
            for party in parties.free[:2]:
                tasks.create_task(mix.stream(party, until))
            tasks.create_task(sample(found, pop, began, until))
            tasks.create_task(tell(found, began, until))
            tasks.create_task(notice_halts(found, began, until))


def sizes(pop: Pop) -> dict[str, float]:
    """Of the database."""
    cluster = EmbeddedPostgres(
        folder=pop.data_dir / "postgres", sockets=Path(pop.grpc_socket.removeprefix("unix://")).parent
    )
    with psycopg.connect(cluster.superuser_url()) as database:
        return {name: float((database.execute(query).fetchone() or (0,))[0]) for name, query in SIZES.items()}


def run(minutes: float, signs: float) -> Found:
    """A POP of its own, with a plan for each of the two organizations that are refused."""
    found, machine = Found(minutes=minutes, tally=Tally()), Machine.now()
    with tempfile.TemporaryDirectory() as home:
        catalogue = Path(home) / "plans.toml"
        catalogue.write_text(plans())
        with Pop.started(environment={"POPSIGNER_PLANS_FILE": str(catalogue)}) as pop:

            async def measure() -> None:
                async with founded(pop) as parties:
                    await load(found, pop, parties, signs=signs)

            try:
                asyncio.run(measure())
            except KeyboardInterrupt:
                if not found.samples:
                    raise
                found.minutes, found.interrupted = found.samples[-1][0], True
            found.database = sizes(pop)
    found.others = machine.others()
    found.missing = found.tally.missing(NEEDED)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, help="of load; 60 by default, at least 35 for a verdict")
    parser.add_argument("--signs", type=float, default=100.0, help="Sign calls a second over all keys; 100 by default")
    parser.add_argument("--json", type=Path, help="write everything that was found to this file")
    parser.add_argument("--plot", type=Path, help="draw memory over time into this file (PNG)")
    chosen = parser.parse_args()
    if chosen.minutes < 1 or chosen.signs <= 0:
        parser.error("--minutes must be at least 1, and --signs above 0.")
    found = run(chosen.minutes, chosen.signs)
    show(found)
    if chosen.json:
        write(found, chosen.json)
    if chosen.plot:
        draw(found, chosen.plot)
    raise SystemExit(1 if found.faults else 0)


if __name__ == "__main__":
    main()
