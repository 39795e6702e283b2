"""A POP that is stopped, also in the middle of its work, and started again on its data directory."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import aiohttp
import grpc
import pytest

from popsigner_server.gen.popsigner.v1 import audit_pb2, key_pb2, sign_pb2
from tests.integration.pop.wire import Json, Wire, refusal_of
from tests.support.pop import Pop

CALLERS = 32
# What a caller is told while the POP goes away: by the server that drains, by Envoy whose server has gone, or by gRPC
# whose connection has.
GOING = {
    *(("UNAVAILABLE", reason) for reason in ("DRAINING", "SERVER_UNAVAILABLE", "")),
    *(("503", reason) for reason in ("DRAINING", "SERVER_UNAVAILABLE")),
    ("UNAVAILABLE", "This server is shutting down; retry."),
    # What grpc.aio on this side makes of a write to a stream whose end it has not read yet.
    ("INTERNAL", "Internal error from Core"),
}
# A caller that waits longer than this hangs: the node gives calls 10 seconds.
HANGS = 20.0


@pytest.fixture(scope="module")
def stopped_pop() -> Iterator[Pop]:
    """A POP that these tests stop and start."""
    with Pop.started() as pop:
        yield pop


class Load:
    """Callers that sign different messages over and over, until they are refused."""

    def __init__(self, key_id: str) -> None:
        self.key_id = key_id
        self.released: dict[bytes, bytes] = {}
        self.ends: Counter[tuple[str, str]] = Counter()
        self.longest = 0.0

    async def over_grpc(self, wire: Wire, caller: int) -> None:
        number = 0
        while True:
            data, began = b"grpc %d %d" % (caller, number), time.monotonic()
            try:
                answer = await wire(sign_pb2.SignRequest(key_id=self.key_id, data=data), timeout=HANGS)
            except grpc.aio.AioRpcError as error:
                refusal = refusal_of(error)
                self.ends[refusal.code, refusal.reason] += 1
                return
            finally:
                self.longest = max(self.longest, time.monotonic() - began)
            self.released[data] = answer.signature
            number += 1

    async def over_a_stream(self, wire: Wire, caller: int) -> None:
        stream, number = wire.stream(timeout=HANGS), 0
        began = time.monotonic()
        # InvalidStateError is grpc.aio's word for a write on a stream that has ended.
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                data, began = b"stream %d %d" % (caller, number), time.monotonic()
                await stream.write(
                    sign_pb2.SignStreamRequest(requests=[sign_pb2.SignItem(key_id=self.key_id, data=data)])
                )
                answer: Any = await stream.read()
                if answer is grpc.aio.EOF or answer.HasField("error"):
                    break
                self.released[data] = answer.signatures[0].signature
                number += 1
        self.ends[(await stream.code()).name, await stream.details()] += 1
        self.longest = max(self.longest, time.monotonic() - began)

    async def over_json(self, http: Json, caller: int) -> None:
        number = 0
        while True:
            data, began = b"json %d %d" % (caller, number), time.monotonic()
            try:
                answer = await http("POST", f"/v1/keys/{self.key_id}/sign", {"data": data.hex(), "encoding": "hex"})
            except aiohttp.ClientError:
                return
            finally:
                self.longest = max(self.longest, time.monotonic() - began)
            if answer.status != 200:
                self.ends[str(answer.status), answer.reason] += 1
                return
            self.released[data] = answer.json["signature"].encode()
            number += 1


def test_a_restarted_pop_signs_the_same_with_the_same_key(stopped_pop: Pop) -> None:
    pop = stopped_pop

    async def created() -> tuple[key_pb2.Key, bytes]:
        async with grpc.aio.insecure_channel(pop.grpc) as channel:
            owner = Wire(channel, pop.api_key)
            key = (await owner(key_pb2.CreateKeyRequest(name="lasting", metadata={"chain": "celestia"}))).key
            return key, (await owner(sign_pb2.SignRequest(key_id=key.id, data=b"lasting"))).signature

    async def found() -> tuple[key_pb2.Key, bytes, list[str]]:
        async with grpc.aio.insecure_channel(pop.grpc) as channel:
            owner = Wire(channel, pop.api_key)
            key = (await owner(key_pb2.GetKeyRequest(key_id="production/lasting"))).key
            signature = (await owner(sign_pb2.SignRequest(key_id=key.id, data=b"lasting"))).signature
            return key, signature, [row.event for row in await owner.rows(key_id=key.id)]

    before, organization = asyncio.run(created()), pop.organization
    assert pop.stop() == 0
    pop.start()

    assert "api_key" not in pop.ready()
    assert pop.organization == organization
    key, signature, events = asyncio.run(found())
    assert (key, signature) == before
    assert events == ["key.signed", "key.signed", "key.created"]


def test_calls_under_way_at_sigterm_are_answered_or_refused_with_a_reason_and_none_hangs(stopped_pop: Pop) -> None:
    pop = stopped_pop

    async def loaded() -> Load:
        async with (
            grpc.aio.insecure_channel(pop.grpc) as channel,
            grpc.aio.insecure_channel(pop.http.removeprefix("http://")) as gateway,
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=HANGS)) as session,
        ):
            owner = Wire(channel, pop.api_key)
            key = (await owner(key_pb2.CreateKeyRequest(name="under-load"))).key
            load = Load(key.id)
            ways: list[Any] = [
                (load.over_grpc, owner),
                (load.over_grpc, Wire(gateway, pop.api_key)),
                (load.over_a_stream, owner),
                (load.over_json, Json(pop.http, pop.api_key, session)),
            ]
            callers = [asyncio.ensure_future(ways[n % 4][0](ways[n % 4][1], n)) for n in range(CALLERS)]
            await asyncio.sleep(0.7)
            assert pop.process is not None
            pop.process.send_signal(signal.SIGTERM)
            await asyncio.gather(*callers)
            return load

    async def kept(load: Load) -> list[audit_pb2.AuditLog]:
        async with grpc.aio.insecure_channel(pop.grpc) as channel:
            owner = Wire(channel, pop.api_key)
            rows = await owner.rows(key_id=load.key_id, event_type="key.signed")
            assert await owner.signatures_used() == len(await owner.rows(event_type="key.signed"))
            return rows

    load = asyncio.run(loaded())
    assert pop.stop() == 0
    pop.start()

    assert set(load.ends) <= GOING, load.ends
    assert load.longest < HANGS / 2
    assert len(load.released) > CALLERS
    # Every signature that left has its row; a few rows may be of answers that found nobody.
    rows = asyncio.run(kept(load))
    assert len(load.released) <= len(rows) <= len(load.released) + CALLERS
    assert len({row.metadata["data_hash"] for row in rows}) == len(rows)
