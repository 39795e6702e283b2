"""The mixed load: signatures in every way they are asked for, pages, connections that come and go, and floods.

Calls of these are answered, or refused for the one reason that they are made for; tests.bench.churn has the calls that
change things and those that are wrong.
"""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import grpc

from popsigner_server.gen.popsigner.v1 import audit_pb2, billing_pb2, errors_pb2, key_pb2, sign_pb2
from tests.bench.parties import Parties, Party
from tests.bench.tally import OK, Kind, Tally
from tests.support.load import PATIENCE, Wire, reason_of
from tests.support.pop import Pop

# Items of a BatchSign and of a stream's message, and what a flood sends at once: twice what a queue holds (8 192).
BATCH = 64
STREAM_ITEMS = 8
FLOOD_CALLS, FLOOD_ITEMS = 64, 256
# Seconds between a stream's messages, and until it is closed and opened again.
STREAM_PAUSE = 0.5
STREAM_LIFE = 60.0
PAGE = 50
PAGES = 3
# Seconds within which a client cancels, or its deadline passes: before, during and after a Sign's usual time.
SOON = 0.03
BATCH_SIGN = f"BatchSign of {BATCH}"
CANCELLED = "Sign, cancelled by its client"
LATE = "Sign with a deadline that passes"
HASTY = "Sign above the request rate"
FRUGAL = "Sign above the quota"
STREAM = f"SignStream, message of {STREAM_ITEMS}"
FLOOD = f"BatchSign of {FLOOD_ITEMS}, flood"
# Without these ends it was another load.
NEEDED = {
    CANCELLED: "CANCELLED",
    LATE: "DEADLINE_EXCEEDED",
    HASTY: "RATE_LIMITED",
    FRUGAL: "QUOTA_EXCEEDED",
    FLOOD: "QUEUE_FULL",
}


def end_of(answer: sign_pb2.BatchSignResponse | sign_pb2.SignStreamResponse) -> str:
    """OK, or the reason of the first item without a signature."""
    reasons = (each.error.reason for each in answer.signatures if each.HasField("error"))
    return next(map(errors_pb2.ErrorReason.Name, reasons), OK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """The calls. envoy: gRPC through the public port. doors: the gRPC addresses that new connections go to, in turns.
    http: `http://host:port`."""

    parties: Parties
    tally: Tally
    envoy: Wire
    doors: tuple[str, ...]
    http: str
    session: aiohttp.ClientSession

    @classmethod
    @asynccontextmanager
    async def opened(cls, pop: Pop, parties: Parties, tally: Tally) -> AsyncIterator["Mix"]:
        """Its connections are closed at the end."""
        public = pop.http.removeprefix("http://")
        async with Wire(public, parties.free[0].api_key) as envoy, aiohttp.ClientSession() as session:
            yield cls(
                parties=parties,
                tally=tally,
                envoy=envoy,
                doors=(pop.grpc_socket, pop.grpc, public),
                http=pop.http,
                session=session,
            )

    def kinds(self, signs: float) -> list[Kind]:
        """signs: Sign calls a second over all keys. Everything else has a rate of its own."""
        rates: tuple[tuple[str, float, Callable[[], Any]], ...] = (
            ("Sign", signs / 2, self.sign),
            ("Sign with request_id", signs / 2, self.sign_named),
            (BATCH_SIGN, 0.5, self.batch),
            ("Sign as JSON", 5, self.sign_json),
            ("Sign through Envoy", 5, self.sign_through_envoy),
            ("Sign on a new connection", 1, self.connect),
            (CANCELLED, 2, self.cancel),
            (LATE, 2, self.late),
            (HASTY, 10, self.hasty),
            (FRUGAL, 2, self.frugal),
            ("ListKeys", 0.5, self.list_keys),
            ("ListLogs", 0.5, self.list_logs),
            ("GetUsage", 0.5, self.usage),
            (FLOOD, 1 / 60, self.flood),
        )
        return [Kind(name=name, per_second=per_second, call=call) for name, per_second, call in rates]

    async def sign(self) -> None:
        await self.tally.ended("Sign", self.parties.any.sign())

    async def sign_named(self) -> None:
        """One of ten is asked for again, as after an answer that was lost."""
        party, data = self.parties.any, os.urandom(32)
        request = sign_pb2.SignRequest(key_id=party.key, data=data, request_id=data.hex())
        for _ in range(2 if random.random() < 0.1 else 1):
            call = party.wire.signing.Sign(request, metadata=party.wire.metadata, timeout=PATIENCE)
            await self.tally.ended("Sign with request_id", call)

    async def batch(self) -> None:
        await self.tally.ended(BATCH_SIGN, self.parties.any.batch(BATCH), end_of=end_of)

    async def sign_json(self) -> None:
        party = self.parties.any
        body = {"data": os.urandom(96).hex(), "encoding": "hex"}
        url, headers = f"{self.http}/v1/keys/{party.key}/sign", {"x-api-key": party.api_key}
        async with self.session.post(url, json=body, headers=headers) as answer:
            await answer.read()
        self.tally.note("Sign as JSON", str(answer.status), "200")

    async def sign_through_envoy(self) -> None:
        await self.tally.ended("Sign through Envoy", self.parties.free[0].sign(wire=self.envoy))

    async def connect(self) -> None:
        party = self.parties.any
        async with Wire(random.choice(self.doors), party.api_key) as wire:
            await self.tally.ended("Sign on a new connection", party.sign(wire=wire))

    async def cancel(self) -> None:
        call = self.parties.any.sign()
        await asyncio.sleep(random.uniform(0, SOON))
        call.cancel()
        self.tally.note(CANCELLED, (await call.code()).name, "CANCELLED", OK)

    async def late(self) -> None:
        call = self.parties.any.sign(timeout=random.uniform(0.0005, SOON))
        await self.tally.ended(LATE, call, "DEADLINE_EXCEEDED", "DEADLINE_PASSED", OK)

    async def hasty(self) -> None:
        await self.tally.ended(HASTY, self.parties.hasty.sign(), "RATE_LIMITED", OK)

    async def frugal(self) -> None:
        await self.tally.ended(FRUGAL, self.parties.frugal.sign(), "QUOTA_EXCEEDED", OK)

    async def flood(self) -> None:
        """All from one organization at once, so that its queue is full and those of the others are not."""
        calls = [self.parties.loud.batch(FLOOD_ITEMS) for _ in range(FLOOD_CALLS)]
        await asyncio.gather(*(self.tally.ended(FLOOD, call, "QUEUE_FULL", OK, end_of=end_of) for call in calls))

    async def list_keys(self) -> None:
        wire = self.parties.any.wire
        await self._pages("ListKeys", wire, wire.keys.ListKeys, key_pb2.ListKeysRequest(page_size=PAGE))

    async def list_logs(self) -> None:
        wire = self.parties.any.wire
        await self._pages("ListLogs", wire, wire.audit.ListLogs, audit_pb2.ListLogsRequest(page_size=PAGE))

    async def _pages(self, kind: str, wire: Wire, method: Callable[..., Any], request: Any) -> None:
        for _ in range(PAGES):
            answer = await self.tally.ended(kind, method(request, metadata=wire.metadata, timeout=PATIENCE))
            if answer is None or not answer.next_cursor:
                return
            request.cursor = answer.next_cursor

    async def usage(self) -> None:
        wire = self.parties.any.wire
        call = wire.billing.GetUsage(billing_pb2.GetUsageRequest(), metadata=wire.metadata, timeout=PATIENCE)
        await self.tally.ended("GetUsage", call)

    async def stream(self, party: Party, until: float) -> None:
        """A SignStream that is open until this moment of time.monotonic(), but for being closed and opened again: in
        turns by its end and by being cancelled, which the server meets in different places."""
        cancels = False
        while time.monotonic() < until:
            end = min(until, time.monotonic() + STREAM_LIFE)
            call = party.wire.signing.SignStream(metadata=party.wire.metadata)
            number = 0
            try:
                while time.monotonic() < end:
                    number += 1
                    await call.write(
                        sign_pb2.SignStreamRequest(correlation_id=number, requests=party.items(STREAM_ITEMS))
                    )
                    answer = await asyncio.wait_for(call.read(), PATIENCE)
                    self._note_message(answer, number)
                    await asyncio.sleep(STREAM_PAUSE)
                if cancels:
                    call.cancel()
                else:
                    await call.done_writing()
                    await call.read()
                self.tally.note("SignStream", (await call.code()).name, "CANCELLED" if cancels else OK)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError) as error:
                broken = reason_of(error) if isinstance(error, grpc.aio.AioRpcError) else type(error).__name__
                self.tally.note("SignStream", broken)
                call.cancel()
                # A server that is away would else be asked as fast as this program can.
                await asyncio.sleep(1)
            cancels = not cancels

    def _note_message(self, answer: Any, number: int) -> None:
        if answer is grpc.aio.EOF:
            raise asyncio.InvalidStateError("The stream ended by itself.")
        if answer.HasField("error"):
            self.tally.note(STREAM, errors_pb2.ErrorReason.Name(answer.error.reason))
        elif answer.correlation_id != number:
            self.tally.note(STREAM, "answer to another message")
        else:
            self.tally.note(STREAM, end_of(answer))
