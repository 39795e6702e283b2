"""The door to identity providers: who vouches, and for whom.

What comes through here was verified, or a Fault was raised. `oidc.py` speaks OpenID Connect, `github.py` speaks
GitHub's OAuth 2.0.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from popsigner_gateway.web.transactions import Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """A provider as the server knows it. client_secret: empty for a public client."""

    id: str
    kind: str
    name: str
    issuer: str
    client_id: str
    client_secret: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """For whom a provider vouches. subject: the identity there, 1 to 255 characters."""

    subject: str = field(repr=False)
    email: str = field(repr=False)
    email_verified: bool
    name: str = field(repr=False)


class Speaker(Protocol):
    """Speaks one kind of provider's language. Every method raises Fault."""

    async def authorization_url(self, provider: Provider, transaction: Transaction, redirect_uri: str) -> str:
        """Where the browser is sent: authorization code, PKCE with S256, state and nonce of the transaction."""

    async def person(
        self, provider: Provider, transaction: Transaction, redirect_uri: str, answer: Mapping[str, str]
    ) -> Person:
        """Trade the code of the provider's answer, and verify what comes. answer: the parameters that the browser
        brought back; its state was compared already."""
