"""What is over goes at once. The server's collector comes once in hours (app.py), and whoever is refused decides how
often: a cycle for each refusal, or for each connection, would be a leak between its visits."""

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest

from popsigner_http2.headers import Request
from popsigner_server import errors
from popsigner_server.gen.popsigner.v1 import sign_pb2, sign_pb2_grpc
from popsigner_server.transport.interceptors.base import Call
from tests.integration.server.front import SIGN, Front, echo, echo_each, on_uvloop, served, until
from tests.integration.server.front_peer import framed

OURS = ("popsigner_http2", "popsigner_server.transport", "popsigner_server.errors")
TIMES = 20
# The generated stubs are typed for a client without asyncio.
Stub: Any = sign_pb2_grpc.SignServiceStub


def ours() -> Counter[str]:
    """Live objects of the server's classes, but for header blocks, some of which each connection remembers."""
    kinds = (type(each) for each in gc.get_objects())
    return Counter(kind.__qualname__ for kind in kinds if str(kind.__module__).startswith(OURS) and kind is not Request)


async def refuse() -> None:
    raise errors.QueueFull(retry_after=1.0)


async def sign(call: Call, request: sign_pb2.SignRequest) -> sign_pb2.SignResponse:
    match request.key_id:
        case "refused":
            raise errors.KeyNotFound
        case "handed over":
            # As write_outcome raises what the signer gave it.
            outcome = errors.KeyDisabled()
            raise outcome
        case "chained":
            try:
                await refuse()
            except errors.QueueFull as full:
                raise errors.DeadlinePassed from full
        case "fault":
            raise RuntimeError("a fault")
        case "slow":
            await asyncio.sleep(60)
    return await echo(call, request)


async def one(stub: Any, key: str, *, timeout: float = 10.0) -> None:
    try:
        await stub.Sign(sign_pb2.SignRequest(key_id=key, data=bytes(100)), timeout=timeout)
    except grpc.aio.AioRpcError:
        return


async def cancelled(stub: Any) -> None:
    call = stub.Sign(sign_pb2.SignRequest(key_id="slow"))
    await asyncio.sleep(0.005)
    call.cancel()


async def passing(stub: Any) -> None:
    await one(stub, "slow", timeout=0.005)


async def streamed(stub: Any) -> None:
    async def messages() -> AsyncIterator[sign_pb2.SignStreamRequest]:
        yield sign_pb2.SignStreamRequest(correlation_id=1, requests=[sign_pb2.SignItem(data=b"d")])

    assert [answer.correlation_id async for answer in stub.SignStream(messages())] == [1]


async def stream_cancelled(stub: Any) -> None:
    call = stub.SignStream()
    await call.write(sign_pb2.SignStreamRequest(correlation_id=1))
    await call.read()
    call.cancel()


def by_key(key: str) -> Callable[[Any], Awaitable[None]]:
    return lambda stub: one(stub, key)


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(by_key("answered"), id="answered"),
        pytest.param(by_key("refused"), id="refused"),
        pytest.param(by_key("handed over"), id="refused by an error that was handed over"),
        pytest.param(by_key("chained"), id="refused because of another error"),
        pytest.param(by_key("fault"), id="failed"),
        pytest.param(cancelled, id="cancelled"),
        pytest.param(passing, id="past its deadline"),
        pytest.param(streamed, id="streamed"),
        pytest.param(stream_cancelled, id="stream cancelled"),
    ],
)
@on_uvloop
async def test_a_call_leaves_nothing_to_the_collector(ask: Callable[[Any], Awaitable[None]]) -> None:
    async with served(sign, echo_each) as front, front.channel() as channel:
        stub = Stub(channel)
        # They open the connection, and fill what is remembered of how such calls begin and end.
        for _ in range(3):
            await ask(stub)
        await _settled(front)
        before = ours()
        for _ in range(TIMES):
            await ask(stub)
        await _settled(front)
        assert not ours() - before


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("under_way", [0, 3])
@on_uvloop
async def test_a_connection_leaves_nothing_to_the_collector(under_way: int) -> None:
    async with served(sign, echo_each) as front:
        slow = framed(sign_pb2.SignRequest(key_id="slow").SerializeToString())

        async def come_and_go() -> None:
            async with front.dialled() as peer:
                await peer.answer(peer.call(SIGN, framed(b"")))
                for _ in range(under_way):
                    peer.call(SIGN, slow)
                await until(lambda: front.calls == under_way)
            await until(lambda: not front.server._open)
            await _settled(front)

        await come_and_go()
        before = ours()
        for _ in range(TIMES):
            await come_and_go()
        assert not ours() - before


async def _settled(front: Front) -> None:
    await until(lambda: not front.calls)
    # The tasks of cancelled calls end in the turns after that, and answers to pings leave.
    await asyncio.sleep(0.02)
