"""gRPC and gRPC-Web through the same port as JSON."""

import asyncio
import base64
import struct
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_status import rpc_status

from popsigner_server.gen.popsigner.v1 import sign_pb2, sign_pb2_grpc
from tests.gateway.proxy import CREDENTIALS, Proxy
from tests.gateway.upstream import API_KEY, Upstream, signature

METADATA = (("x-api-key", API_KEY),)


def reason(error: grpc.aio.AioRpcError) -> str:
    """The ErrorInfo's reason; rpc_status also checks that the details repeat the code and the message."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # it asks for the sync Call and reads what both have
    assert status is not None, error
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "popsigner.com"
    return str(info.reason)


async def test_a_unary_call_passes(channel: grpc.aio.Channel, server: Upstream, key_id: str) -> None:
    stub = sign_pb2_grpc.SignServiceStub(channel)
    answer = await stub.Sign(sign_pb2.SignRequest(key_id=key_id, data=b"abc"), metadata=METADATA)
    assert answer.signature == signature(server.keys[key_id], b"abc")


async def test_a_rich_error_passes_with_its_details(channel: grpc.aio.Channel) -> None:
    stub = sign_pb2_grpc.SignServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.Sign(sign_pb2.SignRequest(key_id="production/none"), metadata=METADATA)
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND
    assert reason(refused.value) == "KEY_NOT_FOUND"


def bare(channel: grpc.aio.Channel, path: str) -> grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]:
    return channel.unary_unary(path, request_serializer=bytes, response_deserializer=bytes)


@pytest.mark.parametrize(
    "path", ["/nobody.v1.Nothing/Do", "/v1/keys", "/popsigner.v2.SignService/Sign", "/openapi.json"]
)
async def test_an_unknown_service_is_unimplemented_with_a_reason(channel: grpc.aio.Channel, path: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await bare(channel, path)(b"", metadata=METADATA)
    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert reason(refused.value) == "METHOD_UNKNOWN"


async def test_an_unknown_streaming_call_is_refused_while_its_sender_still_sends(channel: grpc.aio.Channel) -> None:
    path = "/nobody.v1.Nothing/Do"
    do: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(path)
    call = do(metadata=METADATA, timeout=5)
    assert await call.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_a_stream_answers_while_it_is_open(channel: grpc.aio.Channel, server: Upstream, key_id: str) -> None:
    call = sign_pb2_grpc.SignServiceStub(channel).SignStream(metadata=METADATA)
    for number in range(3):
        items = [sign_pb2.SignItem(key_id=key_id, data=b"%d" % number)]
        await call.write(sign_pb2.SignStreamRequest(correlation_id=number, requests=items))
        answer: Any = await asyncio.wait_for(call.read(), 5)
        assert answer.correlation_id == number
        assert answer.signatures[0].signature == signature(server.keys[key_id], b"%d" % number)
    await call.done_writing()
    assert await call.code() == grpc.StatusCode.OK


async def test_a_reader_that_stops_holds_the_sender_back_and_loses_nothing(
    channel: grpc.aio.Channel, server: Upstream, key_id: str
) -> None:
    """Flow control reaches through Envoy: the sender waits, the server has not swallowed everything."""
    messages, item = 400, sign_pb2.SignItem(key_id=key_id, data=bytes(64 * 1024))
    sent = 0

    async def asked() -> AsyncIterator[sign_pb2.SignStreamRequest]:
        nonlocal sent
        for number in range(messages):
            # The answer is as large as the question, so that both directions fill.
            requests = [item, *[sign_pb2.SignItem(key_id="x" * 60_000)]]
            yield sign_pb2.SignStreamRequest(correlation_id=number, requests=requests)
            sent += 1

    call = sign_pb2_grpc.SignServiceStub(channel).SignStream(asked(), metadata=METADATA)
    before, still = -1, 0
    while still < 5:
        await asyncio.sleep(0.1)
        still = still + 1 if sent == before else 0
        before = sent
    assert 0 < sent < messages
    assert [answer.correlation_id async for answer in call] == list(range(messages))


async def test_health_and_reflection_answer_through_the_public_port(channel: grpc.aio.Channel) -> None:
    path = "/grpc.health.v1.Health/Check"
    checked = await bare(channel, path)(health_pb2.HealthCheckRequest().SerializeToString())
    assert health_pb2.HealthCheckResponse.FromString(checked).status == health_pb2.HealthCheckResponse.SERVING
    names = [service.name async for service in reflected(channel)]
    assert "popsigner.v1.SignService" in names


async def reflected(channel: grpc.aio.Channel) -> AsyncIterator[Any]:
    list_all = reflection_pb2.ServerReflectionRequest(list_services="")
    ask: grpc.aio.StreamStreamMultiCallable[Any, Any] = channel.stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    async for answer in ask(iter([list_all])):
        for service in answer.list_services_response.service:
            yield service


def frame(message: bytes) -> bytes:
    return struct.pack(">BI", 0, len(message)) + message


def frames(body: bytes) -> list[tuple[int, bytes]]:
    """The flag and payload of each frame: flag 0x80 is the trailers."""
    found = []
    while body:
        flag, length = struct.unpack(">BI", body[:5])
        found.append((flag, body[5 : 5 + length]))
        body = body[5 + length :]
    return found


@pytest.mark.parametrize("text", [False, True])
async def test_grpc_web_calls_pass_in_both_of_its_forms(
    envoy: Proxy, server: Upstream, key_id: str, text: bool
) -> None:
    kind = "application/grpc-web-text" if text else "application/grpc-web+proto"
    asked = frame(sign_pb2.SignRequest(key_id=key_id, data=b"web").SerializeToString())
    headers = {**CREDENTIALS, "content-type": kind, "accept": kind, "x-grpc-web": "1"}
    body = base64.b64encode(asked) if text else asked
    status, answered, raw = await envoy.raw("POST", "/popsigner.v1.SignService/Sign", body, headers)
    assert (status, answered["content-type"]) == (200, "application/grpc-web-text+proto" if text else kind)
    if text:
        # Each chunk is padded on its own.
        raw = b"".join(base64.b64decode(part + "==") for part in raw.decode().replace("==", "=").split("=") if part)
    (_, message), (flag, trailers) = frames(raw)
    assert sign_pb2.SignResponse.FromString(message).signature == signature(server.keys[key_id], b"web")
    assert flag == 0x80
    assert b"grpc-status:0" in trailers


@pytest.mark.parametrize(
    ("path", "http", "code", "expected"),
    [
        ("/popsigner.v1.SignService/Sign", 200, code_pb2.UNAUTHENTICATED, "CREDENTIALS_MISSING"),
        # Envoy's own refusals keep their HTTP status on this wire.
        ("/nobody.v1.Nothing/Do", 404, code_pb2.UNIMPLEMENTED, "METHOD_UNKNOWN"),
    ],
)
async def test_grpc_web_errors_have_their_details(envoy: Proxy, path: str, http: int, code: int, expected: str) -> None:
    headers = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1"}
    status, answered, raw = await envoy.raw("POST", path, frame(b""), headers)
    assert status == http
    trailers = {name: value for name, value in answered.items() if name.startswith("grpc-")}
    for _, payload in frames(raw):
        lines = (line.split(":", 1) for line in payload.decode().split("\r\n") if line)
        trailers |= {name.strip(): value.strip() for name, value in lines}
    assert int(trailers["grpc-status"]) == code
    packed = trailers["grpc-status-details-bin"]
    details = status_pb2.Status.FromString(base64.b64decode(packed + "=" * (-len(packed) % 4)))
    info = error_details_pb2.ErrorInfo()
    assert details.details[0].Unpack(info)
    assert info.reason == expected
