"""Envoy's own answers have the shape of the server's, on every wire."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from google.protobuf import json_format
from google.rpc import status_pb2

from popsigner_gateway.envoy import TEMPLATES, RateLimit
from popsigner_server.gen.popsigner.v1 import errors_pb2, sign_pb2, sign_pb2_grpc
from tests.gateway import proxy, upstream
from tests.gateway.proxy import Proxy
from tests.gateway.test_wires import METADATA, bare, reason
from tests.gateway.upstream import Upstream

ENVOY_YAML = TEMPLATES[0]
FOUR_MIB = 4 << 20


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/v1"),
        ("GET", "/v1/nothing"),
        ("GET", "/v2/keys"),
        ("PUT", "/v1/keys"),
        ("HEAD", "/v1/keys"),
        ("OPTIONS", "/v1/keys"),
        ("POST", "/v1/keys/a/b/sign"),
        ("POST", "/openapi.json"),
        ("POST", "/popsigner.v1.SignService/Sign"),
        ("GET", "/v1/../v2/x"),
        ("GET", "/server_info"),
    ],
)
async def test_an_unknown_path_or_method_is_not_found(envoy: Proxy, method: str, path: str) -> None:
    answer = await envoy.ask(method, path, None if method in ("GET", "HEAD") else "{}")
    assert answer.status == 404
    if method != "HEAD":
        assert (answer.reason, answer.json["code"]) == ("METHOD_UNKNOWN", 5)


async def test_the_servers_errors_have_the_same_shape(envoy: Proxy, key_id: str) -> None:
    answer = await envoy.ask("GET", "/v1/keys/production%2Fnone")
    assert (answer.status, answer.reason, answer.json["code"]) == (404, "KEY_NOT_FOUND", 5)
    answer = await envoy.send("GET", "/v1/keys", None, {})
    assert (answer.status, answer.reason) == (401, "CREDENTIALS_MISSING")
    answer = await envoy.ask("POST", f"/v1/keys/{key_id}/sign", {"sign_mode": "BUSY"})
    assert (answer.status, answer.reason) == (429, "QUEUE_FULL")
    retry = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retry_delay": "2s"}
    assert retry in answer.json["details"]


async def test_an_error_of_grpc_itself_gets_a_reason(envoy: Proxy) -> None:
    """The upstream has no BillingService, so its answer is gRPC's own, without details."""
    answer = await envoy.ask("GET", "/v1/billing/usage")
    assert (answer.status, answer.reason) == (501, "METHOD_UNKNOWN")
    assert int(answer.headers["content-length"]) == len(answer.text)


async def test_a_body_over_four_mebibytes_is_refused(envoy: Proxy, key_id: str) -> None:
    for path in ("/v1/keys", f"/v1/keys/{key_id}/sign"):
        answer = await envoy.ask("POST", path, b" " * (FOUR_MIB + 1))
        assert (answer.status, answer.reason) == (413, "REQUEST_TOO_LARGE")
    answer = await envoy.ask("POST", f"/v1/keys/{key_id}/sign", b'{"sign_mode":"x"}' + b" " * (FOUR_MIB - 17))
    assert answer.status == 200

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(80):
            yield b" " * 65536

    answer = await envoy.send("POST", "/v1/keys", chunks(), {})
    assert (answer.status, answer.reason) == (413, "REQUEST_TOO_LARGE")


async def test_a_message_over_four_mebibytes_is_refused_over_grpc_too(channel: grpc.aio.Channel) -> None:
    stub = sign_pb2_grpc.SignServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.Sign(sign_pb2.SignRequest(key_id="x", data=bytes(FOUR_MIB)), metadata=METADATA)
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_too_large_or_too_many_headers_are_refused(envoy: Proxy) -> None:
    answer = await envoy.send("GET", "/v1/keys", None, {"x-large": "a" * 20_000})
    assert (answer.status, answer.reason) == (431, "REQUEST_TOO_LARGE")
    answer = await envoy.send("GET", "/v1/keys", None, {f"x-{number}": "a" for number in range(120)})
    assert (answer.status, answer.reason) == (431, "REQUEST_TOO_LARGE")


@pytest.mark.parametrize(
    "line", [b"nonsense\r\n\r\n", b"GET /v1/keys HTTP/1.0\r\n\r\n", b"GET /v1/keys HTTP/1.1\r\n\r\n"]
)
async def test_what_is_no_http_request_is_malformed(envoy: Proxy, line: bytes) -> None:
    """The second asks for a version that is not served, the third has no Host."""
    reader, writer = await asyncio.open_connection("127.0.0.1", envoy.port)
    writer.write(line)
    raw = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    head, _, body = raw.partition(b"\r\n\r\n")
    assert head.split()[1].startswith(b"4")
    assert json.loads(body)["details"][0]["reason"] == "MALFORMED_REQUEST"


async def test_an_address_beyond_its_rate_is_told_to_wait(server: Upstream) -> None:
    limit = RateLimit(per_second=1, burst=3)
    async with proxy.running(server.address, rate_limit=limit, trusted_hops=1) as envoy:
        answers = [await envoy.ask("GET", "/v1/keys", x_forwarded_for="203.0.113.1") for _ in range(5)]
        assert [answer.status for answer in answers] == [200, 200, 200, 429, 429]
        refused = answers[-1]
        assert (refused.reason, refused.json["code"], refused.headers["retry-after"]) == ("RATE_LIMITED", 8, "1")
        # Another address has tokens of its own, and of IPv6 the /64 is one address.
        assert (await envoy.ask("GET", "/v1/keys", x_forwarded_for="203.0.113.2")).status == 200
        six = [await envoy.ask("GET", "/v1/keys", x_forwarded_for=f"2001:db8::{host}") for host in range(1, 5)]
        assert [answer.status for answer in six] == [200, 200, 200, 429]
        assert (await envoy.ask("GET", "/healthz", x_forwarded_for="203.0.113.1")).status == 200


async def test_grpc_callers_get_the_rate_limit_as_resource_exhausted(server: Upstream) -> None:
    async with (
        proxy.running(server.address, rate_limit=RateLimit(per_second=1, burst=5)) as envoy,
        grpc.aio.insecure_channel(f"127.0.0.1:{envoy.port}") as channel,
    ):
        check = bare(channel, "/grpc.health.v1.Health/Check")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await asyncio.gather(*[check(b"") for _ in range(10)])
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert reason(refused.value) == "RATE_LIMITED"


async def test_a_vanished_server_is_unavailable_on_every_wire_and_healthz_says_so() -> None:
    async with upstream.serving() as (server, stop), proxy.running(server.address) as envoy:
        assert (await envoy.ask("GET", "/healthz")).status == 200
        await stop()
        answer = await envoy.ask("GET", "/v1/keys")
        assert (answer.status, answer.reason, answer.headers["retry-after"]) == (503, "SERVER_UNAVAILABLE", "1")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{envoy.port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await sign_pb2_grpc.SignServiceStub(channel).Sign(sign_pb2.SignRequest())
            assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
            assert reason(refused.value) == "SERVER_UNAVAILABLE"
        await envoy.until_health(503)


async def test_a_draining_server_gets_no_new_request() -> None:
    async with upstream.serving() as (server, _), proxy.running(server.address) as envoy:
        await server.serving(False)
        await envoy.until_health(503)
        before = len(server.requests)
        answer = await envoy.ask("GET", "/v1/keys")
        assert (answer.status, answer.reason) == (503, "SERVER_UNAVAILABLE")
        assert len(server.requests) == before
        await server.serving(True)
        await envoy.until_health(200)
        assert (await envoy.ask("GET", "/v1/keys")).status == 200


async def test_of_two_servers_the_draining_one_is_passed_over() -> None:
    async with upstream.serving() as (one, _), upstream.serving() as (two, _):
        await one.serving(False)
        async with proxy.running(one.address, two.address) as envoy:
            answers = [await envoy.ask("GET", "/v1/keys") for _ in range(10)]
            assert {answer.status for answer in answers} == {200}
            assert (len(one.requests), len(two.requests)) == (0, 10)


@asynccontextmanager
async def relay(target: str) -> AsyncIterator[tuple[str, Callable[[], None]]]:
    """A TCP relay to the address, and what breaks its connections as a killed process does; it takes new ones."""
    host, _, port = target.rpartition(":")
    writers: list[asyncio.StreamWriter] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with suppress(OSError):
            while some := await reader.read(65536):
                writer.write(some)
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))

    def break_all() -> None:
        for writer in writers:
            writer.transport.abort()

    listening = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{listening.sockets[0].getsockname()[1]}", break_all
    finally:
        listening.close()
        break_all()


async def test_a_request_that_a_server_began_is_never_sent_again(server: Upstream) -> None:
    async with relay(server.address) as (address, break_all), proxy.running(address) as envoy:
        before = len(server.requests)
        pending = asyncio.create_task(envoy.ask("POST", "/v1/keys/production%2Fslow/sign", {}))
        for _ in range(500):
            if len(server.requests) > before:
                break
            await asyncio.sleep(0.01)
        break_all()
        answer = await asyncio.wait_for(pending, 5)
        assert (answer.status, answer.reason) == (503, "SERVER_UNAVAILABLE")
        assert len(server.requests) == before + 1


@asynccontextmanager
async def hurried(server: Upstream, tmp_path: Path, *changes: tuple[str, str]) -> AsyncIterator[Proxy]:
    """Envoy with shorter times than `envoy.yaml` has."""
    text = ENVOY_YAML.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "hurried.yaml").write_text(text)
    async with proxy.running(server.address, template=tmp_path / "hurried.yaml") as envoy:
        yield envoy


async def test_a_server_that_does_not_answer_in_time_is_a_passed_deadline(server: Upstream, tmp_path: Path) -> None:
    async with hurried(server, tmp_path, ("timeout: 60s}", "timeout: 0.3s}")) as envoy:
        answer = await envoy.ask("POST", "/v1/keys/production%2Fslow/sign", {})
        assert (answer.status, answer.reason, answer.json["code"]) == (504, "DEADLINE_PASSED", 4)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{envoy.port}") as channel:
            stub = sign_pb2_grpc.SignServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as late:
                await stub.Sign(sign_pb2.SignRequest(key_id="production/slow"), metadata=METADATA)
            assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            assert reason(late.value) == "DEADLINE_PASSED"
            # A stream outlives the timeout of calls.
            stream = stub.SignStream(metadata=METADATA)
            await stream.write(sign_pb2.SignStreamRequest(correlation_id=1))
            await stream.read()
            await asyncio.sleep(0.6)
            await stream.write(sign_pb2.SignStreamRequest(correlation_id=2))
            answered: Any = await stream.read()
            assert answered.correlation_id == 2
            await stream.done_writing()
            assert await stream.code() == grpc.StatusCode.OK


async def test_a_body_that_stalls_is_cut_off(server: Upstream, tmp_path: Path) -> None:
    async with hurried(server, tmp_path, ("stream_idle_timeout: 60s", "stream_idle_timeout: 0.3s")) as envoy:
        reader, writer = await asyncio.open_connection("127.0.0.1", envoy.port)
        writer.write(b"POST /v1/keys HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        raw = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        assert raw.startswith(b"HTTP/1.1 408")
        assert b'"reason":"DEADLINE_PASSED"' in raw


async def test_headers_that_stall_are_cut_off(server: Upstream, tmp_path: Path) -> None:
    async with hurried(server, tmp_path, ("request_headers_timeout: 10s", "request_headers_timeout: 0.3s")) as envoy:
        reader, writer = await asyncio.open_connection("127.0.0.1", envoy.port)
        writer.write(b"GET /v1/keys HTTP/1.1\r\nhost: x\r\n")
        raw = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        assert raw.startswith(b"HTTP/1.1 408")


def local_replies() -> list[tuple[Any, Any]]:
    """The two mappers of each kind of Envoy's own answers: for gRPC callers, and for JSON."""
    tree = yaml.safe_load(ENVOY_YAML.read_text())
    chain = tree["static_resources"]["listeners"][0]["filter_chains"][0]
    mappers = chain["filters"][0]["typed_config"]["local_reply_config"]["mappers"]
    return list(zip(mappers[::2], mappers[1::2], strict=True))


@pytest.mark.parametrize(("for_grpc", "for_json"), local_replies())
def test_grpc_and_json_callers_are_told_the_same(for_grpc: Any, for_json: Any) -> None:
    assert for_grpc["filter"]["and_filter"]["filters"][0] == for_json["filter"]
    headers = {added["header"]["key"]: added["header"]["value"] for added in for_grpc["headers_to_add"]}
    packed = headers["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(base64.b64decode(packed + "=" * (-len(packed) % 4)))
    assert status.code == int(headers["grpc-status"])
    assert status.message == for_grpc["body_format_override"]["text_format_source"]["inline_string"]
    written = for_json["body_format_override"]["json_format"]
    details = json_format.MessageToDict(status, preserving_proto_field_name=True)["details"]
    assert details == written["details"]
    assert details[0]["reason"] in errors_pb2.ErrorReason.keys()  # noqa: SIM118 - an enum wrapper is no mapping
    assert written["message"] in (status.message, "%LOCAL_REPLY_BODY%")
