"""What a POP's server shows at its metrics address while it is asked for more than its turns."""

import asyncio

import pytest

from popsigner_server.gen.popsigner.v1 import key_pb2
from tests.integration.pop.wire import Wire
from tests.support.pop import Pop
from tests.support.scrape import metric


@pytest.mark.parametrize("kind", ["read", "change"])
async def test_calls_that_wait_for_their_turn_are_shown(pop: Pop, owner: Wire, key: key_pb2.Key, kind: str) -> None:
    request = {
        "read": key_pb2.ListKeysRequest(),
        "change": key_pb2.UpdateKeyRequest(key_id=key.id, metadata={"a": "b"}),
    }[kind]
    others = {"read": "change", "change": "read"}[kind]
    assert await metric(pop, "popsigner_calls_waiting", kind=kind) == 0
    calls = [asyncio.create_task(owner(request)) for _ in range(200)]
    while await metric(pop, "popsigner_calls_waiting", kind=kind) == 0:
        assert not all(call.done() for call in calls), "the calls ended and none was shown"
    assert await metric(pop, "popsigner_calls_waiting", kind=others) == 0
    await asyncio.gather(*calls)
    assert await metric(pop, "popsigner_calls_waiting", kind=kind) == 0
