"""API keys over a real database: one office a server process."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Self
from uuid import UUID

import pytest
from sqlalchemy import select, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncEngine

from popsigner_server.domain.principals import UNBOUND, Bounds, Caller, Role, Scope
from popsigner_server.identity import parse_api_key
from popsigner_server.identity.api_keys import ApiKey, ApiKeys
from popsigner_server.identity.bounds import Wish
from popsigner_server.identity.records import ApiKeyRecords
from popsigner_server.identity.verification import Verifier
from popsigner_server.ledger import Offer, Row
from popsigner_server.ledger.gate import PostgresGate
from popsigner_server.ledger.postgres import PostgresLedger
from popsigner_server.storage.engine import Database
from popsigner_server.storage.tables import api_keys
from tests.support.organizations import Organization, found_organization


@dataclass(slots=True)
class Counts:
    """What one process counts."""

    now: float = 1_000.0
    argon2: int = 0
    lost: int = 0
    loads: int = 0

    def clock(self) -> float:
        return self.now

    def verified(self, _: float) -> None:
        self.argon2 += 1

    def note_lost(self) -> None:
        self.lost += 1


class CountedRecords(ApiKeyRecords):
    """The server's own, with a count of its queries."""

    def __init__(self, engine: AsyncEngine, counts: Counts) -> None:
        super().__init__(Database(engine), PostgresLedger(Database(engine)))
        self._counts = counts

    async def load(self, api_key_id: UUID) -> Any:
        self._counts.loads += 1
        return await super().load(api_key_id)


@dataclass(slots=True, kw_only=True)
class Office:
    """What one server process has for API keys; its verifier's clock is the test's."""

    engine: AsyncEngine
    api_keys: ApiKeys
    records: ApiKeyRecords
    verifier: Verifier
    ledger: PostgresLedger
    counts: Counts = field(default_factory=Counts)

    @classmethod
    def opened(cls, engine: AsyncEngine) -> Self:
        database, counts = Database(engine), Counts()
        ledger, records = PostgresLedger(database), CountedRecords(engine, counts)
        verifier = Verifier(
            records, environment="live", clock=counts.clock, verified=counts.verified, note_lost=counts.note_lost
        )
        made = ApiKeys(database, ledger, environment="live")
        return cls(engine=engine, api_keys=made, records=records, verifier=verifier, ledger=ledger, counts=counts)

    async def caller(self, text: str, *, ip_address: str | None = "192.0.2.7") -> Caller:
        """Who presents this key."""
        principal = await self.verifier.principal(text)
        return Caller(principal=principal, ip_address=ip_address, user_agent="test/1")

    async def row(self, api_key_id: UUID) -> RowMapping:
        """What is stored of a key."""
        async with self.engine.connect() as connection:
            query = select(api_keys).where(api_keys.c.id == api_key_id)
            return (await connection.execute(query)).mappings().one()

    async def change(self, api_key_id: UUID, **values: Any) -> None:
        """Write into a key's row behind everybody's back."""
        async with self.engine.begin() as connection:
            await connection.execute(update(api_keys).where(api_keys.c.id == api_key_id).values(values))

    async def rows(self, organization: Organization, event: str) -> list[Row]:
        """The trail's rows of one event, oldest first."""
        found, _ = await self.ledger.list(organization.id, limit=1000, cursor="", event=event)
        return found[::-1]


@pytest.fixture
async def office(engine: AsyncEngine) -> AsyncIterator[Office]:
    office = Office.opened(engine)
    yield office
    await office.verifier.close()


@pytest.fixture
async def branch(engine: AsyncEngine) -> AsyncIterator[Office]:
    """Another process on the same database."""
    office = Office.opened(engine)
    yield office
    await office.verifier.close()


@pytest.fixture
async def mine(engine: AsyncEngine) -> Organization:
    return await found_organization(engine, keys_of=1)


@pytest.fixture
async def gate(database: str) -> AsyncIterator[PostgresGate]:
    gate = PostgresGate(database, prompt=2, late=2)
    yield gate
    await gate.close()


def wish(
    *,
    scopes: frozenset[Scope] = frozenset({Scope.KEYS_SIGN}),
    role: Role = Role.UNSPECIFIED,
    expires_at: datetime | None = None,
    bounds: Bounds = UNBOUND,
) -> Wish:
    return Wish(name="worker", scopes=scopes, role=role, expires_at=expires_at, bounds=bounds)


async def admin(office: Office, mine: Organization, **more: Any) -> tuple[ApiKey, str]:
    """A key that may make keys."""
    return await office.api_keys.create(
        mine.caller, wish(scopes=frozenset({Scope.KEYS_SIGN, Scope.KEYS_READ}), role=Role.ADMIN, **more)
    )


def id_of(text: str) -> UUID:
    return parse_api_key(text).id


def secret_of(text: str) -> str:
    return parse_api_key(text).secret


def with_secret(text: str, secret: str) -> str:
    return replace(parse_api_key(text), secret=secret).text


def offer(organization: Organization, *callers: Caller) -> Offer:
    """One signature for each caller, by the organization's first key."""
    return Offer(
        callers=callers,
        keys=((organization.keys[0], 1),),
        item_caller=list(range(len(callers))),
        item_key=[0] * len(callers),
        hashes=[1] * len(callers),
        digests=bytes(32) * len(callers),
        modes=None,
        requests=None,
    )
