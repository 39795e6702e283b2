"""Between the contract's messages of log-ins, sessions and identity providers, and their values."""

from uuid import UUID

from popsigner_server import errors
from popsigner_server.domain.ids import Prefix, show
from popsigner_server.domain.principals import Person
from popsigner_server.gen.popsigner.internal.v1 import login_pb2
from popsigner_server.gen.popsigner.v1 import auth_pb2, organization_pb2
from popsigner_server.identity.issuers import Kind
from popsigner_server.identity.providers import Provider
from popsigner_server.identity.session_rows import Origin
from popsigner_server.identity.sessions import Issued, Session
from popsigner_server.transport.convert import identifier, timestamp

_KINDS = {0: Kind.OIDC, 1: Kind.GITHUB, 2: Kind.GOOGLE, 3: Kind.OIDC}


def origin(message: login_pb2.Origin) -> Origin:
    return Origin.of(message.ip_address, message.user_agent)


def origin_of(person: Person) -> Origin:
    return Origin.of(person.ip_address or "", person.user_agent or "")


def provider_id(text: str) -> UUID:
    """Raises IdentityProviderNotFound."""
    return identifier(Prefix.IDENTITY_PROVIDER, text, errors.IdentityProviderNotFound)


def provider_kind(code: int) -> Kind:
    """Raises InvalidField."""
    try:
        return _KINDS[code]
    except KeyError as error:
        raise errors.InvalidField("kind", "must be GITHUB, GOOGLE or OIDC.") from error


def provider_to_proto(provider: Provider) -> login_pb2.Provider:
    return login_pb2.Provider(
        id=show(Prefix.IDENTITY_PROVIDER, provider.id),
        kind=provider.kind.name,
        name=provider.name,
        issuer=provider.issuer,
        client_id=provider.client_id,
        organization=provider.organization,
    )


def identity_provider_to_proto(provider: Provider) -> organization_pb2.IdentityProvider:
    return organization_pb2.IdentityProvider(
        id=show(Prefix.IDENTITY_PROVIDER, provider.id),
        kind=organization_pb2.IdentityProviderKind.Value(provider.kind.name),
        name=provider.name,
        issuer=provider.issuer,
        client_id=provider.client_id,
        created_at=timestamp(provider.created_at),
    )


def tokens_to_proto(issued: Issued) -> login_pb2.Tokens:
    return login_pb2.Tokens(
        access_token=issued.access_token,
        refresh_token=issued.refresh_token,
        expires_in=issued.expires_in,
        session_expires_at=timestamp(issued.session_expires_at),
        session_id=show(Prefix.SESSION, issued.session_id),
        user_id=show(Prefix.USER, issued.user_id),
    )


def session_to_proto(session: Session, *, current: UUID) -> auth_pb2.Session:
    return auth_pb2.Session(
        id=show(Prefix.SESSION, session.id),
        created_at=timestamp(session.created_at),
        expires_at=timestamp(session.expires_at),
        last_used_at=timestamp(session.last_used_at),
        ip_address=session.ip_address or "",
        user_agent=session.user_agent or "",
        current=session.id == current,
    )
