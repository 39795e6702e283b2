"""Callers that do not wait: cancelled calls and deadlines that pass."""

import asyncio
from contextlib import suppress

import grpc
import pytest

from popsigner_server.gen.popsigner.v1 import key_pb2, sign_pb2
from tests.integration.pop.wire import Json, Wire

pytestmark = pytest.mark.usefixtures("unharmed")


async def settled(owner: Wire) -> int:
    """Signatures used, once nothing more is under way."""
    async with asyncio.timeout(10):
        while True:
            used = await owner.signatures_used()
            await asyncio.sleep(0.2)
            if await owner.signatures_used() == used:
                return used


async def test_a_cancelled_call_ends_at_once_and_what_was_signed_has_its_row(owner: Wire, key: key_pb2.Key) -> None:
    calls = [owner.start(sign_pb2.SignRequest(key_id=key.id, data=b"%d" % number)) for number in range(200)]
    await asyncio.sleep(0.01)
    for call in calls[::2]:
        call.cancel()

    ends = await asyncio.gather(*(call.code() for call in calls))

    assert set(ends[1::2]) == {grpc.StatusCode.OK}
    assert set(ends[::2]) <= {grpc.StatusCode.OK, grpc.StatusCode.CANCELLED}
    assert grpc.StatusCode.CANCELLED in ends
    used = await settled(owner)
    assert used == len(await owner.rows(event_type="key.signed"))
    assert len(await owner.rows(key_id=key.id, event_type="key.signed")) >= ends.count(grpc.StatusCode.OK)


async def test_a_cancelled_creation_ends_one_way_or_the_other(owner: Wire) -> None:
    names = [f"cancelled-{number}" for number in range(8)]
    calls = [owner.start(key_pb2.CreateKeyRequest(name=name)) for name in names]
    await asyncio.sleep(0.005)
    for call in calls:
        call.cancel()
    await asyncio.gather(*(call.code() for call in calls))

    # The name is a key's, or free for one; it does not stay taken by nobody.
    async with asyncio.timeout(20):
        for name in names:
            while not (await owner(key_pb2.ListKeysRequest(name_prefix=name))).keys:
                with suppress(grpc.aio.AioRpcError):
                    await owner(key_pb2.CreateKeyRequest(name=name))
                await asyncio.sleep(0.05)
    for name in names:
        assert (await owner(sign_pb2.SignRequest(key_id=f"production/{name}", data=b"x"))).signature


@pytest.mark.parametrize("timeout", [0.0, 1e-6, 0.001])
async def test_a_deadline_that_has_passed_is_refused(owner: Wire, key: key_pb2.Key, timeout: float) -> None:
    # 256 different messages a call, so that none is done within a millisecond.
    items = [sign_pb2.SignItem(key_id=key.id, data=b"%d" % number) for number in range(256)]

    refusal = await owner.refused(sign_pb2.BatchSignRequest(requests=items), timeout=timeout)

    assert refusal.code == "DEADLINE_EXCEEDED"
    assert await settled(owner) == len(await owner.rows(event_type="key.signed"))


async def test_a_deadline_under_load_passes_without_harm_to_the_others(owner: Wire, key: key_pb2.Key) -> None:
    requests = [sign_pb2.SignRequest(key_id=key.id, data=b"%d" % number) for number in range(300)]
    calls = [owner.start(request, timeout=0.02 if n % 3 == 0 else 30) for n, request in enumerate(requests)]

    ends = await asyncio.gather(*(call.code() for call in calls))

    assert set(ends[::3]) <= {grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED}
    assert {end for n, end in enumerate(ends) if n % 3} == {grpc.StatusCode.OK}
    assert await settled(owner) == len(await owner.rows(event_type="key.signed"))


async def test_a_deadline_over_json_has_its_reason(http: Json, key: key_pb2.Key) -> None:
    body = {"requests": [{"key_id": key.id, "data": "eA=="}] * 256}

    answer = await http("POST", "/v1/sign/batch", body, headers={"grpc-timeout": "1m"})

    assert (answer.status, answer.reason) == (504, "DEADLINE_PASSED")
