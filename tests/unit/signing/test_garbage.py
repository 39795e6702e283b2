"""Items that are refused go with their call, without a visit of the collector: an error's traceback holds the frames
that it came through, and those what was asked for."""

import gc
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest

from popsigner_server import errors
from popsigner_server.domain.principals import Bounds
from popsigner_server.gen.popsigner.v1 import sign_pb2
from popsigner_server.signing import Ask
from popsigner_server.signing.signer import Signer
from popsigner_server.telemetry.traces import open_tracer
from popsigner_server.transport.handlers.batch_sign import batch_sign
from popsigner_server.transport.handlers.sign import sign
from popsigner_server.transport.handlers.sign_stream import sign_stream
from popsigner_server.transport.interceptors.base import Call
from tests.unit.signing.test_second_look import CALLER, Catalogue, Gate

UNKNOWN: Any = 99
GOOD = sign_pb2.SignItem(key_id="first", data=b"first")
ITEMS = {
    "signed": [GOOD],
    "a digest of a wrong length": [GOOD, sign_pb2.SignItem(key_id="first", data=b"x", prehashed=True)],
    "an unknown hash": [GOOD, sign_pb2.SignItem(key_id="first", data=b"x", hash=UNKNOWN)],
    "a key that is not there": [GOOD, sign_pb2.SignItem(key_id="none", data=b"x")],
    "a version that has gone, of a batch that then fails": [GOOD, sign_pb2.SignItem(key_id="rotated", data=b"x")],
}


class Empty(Catalogue):
    """Knows the same, but for one key, each time with an error of its own."""

    def cached(self, organization_id: UUID, reference: str, version: int, bounds: Bounds) -> Any:
        return None if reference == "none" else super().cached(organization_id, reference, version, bounds)

    async def find(self, organization_id: UUID, reference: str, version: int, bounds: Bounds) -> Any:
        if reference == "none":
            raise errors.KeyNotFound
        return await super().find(organization_id, reference, version, bounds)


class Context:
    """What the handlers ask of the wire."""

    def __init__(self) -> None:
        self.written: list[sign_pb2.SignStreamResponse] = []

    def invocation_metadata(self) -> tuple[()]:
        return ()

    async def write(self, message: sign_pb2.SignStreamResponse) -> None:
        self.written.append(message)


def call_of(context: Any) -> Call:
    call = Call(context)
    call.caller = CALLER
    return call


@pytest.fixture
def signer() -> Signer:
    gate = Gate(frozenset({"rotated"}), second=errors.QueueFull(retry_after=1.0))
    return Signer(Empty(), gate, open_tracer(None))


def asks() -> int:
    return sum(type(each) is Ask for each in gc.get_objects())


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("items", ITEMS.values(), ids=ITEMS.keys())
async def test_a_batch(signer: Signer, items: list[sign_pb2.SignItem]) -> None:
    before = asks()
    answer = await batch_sign(signer)(call_of(Context()), sign_pb2.BatchSignRequest(requests=items))
    assert [each.HasField("error") for each in answer.signatures] == [False, True][: len(items)]
    assert asks() == before


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("items", [*ITEMS.values(), []], ids=[*ITEMS.keys(), "nothing"])
async def test_a_message_of_a_stream(signer: Signer, items: list[sign_pb2.SignItem]) -> None:
    async def messages() -> AsyncIterator[sign_pb2.SignStreamRequest]:
        yield sign_pb2.SignStreamRequest(correlation_id=7, requests=items)

    before, context = asks(), Context()
    await sign_stream(signer)(call_of(context), messages())
    (answer,) = context.written
    assert (answer.correlation_id, len(answer.signatures)) == (7, len(items))
    assert answer.HasField("error") is not bool(items)
    assert asks() == before


@pytest.mark.usefixtures("uncollected")
async def test_one_signature(signer: Signer) -> None:
    before = asks()
    refused = None
    try:
        await sign(signer)(call_of(Context()), sign_pb2.SignRequest(key_id="none", data=b"x"))
    except errors.KeyNotFound as error:
        refused = error.reason
        # As transport/interceptors/errors.py does.
        errors.untraced(error)
    assert refused == "KEY_NOT_FOUND"
    assert asks() == before
