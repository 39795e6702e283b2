"""GitHub's OAuth 2.0 (OAuth apps), which is no OpenID Connect: the person comes from its API.

docs.github.com, "Authorizing OAuth apps" and "REST API endpoints for users / emails".
"""

from collections.abc import Mapping
from typing import Any

from popsigner_gateway.web.faults import provider_failed
from popsigner_gateway.web.providers import Person, Provider
from popsigner_gateway.web.providers.exchange import authorization_url, code_of, traded
from popsigner_gateway.web.providers.outbound import Outbound, web_address
from popsigner_gateway.web.transactions import Transaction

GITHUB = "https://github.com"
_API = "https://api.github.com"
_SCOPE = "read:user user:email"


class GitHub:
    """A Speaker. A provider's issuer is the address of its site: GitHub's own, or a GitHub Enterprise Server's."""

    def __init__(self, outbound: Outbound) -> None:
        self._outbound = outbound

    async def authorization_url(self, provider: Provider, transaction: Transaction, redirect_uri: str) -> str:
        endpoint = f"{_site(provider)}/login/oauth/authorize"
        return authorization_url(endpoint, provider, transaction, redirect_uri, scope=_SCOPE)

    async def person(
        self, provider: Provider, transaction: Transaction, redirect_uri: str, answer: Mapping[str, str]
    ) -> Person:
        site = _site(provider)
        if answer.get("iss", site) not in (site, f"{site}/login/oauth"):
            raise provider_failed("The answer comes from another identity provider.")
        endpoint, code = f"{site}/login/oauth/access_token", code_of(answer)
        token = await traded(
            endpoint, provider, transaction, redirect_uri, code, self._outbound, method="client_secret_post"
        )
        headers = {
            "authorization": f"Bearer {token['access_token']}",
            "accept": "application/vnd.github+json",
            "x-github-api-version": "2022-11-28",
            "user-agent": "popsigner",
        }
        api = _API if site == GITHUB else f"{site}/api/v3"
        user = await self._outbound.json(f"{api}/user", headers)
        emails = await self._outbound.json(f"{api}/user/emails?per_page=100", headers)
        return _person(user, emails)


def _site(provider: Provider) -> str:
    return web_address(provider.issuer, "site").rstrip("/")


def _person(user: Any, emails: Any) -> Person:
    number = user.get("id") if isinstance(user, dict) else None
    # Names at GitHub change hands; the number does not.
    if not isinstance(number, int) or isinstance(number, bool) or number <= 0:
        raise provider_failed("GitHub does not say who this is.")
    addresses = [each for each in emails if isinstance(each, dict)] if isinstance(emails, list) else []
    primary = next((each for each in addresses if each.get("primary") is True), {})
    name = user.get("name") or user.get("login") or ""
    return Person(
        subject=str(number),
        email=str(primary.get("email") or ""),
        email_verified=primary.get("verified") is True,
        name=name if isinstance(name, str) else "",
    )
