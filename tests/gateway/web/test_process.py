"""The process: its settings, its socket, its logs, its end; and where it may send requests."""

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from popsigner_gateway.web.cookies import LOGIN, SESSION, FormSeal, Jar, derived_key
from popsigner_gateway.web.faults import Fault
from popsigner_gateway.web.providers.outbound import LARGEST, Outbound, Reach
from popsigner_gateway.web.settings import Settings, SettingsError
from tests.gateway.web import fake_server, process
from tests.gateway.web.fake_server import SECRET, State
from tests.gateway.web.issuers import Issuer
from tests.support.login import Browser, at_provider, begin, device_login, log_out, oauth, query_of

GOOD = {
    "LISTEN": "unix:///run/gateway.sock",
    "SERVER": "unix:///run/server.sock",
    "SECRET_FILE": "/run/gateway.secret",
    "PUBLIC_URL": "https://pop.example.com",
}


def settings(**changed: str) -> Settings:
    given = {f"POPSIGNER_GATEWAY_{name}": value for name, value in (GOOD | changed).items()}
    return Settings.read(given | {"POPSIGNER_LISTEN": "the server's", "PATH": "/bin"})


def test_settings_are_read_and_closed_by_default() -> None:
    read = settings(PUBLIC_URL="https://pop.example.com/")
    assert (read.public_url, read.private_issuers, read.drain_seconds) == ("https://pop.example.com", "refuse", 10.0)
    assert not read.is_loopback
    assert settings(PUBLIC_URL="http://127.0.0.1:8080").is_loopback
    assert "secret" not in repr(read).replace("secret_file", "")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"NONSENSE": "1"}, "POPSIGNER_GATEWAY_NONSENSE is no setting"),
        ({"LISTEN": ""}, "POPSIGNER_GATEWAY_LISTEN is required"),
        ({"LISTEN": "localhost:80"}, "IP address"),
        ({"SERVER": "somewhere"}, "host:port"),
        ({"PUBLIC_URL": "http://pop.example.com"}, "https"),
        ({"PUBLIC_URL": "https://pop.example.com/path"}, "without a path"),
        ({"PUBLIC_URL": "https://user@pop.example.com"}, "https"),
        ({"PUBLIC_URL": "pop.example.com"}, "https"),
        ({"PRIVATE_ISSUERS": "yes"}, "refuse or allow"),
        ({"DRAIN_SECONDS": "-1"}, "seconds"),
        ({"LOG_LEVEL": "loud"}, "debug or"),
    ],
)
def test_a_mistake_in_the_settings_is_one_sentence(changed: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match=said) as mistake:
        settings(**changed)
    assert "user@" not in str(mistake.value)


def test_a_secret_that_is_none_is_refused_without_showing_it(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    for content in ("", "hunter2", "5E" * 32, "5e" * 31):
        secret.write_text(content)
        with pytest.raises(SettingsError, match="64 hexadecimal digits") as mistake:
            settings(SECRET_FILE=str(secret)).secret()
        assert not content or content not in str(mistake.value)
    with pytest.raises(SettingsError, match="cannot be read"):
        settings(SECRET_FILE=str(tmp_path / "none")).secret()


def test_keys_are_of_their_purpose_and_the_same_in_every_process() -> None:
    labels = ("forms", f"cookie {SESSION}", f"cookie {LOGIN}")
    keys = {derived_key(SECRET, label) for label in labels}
    assert len(keys) == 3
    assert bytes.fromhex(SECRET) not in keys
    sealed = Jar.of(SECRET).seal(SESSION, b"content")
    assert Jar.of(SECRET).open(SESSION, sealed) == b"content"
    assert Jar.of(SECRET).open(LOGIN, sealed) is None
    assert Jar.of("6f" * 32).open(SESSION, sealed) is None
    assert FormSeal.of(SECRET).token("s", "a") != FormSeal.of("6f" * 32).token("s", "a")


async def test_a_mistake_ends_the_command_with_2_and_no_stack() -> None:
    child = await asyncio.create_subprocess_exec(
        *process.COMMAND, env=process.environment(listen="nowhere"), stderr=asyncio.subprocess.PIPE
    )
    _, said = await child.communicate()
    assert child.returncode == 2
    assert said.decode().startswith("popsigner-gateway: POPSIGNER_GATEWAY_")
    assert len(said.decode().splitlines()) == 1


async def test_the_help_has_an_example() -> None:
    child = await asyncio.create_subprocess_exec(
        *process.COMMAND, "--help", env=process.environment(), stdout=asyncio.subprocess.PIPE
    )
    said, _ = await child.communicate()
    assert b"POPSIGNER_GATEWAY_PUBLIC_URL=https" in said


async def test_it_serves_on_a_socket_that_strangers_cannot_open_and_replaces_a_stale_one(tmp_path: Path) -> None:
    place = tmp_path / "g.sock"
    async with fake_server.serving(f"unix://{tmp_path / 's.sock'}") as server:
        for _ in range(2):
            async with process.running(
                server.address, listen=f"unix://{place}", public_url="https://pop.example.com"
            ) as web:
                mode = os.stat(place).st_mode
                assert stat.S_ISSOCK(mode)
                assert stat.S_IMODE(mode) == 0o660
                async with httpx2.AsyncClient(transport=process.transport(web.listen)) as client:
                    assert "You are not logged in" in (await client.get("http://gateway/")).text
                web.process.kill()
                await web.process.wait()


async def test_it_is_ready_only_while_the_server_takes_its_credential(web: process.Web, server: State) -> None:
    async with httpx2.AsyncClient() as client:
        server.away = True
        try:
            answer = await client.get(f"{web.url}/internal/ready")
        finally:
            server.away = False
        assert answer.status_code == 503
        assert answer.json()["error"] == "temporarily_unavailable"
        assert (await client.get(f"{web.url}/internal/ready")).status_code == 200


async def test_sigterm_lets_what_is_under_way_end(server: State) -> None:
    gate, entered = asyncio.Event(), asyncio.Event()

    async def slow(_request: Request) -> Response:
        entered.set()
        await gate.wait()
        return JSONResponse({"error": "access_denied"}, status_code=500)

    async with process.site(Starlette(routes=[Route("/.well-known/openid-configuration", slow)])) as url:
        provider_id = server.provider("OIDC", url)
        async with process.running(server.address) as web:
            pending = asyncio.create_task(Browser(web.url).get(f"/login/{provider_id}"))
            await entered.wait()
            web.process.terminate()
            gate.set()
            assert (await pending).status_code == 503
            assert await web.end() == 0
            assert [line["event"] for line in web.lines()][-1] == "stopped"


async def test_the_log_tells_what_happened_and_no_secret(server: State, issuer: Issuer, issuer_id: str) -> None:
    async with process.running(server.address, more={"log_level": "debug"}) as web:
        browser = Browser(web.url, {"x-request-id": "req-1", "user-agent": "Agent Smith"})
        address = await begin(browser, issuer_id, "/device?user_code=QUERY-SECRET")
        callback = await at_provider(browser, address, "alice")
        cookie = browser.cookie(LOGIN)
        assert (await browser.get(callback)).status_code == 303
        await browser.get("/")
        server.now += 60
        tokens = await device_login(web.url, browser)
        await oauth(web.url, "/oauth/token", grant_type="refresh_token", refresh_token=tokens["refresh_token"])
        await oauth(web.url, "/oauth/token", grant_type="refresh_token", refresh_token=tokens["refresh_token"])
        await browser.get("/path-secret?query-secret=1")
        await browser.get("/invitation?token=inv_secret")
        await log_out(browser)
        lines, written = web.lines(), web.log.read_text()
    secrets = [*query_of(address).values(), query_of(callback)["code"], *tokens.values(), cookie, SECRET]
    secrets += [
        "alice@example.com",
        "Alice",
        "Agent Smith",
        "QUERY-SECRET",
        "query-secret",
        "path-secret",
        "inv_secret",
    ]
    harmless = {"Bearer", "code", "S256", "popsigner", "600"}
    for secret in map(str, secrets):
        assert secret in harmless or secret not in written, secret
    events = {line["event"] for line in lines}
    assert {"serving", "request", "login.completed", "device.decided", "device.completed", "refresh.refused"} <= events
    (done,) = [line for line in lines if line["event"] == "login.completed"]
    assert done["provider_id"] == issuer_id
    request = next(line for line in lines if line.get("route") == "/login/{provider_id}")
    assert (request["method"], request["status"], request["request_id"]) == ("GET", 303, "req-1")
    assert all({"timestamp", "level"} <= set(line) for line in lines)


@pytest.mark.parametrize(
    ("address", "public", "laptop", "private"),
    [
        ("93.184.216.34", True, True, True),
        ("2606:4700::1111", True, True, True),
        ("127.0.0.1", False, True, True),
        ("::1", False, True, True),
        ("::ffff:127.0.0.1", False, True, True),
        ("10.0.0.1", False, False, True),
        ("192.168.1.1", False, False, True),
        ("169.254.169.254", False, False, True),
        ("::ffff:169.254.169.254", False, False, True),
        ("64:ff9b::a9fe:a9fe", False, False, True),
        ("2002:a9fe:a9fe::", False, False, True),
        ("64:ff9b:1::a9fe:a9fe", False, False, True),
        ("64:ff9b:1:a9fe:a9:fe00::", False, False, True),
        ("::a9fe:a9fe", False, False, True),
        ("fec0::1", False, False, True),
        ("fe80::1", False, False, True),
        ("fd00::1", False, False, True),
        ("100.64.0.1", False, False, True),
        ("0.0.0.0", False, False, False),
        ("224.0.0.1", False, False, False),
    ],
)
def test_which_addresses_may_be_spoken_to(address: str, public: bool, laptop: bool, private: bool) -> None:
    assert Reach().allows(ip_address(address)) is public
    assert Reach(loopback=True).allows(ip_address(address)) is laptop
    assert Reach(private=True, loopback=True).allows(ip_address(address)) is private


async def _flood() -> AsyncIterator[bytes]:
    """One JSON string that is too long, and nothing else wrong with it."""
    yield b'"'
    for _ in range(LARGEST // 4096):
        yield b"a" * 4096
    yield b'"'


TRICKS = Starlette(
    routes=[
        Route("/long", lambda request: StreamingResponse(_flood(), media_type="application/json")),
        Route("/away", lambda request: RedirectResponse("/json")),
        Route("/json", lambda request: JSONResponse({"encoding": request.headers["accept-encoding"]})),
        Route("/zipped", lambda request: Response(b"\x1f\x8b", headers={"content-encoding": "gzip"})),
        Route("/html", lambda request: Response("<html>")),
        Route("/broken", lambda request: Response(status_code=500)),
    ]
)


async def test_what_comes_back_is_short_plain_json_of_the_place_that_was_asked() -> None:
    outbound = Outbound(reach=Reach(loopback=True))
    async with process.site(TRICKS) as url:
        assert await outbound.json(f"{url}/json") == {"encoding": "identity"}
        for path, reason in (
            ("long", "PROVIDER_FAULTY"),
            ("away", "PROVIDER_FAULTY"),
            ("zipped", "PROVIDER_FAULTY"),
            ("html", "PROVIDER_FAULTY"),
            ("broken", "PROVIDER_UNAVAILABLE"),
        ):
            with pytest.raises(Fault) as refused:
                await outbound.json(f"{url}/{path}")
            assert refused.value.reason == reason, path
    with pytest.raises(Fault, match="PROVIDER_UNAVAILABLE"):
        await outbound.json(f"{url}/json")


async def test_a_public_pop_does_not_speak_with_its_own_machine(server: State, issuer: Issuer, issuer_id: str) -> None:
    """An owner of one organization names the issuer; what stands behind the operator's firewall is none."""
    async with process.running(server.address, public_url="https://pop.example.com") as web:
        before = len(issuer.fetched)
        answer = await Browser(f"http://{web.listen}").get(f"/login/{issuer_id}")
        assert answer.status_code == 503
        assert "POPSIGNER_GATEWAY_PRIVATE_ISSUERS" in answer.text
        assert len(issuer.fetched) == before
    more = {"private_issuers": "allow"}
    async with process.running(server.address, public_url="https://pop.example.com", more=more) as web:
        assert (await Browser(f"http://{web.listen}").get(f"/login/{issuer_id}")).status_code == 303


@pytest.mark.parametrize(
    "url", ["http://idp.example/x", "ftp://127.0.0.1/x", "https://127.0.0.1:1/x", "https://[::1/x"]
)
async def test_only_https_leaves_the_machine(url: str) -> None:
    with pytest.raises(Fault):
        await Outbound(reach=Reach()).json(url)


async def test_a_name_that_resolves_to_a_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resolved once and connected to what was checked: the name's owner gets no second answer in."""
    resolved: list[str] = []

    async def getaddrinfo(host: str, port: int, **_: object) -> list[object]:
        resolved.append(host)
        return [(2, 1, 6, "", ("93.184.216.34", port)), (2, 1, 6, "", ("10.0.0.1", port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    with pytest.raises(Fault, match="private address"):
        await Outbound(reach=Reach()).json("https://rebinding.example/x")
    assert resolved == ["rebinding.example"]


async def test_what_was_checked_is_what_is_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second look at the name would let its owner answer otherwise (DNS rebinding)."""
    loop, resolved = asyncio.get_running_loop(), []
    real = loop.getaddrinfo

    async def getaddrinfo(host: str | bytes, port: int, **more: Any) -> Any:
        resolved.append(host if isinstance(host, str) else host.decode())
        return await real("127.0.0.1", port, **more)

    async with process.site(TRICKS) as url:
        monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
        await Outbound(reach=Reach(loopback=True)).json(url.replace("127.0.0.1", "localhost") + "/json")
    assert [host for host in resolved if host == "localhost"] == ["localhost"]
