"""The calls that are measured. Requests are serialised once: what a client pays for that is not the POP's."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import aiohttp
import coincurve
import grpc

from popsigner_server.gen.popsigner.v1 import errors_pb2, sign_pb2
from tests.bench.load import Call, Measured, NotSigned, measured
from tests.support.load import reason_of

SIGN = "/popsigner.v1.SignService/Sign"
BATCH_SIGN = "/popsigner.v1.SignService/BatchSign"
SIGN_STREAM = "/popsigner.v1.SignService/SignStream"
STREAM_ITEMS = 64
# Messages of a stream that wait for their answers.
STREAM_WINDOW = 8
# About the size of a SignDoc.
DATA_BYTES = 200
_OPTIONS = (("grpc.use_local_subchannel_pool", 1),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """Who signs: an address (gRPC), an API key, and the id of one of its organization's keys."""

    address: str
    api_key: str
    key_id: str

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.api_key}"),)

    def channel(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(self.address, options=_OPTIONS)


def unary(signer: Signer, channel: grpc.aio.Channel, *, items: int = 0, timeout: float = 30.0) -> Call:
    """Sign, or BatchSign of so many items, which raises NotSigned if there is a signature missing.

    timeout: the deadline of each call, in seconds.
    """
    if items:
        body = sign_pb2.BatchSignRequest(requests=_items(signer, items)).SerializeToString()
    else:
        body = sign_pb2.SignRequest(key_id=signer.key_id, data=os.urandom(DATA_BYTES)).SerializeToString()
    ask: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(BATCH_SIGN if items else SIGN)
    metadata = signer.metadata

    async def call() -> None:
        try:
            answer = await ask(body, metadata=metadata, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise NotSigned(reason_of(error)) from error
        if not items:
            assert len(sign_pb2.SignResponse.FromString(answer).signature) == 64
            return
        for found in sign_pb2.BatchSignResponse.FromString(answer).signatures:
            if found.HasField("error"):
                raise NotSigned(errors_pb2.ErrorReason.Name(found.error.reason))

    return call


def json_sign(signer: Signer, endpoint: str, session: aiohttp.ClientSession) -> Call:
    """The same Sign as JSON through Envoy. endpoint: `http://host:port`."""
    address = f"{endpoint}/v1/keys/{signer.key_id}/sign"
    body = {"data": "A" * (DATA_BYTES // 3 * 4)}
    headers = {"x-api-key": signer.api_key}

    async def call() -> None:
        async with session.post(address, json=body, headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            await answer.read()

    return call


async def streams(signers: Sequence[Signer], *, seconds: float) -> Measured:
    """SignStream, one for each signer, a few messages of 64 items in flight on each; a call is a message."""
    clock = time.perf_counter
    latencies: list[float] = []
    end = clock() + seconds

    async def one(signer: Signer) -> None:
        items = _items(signer, STREAM_ITEMS)
        places = asyncio.Semaphore(STREAM_WINDOW)
        sent: dict[int, float] = {}

        async def messages() -> AsyncIterator[bytes]:
            number = 0
            while clock() < end:
                await places.acquire()
                sent[number] = clock()
                yield sign_pb2.SignStreamRequest(correlation_id=number, requests=items).SerializeToString()
                number += 1

        async with signer.channel() as channel:
            ask: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(SIGN_STREAM)
            async for answer in ask(messages(), metadata=signer.metadata):
                places.release()
                found = sign_pb2.SignStreamResponse.FromString(answer)
                assert not found.HasField("error"), found.error
                assert len(found.signatures) == STREAM_ITEMS
                assert all(each.signature for each in found.signatures), found.signatures[0].error
                latencies.append(clock() - sent.pop(found.correlation_id))

    began = clock()
    await asyncio.gather(*(one(signer) for signer in signers))
    return measured(latencies, clock() - began, calls=len(latencies))


def raw_rate(seconds: float) -> float:
    """Recoverable signatures a second of libsecp256k1 on one core, with the key object kept."""
    key, digest, count = coincurve.PrivateKey(), os.urandom(32), 0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for _ in range(100):
            key.sign_recoverable(digest, hasher=None)
        count += 100
    return count / seconds


def _items(signer: Signer, count: int) -> list[sign_pb2.SignItem]:
    return [sign_pb2.SignItem(key_id=signer.key_id, data=os.urandom(DATA_BYTES)) for _ in range(count)]
