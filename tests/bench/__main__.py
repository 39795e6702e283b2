"""`make bench`: one table from one run on real parts. Ratios count; absolute figures belong to the machine.

make bench                             the whole table
make bench ARGS="--seconds 2"          a quicker, rougher one
make bench ARGS="--json bench-1.json"  the figures for a program, too
"""

import argparse
import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

import coincurve
import grpc
from rich.console import Console
from rich.table import Table

from popsigner_server.gen.popsigner.v1 import key_pb2, key_pb2_grpc, sign_pb2, sign_pb2_grpc
from tests.bench.echo import echo_server
from tests.bench.load import Call, Measured, alternated, closed_loop, open_loop
from tests.bench.transit import transit
from tests.support.pop import Pop

STREAMS = 4
STREAM_ITEMS = 64
STREAM_WINDOW = 8
Rows = dict[str, tuple[Measured, int]]


def raw_rate(seconds: float) -> float:
    """Recoverable signatures a second of libsecp256k1 on one core, with the key object kept."""
    key, digest, count = coincurve.PrivateKey(), os.urandom(32), 0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for _ in range(100):
            key.sign_recoverable(digest, hasher=None)
        count += 100
    return count / seconds


def sign_call(address: str, key_id: str, metadata: tuple[tuple[str, str], ...]) -> Call:
    """One Sign of 200 bytes, about the size of a SignDoc."""
    stub: Any = sign_pb2_grpc.SignServiceStub(grpc.aio.insecure_channel(address))
    request = sign_pb2.SignRequest(key_id=key_id, data=os.urandom(200))

    async def call() -> None:
        await stub.Sign(request, metadata=metadata, timeout=30)

    return call


async def streams(address: str, keys: list[str], metadata: tuple[tuple[str, str], ...], seconds: float) -> Measured:
    """Signatures of several streams, each with a few messages in flight; a row's call is a message."""
    clock = time.perf_counter
    latencies: list[float] = []
    end = clock() + seconds

    async def one(key_id: str) -> None:
        channel = grpc.aio.insecure_channel(address)
        stub: Any = sign_pb2_grpc.SignServiceStub(channel)
        items = [sign_pb2.SignItem(key_id=key_id, data=os.urandom(200)) for _ in range(STREAM_ITEMS)]
        places = asyncio.Semaphore(STREAM_WINDOW)
        sent: dict[int, float] = {}

        async def messages() -> AsyncIterator[sign_pb2.SignStreamRequest]:
            number = 0
            while clock() < end:
                await places.acquire()
                sent[number] = clock()
                yield sign_pb2.SignStreamRequest(correlation_id=number, requests=items)
                number += 1

        async for answer in stub.SignStream(messages(), metadata=metadata):
            places.release()
            assert not answer.HasField("error"), answer.error
            assert len(answer.signatures) == STREAM_ITEMS
            assert answer.signatures[0].signature, answer.signatures[0].error
            latencies.append(clock() - sent.pop(answer.correlation_id))
        await channel.close()

    await asyncio.gather(*(one(key) for key in keys))
    latencies.sort()
    return Measured(
        rate=len(latencies) / seconds,
        p50=latencies[len(latencies) // 2] * 1e3,
        p99=latencies[int(len(latencies) * 0.99)] * 1e3,
    )


async def measure_pop(pop: Pop, echo: Call, seconds: float, rows: Rows) -> float:
    """Fill `rows`; returns the raw rate of one core, measured right before and right after the streams."""
    metadata = (("authorization", f"Bearer {pop.api_key}"),)
    channel = grpc.aio.insecure_channel(pop.grpc)
    keys: Any = key_pb2_grpc.KeyServiceStub(channel)
    made = await keys.BatchCreateKeys(key_pb2.BatchCreateKeysRequest(prefix="bench", count=4), metadata=metadata)
    ids = [key.id for key in made.keys]
    call = sign_call(pop.grpc, ids[0], metadata)
    await closed_loop(call, in_flight=16, seconds=seconds / 2)
    for in_flight in (1, 16, 64):
        echoed, signed = await alternated(echo, call, in_flight=in_flight, seconds=2 * seconds)
        rows[f"bare grpc.aio echo, {in_flight} in flight"] = (echoed, 1)
        rows[f"Sign, {in_flight} in flight"] = (signed, 1)
    rows["Sign, steady 100/s"] = (await open_loop(call, per_second=100, seconds=2 * seconds), 1)
    stub: Any = sign_pb2_grpc.SignServiceStub(channel)
    for count in (4, 64, 256):
        items = [sign_pb2.SignItem(key_id=ids[i % 4], data=os.urandom(200)) for i in range(count)]
        request = sign_pb2.BatchSignRequest(requests=items)

        async def batch(request: sign_pb2.BatchSignRequest = request) -> None:
            await stub.BatchSign(request, metadata=metadata, timeout=30)

        if count == 4:
            alone, of_four = await alternated(call, batch, in_flight=1, seconds=2 * seconds)
            rows["Sign, 1 in flight, beside it"] = (alone, 1)
            rows["BatchSign of 4"] = (of_four, 4)
        else:
            rows[f"BatchSign of {count}"] = (await closed_loop(batch, in_flight=1, seconds=seconds), count)
    before = raw_rate(1.0)
    rows[f"SignStream, {STREAMS} x {STREAM_ITEMS} items"] = (
        await streams(pop.grpc, ids, metadata, 2 * seconds), STREAM_ITEMS,
    )  # fmt: skip
    after = raw_rate(1.0)
    await channel.close()
    return (before + after) / 2


def marks(raw: float, rows: Rows) -> list[tuple[str, float, str, float]]:
    """Name, measured, comparison and mark of what this version promises."""
    steady = rows["Sign, steady 100/s"][0]
    stream, items = rows[f"SignStream, {STREAMS} x {STREAM_ITEMS} items"]
    echo = rows["bare grpc.aio echo, 64 in flight"][0]
    return [
        ("Sign at 64 in flight / bare echo", rows["Sign, 64 in flight"][0].rate / echo.rate, ">=", 0.55),
        ("Sign at 100/s: p50, ms", steady.p50, "<=", 8.0),
        ("Sign at 100/s: p99, ms", steady.p99, "<=", 25.0),
        (
            "BatchSign of 4 / Sign, p50",
            rows["BatchSign of 4"][0].p50 / rows["Sign, 1 in flight, beside it"][0].p50,
            "<=",
            1.2,
        ),
        ("SignStream / raw one-core libsecp256k1", stream.rate * items / raw, ">=", 0.3),
    ]


async def measure(seconds: float) -> tuple[float, Rows]:
    rows: Rows = {}
    async with transit() as call:
        for in_flight in (1, 16, 64):
            rows[f"OpenBao Transit ecdsa-p256, {in_flight} in flight"] = (
                await closed_loop(call, in_flight=in_flight, seconds=seconds), 1,
            )  # fmt: skip
    with echo_server() as address, Pop.started() as pop:
        raw = await measure_pop(pop, sign_call(address, "", ()), seconds, rows)
    return raw, rows


def show(raw: float, rows: Rows) -> None:
    console = Console(width=110)
    table = Table("", "calls/s", "signatures/s", "p50 ms", "p99 ms", title="POPSigner, one run on real parts")
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("raw libsecp256k1, one core", "", f"{raw:,.0f}", f"{1e3 / raw:.3f}", "")
    for name, (row, items) in rows.items():
        table.add_row(name, f"{row.rate:,.0f}", f"{row.rate * items:,.0f}", f"{row.p50:.2f}", f"{row.p99:.2f}")
    console.print(table)
    verdicts = Table("first marks", "measured", "mark", "", title="Ratios")
    for name, value, comparison, mark in marks(raw, rows):
        reached = value >= mark if comparison == ">=" else value <= mark
        verdicts.add_row(name, f"{value:.2f}", f"{comparison} {mark}", "reached" if reached else "MISSED")
    console.print(verdicts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--json", help="write the figures to this file")
    chosen = parser.parse_args()
    raw, rows = asyncio.run(measure(chosen.seconds))
    show(raw, rows)
    if chosen.json:
        figures = {
            "raw_signatures_per_second": raw,
            "rows": {name: asdict(row) | {"items": items} for name, (row, items) in rows.items()},
            "marks": [
                dict(zip(("name", "value", "comparison", "mark"), mark, strict=True)) for mark in marks(raw, rows)
            ],
        }
        with open(chosen.json, "w") as file:
            json.dump(figures, file, indent=2)


if __name__ == "__main__":
    main()
