"""What a POP does over and over reads no more rows where there are many.

PostgreSQL counts the rows that a table's scans read. Each test does the work of a server in a filled database and looks
at the counts: a scan of a table of 20 000 rows shows, whatever the machine does meanwhile.
"""

from collections.abc import AsyncIterator, Awaitable
from dataclasses import replace
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from popsigner_server.domain.ids import Prefix, show
from popsigner_server.domain.plans import read_plans
from popsigner_server.domain.principals import UNBOUND
from popsigner_server.identity.api_keys import ApiKeys
from popsigner_server.identity.devices import sweep_devices
from popsigner_server.identity.logins import sweep_logins
from popsigner_server.identity.records import ApiKeyRecords
from popsigner_server.identity.session_rows import sweep_sessions
from popsigner_server.keys.catalogue import Catalogue
from popsigner_server.ledger import Offer
from popsigner_server.ledger.gate import PostgresGate
from popsigner_server.ledger.maintenance import Maintenance
from popsigner_server.ledger.postgres import PostgresLedger
from popsigner_server.storage.engine import Database
from popsigner_server.storage.tables import organizations
from popsigner_server.tenancy.erasure import Erasure
from tests.integration.keys.desk import furnished as desk_of
from tests.integration.recovery.kit import furnished as kit_of
from tests.support.filling import RECIPIENT, Filling
from tests.support.memory_vault import MemoryVault
from tests.support.organizations import Organization, found_organization
from tests.support.plans import packaged_plans

FILLING = Filling(organizations=2_000, keys=40_000, audit_rows=60_000)
# Far below any table's rows, far above what the work of one organization needs.
FEW = 600
PEOPLE = """
INSERT INTO identity_providers (id, kind, name, issuer, client_id) VALUES (uuidv7(), 'github', 'g', 'g', 'g');
INSERT INTO users (id, provider_id, subject, email, name)
SELECT uuidv7(), p.id, n::text, n || '@example.com', 'n' FROM identity_providers p, generate_series(1, 5000) n;
INSERT INTO sessions (id, user_id, origin, expires_at, ended_at)
SELECT uuidv7(), id, 'browser', now() + interval '20 days', CASE WHEN subject::int % 4 = 0 THEN now() END FROM users;
INSERT INTO invitations (id, org_id, email, role, token_hash, created_by_kind, created_by, expires_at)
SELECT uuidv7(), o.id, n || '@example.com', 1, sha256((o.id::text || n)::bytea), 'system', o.id,
       now() + interval '7 days'
FROM organizations o, generate_series(1, 3) n;
ANALYZE;
"""

REMEMBERED = """
INSERT INTO sign_requests (org_id, request_id, key_id, key_version, digest)
SELECT %s, gen_random_uuid()::text, gen_random_uuid(), 1, '' FROM generate_series(1, 5000)
"""


@pytest.fixture(scope="module")
async def organization(database: str) -> Organization:
    """The organization with the most keys; others have theirs before and after it."""
    engine = create_async_engine(database.replace("postgresql://", "postgresql+psycopg://"))
    founded = await found_organization(engine)
    await engine.dispose()
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("SELECT popsigner_make_audit_partitions(1)")
    FILLING.write(database, founded.id)
    with psycopg.connect(database, autocommit=True, cursor_factory=psycopg.ClientCursor) as connection:
        connection.execute(PEOPLE)
    return founded


class Reads:
    """The rows that were read of each table or of its indexes, of the months' tables together."""

    def __init__(self, url: str) -> None:
        self._url = url

    def _now(self) -> dict[str, int]:
        with psycopg.connect(self._url, autocommit=True) as connection:
            rows = connection.execute(
                "SELECT CASE WHEN relname LIKE 'audit_logs%' THEN 'audit_logs' ELSE relname END, sum(rows)::bigint"
                " FROM (SELECT relname, seq_tup_read AS rows FROM pg_stat_user_tables"
                " UNION ALL SELECT relname, idx_tup_read FROM pg_stat_user_indexes) GROUP BY 1"
            )
            return dict(rows.fetchall())

    async def of(self, engine: AsyncEngine, *work: Awaitable[Any]) -> dict[str, int]:
        """Tables of which the work read more than FEW rows."""
        # A session's counts are told at its end.
        await engine.dispose()
        before = self._now()
        for each in work:
            await each
        await engine.dispose()
        after = self._now()
        return {name: after[name] - before[name] for name in after if after[name] - before[name] > FEW}


@pytest.fixture
async def work(database: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(database.replace("postgresql://", "postgresql+psycopg://"), pool_size=2)
    yield engine
    await engine.dispose()


@pytest.fixture
def reads(database: str, organization: Organization) -> Reads:
    return Reads(database)


async def test_what_a_sign_looks_up(work: AsyncEngine, reads: Reads, organization: Organization) -> None:
    database = Database(work)
    catalogue, records = Catalogue(database), ApiKeyRecords(database, PostgresLedger(database))
    caller = organization.caller
    for _ in range(2):
        key = catalogue.signing_key(organization.id, "production/filled-77", 0, bounds=UNBOUND)
        by_id = catalogue.signing_key(organization.id, show(Prefix.KEY, organization.keys[0]), 0, bounds=UNBOUND)
        assert caller.principal.actor_id is not None
        load = records.load(caller.principal.actor_id)
        assert await reads.of(work, key, by_id, load, records.note_use(caller)) == {}


async def test_a_sign(work: AsyncEngine, database: str, reads: Reads, organization: Organization) -> None:
    """The release gate included, which remembers its plans after five batches."""
    async with desk_of(work, database) as desk:
        reference = await desk.create("sign")

        async def signatures() -> None:
            for _ in range(12):
                await desk.sign(reference)

        assert await reads.of(work, signatures()) == {}


async def test_a_sign_with_a_request_id(database: str, work: AsyncEngine, reads: Reads) -> None:
    """Its plans are made while nothing is remembered, as in a new POP, and are not made again for what comes then."""
    mine = await found_organization(work)
    gate = PostgresGate(database, prompt=1, late=1)

    async def release(times: int) -> None:
        for _ in range(times):
            offer = Offer(
                callers=(mine.caller,), keys=((mine.keys[0], 1),), item_caller=[0], item_key=[0], hashes=[0],
                digests=bytes(32), modes=None, requests=[uuid4().hex],
            )  # fmt: skip
            assert (await gate.release(offer, wait=True)).refused == {}

    async def signatures() -> None:
        await release(12)
        # It tells what it read when it ends.
        await gate.close()

    await release(12)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(REMEMBERED, [mine.id])
    assert await reads.of(work, signatures()) == {}


async def test_first_pages(work: AsyncEngine, reads: Reads, organization: Organization) -> None:
    database = Database(work)
    catalogue, ledger = Catalogue(database), PostgresLedger(database)
    api_keys = ApiKeys(database, ledger, environment="live")
    pages = [
        catalogue.list(organization.id, bounds=UNBOUND, limit=50, cursor=""),
        ledger.list(organization.id, limit=50, cursor=""),
        ledger.list(organization.id, limit=50, cursor="", event="key.created"),
        ledger.list(organization.id, limit=50, cursor="", key_id=organization.keys[0]),
        api_keys.list(organization.id, limit=50, cursor=""),
    ]
    assert await reads.of(work, *pages) == {}


async def test_pages_of_keys_are_whole_and_in_order(work: AsyncEngine, organization: Organization) -> None:
    catalogue, cursor, found = Catalogue(Database(work)), "", []
    while True:
        page, cursor = await catalogue.list(organization.id, bounds=UNBOUND, limit=700, cursor=cursor)
        found += [key.id for key in page]
        if not cursor:
            break
    assert found == sorted(set(found))
    assert len(found) == FILLING.keys // 10 + len(organization.keys)


async def test_what_every_server_does_each_minute(
    work: AsyncEngine, database: str, reads: Reads, organization: Organization
) -> None:
    async with desk_of(work, database) as desk:
        jobs = Database(work)
        erasure = Erasure(jobs, MemoryVault(), packaged_plans())
        sweeps = [desk.lifecycle.sweep(), sweep_sessions(jobs), sweep_logins(jobs), sweep_devices(jobs), erasure.run()]
        assert await reads.of(work, *sweeps) == {}


async def test_keys_in_line_with_their_recipient_are_not_read(
    work: AsyncEngine, reads: Reads, organization: Organization
) -> None:
    """One look for each organization that has a recipient, and none at its keys."""
    kit = await kit_of(work, of=organization)
    await kit.write(organization.keys[0], recovery_recipient=RECIPIENT)
    await kit.write(organization.keys[1], recovery_recipient=RECIPIENT)
    assert "keys" not in await reads.of(work, kit.turn())


async def test_a_creation_without_a_quota_counts_nothing(
    work: AsyncEngine, database: str, reads: Reads, organization: Organization
) -> None:
    """It would count under the head, where signatures wait."""
    async with desk_of(work, database) as desk:
        of_many = replace(desk, mine=organization)
        assert await reads.of(work, of_many.create("one more")) == {}


async def test_a_trail_that_is_kept_is_not_read_each_hour(
    work: AsyncEngine, reads: Reads, organization: Organization
) -> None:
    plans = read_plans("[free]\n[self-hosted]\n[long]\naudit_retention_days = 400")
    async with work.begin() as connection:
        mine = organizations.c.id == organization.id
        await connection.execute(update(organizations).where(mine).values(plan="long"))
    read = await reads.of(work, Maintenance(Database(work), plans).run())
    assert "audit_logs" not in read
