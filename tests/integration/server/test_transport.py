"""What the server says before any room is asked: unknown RPCs, reflection, and what it refuses to start with."""

import gc
import os
import subprocess
import sys
from collections.abc import AsyncIterator

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha import reflection_pb2

from popsigner_node import ports
from popsigner_server.gen.popsigner.v1 import sign_pb2
from popsigner_server.limits.pace import Pace
from popsigner_server.transport.contract import rpcs
from popsigner_server.transport.interceptors.base import Call, Handler
from popsigner_server.transport.interceptors.draining import Draining
from popsigner_server.transport.interceptors.errors import Errors
from popsigner_server.transport.server import Server


async def _never(call: Call, request: object) -> object:
    raise AssertionError("no room is asked here")


def handlers() -> dict[str, Handler]:
    return dict.fromkeys(rpcs(), _never)


def reason_of(refused: grpc.aio.AioRpcError) -> tuple[grpc.StatusCode, str]:
    details = dict(refused.trailing_metadata())["grpc-status-details-bin"]
    assert isinstance(details, bytes)
    info = error_details_pb2.ErrorInfo()
    assert status_pb2.Status.FromString(details).details[0].Unpack(info)
    return refused.code(), info.reason


@pytest.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    address = f"127.0.0.1:{ports.free(1)[0]}"
    server = Server(handlers(), [Errors()], [address], Pace())
    await server.start()
    async with grpc.aio.insecure_channel(address) as opened:
        yield opened
    await server.stop(0, Draining())
    # gRPC's server ends itself once more when it is collected, and needs a running loop for it.
    del server
    gc.collect()


@pytest.mark.parametrize("path", ["/popsigner.v1.SignService/Forge", "/nobody.v1.Nothing/Ever", "/x"])
async def test_an_unknown_rpc_is_refused_with_its_reason(channel: grpc.aio.Channel, path: str) -> None:
    call = channel.unary_unary(path, request_serializer=bytes, response_deserializer=bytes)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(b"")
    assert reason_of(refused.value) == (grpc.StatusCode.UNIMPLEMENTED, "METHOD_UNKNOWN")


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_shows_the_contract(channel: grpc.aio.Channel, version: str) -> None:
    ask = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    answers = [
        answer
        async for answer in ask(
            iter(
                [
                    reflection_pb2.ServerReflectionRequest(list_services=""),
                    reflection_pb2.ServerReflectionRequest(file_containing_symbol="popsigner.v1.SignService"),
                ]
            )
        )
    ]
    services = {service.name for service in answers[0].list_services_response.service}
    assert {"popsigner.v1.SignService", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"} <= services
    assert b"SignStream" in answers[1].file_descriptor_response.file_descriptor_proto[0]


def test_an_rpc_without_a_handler_is_refused_at_start_up() -> None:
    some = handlers()
    some.popitem()
    with pytest.raises(ValueError, match="no handler"):
        Server(some, [], [], Pace())


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"POPSIGNER_DATABSE_URL": "x"}, "POPSIGNER_DATABSE_URL is no setting"),
        ({}, "POPSIGNER_DATABASE_URL"),
        (
            {
                "POPSIGNER_DATABASE_URL": "postgresql://x/y",
                "POPSIGNER_SEALING_KEY_FILE": os.devnull,
                "POPSIGNER_BAO_ADDR": "unix:///x",
                "POPSIGNER_BAO_SECRET_ID_FILE": "/nowhere/secret-id",
            },
            "POPSIGNER_BAO_SECRET_ID_FILE",
        ),
    ],
)
def test_a_mistake_in_the_settings_is_one_sentence_and_code_2(environment: dict[str, str], sentence: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "popsigner_server", "serve"],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


async def _hear(call: Call, request: object) -> object:
    if isinstance(request, sign_pb2.SignRequest):
        return sign_pb2.SignResponse(public_key=request.key_id)
    async for message in request:  # type: ignore[attr-defined]  # a stream's handler gets its messages
        await call.context.write(sign_pb2.SignStreamResponse(correlation_id=message.correlation_id))
    return None


@pytest.fixture
async def hearing() -> AsyncIterator[grpc.aio.Channel]:
    address = f"127.0.0.1:{ports.free(1)[0]}"
    server = Server(dict.fromkeys(rpcs(), _hear), [Errors()], [address], Pace())
    await server.start()
    async with grpc.aio.insecure_channel(address) as opened:
        yield opened
    await server.stop(0, Draining())
    del server
    gc.collect()


async def test_bytes_that_are_no_message_are_refused_with_a_reason(
    hearing: grpc.aio.Channel, capfd: pytest.CaptureFixture[str]
) -> None:
    call = hearing.unary_unary("/popsigner.v1.SignService/Sign", request_serializer=bytes, response_deserializer=bytes)
    assert await call(sign_pb2.SignRequest(key_id="k").SerializeToString())
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(b"\xff\xff\xff")
    assert reason_of(refused.value) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST")
    assert "Traceback" not in capfd.readouterr().err


async def test_a_stream_ends_with_the_reason_at_bytes_that_are_no_message(hearing: grpc.aio.Channel) -> None:
    call = hearing.stream_stream(
        "/popsigner.v1.SignService/SignStream", request_serializer=bytes, response_deserializer=bytes
    )
    good = sign_pb2.SignStreamRequest(correlation_id=7).SerializeToString()
    answers = call(iter([good, b"\xff\xff\xff"]))
    first = await answers.read()
    assert isinstance(first, bytes)
    assert sign_pb2.SignStreamResponse.FromString(first).correlation_id == 7
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await answers.read()
    assert reason_of(refused.value) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST")
