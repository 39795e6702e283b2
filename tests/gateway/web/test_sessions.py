"""A browser's session: its cookie, its renewal, its end, and forms that nobody else can send."""

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator, Iterator

import httpx2
import pytest

from popsigner_gateway.gen.popsigner.internal.v1 import login_pb2 as login
from tests.gateway.web import process
from tests.gateway.web.fake_server import Session, State
from tests.gateway.web.issuers import Issuer
from tests.gateway.web.process import Web
from tests.gateway.web.test_login import LOGIN, SESSION, refused
from tests.support.login import Browser, accept_invitation, at_provider, begin, form_of, log_in, log_out


@pytest.fixture
async def alice(browser: Browser, issuer: Issuer, issuer_id: str) -> Browser:
    """A browser in which alice is logged in."""
    assert (await log_in(browser, issuer_id, "alice")).status_code == 303
    return browser


@pytest.fixture
def session(alice: Browser, server: State) -> Session:
    return server.sessions[-1]


@pytest.fixture
def short_lived(server: State) -> Iterator[State]:
    """Access tokens are over as soon as they are there."""
    server.expires_in = 1
    yield server
    server.expires_in = 600


async def test_the_cookies_are_encrypted_and_only_for_this_site(
    browser: Browser, issuer: Issuer, issuer_id: str, server: State
) -> None:
    await begin(browser, issuer_id)
    await log_in(browser, issuer_id, "alice")
    set_by_name = {header.partition("=")[0]: header for header in browser.set_cookies if "Max-Age=0" not in header}
    assert set(set_by_name) == {SESSION, LOGIN}
    for header in set_by_name.values():
        attributes = {part.strip().lower() for part in header.split(";")[1:]}
        assert {"httponly", "secure", "samesite=lax", "path=/"} < attributes
        assert not any(part.startswith("domain") for part in attributes)
    assert "max-age=600" in set_by_name[LOGIN].lower()
    session = server.sessions[-1]
    for secret in (session.refresh_token, *session.access):
        assert secret not in "".join(browser.set_cookies)
    assert len(set_by_name[SESSION]) < 4096


async def test_the_first_page_says_who_one_is(alice: Browser, session: Session, server: State) -> None:
    session.user.organizations.append("acme")
    page = (await alice.get("/")).text
    for text in ("alice@example.com", session.user.id, "Acme (acme): operator"):
        assert text in page
    method, _, metadata = server.calls[-1]
    assert (method, metadata["x-envoy-external-address"]) == ("Whoami", "203.0.113.9")


async def test_what_a_provider_calls_somebody_is_text_and_no_html(
    browser: Browser, issuer: Issuer, issuer_id: str
) -> None:
    issuer.people["eve"] = {"email": "eve@example.com", "email_verified": True, "name": "<script>alert(1)</script>"}
    await log_in(browser, issuer_id, "eve")
    page = (await browser.get("/")).text
    assert "&lt;script&gt;alert(1)" in page
    assert "<script" not in page


async def test_an_access_token_that_is_over_is_renewed_and_the_browser_gets_new_tokens(
    short_lived: State, alice: Browser, session: Session
) -> None:
    before = alice.cookie(SESSION)
    assert "You are logged in" in (await alice.get("/")).text
    assert alice.cookie(SESSION) != before
    assert "You are logged in" in (await alice.get("/")).text
    assert not session.ended


async def test_pages_that_a_browser_loads_at_once_trade_the_refresh_token_once(
    short_lived: State, alice: Browser, session: Session
) -> None:
    traded = len(short_lived.asked("RefreshSession"))
    pages = await asyncio.gather(*[alice.get("/device") for _ in range(8)])
    assert [page.status_code for page in pages] == [200] * 8
    assert len(short_lived.asked("RefreshSession")) == traded + 1
    assert not session.ended


async def test_a_copied_cookie_that_is_used_later_ends_the_session_for_everybody(
    short_lived: State, alice: Browser, session: Session, web: Web
) -> None:
    """The renewal's result is remembered for seconds, and not as long as a thief takes; here its memory is another
    process's, which knows nothing of it."""
    async with process.running(short_lived.address, public_url=web.url) as second:
        stolen = {"cookie": f"{SESSION}={alice.cookie(SESSION)}"}
        await alice.get("/")
        async with httpx2.AsyncClient() as client:
            page = await client.get(f"http://{second.listen}/", headers=stolen)
    assert "You are not logged in" in page.text
    assert session.ended
    assert "You are not logged in" in (await alice.get("/")).text
    assert alice.cookie(SESSION) is None


async def test_a_session_that_was_ended_elsewhere_is_logged_out_at_once(alice: Browser, session: Session) -> None:
    session.ended = True
    assert "You are not logged in" in (await alice.get("/")).text
    assert alice.cookie(SESSION) is None


async def test_while_the_server_is_away_nobody_is_logged_out(alice: Browser, short_lived: State) -> None:
    short_lived.expires_in = 600
    short_lived.away = True
    try:
        refused(await alice.get("/"), 503, "SERVER_UNAVAILABLE")
        refused(await alice.post("/logout", {"token": "x"}), 403, "FORM_FORGED")
    finally:
        short_lived.away = False
    assert "You are logged in" in (await alice.get("/")).text


async def test_logging_out_ends_the_session_at_the_server(alice: Browser, session: Session) -> None:
    kept = dict(alice.cookies[alice.base])
    assert (await log_out(alice)).headers["location"] == "/"
    assert session.ended
    assert alice.cookie(SESSION) is None
    alice.cookies[alice.base] = kept
    assert "You are not logged in" in (await alice.get("/")).text


async def test_logging_out_everywhere_ends_every_session(
    alice: Browser, session: Session, web: Web, issuer_id: str, server: State
) -> None:
    elsewhere = Browser(web.url)
    await log_in(elsewhere, issuer_id, "alice")
    assert (await log_out(alice, everywhere=True)).headers["location"] == "/"
    assert all(each.ended for each in server.sessions if each.user is session.user)
    assert "You are not logged in" in (await elsewhere.get("/")).text


FORGED = [
    {"origin": "https://evil.example", "sec-fetch-site": "cross-site"},
    {"origin": "https://evil.example", "sec-fetch-site": ""},
    {"origin": "http://127.0.0.1:1", "sec-fetch-site": "same-site"},
    {"origin": "null", "sec-fetch-site": ""},
    {"origin": "null", "sec-fetch-site": "cross-site"},
    {"origin": "", "sec-fetch-site": "none"},
    {"origin": "", "sec-fetch-site": ""},
]


@pytest.mark.parametrize("said", FORGED)
async def test_a_form_from_another_site_is_refused_even_with_its_token(
    alice: Browser, session: Session, said: dict[str, str]
) -> None:
    page = (await alice.get("/")).text
    for action in ("/logout", "/logout/everywhere"):
        refused(await alice.post(action, form_of(page, action), said), 403, "FORM_FORGED")
    for action in ("/invitation", "/device"):
        refused(await alice.post(action, {}, said), 403, "FORM_FORGED")
    assert not session.ended


async def test_a_form_of_this_site_is_taken_from_browsers_that_hide_their_origin(alice: Browser) -> None:
    """Browsers write `Origin: null` where the page says `Referrer-Policy: no-referrer`."""
    page = (await alice.get("/")).text
    answer = await alice.post("/logout", form_of(page, "/logout"), {"origin": "null"})
    assert answer.status_code == 303


async def test_a_form_without_the_sessions_own_token_is_refused(
    alice: Browser, session: Session, web: Web, issuer_id: str
) -> None:
    other = Browser(web.url)
    await log_in(other, issuer_id, "alice")
    theirs = form_of((await other.get("/")).text, "/logout")["token"]
    everywhere = form_of((await alice.get("/")).text, "/logout/everywhere")["token"]
    for token in ("", "x", "é", theirs, everywhere):
        refused(await alice.post("/logout", {"token": token}), 403, "FORM_FORGED")
    refused(await alice.post("/logout", {"other": "x"}), 403, "FORM_FORGED")
    assert not session.ended


async def test_forms_without_a_session_change_nothing(browser: Browser) -> None:
    assert (await browser.post("/logout", {"token": "x"})).status_code == 303
    for action in ("/logout/everywhere", "/invitation", "/device"):
        refused(await browser.post(action, {"token": "x"}), 401, "SESSION_ENDED")


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"token=a&token=b", "application/x-www-form-urlencoded", 400),
        (b"token=%ff", "application/x-www-form-urlencoded", 400),
        (b"\xff", "application/x-www-form-urlencoded", 400),
        (b"&".join(b"f%d=1" % number for number in range(99)), "application/x-www-form-urlencoded", 400),
        (b'{"token": "a"}', "application/json", 400),
        (b"token=a", "text/plain", 400),
        (b"token=" + b"a" * 70_000, "application/x-www-form-urlencoded", 413),
    ],
)
async def test_what_is_no_form_is_refused(web: Web, body: bytes, kind: str, status: int) -> None:
    async with httpx2.AsyncClient() as client:
        headers = {"content-type": kind, "origin": web.url}
        answer = await client.post(f"{web.url}/logout", content=body, headers=headers)
    assert answer.status_code == status, answer.text


@pytest.fixture
async def invitation(server: State) -> AsyncIterator[str]:
    token = "inv_" + "a1" * 32
    server.invitations[token] = login.PreviewInvitationResponse(
        organization="Acme & Sons", slug="acme", email="alice@example.com", role="OPERATOR"
    )
    yield token
    server.invitations.clear()


async def test_an_invitation_leads_through_the_login_to_a_membership(
    browser: Browser, issuer: Issuer, issuer_id: str, invitation: str, server: State
) -> None:
    page = (await browser.get(f"/invitation?token={invitation}")).text
    assert "Acme &amp; Sons" in page
    (link,) = re.findall(r'href="(/login\?invitation=[^"]*)"', page)
    choices = (await browser.get(link)).text
    assert server.asked("ListProviders")[-1].organization == "acme"
    (start,) = re.findall(rf'href="(/login/{issuer_id}\?[^"]*)"', choices)
    sent_to = (await browser.get(start)).headers["location"]
    done = await browser.get(await at_provider(browser, sent_to, "alice"))
    assert done.headers["location"] == f"/invitation?token={invitation}"
    assert (await accept_invitation(browser, invitation)).headers["location"] == "/"
    assert "Acme (acme)" in (await browser.get("/")).text


async def test_an_invitation_for_another_address_is_said_to_be(
    browser: Browser, issuer: Issuer, issuer_id: str, invitation: str
) -> None:
    issuer.people["bob"] = {"email": "bob@example.com", "email_verified": True}
    await log_in(browser, issuer_id, "bob")
    assert "for another address" in (await browser.get(f"/invitation?token={invitation}")).text
    refused(await accept_invitation(browser, invitation), 404, "INVITATION_NOT_FOUND")


async def test_an_unknown_invitation_is_not_found(browser: Browser) -> None:
    for query in ("", "?token=", "?token=inv_nonsense"):
        refused(await browser.get(f"/invitation{query}"), 404, "INVITATION_NOT_FOUND")


@pytest.mark.parametrize("path", ["/", "/login", "/device", "/nothing", "/invitation", "/login/callback"])
async def test_every_page_forbids_what_it_does_not_need(alice: Browser, path: str) -> None:
    headers = (await alice.get(path)).headers
    policy = headers["content-security-policy"]
    for rule in ("default-src 'none'", "frame-ancestors 'none'", "form-action 'self'", "base-uri 'none'"):
        assert rule in policy
    assert "unsafe" not in policy
    assert "script" not in policy
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert "server" not in headers


async def test_the_style_sheet_is_the_one_that_the_policy_names(browser: Browser) -> None:
    answer = await browser.get("/login")
    (style,) = re.findall(r"<style>(.*?)</style>", answer.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in answer.headers["content-security-policy"]
    assert "style=" not in answer.text
    assert "<script" not in answer.text


async def test_an_unknown_page_or_method_is_an_error_page(browser: Browser) -> None:
    for path in ("/nothing", "/login/", "/logout", "/login/a/b"):
        answer = await browser.get(path)
        assert answer.status_code in (404, 405)
        assert "METHOD_UNKNOWN" in answer.text
