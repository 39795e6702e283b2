"""Log-in through a site with GitHub's shape."""

from collections.abc import Iterator
from typing import Any

import pytest

from popsigner_gateway.web.providers import Provider
from popsigner_gateway.web.providers.github import GITHUB, GitHub
from popsigner_gateway.web.providers.outbound import Outbound, Reach
from popsigner_gateway.web.transactions import Transaction
from tests.gateway.web.fake_server import State
from tests.gateway.web.issuers import GitHubSite, challenge_of
from tests.gateway.web.test_login import SESSION, refused, replaced
from tests.support.login import Browser, at_provider, begin, log_in, query_of

OCTOCAT: dict[str, Any] = {
    "id": 583231,
    "name": "The Octocat",
    "email": None,
    "emails": [
        {"email": "old@example.com", "primary": False, "verified": True, "visibility": None},
        {"email": "octocat@example.com", "primary": True, "verified": True, "visibility": "private"},
    ],
}


@pytest.fixture
def site(github: GitHubSite) -> Iterator[GitHubSite]:
    github.users = {"octocat": OCTOCAT}
    yield github
    github.response = {}


async def test_a_person_is_their_number_with_the_primary_email(
    browser: Browser, site: GitHubSite, github_id: str, server: State
) -> None:
    assert (await log_in(browser, github_id, "octocat")).status_code == 303
    vouched = server.asked("CompleteLogin")[-1]
    assert (vouched.subject, vouched.email, vouched.email_verified, vouched.name) == (
        "583231", "octocat@example.com", True, "The Octocat",
    )  # fmt: skip


@pytest.mark.parametrize(
    "emails",
    [
        [{"email": "octocat@example.com", "primary": True, "verified": False, "visibility": None}],
        # Another address is verified, the primary one is not.
        [
            {"email": "octocat@example.com", "primary": True, "verified": False, "visibility": None},
            {"email": "victim@example.com", "primary": False, "verified": True, "visibility": None},
        ],
        [{"email": "victim@example.com", "primary": False, "verified": True, "visibility": None}],
        [],
        {"message": "Not Found"},
    ],
)
async def test_an_unverified_primary_email_is_refused(
    browser: Browser, site: GitHubSite, github_id: str, emails: object
) -> None:
    site.users["octocat"] = OCTOCAT | {"emails": emails}
    refused(await log_in(browser, github_id, "octocat"), 403, "EMAIL_UNVERIFIED")
    assert browser.cookie(SESSION) is None


@pytest.mark.parametrize("number", [None, "583231", True, 0, -1, 1.5])
async def test_somebody_without_a_number_is_nobody(
    browser: Browser, site: GitHubSite, github_id: str, number: object
) -> None:
    site.users["octocat"] = OCTOCAT | {"id": number}
    refused(await log_in(browser, github_id, "octocat"), 502, "PROVIDER_FAULTY")


async def test_it_is_asked_with_pkce_and_refuses_another_verifier(
    browser: Browser, site: GitHubSite, github_id: str
) -> None:
    address = await begin(browser, github_id)
    assert query_of(address)["code_challenge_method"] == "S256"
    wrong = replaced(address, code_challenge=challenge_of("of-somebody-else" * 4))
    refused(await browser.get(await at_provider(browser, wrong, "octocat")), 400, "LOGIN_STATE")


async def test_a_replayed_code_is_refused(browser: Browser, site: GitHubSite, github_id: str, server: State) -> None:
    callback = await at_provider(browser, await begin(browser, github_id), "octocat")
    kept = dict(browser.cookies[browser.base])
    assert (await browser.get(callback)).status_code == 303
    before = len(server.asked("CompleteLogin"))
    browser.cookies[browser.base] = kept
    refused(await browser.get(callback), 400, "LOGIN_STATE")
    assert len(server.asked("CompleteLogin")) == before


async def test_an_answer_that_names_another_issuer_is_refused(
    browser: Browser, site: GitHubSite, github_id: str
) -> None:
    site.response = {"iss": f"{site.url}/login/oauth"}
    assert (await log_in(browser, github_id, "octocat")).status_code == 303
    site.response = {"iss": "https://evil.example"}
    refused(await log_in(browser, github_id, "octocat"), 502, "PROVIDER_FAULTY")


async def test_a_wrong_client_secret_is_the_operators_affair(browser: Browser, site: GitHubSite, server: State) -> None:
    provider_id = server.provider("GITHUB", site.url, secret="wrong")
    refused(await log_in(browser, provider_id, "octocat"), 502, "PROVIDER_FAULTY")


async def test_github_itself_is_asked_at_its_own_api(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Heard(Outbound):
        async def json(self, url: str, headers: object = None) -> Any:
            asked.append(url)
            return [] if url.endswith("emails?per_page=100") else {"id": 1}

    provider = Provider(id="idp_x", kind="GITHUB", name="", issuer=GITHUB, client_id="c", client_secret="")
    transaction = Transaction.begun(provider_id="idp_x", return_to="/", now=0)
    github = GitHub(Heard(reach=Reach()))
    url = await github.authorization_url(provider, transaction, "https://pop.example/login/callback")
    assert url.startswith("https://github.com/login/oauth/authorize?")

    async def traded(*_: object, **__: object) -> dict[str, str]:
        return {"access_token": "gho_x"}

    monkeypatch.setattr("popsigner_gateway.web.providers.github.traded", traded)
    await github.person(provider, transaction, "https://pop.example/login/callback", {"code": "c"})
    assert asked == ["https://api.github.com/user", "https://api.github.com/user/emails?per_page=100"]
