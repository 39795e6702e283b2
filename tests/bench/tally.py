"""Calls by kind and by how they ended, and arrivals that go on for an hour.

What a call may end with is said where it is made; whatever else it ends with is unexpected, counted and named. Nothing
here grows with the number of calls.
"""

import asyncio
import random
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc

from tests.support.load import reason_of

OK = "OK"
NOT_SENT = "NOT_SENT"
# Seconds of arrivals of one kind that may be out at once; whatever comes then is NOT_SENT. More than any stall that a
# POP may have under a flood, less than what would make a second flood of the first one's leftovers.
PILE = 10.0
# What comes once a second or less, but is no flood, comes so many times as often while all warms up: PostgreSQL's
# workers keep a plan for each statement that they have met some times, and would go on meeting rare ones for the first
# time for an hour. Ten times as often, floods too, is more than two busy cores can do.
FLOODS, RARE, OFTEN = 0.05, 1.0, 4.0
Answer = TypeVar("Answer")


class Tally:
    """How the calls ended, by kind."""

    def __init__(self) -> None:
        self.ends: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.unexpected: Counter[str] = Counter()

    @property
    def calls(self) -> int:
        return sum(ends.total() for ends in self.ends.values())

    def note(self, kind: str, end: str, *expected: str) -> None:
        """Count one call; OK is expected where nothing else is said."""
        self.ends[kind][end] += 1
        if end not in (expected or (OK,)):
            self.unexpected[f"{kind}: {end}"] += 1

    async def ended(
        self, kind: str, call: Awaitable[Answer], *expected: str, end_of: Callable[[Any], str] = lambda _: OK
    ) -> Answer | None:
        """Wait for a call and count it; None where it failed. end_of: how an answered call ended, where its items have
        ends of their own."""
        try:
            answer = await call
        except grpc.aio.AioRpcError as error:
            self.note(kind, reason_of(error), *expected)
            return None
        self.note(kind, end_of(answer), *expected)
        return answer

    def fault(self, kind: str, error: Exception) -> None:
        """Count what no call may end with. The first of a sort is shown whole: an hour is too long to run it again for
        its stack."""
        end = type(error).__name__
        if not self.ends[kind][end]:
            traceback.print_exception(error)
        self.note(kind, end)

    def missing(self, needed: Mapping[str, str]) -> list[str]:
        """Ends without which this was another load than the one that is claimed. needed: kind to end."""
        return [f"{kind}: {end}" for kind, end in needed.items() if not self.ends[kind][end]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One sort of call at a constant arrival. call: makes one and counts it by itself."""

    name: str
    per_second: float
    call: Callable[[], Awaitable[object]]


async def arrive(kind: Kind, tally: Tally, until: float, *, warm: float = 0.0) -> None:
    """Send at the kind's rate until this moment of time.monotonic(), whether or not answers come; then wait for those
    that are out. warm: the moment until which rare kinds come often.

    Kinds begin at random, so that slow ones do not all come at the same moments. Where this program itself stood still,
    at most a second's arrivals are made up for: the rest would be a flood that nobody has planned.
    """
    often = kind.per_second * (OFTEN if FLOODS < kind.per_second <= RARE else 1.0)
    room = max(4, int(often * PILE))
    out: set[asyncio.Task[None]] = set()

    async def one() -> None:
        try:
            await kind.call()
        except Exception as error:
            tally.fault(kind.name, error)

    meant = time.monotonic() + random.random() / often
    while meant < until:
        await asyncio.sleep(meant - time.monotonic())
        meant = max(meant, time.monotonic() - 1.0)
        meant += 1 / (often if meant < warm else kind.per_second)
        if len(out) >= room:
            tally.note(kind.name, NOT_SENT)
            continue
        task = asyncio.create_task(one())
        out.add(task)
        task.add_done_callback(out.discard)
    if out:
        await asyncio.wait(out)
