"""Closed loops: Sign beside a bare echo, batches and JSON beside Sign, streams beside the raw library, Transit."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from statistics import median

import aiohttp

from tests.bench.calls import STREAM_ITEMS, Signer, json_sign, raw_rate, streams, unary
from tests.bench.generators import raw_rate_of_all, together, wake_time
from tests.bench.load import closed_loop, in_turns, middle
from tests.bench.meter import costed
from tests.bench.report import Figures
from tests.bench.transit import transit
from tests.support.pop import Pop

STREAM_TURNS = 3
WAKE = "a process that waits is woken on another core, us"


async def transit_rates(figures: Figures, *, seconds: float) -> None:
    """OpenBao's own signatures, in a server of its own that is gone before the POP starts."""
    async with transit() as call:
        for in_flight in (1, 64):
            found = await closed_loop(call, in_flight=in_flight, seconds=seconds)
            figures.rows[f"OpenBao Transit ecdsa-p256, {in_flight} in flight"] = (found, 1)


async def echo_rates(figures: Figures, echo: Signer, signer: Signer, *, levels: Sequence[int], seconds: float) -> None:
    """Sign and a bare echo in turns, at each number of calls in flight."""
    async with echo.channel() as bare, signer.channel() as channel:
        calls = [unary(echo, bare), unary(signer, channel)]
        for in_flight in levels:
            echoed, signed = await in_turns(calls, in_flight=in_flight, seconds=seconds)
            figures.rows[f"bare grpc.aio echo, {in_flight} in flight"] = (echoed, 1)
            figures.rows[f"Sign, {in_flight} in flight"] = (signed, 1)
            if in_flight == 64:
                figures.at_least("Sign at 64 in flight / bare grpc.aio echo", signed.rate / echoed.rate, 0.8)
    vault = figures.rows["OpenBao Transit ecdsa-p256, 64 in flight"][0]
    figures.ratios["Sign / OpenBao Transit, 64 in flight"] = signed.rate / vault.rate


async def lone_calls(figures: Figures, pop: Pop, signer: Signer, *, seconds: float) -> None:
    """One call in flight, in turns: Sign, BatchSign of 4 and of 64, and Sign as JSON through Envoy."""
    async with signer.channel() as channel, aiohttp.ClientSession() as session:
        calls = [unary(signer, channel), *(unary(signer, channel, items=items) for items in (4, 64))]
        calls.append(json_sign(signer, pop.http, session))
        alone, four, many, through = await in_turns(calls, in_flight=1, seconds=seconds)
    figures.rows["Sign, alone"] = (alone, 1)
    figures.rows["BatchSign of 4, alone"] = (four, 4)
    figures.rows["BatchSign of 64, alone"] = (many, 64)
    figures.rows["Sign as JSON through Envoy, alone"] = (through, 1)
    figures.at_most("BatchSign of 4 / Sign, p50", four.p50 / alone.p50, 1.1)
    figures.at_most("BatchSign of 64 / Sign, p50", many.p50 / alone.p50, 1.8)
    figures.at_most("JSON through Envoy minus gRPC, p50, ms", through.p50 - alone.p50, 2.0)


async def stream_rates(
    figures: Figures,
    roots: Mapping[str, int],
    processes: ProcessPoolExecutor,
    signers: Sequence[Signer],
    *,
    seconds: float,
) -> None:
    """Streams of several organizations, and the raw library before, between and after them, on one core and on all at
    once: what a further core is worth differs from machine to machine, and on a shared one from minute to minute.
    processes: CORES of them."""
    raws, on_all, found = [raw_rate(0.5)], [await raw_rate_of_all(processes, seconds=0.5)], []
    for _ in range(STREAM_TURNS):
        measured, cost = await costed(roots, streams(signers, seconds=seconds / STREAM_TURNS), items=STREAM_ITEMS)
        found.append(measured)
        on_all.append(await raw_rate_of_all(processes, seconds=0.5))
        raws.append(raw_rate(0.5))
    figures.raw, figures.raw_on_all = median(raws), median(on_all)
    figures.checks[WAKE] = median([processes.submit(wake_time).result() for _ in range(STREAM_TURNS)])
    row = middle(found)
    figures.rows[f"SignStream, {len(signers)} organizations x {STREAM_ITEMS} items"] = (row, STREAM_ITEMS)
    figures.costs["SignStream"] = cost
    ratios = [
        each.rate * STREAM_ITEMS * 2 / (before + after)
        for each, before, after in zip(found, raws, raws[1:], strict=False)
    ]
    figures.at_least("SignStream / raw libsecp256k1 on one core", median(ratios), 0.7)
    figures.ratios["SignStream / raw libsecp256k1 on all cores at once"] = row.rate * STREAM_ITEMS / figures.raw_on_all


async def costs(figures: Figures, pop: Pop, roots: Mapping[str, int], signer: Signer, *, seconds: float) -> None:
    """CPU a signature by process, for a lone Sign, the same as JSON, and many at once."""
    async with signer.channel() as channel, aiohttp.ClientSession() as session:
        sign, through = unary(signer, channel), json_sign(signer, pop.http, session)
        for name, call, in_flight in (
            ("Sign, alone", sign, 1), ("JSON, alone", through, 1), ("Sign, 64 in flight", sign, 64),
        ):  # fmt: skip
            _, figures.costs[name] = await costed(roots, closed_loop(call, in_flight=in_flight, seconds=seconds))


async def generator_checks(
    figures: Figures,
    roots: Mapping[str, int],
    processes: ProcessPoolExecutor,
    echo: Signer,
    signer: Signer,
    *,
    seconds: float,
) -> None:
    """The same 64 calls in flight from two processes instead of one: were one the bottleneck, two would get more."""
    for name, who in (("echo", echo), ("Sign", signer)):
        async with who.channel() as channel:
            _, cost = await costed(roots, closed_loop(unary(who, channel), in_flight=64, seconds=seconds / 2))
        figures.checks[f"{name}, 64 in flight: the generator's share of a core"] = cost.generator
        rates: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(2):
            for count, found in rates.items():
                found.append(await together(processes, who, count=count, in_flight=64, seconds=seconds / 2))
        figures.checks[f"{name}, 64 in flight: two generator processes / one"] = median(rates[2]) / median(rates[1])
