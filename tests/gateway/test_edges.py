"""TLS, the caller's address, the access log, CORS, and the rest of the edge."""

import asyncio
import datetime
import ipaddress
import json
import ssl
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from popsigner_gateway import envoy as configuration
from popsigner_gateway.envoy import Tls
from popsigner_server.gen.popsigner.v1 import sign_pb2, sign_pb2_grpc
from tests.gateway import proxy, upstream
from tests.gateway.proxy import CREDENTIALS, Proxy
from tests.gateway.test_wires import METADATA
from tests.gateway.upstream import API_KEY, Upstream


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """A self-signed certificate for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    files = Tls(certificate=folder / "cert.pem", private_key=folder / "key.pem")
    files.certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    kind, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    files.private_key.write_bytes(key.private_bytes(serialization.Encoding.PEM, kind, plain))
    return files


@pytest.fixture(scope="module")
async def secured(server: Upstream, certificate: Tls) -> AsyncIterator[Proxy]:
    async with proxy.running(server.address, tls=certificate) as running:
        yield running


def context(certificate: Tls, version: ssl.TLSVersion) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(certificate.certificate))
    made.minimum_version = made.maximum_version = version
    made.set_alpn_protocols(["h2", "http/1.1"])
    return made


async def test_tls_is_1_3_and_offers_http_2(secured: Proxy, certificate: Tls) -> None:
    trust = context(certificate, ssl.TLSVersion.TLSv1_3)
    _, writer = await asyncio.open_connection("127.0.0.1", secured.port, ssl=trust)
    connection = writer.get_extra_info("ssl_object")
    assert (connection.version(), connection.selected_alpn_protocol()) == ("TLSv1.3", "h2")
    writer.close()


async def test_tls_1_2_and_plaintext_are_refused(secured: Proxy, certificate: Tls) -> None:
    with pytest.raises(ssl.SSLError):
        await asyncio.open_connection("127.0.0.1", secured.port, ssl=context(certificate, ssl.TLSVersion.TLSv1_2))
    with pytest.raises(aiohttp.ClientError):
        await secured.ask("GET", "/healthz")


async def test_grpc_works_over_tls(secured: Proxy, certificate: Tls, server: Upstream, key_id: str) -> None:
    trust = grpc.ssl_channel_credentials(certificate.certificate.read_bytes())
    async with grpc.aio.secure_channel(f"127.0.0.1:{secured.port}", trust) as channel:
        stub = sign_pb2_grpc.SignServiceStub(channel)
        answer = await stub.Sign(sign_pb2.SignRequest(key_id=key_id, data=b"abc"), metadata=METADATA)
        assert len(answer.signature) == 64


SPOOFED = {
    "x-forwarded-for": "198.51.100.7",
    "x-envoy-external-address": "198.51.100.8",
    "x-envoy-original-path": "/spoofed",
    "x-envoy-retry-on": "5xx",
    "x-envoy-upstream-rq-timeout-ms": "1",
    "x-request-id": "spoofed",
}


async def test_a_caller_cannot_say_where_it_is_nor_steer_the_gateway(envoy: Proxy, server: Upstream) -> None:
    answer = await envoy.send("GET", "/v1/keys", None, CREDENTIALS | SPOOFED)
    assert answer.status == 200
    seen = server.metadata[-1]
    assert seen["x-envoy-external-address"] == "127.0.0.1"
    assert seen["x-envoy-original-path"] == "/v1/keys"
    assert "x-envoy-retry-on" not in seen
    assert "x-envoy-upstream-rq-timeout-ms" not in seen
    assert seen["x-request-id"] == answer.headers["x-request-id"] != "spoofed"


async def test_a_grpc_caller_cannot_either(channel: grpc.aio.Channel, server: Upstream, key_id: str) -> None:
    stub = sign_pb2_grpc.SignServiceStub(channel)
    await stub.Sign(sign_pb2.SignRequest(key_id=key_id), metadata=(*METADATA, *SPOOFED.items()))
    assert server.metadata[-1]["x-envoy-external-address"] == "127.0.0.1"
    assert "x-envoy-original-path" not in server.metadata[-1]


async def test_behind_a_trusted_proxy_the_address_is_the_one_that_it_appended(server: Upstream) -> None:
    async with proxy.running(server.address, trusted_hops=1) as envoy:
        await envoy.ask("GET", "/v1/keys", x_forwarded_for="198.51.100.7, 203.0.113.9")
        assert server.metadata[-1]["x-envoy-external-address"] == "203.0.113.9"


async def test_the_access_log_tells_the_call_and_no_secret(envoy: Proxy, key_id: str) -> None:
    data = "c2VjcmV0LXBheWxvYWQ="
    await envoy.ask("POST", f"/v1/keys/{key_id}/sign?sign_mode=query-secret", {"data": data})
    await envoy.send("GET", "/v1/keys?cursor=query-secret", None, {"authorization": f"Bearer {API_KEY}"})
    refused = await envoy.ask("POST", f"/v1/keys/{key_id}/sign", {"data": "secret payload"})
    assert refused.status == 400
    unknown = await envoy.ask("GET", "/v1/keys?query-secret=1")
    await asyncio.sleep(0.3)
    lines = envoy.access_log()
    (line,) = [line for line in lines if line["request_id"] == refused.headers["x-request-id"]]
    assert (line["method"], line["path"], line["code"]) == ("POST", f"/v1/keys/{key_id}/sign", 400)
    assert (line["peer"], line["protocol"]) == ("127.0.0.1", "HTTP/1.1")
    assert line["bytes_received"] > 0
    assert set(line) == {
        "time", "request_id", "peer", "protocol", "method", "path", "code", "grpc_status", "flags", "duration_ms",
        "upstream_ms", "bytes_received", "bytes_sent",
    }  # fmt: skip
    assert any(line["request_id"] == unknown.headers["x-request-id"] for line in lines)
    written = envoy.log.read_text()
    for secret in (API_KEY, "psk_", data, "c2VjcmV0", "secret payload", "query-secret", "?"):
        assert secret not in written
    assert not any(line["path"] == "/healthz" for line in lines)


async def test_a_browser_of_a_named_origin_may_call_and_no_other(server: Upstream, envoy: Proxy) -> None:
    origin = "https://app.example.com"
    asks = {"origin": origin, "access-control-request-method": "POST", "access-control-request-headers": "x-api-key"}
    async with proxy.running(server.address, cors_origins=[origin]) as open_to:
        for path in ("/v1/keys", "/popsigner.v1.SignService/Sign"):
            answer = await open_to.send("OPTIONS", path, None, asks)
            assert answer.status == 200
            assert answer.headers["access-control-allow-origin"] == origin
            assert "x-api-key" in answer.headers["access-control-allow-headers"]
            other = await open_to.send("OPTIONS", path, None, asks | {"origin": "https://evil.example.com"})
            assert "access-control-allow-origin" not in other.headers
        answer = await open_to.send("GET", "/v1/keys", None, CREDENTIALS | {"origin": origin})
        assert answer.headers["access-control-allow-origin"] == origin
        assert "grpc-status-details-bin" in answer.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in answer.headers
    answer = await envoy.send("OPTIONS", "/v1/keys", None, asks)
    assert "access-control-allow-origin" not in answer.headers


async def test_the_server_can_be_on_a_unix_socket(tmp_path_factory: pytest.TempPathFactory) -> None:
    socket = tmp_path_factory.mktemp("u") / "s.sock"
    async with upstream.serving(f"unix://{socket}") as (server, _), proxy.running(server.address) as envoy:
        assert (await envoy.ask("POST", "/v1/keys", {"name": "a"})).status == 200


async def test_the_admin_interface_is_a_socket_of_the_owner_alone(envoy: Proxy) -> None:
    mode = (await asyncio.to_thread(envoy.admin.stat)).st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


async def test_a_taken_port_is_not_shared_in_silence(envoy: Proxy, server: Upstream, tmp_path: Path) -> None:
    config = configuration.render(listen=f"127.0.0.1:{envoy.port}", upstreams=[server.address])
    assert proxy.BINARY is not None
    second = await asyncio.create_subprocess_exec(
        proxy.BINARY, "--config-yaml", config, "--disable-hot-restart", stderr=asyncio.subprocess.PIPE
    )
    _, said = await asyncio.wait_for(second.communicate(), 20)
    assert second.returncode != 0
    assert b"Address already in use" in said


async def test_the_openapi_document_is_served_as_it_is(envoy: Proxy) -> None:
    answer = await envoy.send("GET", "/openapi.json", None, {})
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    packaged = Path(configuration.__file__).with_name("openapi.json").read_text()
    assert answer.json == json.loads(packaged)
