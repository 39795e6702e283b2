"""Answers in pieces: they arrive in order, are counted as one call, and a server that drains sends those under way."""

import asyncio
import gc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from popsigner_server import errors
from popsigner_server.gen.popsigner.v1 import auth_pb2
from popsigner_server.limits.pace import Pace
from popsigner_server.telemetry.metrics import Metrics
from popsigner_server.telemetry.traces import open_tracer
from popsigner_server.transport.contract import rpcs
from popsigner_server.transport.interceptors.base import Call, Handler
from popsigner_server.transport.interceptors.draining import Draining
from popsigner_server.transport.interceptors.errors import Errors
from popsigner_server.transport.interceptors.telemetry import Telemetry
from popsigner_server.transport.server import Server
from tests.integration.server.test_transport import reason_of

EXPORT = "/popsigner.v1.AuthService/ExportAccount"


class Exporting:
    """A handler that waits in the middle of its answer."""

    def __init__(self) -> None:
        self.begun, self.go_on, self.fails = asyncio.Event(), asyncio.Event(), False

    async def __call__(self, call: Call, request: Any) -> None:
        assert isinstance(request, auth_pb2.ExportAccountRequest)
        await call.context.write(auth_pb2.ExportAccountResponse(chunk=b"one"))
        self.begun.set()
        await self.go_on.wait()
        if self.fails:
            raise errors.SessionEnded
        await call.context.write(auth_pb2.ExportAccountResponse(chunk=b"two"))


class House:
    def __init__(self, address: str) -> None:
        self.exporting, self.draining, self.metrics = Exporting(), Draining(), Metrics()
        handlers: dict[str, Handler] = dict.fromkeys(rpcs(), self.exporting)
        telemetry = Telemetry(self.metrics, open_tracer(None))
        self.server = Server(handlers, [telemetry, Errors(), self.draining], [address], Pace())
        self.channel = grpc.aio.insecure_channel(address)

    def export(self) -> Any:
        call = self.channel.unary_stream(
            EXPORT,
            request_serializer=auth_pb2.ExportAccountRequest.SerializeToString,
            response_deserializer=auth_pb2.ExportAccountResponse.FromString,
        )
        return call(auth_pb2.ExportAccountRequest())


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(f"unix:{tmp_path}/server.sock")
    await house.server.start()
    yield house
    house.exporting.go_on.set()
    await house.channel.close()
    await house.server.stop(0, Draining())
    # gRPC's server ends itself once more when it is collected, and needs a running loop for it.
    del house.server
    gc.collect()


async def test_the_pieces_arrive_in_order_and_are_one_call(house: House) -> None:
    house.exporting.go_on.set()
    assert [piece.chunk async for piece in house.export()] == [b"one", b"two"]
    counted = house.metrics.registry.get_sample_value
    assert counted("popsigner_rpcs_total", {"method": EXPORT, "code": "OK"}) == 1
    assert counted("popsigner_rpcs_in_flight", {"method": EXPORT}) == 0


async def test_a_piece_arrives_before_the_last_one_is_made(house: House) -> None:
    pieces = aiter(house.export())
    assert (await anext(pieces)).chunk == b"one"
    assert not house.exporting.go_on.is_set()


async def test_a_failure_in_the_middle_ends_the_answer_with_its_reason(house: House) -> None:
    house.exporting.fails = True
    house.exporting.go_on.set()
    pieces = aiter(house.export())
    assert (await anext(pieces)).chunk == b"one"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await anext(pieces)
    assert reason_of(refused.value)[1] == "SESSION_ENDED"


async def test_a_server_that_drains_sends_the_rest_and_begins_nothing_new(house: House) -> None:
    pieces = aiter(house.export())
    await anext(pieces)
    draining = asyncio.create_task(house.draining.begin(30))
    await asyncio.sleep(0)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await anext(aiter(house.export()))
    assert reason_of(refused.value)[1] == "DRAINING"
    assert not draining.done()
    house.exporting.go_on.set()
    assert [piece.chunk async for piece in pieces] == [b"two"]
    await asyncio.wait_for(draining, 20)
