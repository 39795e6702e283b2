"""The web application behind a real Envoy: what is routed to it, what is not, and how much of it."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import grpc
import pytest
from yarl import URL

from popsigner_gateway.gen.popsigner.internal.v1 import login_pb2 as login
from popsigner_gateway.gen.popsigner.internal.v1 import login_pb2_grpc
from tests.gateway import proxy, upstream
from tests.gateway.proxy import Proxy, free_port
from tests.gateway.web import fake_server, process
from tests.gateway.web.fake_server import SECRET, State
from tests.gateway.web.issuers import Issuer
from tests.gateway.web.process import Web
from tests.gateway.web.test_login import SESSION
from tests.support.login import Browser, device_login, log_in, oauth


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """A whole front door."""

    envoy: Proxy
    web: Web
    server: State


@pytest.fixture(scope="module")
async def front(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Front]:
    """Envoy; behind it the web application on a unix socket, and a server that has LoginService too."""
    listen = f"unix://{tmp_path_factory.mktemp('w') / 'web.sock'}"
    port = free_port()
    async with (
        fake_server.serving() as server,
        upstream.serving() as (public, _),
        process.running(server.address, listen=listen, public_url=f"http://127.0.0.1:{port}") as web,
        proxy.running(public.address, web=listen, port=port, trusted_hops=1) as envoy,
    ):
        yield Front(envoy=envoy, web=web, server=server)


async def test_a_person_and_a_program_log_in_through_it(front: Front, issuer: Issuer) -> None:
    provider_id = front.server.provider("OIDC", issuer.url)
    browser = Browser(front.envoy.http, {"x-forwarded-for": "198.51.100.7"})
    assert (await log_in(browser, provider_id, "alice")).headers["location"] == "/"
    assert "You are logged in" in (await browser.get("/")).text
    assert (await device_login(front.envoy.http, browser))["token_type"] == "Bearer"
    vouched = front.server.asked("CompleteLogin")[-1]
    assert vouched.origin.ip_address == "198.51.100.7"


async def test_a_caller_cannot_say_where_it_is(front: Front) -> None:
    spoofed = {"x-envoy-external-address": "192.0.2.66", "x-forwarded-for": "192.0.2.66, 198.51.100.8"}
    await oauth(front.envoy.http, "/oauth/device_authorization", spoofed)
    assert front.server.asked("StartDevice")[-1].origin.ip_address == "198.51.100.8"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/login", 200),
        ("GET", "/login/", 404),
        ("GET", "/login/callback", 400),
        ("POST", "/logout", 403),
        ("POST", "/logout/everywhere", 403),
        ("GET", "/invitation", 404),
        ("GET", "/device", 303),
        ("POST", "/oauth/token", 400),
        ("POST", "/oauth/revoke", 400),
        ("POST", "/oauth/device_authorization", 400),
        ("GET", "/.well-known/jwks.json", 200),
        ("GET", "/.well-known/oauth-authorization-server", 200),
    ],
)
async def test_every_page_is_routed(front: Front, method: str, path: str, status: int) -> None:
    answer = await raw(front, method, path)
    assert answer.status == status
    assert "content-security-policy" in answer.headers


NUMBERS = itertools.count()


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    text: str


async def raw(front: Front, method: str, path: str, **headers: str) -> Answer:
    """The path as it is written; from an address with a bucket of its own."""
    number = next(NUMBERS)
    where = {"x-forwarded-for": f"10.{number // 250}.0.{number % 250}"}
    sent = where | {name.replace("_", "-"): value for name, value in headers.items()}
    async with aiohttp.ClientSession() as session:
        url = URL(front.envoy.http + path, encoded=True)
        async with session.request(method, url, headers=sent, allow_redirects=False) as answer:
            kept = {name.lower(): value for name, value in answer.headers.items()}
            return Answer(answer.status, kept, await answer.text())


INTERNAL = [
    "/internal/ready",
    "//internal/ready",
    "/login/../internal/ready",
    "/login/%2e%2e/internal/ready",
    "/popsigner.internal.v1.LoginService/CompleteLogin",
    "//popsigner.internal.v1.LoginService/CompleteLogin",
    "/login/../popsigner.internal.v1.LoginService/CompleteLogin",
    "/v1/../popsigner.internal.v1.LoginService/CompleteLogin",
    "/popsigner%2einternal.v1.LoginService/CompleteLogin",
]


@pytest.mark.parametrize("path", INTERNAL)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "OPTIONS"])
@pytest.mark.parametrize("kind", ["application/grpc", "application/grpc-web+proto", "application/json"])
async def test_what_is_internal_is_not_routed(front: Front, method: str, path: str, kind: str) -> None:
    before = len(front.server.calls)
    answer = await raw(front, method, path, content_type=kind, authorization=f"Bearer {SECRET}")
    # gRPC says its status in a header.
    assert answer.status == 404 or answer.headers.get("grpc-status") == "12", answer.text
    assert len(front.server.calls) == before


@pytest.mark.parametrize("origins", [[], ["https://app.example.com"]])
async def test_the_servers_internal_service_is_not_reached_over_grpc_even_with_the_secret(origins: list[str]) -> None:
    """Here the server behind Envoy is the one that has LoginService."""
    async with (
        fake_server.serving(health=True) as server,
        proxy.running(server.address, cors_origins=origins) as envoy,
        grpc.aio.insecure_channel(f"127.0.0.1:{envoy.port}") as channel,
    ):
        stub = login_pb2_grpc.LoginServiceStub(channel)
        metadata = (("authorization", f"Bearer {SECRET}"),)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.GetVerificationKeys(login.GetVerificationKeysRequest(), metadata=metadata)
        assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
        path = "/popsigner.internal.v1.LoginService/GetVerificationKeys"
        answer = await envoy.send("OPTIONS", path, None, {"origin": "https://app.example.com"})
        assert answer.status == 404
        assert not server.calls


async def test_a_form_is_small(front: Front) -> None:
    answer = await oauth(front.envoy.http, "/oauth/token", {"x-forwarded-for": "203.0.113.77"}, token="a" * 70_000)
    assert answer.status_code == 413
    assert answer.json()["details"][0]["reason"] == "REQUEST_TOO_LARGE"


async def test_where_codes_can_be_guessed_an_address_has_a_smaller_bucket(front: Front) -> None:
    """50 at once, and 10 more each second; the other paths and other addresses have their own."""
    here = {"x-forwarded-for": "203.0.113.88"}
    async with aiohttp.ClientSession(front.envoy.http, headers=here) as session:

        async def guess(number: int) -> tuple[int, str]:
            place = ("/login", "/oauth/token", "/device?user_code=GUESS")[number % 3]
            async with session.get(place, allow_redirects=False) as answer:
                return answer.status, answer.headers.get("retry-after", "")

        answers = await asyncio.gather(*[guess(number) for number in range(300)])
        async with session.get("/") as first:
            assert first.status == 200
    refused = [after for status, after in answers if status == 429]
    assert refused
    assert set(refused) == {"1"}
    assert len(answers) - len(refused) >= 50
    elsewhere = Browser(front.envoy.http, {"x-forwarded-for": "203.0.113.89"})
    assert (await elsewhere.get("/login")).status_code == 200


async def test_other_origins_are_not_let_in_to_the_pages(front: Front) -> None:
    origin = "https://app.example.com"
    async with (
        upstream.serving() as (public, _),
        proxy.running(public.address, web=front.web.listen, cors_origins=[origin]) as envoy,
    ):
        for path in ("/", "/oauth/token", "/.well-known/jwks.json"):
            asks = {"origin": origin, "access-control-request-method": "POST"}
            for method in ("OPTIONS", "GET"):
                answer = await envoy.send(method, path, None, asks)
                assert not [name for name in answer.headers if name.startswith("access-control")]
        allowed = await envoy.send("GET", "/v1/keys", None, proxy.CREDENTIALS | {"origin": origin})
        assert allowed.headers["access-control-allow-origin"] == origin


async def test_a_cookie_opens_no_api(front: Front, issuer: Issuer) -> None:
    provider_id = front.server.provider("OIDC", issuer.url)
    browser = Browser(front.envoy.http, {"x-forwarded-for": "198.51.100.9"})
    await log_in(browser, provider_id, "alice")
    assert browser.cookie(SESSION)
    answer = await browser.get("/v1/keys")
    assert (answer.status_code, answer.json()["details"][0]["reason"]) == (401, "CREDENTIALS_MISSING")


async def test_without_the_application_its_paths_are_unknown_and_when_it_is_away_they_say_so() -> None:
    async with (
        upstream.serving() as (public, _),
        proxy.running(public.address) as bare,
        proxy.running(public.address, web=f"127.0.0.1:{free_port()}") as lonely,
    ):
        answer = await bare.send("GET", "/login", None, {})
        assert (answer.status, answer.reason) == (404, "METHOD_UNKNOWN")
        answer = await lonely.send("GET", "/login", None, {})
        assert (answer.status, answer.reason, answer.headers["retry-after"]) == (503, "SERVER_UNAVAILABLE", "1")


async def test_the_access_log_has_no_query_of_a_login(front: Front) -> None:
    browser = Browser(front.envoy.http, {"x-forwarded-for": "198.51.100.10"})
    answer = await browser.get("/login/callback?code=code-secret&state=state-secret")
    for _ in range(100):
        if any(line["request_id"] == answer.headers["x-request-id"] for line in front.envoy.access_log()):
            break
        await asyncio.sleep(0.05)
    assert "-secret" not in front.envoy.log.read_text()
