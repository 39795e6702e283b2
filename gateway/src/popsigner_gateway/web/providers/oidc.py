"""OpenID Connect with any issuer, Google among them: authorization code flow (OpenID Connect Core 3.1)."""

import hmac
import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from popsigner_gateway.web.faults import Fault, provider_failed
from popsigner_gateway.web.providers import Person, Provider
from popsigner_gateway.web.providers.discovery import Discovery, Issuer
from popsigner_gateway.web.providers.exchange import authorization_url, code_of, traded
from popsigner_gateway.web.providers.id_token import TokenRefused, UnknownKey, verified
from popsigner_gateway.web.providers.outbound import Outbound
from popsigner_gateway.web.transactions import Transaction

_SCOPE = "openid email profile"
_log = structlog.get_logger(__name__)


class OpenIdConnect:
    """A Speaker. clock: seconds since the epoch, as the tokens have it."""

    def __init__(
        self, outbound: Outbound, discovery: Discovery | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._outbound = outbound
        self._discovery = discovery or Discovery(outbound)
        self._clock = clock

    async def authorization_url(self, provider: Provider, transaction: Transaction, redirect_uri: str) -> str:
        issuer = await self._discovery.issuer(provider.issuer)
        return authorization_url(
            issuer.authorization_endpoint,
            provider,
            transaction,
            redirect_uri,
            scope=_SCOPE,
            nonce=transaction.nonce,
        )

    async def person(
        self, provider: Provider, transaction: Transaction, redirect_uri: str, answer: Mapping[str, str]
    ) -> Person:
        issuer = await self._discovery.issuer(provider.issuer)
        # RFC 9207 2.4: an honest provider's code must not be carried to a dishonest one's token endpoint.
        named = answer.get("iss")
        if named is None and issuer.names_itself:
            raise provider_failed("The identity provider's answer does not say whose it is.")
        if named is not None and not hmac.compare_digest(named.encode(), issuer.issuer.encode()):
            raise provider_failed("The answer comes from another identity provider.")
        token = await traded(
            issuer.token_endpoint,
            provider,
            transaction,
            redirect_uri,
            code_of(answer),
            self._outbound,
            method=issuer.token_method,
        )
        claims = await self._claims(token, provider, transaction)
        return _person(claims, await self._told(claims, issuer, token))

    async def _claims(self, token: Mapping[str, Any], provider: Provider, transaction: Transaction) -> dict[str, Any]:
        text = token.get("id_token")
        if not isinstance(text, str):
            raise provider_failed("The identity provider's answer has no ID token.")
        for afresh in (False, True):
            keys = await self._discovery.keys(provider.issuer, afresh=afresh)
            try:
                return verified(
                    text,
                    keys,
                    issuer=provider.issuer,
                    client_id=provider.client_id,
                    nonce=transaction.nonce,
                    now=self._clock(),
                )
            except UnknownKey as error:
                # The issuer may have changed its keys since; the second look is the last.
                if afresh:
                    raise _refused(error, provider) from None
            except TokenRefused as error:
                raise _refused(error, provider) from None
        raise AssertionError("unreachable: the second look returns or raises")

    async def _told(self, claims: dict[str, Any], issuer: Issuer, token: Mapping[str, Any]) -> dict[str, Any]:
        """The claims of the person: of the ID token, or where it has none, of the userinfo endpoint (Core 5.4)."""
        if "email" in claims or not issuer.userinfo_endpoint:
            return claims
        headers = {"authorization": f"Bearer {token['access_token']}"}
        told = await self._outbound.json(issuer.userinfo_endpoint, headers)
        if not isinstance(told, dict) or told.get("sub") != claims["sub"]:
            # Core 5.3.2: whose it is has to be verified, or it may be somebody else's.
            raise provider_failed("The identity provider's userinfo is of somebody else.")
        return told


def _refused(error: TokenRefused, provider: Provider) -> Fault:
    _log.warning("login.id_token_refused", provider_id=provider.id, why=str(error))
    return Fault(
        status=401,
        reason="ID_TOKEN_REFUSED",
        sentence="The identity provider's ID token is not acceptable; the POP's log says why.",
        advice="Begin the log-in again. If it happens again, tell your operator.",
    )


def _person(claims: dict[str, Any], told: dict[str, Any]) -> Person:
    email, name, said = told.get("email"), told.get("name"), told.get("email_verified")
    return Person(
        subject=claims["sub"],
        email=email if isinstance(email, str) else "",
        # Some issuers write the boolean as a string.
        email_verified=(said is True or said == "true") and isinstance(email, str),
        name=name if isinstance(name, str) else "",
    )
