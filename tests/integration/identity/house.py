"""The reception over a real database, behind the server's own interceptors, and people to let in."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import grpc
from google.protobuf import message_factory
from sqlalchemy import insert, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from popsigner_server import errors
from popsigner_server.domain.ids import Prefix, new_id, show
from popsigner_server.domain.principals import Caller, Principal, Role
from popsigner_server.identity.issuers import Kind, Wanted
from popsigner_server.identity.logins import Vouched
from popsigner_server.identity.providers import Provider, add_provider
from popsigner_server.identity.reception import Reception
from popsigner_server.identity.sealing import Sealing
from popsigner_server.identity.session_rows import Origin
from popsigner_server.identity.sessions import Issued
from popsigner_server.keys.recovery import RecoverySettings
from popsigner_server.ledger import Row
from popsigner_server.ledger.postgres import PostgresLedger
from popsigner_server.limits.pace import Pace
from popsigner_server.storage.engine import Database
from popsigner_server.storage.tables import invitations, org_members, users
from popsigner_server.tenancy.belongings import Belongings
from popsigner_server.tenancy.invitations import invited
from popsigner_server.transport.contract import rpcs
from popsigner_server.transport.interceptors.auth import Auth
from popsigner_server.transport.interceptors.base import Call, Handler
from popsigner_server.transport.interceptors.draining import Draining
from popsigner_server.transport.interceptors.errors import Errors
from popsigner_server.transport.people_handlers import people_handlers
from popsigner_server.transport.server import Server
from tests.support.organizations import Organization, found_organization

HERE = Origin(ip_address="192.0.2.7", user_agent="a browser")
CLIENT_SECRET = "kept-between-us-and-the-provider"
GATEWAY_SECRET = secrets.token_hex(32)


class Clock:
    """The time of day, moved by hand."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


class NoApiKeys:
    """A POP without API keys."""

    async def principal(self, presented: str) -> Principal:
        raise errors.CredentialsInvalid

    def note(self, caller: Caller) -> None:
        raise AssertionError("nobody has one")


@dataclass(slots=True)
class House:
    engine: AsyncEngine
    sealing: Sealing
    database: Database
    ledger: PostgresLedger
    clock: Clock
    reception: Reception

    @classmethod
    def over(cls, engine: AsyncEngine, *, sign_up: bool = False, sealing: Sealing | None = None) -> "House":
        sealing = sealing or Sealing(secrets.token_bytes(32))
        database, clock = Database(engine), Clock()
        ledger = PostgresLedger(database)
        reception = Reception.opened(database, ledger, sealing, invited=invited, sign_up=sign_up, clock=clock)
        return cls(engine, sealing, database, ledger, clock, reception)

    def beside(self, *, sign_up: bool = False) -> "House":
        """Another server process of the same POP."""
        return House.over(self.engine, sign_up=sign_up, sealing=self.sealing)

    async def organization(self) -> Organization:
        return await found_organization(self.engine, keys_of=0)

    async def own_provider(self) -> Provider:
        """One of the POP's own."""
        issuer = f"https://{secrets.token_hex(8)}.example"
        return await add_provider(self.database, self.sealing, wanted(issuer))

    async def provider_of(self, organization: Organization, *, issuer: str = "") -> Provider:
        """One that the organization connected."""
        issuer = issuer or f"https://{secrets.token_hex(8)}.example"
        return await self.reception.providers.connect(organization.caller, wanted(issuer))

    async def invite(self, organization: Organization, email: str, *, expires: timedelta = timedelta(days=1)) -> UUID:
        invitation_id = new_id()
        async with self.engine.begin() as connection:
            await connection.execute(
                insert(invitations).values(
                    id=invitation_id,
                    org_id=organization.id,
                    email=email,
                    role=Role.VIEWER.value,
                    token_hash=secrets.token_bytes(32),
                    created_by_kind="api_key",
                    created_by=organization.caller.principal.actor_id,
                    expires_at=datetime.now(UTC) + expires,
                )
            )
        return invitation_id

    async def join(self, user_id: UUID, organization: Organization, role: Role = Role.OPERATOR) -> None:
        async with self.engine.begin() as connection:
            await connection.execute(
                insert(org_members).values(org_id=organization.id, user_id=user_id, role=role.value)
            )

    def vouched(self, provider: Provider, email: str = "ada@example.org", **more: Any) -> Vouched:
        """A log-in of its own each time."""
        values: dict[str, Any] = {
            "provider_id": provider.id,
            "login_id": secrets.token_urlsafe(24),
            "subject": email,
            "email": email,
            "email_verified": True,
            "name": "Ada",
        }
        return Vouched(**(values | more))

    async def log_in(self, provider: Provider, email: str = "ada@example.org", **more: Any) -> Issued:
        return await self.reception.logins.complete(self.vouched(provider, email, **more), HERE)

    async def member(self, organization: Organization, role: Role = Role.OPERATOR) -> tuple[Provider, Issued]:
        """Somebody of one of the POP's providers who belongs to the organization and has logged in."""
        provider = await self.own_provider()
        email = f"{secrets.token_hex(6)}@example.org"
        user_id = new_id()
        async with self.engine.begin() as connection:
            await connection.execute(
                insert(users).values(id=user_id, provider_id=provider.id, subject=email, email=email, name="Ada")
            )
        await self.join(user_id, organization, role)
        return provider, await self.log_in(provider, email)

    async def events(self, organization: Organization, event: str) -> list[Row]:
        rows, _ = await self.ledger.list(organization.id, limit=1000, cursor="", event=event)
        return rows

    async def everything(self) -> str:
        """Every row of every table, as text."""
        tables = text(
            "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace"
        )
        async with self.engine.begin() as connection:
            names = (await connection.execute(tables)).scalars().all()
            return "".join([str((await connection.execute(text(f"SELECT t::text FROM {t} t"))).all()) for t in names])

    async def count(self, table: Any, *where: Any) -> int:
        async with self.engine.begin() as connection:
            return len((await connection.execute(select(table).where(*where))).all())


def wanted(issuer: str, *, kind: Kind = Kind.OIDC, name: str = "") -> Wanted:
    return Wanted.of(kind, name=name, issuer=issuer, client_id="popsigner", client_secret=CLIENT_SECRET)


async def _elsewhere(call: Call, request: object) -> object:
    raise AssertionError("this room is not furnished here")


@asynccontextmanager
async def served(house: House, address: str) -> AsyncIterator[grpc.aio.Channel]:
    """The server with the rooms of people alone."""
    handlers: dict[str, Handler] = dict.fromkeys(rpcs(), _elsewhere)
    recovery = RecoverySettings(house.database, PostgresLedger(house.database), wait=timedelta(days=3))
    handlers |= people_handlers(house.reception, Belongings(house.database), recovery)
    auth = Auth(NoApiKeys(), house.reception.visitors, gateway_secret=GATEWAY_SECRET.encode(), trust_gateway=False)
    server = Server(handlers, [Errors(), auth], [address], Pace())
    await server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        yield channel
    await server.stop(0, Draining())


async def ask(channel: grpc.aio.Channel, path: str, credential: str, metadata: Any = (), **fields: Any) -> Any:
    """Call an RPC with a bearer credential; the request's fields by name."""
    method = rpcs()[path]
    call = channel.unary_unary(
        path,
        request_serializer=message_factory.GetMessageClass(method.input_type).SerializeToString,
        response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
    )
    request = message_factory.GetMessageClass(method.input_type)(**fields)
    return await call(request, metadata=(("authorization", f"Bearer {credential}"), *metadata))


def organization_id(organization: Organization) -> str:
    return show(Prefix.ORGANIZATION, organization.id)
