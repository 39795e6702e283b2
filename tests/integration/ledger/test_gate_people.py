"""The release gate and people: sessions, memberships, rotated API keys, deleted organizations, quota notices."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from popsigner_server.domain.principals import Caller, Role
from popsigner_server.ledger import Offer
from popsigner_server.ledger.gate import PostgresGate
from popsigner_server.ledger.postgres import PostgresLedger
from popsigner_server.storage.engine import Database
from popsigner_server.storage.tables import (
    api_keys,
    audit_logs,
    ledger_heads,
    org_members,
    sessions,
    usage_metrics,
)
from tests.support.organizations import Organization, found_organization, joined


@pytest.fixture
async def gate(database: str) -> AsyncIterator[PostgresGate]:
    gate = PostgresGate(database, prompt=2, late=2)
    yield gate
    await gate.close()


def offer(organization: Organization, *callers: Caller) -> Offer:
    """One item for each caller, with the organization's first key."""
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


async def test_a_member_signs_as_the_person_and_the_row_says_so(engine: AsyncEngine, gate: PostgresGate) -> None:
    one = await found_organization(engine)
    operator = await joined(engine, one, Role.OPERATOR)
    assert (await gate.release(offer(one, operator, one.caller), wait=False)).refused == {}
    rows, _ = await PostgresLedger(Database(engine)).list(one.id, limit=10, cursor="")
    assert {(row.actor_type, row.actor_id) for row in rows} == {
        ("user", operator.principal.actor_id),
        ("api_key", one.caller.principal.actor_id),
    }


async def test_a_viewer_a_removed_member_and_a_stranger_release_nothing(
    engine: AsyncEngine, gate: PostgresGate
) -> None:
    one, two = await found_organization(engine), await found_organization(engine)
    viewer, removed, stranger = [await joined(engine, one, role) for role in (Role.VIEWER, Role.OWNER, Role.OWNER)]
    async with engine.begin() as connection:
        await connection.execute(delete(org_members).where(org_members.c.user_id == removed.principal.actor_id))
    foreign = Caller(principal=replace(stranger.principal, organization_id=two.id), ip_address=None, user_agent=None)
    verdict = await gate.release(offer(one, viewer, removed), wait=False)
    assert verdict.refused == {0: "SCOPE_MISSING", 1: "MEMBERSHIP_MISSING"}
    assert (await gate.release(offer(two, foreign), wait=False)).refused == {0: "MEMBERSHIP_MISSING"}


@pytest.mark.parametrize("change", [{"ended_at": func.now()}, {"expires_at": func.now()}])
async def test_an_ended_session_releases_nothing(
    engine: AsyncEngine, gate: PostgresGate, change: dict[str, object]
) -> None:
    one = await found_organization(engine)
    member = await joined(engine, one, Role.ADMIN)
    async with engine.begin() as connection:
        await connection.execute(update(sessions).where(sessions.c.id == member.principal.session_id).values(**change))
    assert (await gate.release(offer(one, member), wait=False)).refused == {0: "SESSION_ENDED"}


async def test_a_session_of_somebody_else_releases_nothing(engine: AsyncEngine, gate: PostgresGate) -> None:
    one = await found_organization(engine)
    owner, other = await joined(engine, one, Role.OWNER), await joined(engine, one, Role.OWNER)
    mixed = replace(owner, principal=replace(owner.principal, session_id=other.principal.session_id))
    assert (await gate.release(offer(one, mixed), wait=False)).refused == {0: "SESSION_ENDED"}


@pytest.mark.parametrize(
    ("shown", "stored", "overlap", "refused"),
    [
        (1, 1, None, False),
        (1, 2, 60, False),
        (1, 2, -1, True),
        (1, 2, None, True),
        (1, 3, 60, True),
        (3, 2, 60, True),
    ],
)
async def test_the_secret_before_a_rotation_signs_until_its_overlap_ends(
    engine: AsyncEngine, gate: PostgresGate, shown: int, stored: int, overlap: int | None, refused: bool
) -> None:
    one = await found_organization(engine)
    until = None if overlap is None else func.now() + timedelta(seconds=overlap)
    async with engine.begin() as connection:
        await connection.execute(
            update(api_keys)
            .where(api_keys.c.id == one.caller.principal.actor_id)
            .values(generation=stored, previous_expires_at=until)
        )
    caller = replace(one.caller, principal=replace(one.caller.principal, generation=shown))
    verdict = await gate.release(offer(one, caller), wait=False)
    assert verdict.refused == ({0: "API_KEY_REVOKED"} if refused else {})


async def test_a_deleted_organization_releases_nothing_and_its_neighbour_does(
    engine: AsyncEngine, gate: PostgresGate
) -> None:
    one, two = await found_organization(engine), await found_organization(engine)
    async with engine.begin() as connection:
        await connection.execute(
            update(ledger_heads).where(ledger_heads.c.org_id == one.id).values(closed_at=func.now())
        )
    assert (await gate.release(offer(one, one.caller), wait=True)).refused == {0: "ORGANIZATION_DELETED"}
    assert (await gate.release(offer(two, two.caller), wait=True)).refused == {}


async def test_a_quota_is_told_of_once_at_80_percent_and_once_when_it_is_used_up_and_again_next_month(
    engine: AsyncEngine, gate: PostgresGate
) -> None:
    one = await found_organization(engine, quota=10)

    async def sign(times: int) -> None:
        await asyncio.gather(*(gate.release(offer(one, one.caller), wait=True) for _ in range(times)))

    async def told() -> list[str]:
        query = (
            select(audit_logs.c.event)
            .where(audit_logs.c.org_id == one.id, audit_logs.c.event != "key.signed")
            .order_by(audit_logs.c.seq)
        )
        async with engine.connect() as connection:
            return list((await connection.execute(query)).scalars())

    await sign(7)
    assert await told() == []
    await sign(1)
    assert await told() == ["quota.warning"]
    await sign(2)
    assert await told() == ["quota.warning"]
    await sign(5)
    assert await told() == ["quota.warning", "quota.exceeded"]
    async with engine.begin() as connection:
        earlier = func.date_trunc("month", func.now() - timedelta(days=40))
        await connection.execute(
            update(usage_metrics).where(usage_metrics.c.org_id == one.id).values(period_start=earlier)
        )
        await connection.exec_driver_sql(
            "UPDATE quota_notices SET period_start = period_start - 40 WHERE org_id = %s", (one.id,)
        )
    await sign(12)
    assert await told() == ["quota.warning", "quota.exceeded"] * 2
