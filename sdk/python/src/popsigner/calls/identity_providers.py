"""OrganizationService: the identity providers that an organization's people log in with."""

from ..gen.popsigner.v1 import (
    ConnectIdentityProviderRequest,
    ConnectIdentityProviderResponse,
    DisconnectIdentityProviderRequest,
    DisconnectIdentityProviderResponse,
    IdentityProvider,
    IdentityProviderKind,
    ListIdentityProvidersRequest,
    ListIdentityProvidersResponse,
)
from . import Call, Repeat, Rpc, call, present
from .organization import SERVICE

CONNECT = Rpc(
    SERVICE + "ConnectIdentityProvider", ConnectIdentityProviderRequest, ConnectIdentityProviderResponse, Repeat.NEVER
)
LIST = Rpc(
    SERVICE + "ListIdentityProviders", ListIdentityProvidersRequest, ListIdentityProvidersResponse, Repeat.ALWAYS
)
DISCONNECT = Rpc(
    SERVICE + "DisconnectIdentityProvider",
    DisconnectIdentityProviderRequest,
    DisconnectIdentityProviderResponse,
    Repeat.NEVER,
)


def connect(
    *,
    client_id: str,
    client_secret: str = "",
    issuer: str = "",
    kind: IdentityProviderKind = IdentityProviderKind.OIDC,
    name: str = "",
    timeout: float | None = None,
) -> Call[IdentityProvider]:
    """Connect an identity provider. `issuer` is its https URL, and may be left out for GITHUB and GOOGLE; `name` is
    what the log-in page calls it, by default the issuer's host; a public client has no `client_secret`.

    Raises InvalidField, IdentityProviderExists, OrganizationDeleted.
    """
    request = ConnectIdentityProviderRequest(
        kind=kind, name=name, issuer=issuer, client_id=client_id, client_secret=client_secret
    )
    return call(CONNECT, request, lambda answer: present(answer.identity_provider), timeout)


def providers(*, timeout: float | None = None) -> Call[tuple[IdentityProvider, ...]]:
    """The organization's identity providers, oldest first, without their secrets."""
    return call(LIST, ListIdentityProvidersRequest(), lambda answer: tuple(answer.identity_providers), timeout)


def disconnect(identity_provider: str | IdentityProvider, *, timeout: float | None = None) -> Call[None]:
    """Disconnect an identity provider (`idp_…`): the sessions that began with it end, its people stay members.

    Raises IdentityProviderNotFound.
    """
    name = identity_provider.id if isinstance(identity_provider, IdentityProvider) else identity_provider
    request = DisconnectIdentityProviderRequest(identity_provider_id=name)
    return call(DISCONNECT, request, lambda _answer: None, timeout)
