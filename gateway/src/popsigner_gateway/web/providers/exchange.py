"""What both kinds of provider share: the authorization request, and the trade of its code (RFC 6749 4.1, RFC 7636)."""

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx2
from authlib.common.errors import AuthlibBaseError  # type: ignore[import-untyped] # authlib publishes no types
from authlib.common.urls import add_params_to_uri  # type: ignore[import-untyped] # as above
from authlib.integrations.httpx_client import AsyncOAuth2Client  # type: ignore[import-untyped] # as above
from authlib.oauth2.rfc7636 import create_s256_code_challenge  # type: ignore[import-untyped] # as above

from popsigner_gateway.web.faults import Fault, begin_again, provider_failed, provider_silent
from popsigner_gateway.web.providers import Provider
from popsigner_gateway.web.providers.outbound import TIMEOUT, Outbound
from popsigner_gateway.web.transactions import Transaction


def _client(provider: Provider, outbound: Outbound, method: str) -> Any:
    return AsyncOAuth2Client(
        client_id=provider.client_id,
        client_secret=provider.client_secret or None,
        token_endpoint_auth_method=method if provider.client_secret else "none",
        transport=outbound.transport(),
        trust_env=False,
        timeout=TIMEOUT,
    )


def authorization_url(
    endpoint: str, provider: Provider, transaction: Transaction, redirect_uri: str, *, scope: str, **more: str
) -> str:
    """Where the browser is sent."""
    asked = {
        "response_type": "code",
        "client_id": provider.client_id,
        "redirect_uri": redirect_uri,
        "scope": scope,
        "state": transaction.state,
        "code_challenge": create_s256_code_challenge(transaction.verifier),
        "code_challenge_method": "S256",
        **more,
    }
    return str(add_params_to_uri(endpoint, list(asked.items())))


def code_of(answer: Mapping[str, str]) -> str:
    """The authorization code. Raises Fault for a provider's refusal."""
    if error := answer.get("error", ""):
        if error == "access_denied":
            raise Fault(
                status=403,
                reason="PROVIDER_DENIED",
                sentence="The log-in was not allowed at the identity provider.",
                advice="Begin the log-in again, and allow it there.",
            )
        raise provider_failed("The identity provider refused the log-in.")
    code = answer.get("code", "")
    if not code:
        raise begin_again("The identity provider's answer has no code.")
    return code


async def traded(
    endpoint: str,
    provider: Provider,
    transaction: Transaction,
    redirect_uri: str,
    code: str,
    outbound: Outbound,
    *,
    method: str,
) -> Mapping[str, Any]:
    """The token endpoint's answer for the code. method: how a confidential client proves itself there."""
    try:
        async with asyncio.timeout(TIMEOUT), _client(provider, outbound, method) as client:
            found = await client.fetch_token(
                endpoint,
                grant_type="authorization_code",
                code=code,
                code_verifier=transaction.verifier,
                redirect_uri=redirect_uri,
            )
    except AuthlibBaseError as error:
        if error.error == "invalid_grant" or error.error == "bad_verification_code":
            raise begin_again(
                "The identity provider does not take this code: it is used, over, or not yours."
            ) from None
        raise provider_failed("The identity provider refused to trade the log-in's code.") from None
    except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError):
        raise provider_silent("The identity provider does not answer.") from None
    except ValueError:
        raise provider_failed("The identity provider's answer is no JSON.") from None
    if not isinstance(found, dict) or not isinstance(found.get("access_token"), str):
        raise provider_failed("The identity provider's answer has no access token.")
    return found
