"""What a plan allows to exist is exact however many create at once, and the trail is told once a month."""

import asyncio
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from popsigner_server import errors
from popsigner_server.domain.ids import new_id
from popsigner_server.domain.keys import KeyState
from popsigner_server.domain.principals import Role
from popsigner_server.keys import Wish
from popsigner_server.keys.catalogue import Catalogue
from popsigner_server.keys.creation import Creation
from popsigner_server.keys.lifecycle import Lifecycle
from popsigner_server.keys.reservations import Reservations
from popsigner_server.ledger import Row
from popsigner_server.ledger.postgres import PostgresLedger
from popsigner_server.ledger.usage import UsageReader
from popsigner_server.limits.pace import Pace
from popsigner_server.storage.engine import Database
from popsigner_server.storage.tables import (
    identity_providers,
    invitations,
    keys,
    namespaces,
    org_members,
    quota_notices,
    users,
)
from popsigner_server.tenancy.namespaces import Namespaces
from tests.integration.quotas.conftest import Found, give_plan
from tests.support.memory_vault import MemoryVault
from tests.support.organizations import Organization
from tests.support.plans import packaged_plans, packaged_quotas


@pytest.fixture
def vault() -> MemoryVault:
    return MemoryVault()


@pytest.fixture
def reservations(engine: AsyncEngine, ledger: PostgresLedger, vault: MemoryVault) -> Reservations:
    return Reservations(Database(engine), ledger, vault, packaged_quotas(), Pace())


@pytest.fixture
def creation(reservations: Reservations, vault: MemoryVault) -> Creation:
    return Creation(reservations, vault)


@pytest.fixture
def lifecycle(engine: AsyncEngine, ledger: PostgresLedger, vault: MemoryVault, reservations: Reservations) -> Lifecycle:
    return Lifecycle(Database(engine), ledger, vault, Catalogue(Database(engine)), reservations)


def wish(name: str) -> Wish:
    return Wish(name=name, namespace="production", exportable=False, metadata={})


async def notices(ledger: PostgresLedger, organization_id: UUID) -> list[tuple[str, ...]]:
    """Event, metric, used and quota, oldest first; the trail around them has no gap."""
    rows: list[Row] = []
    cursor = "first"
    while cursor:
        page, cursor = await ledger.list(organization_id, limit=100, cursor=cursor.removeprefix("first"))
        rows += page
    assert [row.sequence for row in reversed(rows)] == list(range(1, len(rows) + 1))
    told = [row for row in reversed(rows) if row.event.startswith("quota.")]
    assert {(row.actor_type, row.resource_id) for row in told} <= {("system", organization_id)}
    return [(row.event, *(row.metadata[name] for name in ("metric", "used", "quota"))) for row in told]


async def test_a_hundred_creations_at_once_leave_exactly_the_keys_of_the_plan(
    found: Found, creation: Creation, ledger: PostgresLedger
) -> None:
    mine = await found("free")
    outcomes = await asyncio.gather(
        *(creation.create(mine.caller, [wish(f"key-{number}")]) for number in range(100)), return_exceptions=True
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert len(outcomes) - len(refused) == 3
    assert {type(refusal) for refusal in refused} == {errors.QuotaExceeded}
    assert await notices(ledger, mine.id) == [
        ("quota.warning", "keys", "3", "3"),
        ("quota.exceeded", "keys", "3", "3"),
    ]


async def test_a_batch_that_does_not_fit_creates_none(found: Found, creation: Creation) -> None:
    mine = await found("free")
    await creation.create(mine.caller, [wish("first")])
    with pytest.raises(errors.QuotaExceeded) as refusal:
        await creation.create(mine.caller, [wish("a"), wish("b"), wish("c")])
    assert refusal.value.quota == "keys"
    assert refusal.value.detail == (
        "The plan free allows 3 keys, and the organization has 1; delete one with force (a deleted key counts until it "
        "is destroyed), or ask the POP's operator for a larger plan."
    )
    assert len(await creation.create(mine.caller, [wish("a"), wish("b")])) == 2


async def test_a_deleted_key_keeps_its_place_until_it_is_destroyed(
    found: Found, creation: Creation, lifecycle: Lifecycle
) -> None:
    mine = await found("free")
    made = await creation.create(mine.caller, [wish("a"), wish("b"), wish("c")])
    await lifecycle.delete(mine.caller, f"production/{made[0].name}", force=False)
    with pytest.raises(errors.QuotaExceeded):
        await creation.create(mine.caller, [wish("d")])
    await lifecycle.delete(mine.caller, f"production/{made[1].name}", force=True)
    await creation.create(mine.caller, [wish("d")])


async def test_a_creation_that_fails_gives_its_place_back(found: Found, creation: Creation, vault: MemoryVault) -> None:
    mine = await found("free")
    vault.away = True
    for number in range(5):
        with pytest.raises(errors.VaultUnavailable):
            await creation.create(mine.caller, [wish(f"lost-{number}")])
    vault.away = False
    assert len(await creation.create(mine.caller, [wish("a"), wish("b"), wish("c")])) == 3


async def test_namespaces_are_as_many_as_the_plan_says(
    found: Found, engine: AsyncEngine, ledger: PostgresLedger
) -> None:
    mine = await found("pro")
    rooms = Namespaces(Database(engine), ledger, packaged_quotas())
    outcomes = await asyncio.gather(
        *(rooms.create(mine.caller, name=f"room-{number}", address_prefix="celestia") for number in range(20)),
        return_exceptions=True,
    )
    # `production` is the fifth.
    assert sum(not isinstance(outcome, errors.QuotaExceeded) for outcome in outcomes) == 4
    assert await notices(ledger, mine.id) == [
        ("quota.warning", "namespaces", "4", "5"),
        ("quota.exceeded", "namespaces", "5", "5"),
    ]


async def test_an_open_invitation_keeps_its_place_and_one_that_is_over_does_not(
    found: Found, engine: AsyncEngine, ledger: PostgresLedger
) -> None:
    mine, quotas = await found("pro"), packaged_quotas()
    await _join(engine, mine, people=7)
    await _invite(engine, mine, days=1)
    await _invite(engine, mine, days=-1)
    await _invite(engine, mine, days=1, revoked=True)
    async with ledger.change(mine.id) as change:
        await quotas.claim(change, "members", adding=2, invited=True)
    with pytest.raises(errors.QuotaExceeded) as refusal:
        async with ledger.change(mine.id) as change:
            await quotas.claim(change, "members", adding=3, invited=True)
    assert refusal.value.quota == "members"
    # Whoever accepts takes the place of the invitation.
    async with ledger.change(mine.id) as change:
        await quotas.claim(change, "members", adding=3)


async def test_a_refusal_is_told_although_its_change_is_undone_and_nothing_else_of_it(
    found: Found, ledger: PostgresLedger, engine: AsyncEngine
) -> None:
    mine, quotas = await found("free"), packaged_quotas()

    async def ask() -> None:
        async with ledger.change(mine.id) as change:
            await change.connection.execute(update(namespaces).values(name="undone"))
            change.record("namespace.created", caller=None)
            await quotas.claim(change, "namespaces")

    for _ in range(3):
        with pytest.raises(errors.QuotaExceeded):
            await ask()
    assert await notices(ledger, mine.id) == [
        ("quota.warning", "namespaces", "1", "1"),
        ("quota.exceeded", "namespaces", "1", "1"),
    ]
    assert len((await ledger.list(mine.id, limit=10, cursor=""))[0]) == 2
    async with engine.connect() as connection:
        query = select(namespaces.c.name).where(namespaces.c.org_id == mine.id)
        assert (await connection.execute(query)).scalar_one() == "production"


async def test_the_next_month_is_told_anew(
    found: Found, creation: Creation, ledger: PostgresLedger, engine: AsyncEngine
) -> None:
    mine = await found("free")
    await creation.create(mine.caller, [wish("a"), wish("b"), wish("c")])
    for _ in range(2):
        with pytest.raises(errors.QuotaExceeded):
            await creation.create(mine.caller, [wish("d")])
        # What was told was told a month ago.
        async with engine.begin() as connection:
            month_ago = quota_notices.c.period_start - func.make_interval(0, 1)
            query = update(quota_notices).where(quota_notices.c.org_id == mine.id)
            await connection.execute(query.values(period_start=month_ago))
    events = [event for event, *_ in await notices(ledger, mine.id)]
    assert events == ["quota.warning", "quota.exceeded", "quota.warning", "quota.exceeded"]


async def test_a_smaller_plan_leaves_what_exists_and_refuses_what_is_new(
    found: Found, creation: Creation, engine: AsyncEngine
) -> None:
    mine = await found("pro")
    made = await creation.create(mine.caller, [wish(f"key-{number}") for number in range(5)])
    await give_plan(engine, mine.id, "free")
    with pytest.raises(errors.QuotaExceeded, match="allows 3 keys, and the organization has 5"):
        await creation.create(mine.caller, [wish("sixth")])
    async with engine.connect() as connection:
        enabled = select(func.count()).where(keys.c.org_id == mine.id, keys.c.state == KeyState.ENABLED.value)
        assert (await connection.execute(enabled)).scalar_one() == len(made)


async def test_without_limits_nothing_is_told(found: Found, creation: Creation, ledger: PostgresLedger) -> None:
    mine = await found("self-hosted")
    await creation.create(mine.caller, [wish(f"key-{number}") for number in range(40)])
    assert await notices(ledger, mine.id) == []


async def test_usage_says_what_exists_beside_what_the_plan_allows(
    found: Found, creation: Creation, engine: AsyncEngine
) -> None:
    mine = await found("pro")
    await _join(engine, mine, people=2)
    await creation.create(mine.caller, [wish("a"), wish("b")])
    async with engine.connect() as connection:
        month = (await connection.execute(select(func.current_date()))).scalar_one().replace(day=1)
    metrics = await UsageReader(Database(engine), packaged_plans()).read(mine.id, month)
    assert [(metric.name, metric.value, metric.quota) for metric in metrics] == [
        ("signatures", 0, None),
        ("keys", 2, 25),
        ("namespaces", 1, 5),
        ("members", 2, 10),
    ]


async def _join(engine: AsyncEngine, organization: Organization, *, people: int) -> None:
    provider = new_id()
    async with engine.begin() as connection:
        await connection.execute(
            insert(identity_providers).values(
                id=provider, org_id=organization.id, kind="oidc", name="test", issuer=provider.hex, client_id="test"
            )
        )
        for _ in range(people):
            user = new_id()
            await connection.execute(
                insert(users).values(id=user, provider_id=provider, subject=user.hex, email=user.hex, name="Somebody")
            )
            member = {"org_id": organization.id, "user_id": user, "role": Role.VIEWER.value}
            await connection.execute(insert(org_members).values(**member))


async def _invite(engine: AsyncEngine, organization: Organization, *, days: int, revoked: bool = False) -> None:
    invitation = new_id()
    async with engine.begin() as connection:
        await connection.execute(
            insert(invitations).values(
                id=invitation,
                org_id=organization.id,
                email=f"{invitation.hex}@example.com",
                role=Role.VIEWER.value,
                token_hash=invitation.bytes * 2,
                created_by_kind="user",
                created_by=invitation,
                expires_at=func.now() + timedelta(days=days),
                revoked_at=func.now() if revoked else None,
            )
        )
