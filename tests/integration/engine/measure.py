"""Figures of docs/engine.md, from one run: `.venv/bin/python -m tests.integration.engine.measure`."""

import asyncio
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psutil

from popsigner_plugin.curve import SigningKey, sign_columns
from popsigner_plugin.install import COMMAND
from tests.integration.engine.calls import create, sign_batch
from tests.support.openbao import OpenBaoServer, Vault

_TURNS = 100
_SECONDS = 3.0


def _best_of(runs: int, work: Callable[[], object]) -> float:
    """Seconds of the fastest run: the one that was disturbed least."""
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def curve() -> None:
    key, digests = SigningKey.generated(), os.urandom(32 * 2000)
    seconds = _best_of(5, lambda: sign_columns([key], [0] * 2000, digests, []))
    print(f"one signature in a column, one thread        {seconds / 2000 * 1e6:6.1f} µs   {2000 / seconds:8.0f}/s")
    slices(key, digests)


def slices(key: SigningKey, digests: bytes) -> None:
    """A batch in one thread, in two others, and half here beside one other, in turns."""
    print("one thread, two others, this one and one other: median, ms (CPU)")
    with ThreadPoolExecutor(2) as threads:

        def sign(items: int) -> object:
            return sign_columns([key], [0] * items, digests[: 32 * items], [])

        def sliced(count: int, elsewhere: int) -> None:
            waiting = [threads.submit(sign, count // 2) for _ in range(elsewhere)]
            if elsewhere < 2:
                sign(count // (1 + elsewhere))
            for each in waiting:
                each.result()

        for count in (32, 48, 64, 96, 128, 256):
            found: list[list[tuple[float, float]]] = [[], [], []]
            for _ in range(_TURNS):
                for elsewhere, times in zip((0, 2, 1), found, strict=True):
                    began, spent = time.perf_counter(), time.process_time()
                    sliced(count, elsewhere)
                    times.append((time.perf_counter() - began, time.process_time() - spent))
                    # Threads that have just worked are awake; a request finds them asleep.
                    time.sleep(0.002)
            walls = [statistics.median(wall for wall, _ in times) * 1e3 for times in found]
            cpus = [statistics.mean(cpu for _, cpu in times) * 1e3 for times in found]
            columns = [f"{wall:6.2f} ({cpu:.2f})" for wall, cpu in zip(walls, cpus, strict=True)]
            print(f"  {count:5} items  {'  '.join(columns)}")


async def batches(vault: Vault, name: str, engine: psutil.Process, *, items: int, in_flight: int) -> None:
    trips: list[float] = []
    digests, stop = os.urandom(32 * items), time.perf_counter() + _SECONDS

    async def caller() -> None:
        while (sent := time.perf_counter()) < stop:
            await sign_batch(vault, [name], [0] * items, digests)
            trips.append(time.perf_counter() - sent)

    before, started = engine.cpu_times(), time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(in_flight)))
    elapsed, after = time.perf_counter() - started, engine.cpu_times()
    cpu = (after.user + after.system - before.user - before.system) / len(trips)
    trips.sort()
    print(
        f"{items:5} a batch, {in_flight} in flight   p50 {statistics.median(trips) * 1e3:6.2f} ms"
        f"   p99 {trips[int(len(trips) * 0.99)] * 1e3:6.2f} ms   {len(trips) * items / elapsed:8.0f} signatures/s"
        f"   engine {cpu * 1e3:5.2f} ms CPU a batch"
    )


async def main() -> None:
    curve()
    with OpenBaoServer.started(quiet=True) as server:
        launcher = [str(server.bao.plugins / COMMAND)]
        environment = {"VAULT_BACKEND_PLUGIN": "6669da05-b1c8-4f49-97d9-c8e5bed98e20"}
        seconds = _best_of(5, lambda: subprocess.run(launcher, env=environment, capture_output=True, check=False))
        print(f"launcher: files checked, code loaded         {seconds * 1e3:6.0f} ms")
        vault = await server.login()
        name, _ = await create(vault)
        (engine,) = server.engines()
        for in_flight in (1, 4):
            for items in (1, 64, 256, 1024):
                await batches(vault, name, engine, items=items, in_flight=in_flight)
        await vault.close()


if __name__ == "__main__":
    asyncio.run(main())
