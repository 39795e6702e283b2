"""Log-in through a real OpenID Connect provider, and every way in that is none."""

import time

import pytest
from httpx2 import QueryParams, Response

from popsigner_gateway.web.transactions import Transaction
from tests.gateway.web.fake_server import State
from tests.gateway.web.issuers import Issuer, challenge_of
from tests.gateway.web.process import Web
from tests.support.login import Browser, at_provider, begin, log_in, origin_of, query_of

SESSION, LOGIN = "__Host-popsigner-session", "__Host-popsigner-login"


def replaced(address: str, **values: str) -> str:
    """The address with other query parameters."""
    return f"{address.partition('?')[0]}?{QueryParams(query_of(address) | values)}"


def refused(answer: Response, status: int, reason: str) -> None:
    assert answer.status_code == status, answer.text
    assert f"<code>{reason}</code>" in answer.text


async def test_a_person_logs_in_through_a_real_provider(browser: Browser, server: State, provider_id: str) -> None:
    answer = await log_in(browser, provider_id, "alice")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    (vouched,) = [each for each in server.asked("CompleteLogin") if each.provider_id == provider_id]
    assert (vouched.subject, vouched.email, vouched.email_verified, vouched.name) == (
        "alice", "alice@example.com", True, "Alice",
    )  # fmt: skip
    assert (vouched.origin.ip_address, vouched.origin.user_agent) == ("203.0.113.9", "Test Browser")
    assert len(vouched.login_id) >= 32
    page = await browser.get("/")
    assert "You are logged in" in page.text
    assert "alice@example.com" in page.text
    assert browser.cookie(LOGIN) is None


async def test_the_provider_is_asked_with_pkce_state_and_nonce(
    browser: Browser, web: Web, provider_id: str, server: State
) -> None:
    first, second = query_of(await begin(browser, provider_id)), query_of(await begin(browser, provider_id))
    assert first["response_type"] == "code"
    assert first["redirect_uri"] == f"{web.url}/login/callback"
    assert (first["code_challenge_method"], len(first["code_challenge"])) == ("S256", 43)
    assert "openid" in first["scope"].split()
    for name in ("state", "nonce", "code_challenge"):
        assert first[name] != second[name]
        assert len(first[name]) >= 43


async def test_the_redirect_uri_never_comes_from_the_host_header(web: Web, browser: Browser, provider_id: str) -> None:
    answer = await browser.get(f"/login/{provider_id}", {"host": "evil.example", "x-forwarded-host": "evil.example"})
    assert query_of(answer.headers["location"])["redirect_uri"] == f"{web.url}/login/callback"


async def test_the_login_page_shows_the_providers_as_links(browser: Browser, server: State, provider_id: str) -> None:
    own = server.provider("OIDC", "https://idp.acme.example", organization="acme")
    page = (await browser.get("/login?return_to=/device")).text
    assert f'href="/login/{provider_id}?return_to=%2Fdevice"' in page
    assert own not in page
    assert own in (await browser.get("/login?organization=ACME")).text


async def test_a_forged_state_is_refused_and_does_not_end_the_persons_own_login(
    browser: Browser, provider_id: str
) -> None:
    callback = await at_provider(browser, await begin(browser, provider_id), "alice")
    for state in ("x" * 43, "", "é"):
        refused(await browser.get(replaced(callback, state=state)), 400, "LOGIN_STATE")
    assert browser.cookie(SESSION) is None
    assert (await browser.get(callback)).status_code == 303


async def test_the_answer_of_another_browsers_login_is_refused(
    browser: Browser, web: Web, provider_id: str, server: State
) -> None:
    """An attacker who makes somebody log in as the attacker (RFC 6749 10.12)."""
    attacker = Browser(web.url)
    callback = await at_provider(attacker, await begin(attacker, provider_id), "alice")
    before = len(server.asked("CompleteLogin"))
    refused(await browser.get(callback), 400, "LOGIN_STATE")
    await begin(browser, provider_id)
    refused(await browser.get(callback), 400, "LOGIN_STATE")
    assert len(server.asked("CompleteLogin")) == before


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_another_site_cannot_begin_a_login_behind_a_persons_back(
    browser: Browser, issuer: Issuer, issuer_id: str, site: str
) -> None:
    """An organization's provider may vouch unasked, and so make somebody be somebody else without a click."""
    answer = await browser.get(f"/login/{issuer_id}?return_to=/device", {"sec-fetch-site": site})
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?return_to=%2Fdevice")
    assert browser.cookie(LOGIN) is None
    answer = await browser.get(f"/login/{issuer_id}", {"sec-fetch-site": "same-origin"})
    assert answer.headers["location"].startswith(f"{issuer.url}/authorize?")


async def test_a_cookie_that_this_gateway_did_not_make_is_none(browser: Browser, provider_id: str) -> None:
    callback = await at_provider(browser, await begin(browser, provider_id), "alice")
    jar = browser.cookies[browser.base]
    good = jar[LOGIN]
    for bad in (good[:-4] + "AAAA", "x", "=" * 60, good + "é"):
        jar[LOGIN] = bad
        refused(await browser.get(callback), 400, "LOGIN_STATE")
    # A session's cookie is sealed with another key.
    jar[LOGIN] = good
    await browser.get(callback)
    jar[LOGIN] = jar[SESSION]
    refused(await browser.get(callback), 400, "LOGIN_STATE")


async def test_a_replayed_callback_is_refused_with_and_without_its_cookie(
    browser: Browser, provider_id: str, server: State
) -> None:
    callback = await at_provider(browser, await begin(browser, provider_id), "alice")
    kept = browser.cookies[browser.base][LOGIN]
    assert (await browser.get(callback)).status_code == 303
    refused(await browser.get(callback), 400, "LOGIN_STATE")
    browser.cookies[browser.base][LOGIN] = kept
    before = len(server.sessions)
    refused(await browser.get(callback), 400, "LOGIN_STATE")
    assert len(server.sessions) == before


async def test_a_replayed_login_with_a_fresh_code_is_refused_by_its_login_id(
    browser: Browser, provider_id: str
) -> None:
    """Who kept the cookie and gets the provider to vouch again completes no second session with it."""
    address = await begin(browser, provider_id)
    kept = browser.cookies[browser.base][LOGIN]
    assert (await browser.get(await at_provider(browser, address, "alice"))).status_code == 303
    browser.cookies[browser.base][LOGIN] = kept
    refused(await browser.get(await at_provider(browser, address, "alice")), 401, "LOGIN_REPLAYED")


async def test_a_code_of_another_login_is_refused_for_its_pkce_verifier(
    browser: Browser, web: Web, provider_id: str
) -> None:
    """A stolen code, brought into the thief's own log-in: the provider has another challenge for it."""
    victim = Browser(web.url)
    stolen = query_of(await at_provider(victim, await begin(victim, provider_id), "alice"))["code"]
    own = await at_provider(browser, await begin(browser, provider_id), "mallory")
    refused(await browser.get(replaced(own, code=stolen)), 400, "LOGIN_STATE")
    assert browser.cookie(SESSION) is None


async def test_a_login_begun_with_another_challenge_is_refused_for_its_pkce_verifier(
    browser: Browser, provider_id: str
) -> None:
    address = replaced(await begin(browser, provider_id), code_challenge=challenge_of("of-somebody-else" * 4))
    refused(await browser.get(await at_provider(browser, address, "alice")), 400, "LOGIN_STATE")


async def test_a_login_begun_with_another_nonce_is_refused(browser: Browser, provider_id: str, web: Web) -> None:
    address = replaced(await begin(browser, provider_id), nonce="n" * 43)
    refused(await browser.get(await at_provider(browser, address, "alice")), 401, "ID_TOKEN_REFUSED")
    assert "nonce is not this log-in's" in web.log.read_text()
    assert browser.cookie(SESSION) is None


async def test_an_unverified_email_is_refused(browser: Browser, provider_id: str, server: State) -> None:
    refused(await log_in(browser, provider_id, "mallory"), 403, "EMAIL_UNVERIFIED")
    assert server.asked("CompleteLogin")[-1].email_verified is False
    assert browser.cookie(SESSION) is None


async def test_who_is_not_invited_is_told_what_to_do(browser: Browser, provider_id: str) -> None:
    answer = await log_in(browser, provider_id, "stranger")
    refused(answer, 403, "NOT_INVITED")
    assert "Ask an administrator" in answer.text


async def test_who_says_no_at_the_provider_is_told_so(browser: Browser, provider_id: str) -> None:
    address = await begin(browser, provider_id)
    answer = await browser.get(f"/login/callback?error=access_denied&state={query_of(address)['state']}")
    refused(answer, 403, "PROVIDER_DENIED")


@pytest.mark.parametrize(
    "wanted",
    [
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "/\t/evil.example",
        "\\\\evil.example",
        "/\r\nlocation: https://evil.example",
        "javascript:alert(1)",
        "evil.example",
        "",
        "/" + "a" * 600,
        "/ü",
    ],
)
async def test_a_login_returns_to_this_site_and_nowhere_else(browser: Browser, provider_id: str, wanted: str) -> None:
    answer = await log_in(browser, provider_id, "alice", return_to=wanted)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


async def test_a_login_returns_to_the_page_that_asked_for_it(browser: Browser, provider_id: str) -> None:
    answer = await log_in(browser, provider_id, "alice", return_to="/device?user_code=ABCD-EFGH")
    assert answer.headers["location"] == "/device?user_code=ABCD-EFGH"


async def test_an_unknown_provider_is_not_found(browser: Browser) -> None:
    for name in ("idp_" + "9" * 26, "nonsense", "idp_%2e%2e"):
        refused(await browser.get(f"/login/{name}"), 404, "IDENTITY_PROVIDER_NOT_FOUND")


async def test_an_issuer_that_names_itself_has_to_be_the_one_that_was_asked(
    browser: Browser, issuer: Issuer, issuer_id: str
) -> None:
    """RFC 9207: the defence against mixing providers up."""
    issuer.response = {"iss": issuer.url}
    assert (await log_in(browser, issuer_id, "alice")).status_code == 303
    issuer.response = {"iss": "https://evil.example"}
    before = len(issuer.fetched)
    refused(await log_in(browser, issuer_id, "alice"), 502, "PROVIDER_FAULTY")
    assert len(issuer.fetched) == before
    assert origin_of(issuer.url) == issuer.url


async def test_the_former_session_of_the_browser_ends_with_a_new_login(
    browser: Browser, provider_id: str, server: State
) -> None:
    await log_in(browser, provider_id, "alice")
    former = server.sessions[-1]
    await log_in(browser, provider_id, "alice")
    assert former.ended
    assert not server.sessions[-1].ended


async def test_a_server_that_is_away_is_said_to_be(browser: Browser, server: State, provider_id: str) -> None:
    server.away = True
    try:
        answer = await browser.get("/login")
    finally:
        server.away = False
    refused(answer, 503, "SERVER_UNAVAILABLE")
    assert answer.headers["retry-after"] == "1"
    assert "10.1.2.3" not in answer.text


async def test_a_transaction_is_over_after_ten_minutes() -> None:
    now = time.time()
    begun = Transaction.begun(provider_id="idp_x", return_to="/", now=now)
    assert Transaction.unpacked(begun.packed(), now=now + 599) == begun
    assert Transaction.unpacked(begun.packed(), now=now + 600) is None
    for secret in (begun.state, begun.nonce, begun.verifier):
        assert secret not in repr(begun)
