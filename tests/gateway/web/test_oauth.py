"""What programs ask: the device flow, refreshing, revoking, and what is known of the POP."""

from typing import Any

import httpx2
import pytest

from tests.gateway.web.fake_server import INTERVAL, Session, State
from tests.gateway.web.issuers import Issuer
from tests.gateway.web.process import Web
from tests.gateway.web.test_login import refused
from tests.support.login import (
    DEVICE_CODE,
    Browser,
    approve_device,
    device_login,
    form_of,
    log_in,
    oauth,
)


@pytest.fixture
async def alice(browser: Browser, issuer: Issuer, issuer_id: str) -> Browser:
    assert (await log_in(browser, issuer_id, "alice")).status_code == 303
    return browser


async def started(web: Web, server: State) -> dict[str, Any]:
    """A device log-in whose first poll is not too early."""
    server.now += 60
    answer = await oauth(
        web.url,
        "/oauth/device_authorization",
        {"user-agent": "popsigner-python/0.1", "x-envoy-external-address": "198.51.100.7"},
    )
    assert answer.status_code == 200, answer.text
    begun: dict[str, Any] = answer.json()
    return begun


async def poll(web: Web, device_code: str) -> httpx2.Response:
    return await oauth(web.url, "/oauth/token", grant_type=DEVICE_CODE, device_code=device_code)


def failed(answer: httpx2.Response, code: str, status: int = 400) -> str:
    assert (answer.status_code, answer.json()["error"]) == (status, code), answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "application/json"
    return str(answer.json()["error_description"])


async def test_a_device_login_answers_as_rfc_8628_says(web: Web, server: State) -> None:
    begun = await started(web, server)
    assert begun["verification_uri"] == f"{web.url}/device"
    assert begun["verification_uri_complete"] == f"{web.url}/device?user_code={begun['user_code']}"
    assert (begun["expires_in"], begun["interval"]) == (600, INTERVAL)
    asked = server.asked("StartDevice")[-1]
    assert (asked.client_name, asked.origin.ip_address) == ("popsigner (command line)", "198.51.100.7")
    assert asked.origin.user_agent == "popsigner-python/0.1"


async def test_a_program_waits_is_slowed_down_and_let_in_once(web: Web, server: State, alice: Browser) -> None:
    begun = await started(web, server)
    failed(await poll(web, begun["device_code"]), "authorization_pending")
    failed(await poll(web, begun["device_code"]), "slow_down")
    server.now += INTERVAL
    failed(await poll(web, begun["device_code"]), "authorization_pending")
    assert "The program is in" in (await approve_device(alice, begun["user_code"])).text
    server.now += INTERVAL
    answer = await poll(web, begun["device_code"])
    assert answer.status_code == 200
    tokens = answer.json()
    assert set(tokens) == {"access_token", "token_type", "expires_in", "refresh_token"}
    assert (tokens["token_type"], tokens["expires_in"]) == ("Bearer", 600)
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["pragma"] == "no-cache"
    session = server.of_access(tokens["access_token"])
    assert session is not None
    assert session.user.email == "alice@example.com"
    failed(await poll(web, begun["device_code"]), "expired_token")


async def test_a_program_that_is_denied_or_too_late_stays_out(web: Web, server: State, alice: Browser) -> None:
    begun = await started(web, server)
    assert "stays out" in (await approve_device(alice, begun["user_code"], approve=False)).text
    failed(await poll(web, begun["device_code"]), "access_denied")
    begun = await started(web, server)
    server.now += 600
    failed(await poll(web, begun["device_code"]), "expired_token")
    failed(await poll(web, "unknown"), "expired_token")


async def test_the_page_shows_what_wants_in_before_it_asks(web: Web, server: State, alice: Browser) -> None:
    begun = await started(web, server)
    page = (await alice.get(f"/device?user_code={begun['user_code'].lower()}")).text
    for text in ("popsigner (command line)", "popsigner-python/0.1", "198.51.100.7", "UTC", "Say yes only if"):
        assert text in page
    assert not [each for each in server.asked("DecideDevice") if each.user_code == begun["user_code"]]


async def test_the_device_page_logs_in_first_and_comes_back_with_the_code(
    browser: Browser, issuer: Issuer, issuer_id: str, web: Web, server: State
) -> None:
    begun = await started(web, server)
    answer = await browser.get(f"/device?user_code={begun['user_code']}")
    place = f"/device?user_code={begun['user_code']}"
    assert answer.status_code == 303
    assert answer.headers["location"] == "/login?return_to=%2Fdevice%3Fuser_code%3D" + begun["user_code"]
    assert (await log_in(browser, issuer_id, "alice", return_to=place)).headers["location"] == place


async def test_an_unknown_code_is_asked_for_again(alice: Browser) -> None:
    answer = await alice.get("/device?user_code=%3Cscript%3ENONE")
    assert answer.status_code == 404
    assert "<script" not in answer.text
    assert "scriptNONE" in answer.text


async def test_the_yes_to_one_program_is_none_to_another(web: Web, server: State, alice: Browser) -> None:
    shown, other = await started(web, server), await started(web, server)
    fields = form_of((await alice.get(f"/device?user_code={shown['user_code']}")).text, "/device")
    swapped = fields | {"user_code": other["user_code"], "decision": "approve"}
    refused(await alice.post("/device", swapped), 403, "FORM_FORGED")
    refused(await alice.post("/device", fields | {"decision": "perhaps"}), 400, "MALFORMED_REQUEST")
    failed(await poll(web, other["device_code"]), "authorization_pending")


@pytest.fixture
async def tokens(web: Web, server: State, alice: Browser) -> dict[str, str]:
    server.now += 60
    return await device_login(web.url, alice)


@pytest.fixture
def session(tokens: dict[str, str], server: State) -> Session:
    found = server.of_access(tokens["access_token"])
    assert found is not None
    return found


async def refresh(web: Web, token: str) -> httpx2.Response:
    return await oauth(web.url, "/oauth/token", grant_type="refresh_token", refresh_token=token)


async def test_a_refresh_token_is_traded_once_and_a_reused_one_ends_the_family(
    web: Web, tokens: dict[str, str], session: Session
) -> None:
    second = (await refresh(web, tokens["refresh_token"])).json()
    assert second["refresh_token"] != tokens["refresh_token"]
    third = (await refresh(web, second["refresh_token"])).json()
    assert "REFRESH_TOKEN_REUSED" in failed(await refresh(web, tokens["refresh_token"]), "invalid_grant")
    assert session.ended
    assert "SESSION_ENDED" in failed(await refresh(web, third["refresh_token"]), "invalid_grant")


async def test_two_programs_with_one_refresh_token_are_a_reuse_however_near(
    web: Web, tokens: dict[str, str], session: Session
) -> None:
    """What is remembered for browsers' pages is not for programs."""
    assert (await refresh(web, tokens["refresh_token"])).status_code == 200
    failed(await refresh(web, tokens["refresh_token"]), "invalid_grant")
    assert session.ended


async def test_an_unknown_refresh_token_is_an_invalid_grant(web: Web) -> None:
    assert failed(await refresh(web, "psr_" + "0" * 64), "invalid_grant").startswith("CREDENTIALS_INVALID: ")


async def test_revoking_ends_the_session_and_an_unknown_token_is_no_failure(
    web: Web, tokens: dict[str, str], session: Session
) -> None:
    for token in ("nonsense", tokens["refresh_token"], tokens["refresh_token"]):
        assert (await oauth(web.url, "/oauth/revoke", token=token)).status_code == 200
    assert session.ended


@pytest.mark.parametrize(
    ("path", "form", "code", "status"),
    [
        ("/oauth/token", {"grant_type": "password"}, "unsupported_grant_type", 400),
        ("/oauth/token", {}, "invalid_request", 400),
        ("/oauth/token", {"grant_type": DEVICE_CODE}, "invalid_request", 400),
        ("/oauth/token", {"grant_type": "refresh_token", "refresh_token": ""}, "invalid_request", 400),
        ("/oauth/token", {"grant_type": "refresh_token", "client_id": "another"}, "invalid_client", 401),
        ("/oauth/device_authorization", {"client_id": ""}, "invalid_request", 400),
        ("/oauth/device_authorization", {"client_id": "another"}, "invalid_client", 401),
        ("/oauth/revoke", {}, "invalid_request", 400),
        ("/oauth/revoke", {"token": "t", "client_id": "another"}, "invalid_client", 401),
    ],
)
async def test_a_request_that_is_none_is_refused_as_rfc_6749_says(
    web: Web, path: str, form: dict[str, str], code: str, status: int
) -> None:
    failed(await oauth(web.url, path, None, **form), code, status)


async def test_what_is_no_form_is_an_invalid_request(web: Web) -> None:
    async with httpx2.AsyncClient() as client:
        for content, kind in (
            (b"{}", "application/json"),
            (b"client_id=a&client_id=b", "application/x-www-form-urlencoded"),
        ):
            answer = await client.post(f"{web.url}/oauth/token", content=content, headers={"content-type": kind})
            failed(answer, "invalid_request")
        answer = await client.get(f"{web.url}/oauth/token")
        assert answer.status_code == 405
        assert answer.json()["error"] == "invalid_request"
    by_header = await oauth(web.url, "/oauth/token", {"authorization": "Basic eDp5"}, grant_type="refresh_token")
    failed(by_header, "invalid_client", 401)


async def test_a_server_that_is_away_is_temporarily_unavailable(web: Web, server: State) -> None:
    server.away = True
    try:
        answer = await refresh(web, "psr_x")
    finally:
        server.away = False
    assert "10.1.2.3" not in failed(answer, "temporarily_unavailable", 503)
    assert answer.headers["retry-after"] == "1"


async def test_a_browsers_cookie_opens_nothing_for_programs(web: Web, alice: Browser) -> None:
    answer = await alice.post("/oauth/token", {"client_id": "popsigner-cli", "grant_type": "refresh_token"})
    assert answer.json()["error"] == "invalid_request"


async def test_the_keys_are_published(web: Web) -> None:
    async with httpx2.AsyncClient() as client:
        answer = await client.get(f"{web.url}/.well-known/jwks.json")
    assert answer.headers["content-type"] == "application/jwk-set+json"
    assert answer.headers["cache-control"] == "public, max-age=300"
    (key,) = answer.json()["keys"]
    assert (key["kty"], key["crv"]) == ("OKP", "Ed25519")
    assert "d" not in key


async def test_the_pop_describes_itself_as_rfc_8414_says(web: Web) -> None:
    async with httpx2.AsyncClient() as client:
        answer = await client.get(f"{web.url}/.well-known/oauth-authorization-server", headers={"host": "evil.example"})
        described = answer.json()
        assert described["issuer"] == web.url
        assert set(described["grant_types_supported"]) == {DEVICE_CODE, "refresh_token"}
        for name, address in described.items():
            if name.endswith(("_endpoint", "_uri")):
                assert address.startswith(f"{web.url}/")
                asked = client.get if name == "jwks_uri" else client.post
                assert (await asked(address)).status_code in (200, 400)
