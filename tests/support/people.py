"""People of a POP without a browser: rows of users and members, and sessions begun as the gateway begins them, through
the server's own LoginService.

engine = create_async_engine(...)                         # the POP's database
mary = await new_person(engine, memberships={organization_id: Role.ADMIN})
session = await begin_session(pop, mary)                  session.access_token, session.refresh_token
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import grpc
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from popsigner_server.domain.ids import Prefix, new_id, parse, show
from popsigner_server.domain.principals import Role
from popsigner_server.gen.popsigner.internal.v1 import login_pb2, login_pb2_grpc
from popsigner_server.storage.tables import identity_providers, org_members, users
from tests.support.pop import Pop

TIMEOUT = 30.0
GATEWAY_SECRET = "secrets/gateway.secret"


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonOf:
    """Somebody whom an identity provider vouches for."""

    user_id: UUID
    provider_id: UUID
    subject: str
    email: str
    name: str

    @property
    def id(self) -> str:
        """`user_…`."""
        return show(Prefix.USER, self.user_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A session that was begun, and its tokens."""

    id: str
    user_id: str
    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)

    @property
    def uuid(self) -> UUID:
        return parse(Prefix.SESSION, self.id)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.access_token}"),)


async def new_provider(connection: AsyncConnection, *, organization_id: UUID | None = None) -> UUID:
    """An identity provider that nobody ever asks; the POP's own where no organization is given."""
    provider_id = new_id()
    await connection.execute(
        insert(identity_providers).values(
            id=provider_id,
            org_id=organization_id,
            kind="oidc",
            name="A provider of tests",
            issuer=f"https://{uuid4().hex}.example",
            client_id="popsigner",
        )
    )
    return provider_id


async def new_person(
    engine: AsyncEngine,
    *,
    memberships: Mapping[UUID, Role] | None = None,
    provider_id: UUID | None = None,
    email: str | None = None,
) -> PersonOf:
    """A user with a subject of their own, and their memberships; without `provider_id` through a new provider of the
    POP's, without `email` with an address of their own."""
    user_id, name = new_id(), uuid4().hex
    async with engine.begin() as connection:
        vouching = provider_id or await new_provider(connection)
        person = PersonOf(
            user_id=user_id,
            provider_id=vouching,
            subject=f"subject-{name}",
            email=email or f"{name}@example.com",
            name=name,
        )
        await connection.execute(
            insert(users).values(
                id=user_id, provider_id=vouching, subject=person.subject, email=person.email, name=person.name
            )
        )
        for organization_id, role in (memberships or {}).items():
            await connection.execute(
                insert(org_members).values(org_id=organization_id, user_id=user_id, role=role.value)
            )
    return person


def gateway_metadata(pop: Pop) -> tuple[tuple[str, str], ...]:
    """What the gateway proves itself with to the server."""
    secret = (pop.data_dir / GATEWAY_SECRET).read_text().strip()
    return (("authorization", f"Bearer {secret}"),)


async def begin_session(pop: Pop, person: PersonOf, *, address: str | None = None) -> Session:
    """Log in: `address` is the server's to ask, the first one's without it."""
    async with grpc.aio.insecure_channel(address or pop.grpc_socket) as channel:
        answer = await login_pb2_grpc.LoginServiceStub(channel).CompleteLogin(
            login_pb2.CompleteLoginRequest(
                provider_id=show(Prefix.IDENTITY_PROVIDER, person.provider_id),
                login_id=uuid4().hex + uuid4().hex,
                subject=person.subject,
                email=person.email,
                email_verified=True,
                name=person.name,
                origin=login_pb2.Origin(ip_address="192.0.2.7", user_agent="tests"),
            ),
            metadata=gateway_metadata(pop),
            timeout=TIMEOUT,
        )
    tokens = answer.tokens
    return Session(
        id=tokens.session_id,
        user_id=tokens.user_id,
        access_token=tokens.access_token,
        refresh_token=tokens.refresh_token,
    )
