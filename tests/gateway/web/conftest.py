"""One gateway process, and what it speaks with, for the tests of a module."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.gateway.web import fake_server, process
from tests.gateway.web.fake_server import State
from tests.gateway.web.issuers import GitHubSite, Issuer
from tests.gateway.web.process import Web
from tests.support.login import Browser
from tests.support.oidc_provider import OidcProvider

PEOPLE = {
    "alice": {"email": "alice@example.com", "email_verified": True, "name": "Alice"},
    "mallory": {"email": "alice@example.com", "email_verified": False, "name": "Mallory"},
    "stranger": {"email": "someone@stranger.example", "email_verified": True, "name": "Stranger"},
}


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[State]:
    async with fake_server.serving() as state:
        yield state


@pytest.fixture(scope="module")
async def web(server: State) -> AsyncIterator[Web]:
    async with process.running(server.address) as running:
        yield running


@pytest.fixture
def browser(web: Web) -> Browser:
    return Browser(web.url, {"x-envoy-external-address": "203.0.113.9", "user-agent": "Test Browser"})


@pytest.fixture(scope="session")
def oidc() -> Iterator[OidcProvider]:
    with OidcProvider.started(PEOPLE) as running:
        yield running


@pytest.fixture(scope="module")
def provider_id(server: State, oidc: OidcProvider) -> str:
    """The real OpenID Connect provider, connected."""
    return server.provider("OIDC", oidc.issuer)


@pytest.fixture(scope="module")
async def _issuer() -> AsyncIterator[Issuer]:
    issuer = Issuer(people=dict(PEOPLE))
    async with process.site(issuer.app()) as url:
        issuer.url = url
        yield issuer


@pytest.fixture
def issuer(_issuer: Issuer) -> Iterator[Issuer]:
    """Our own issuer, honest again after the test."""
    yield _issuer
    _issuer.honest()


@pytest.fixture(scope="module")
def issuer_id(server: State, _issuer: Issuer) -> str:
    return server.provider("OIDC", _issuer.url)


@pytest.fixture(scope="module")
async def github() -> AsyncIterator[GitHubSite]:
    site = GitHubSite()
    async with process.site(site.app()) as url:
        site.url = url
        yield site


@pytest.fixture(scope="module")
def github_id(server: State, github: GitHubSite) -> str:
    return server.provider("GITHUB", github.url)
