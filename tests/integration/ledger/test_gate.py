"""The release gate on a real PostgreSQL: rows, order, quotas, and rights that were taken away."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from popsigner_server import errors
from popsigner_server.domain.keys import KeyState
from popsigner_server.ledger import HELD, Offer
from popsigner_server.ledger.gate import PostgresGate
from popsigner_server.ledger.postgres import PostgresLedger
from popsigner_server.storage.engine import Database
from popsigner_server.storage.tables import api_keys, audit_logs, keys, ledger_heads, sign_requests, usage_metrics
from tests.support.organizations import Organization, found_organization


@pytest.fixture
async def gate(database: str) -> AsyncIterator[PostgresGate]:
    gate = PostgresGate(database, prompt=4, late=4)
    yield gate
    await gate.close()


def offer(
    *parts: tuple[Organization, UUID], requests: list[str | None] | None = None, digest: bytes | None = None
) -> Offer:
    """One item a part, each with its organization's caller and one of its keys."""
    callers = list(dict.fromkeys(organization.caller for organization, _ in parts))
    key_ids = list(dict.fromkeys(key for _, key in parts))
    return Offer(
        callers=tuple(callers),
        keys=tuple((key, 1) for key in key_ids),
        item_caller=[callers.index(organization.caller) for organization, _ in parts],
        item_key=[key_ids.index(key) for _, key in parts],
        hashes=[1] * len(parts),
        digests=(digest or os.urandom(32)) * len(parts),
        modes=None,
        requests=requests,
    )


async def rows_of(engine: AsyncEngine, organization: Organization) -> list[int]:
    async with engine.connect() as connection:
        query = select(audit_logs.c.seq).where(audit_logs.c.org_id == organization.id).order_by(audit_logs.c.seq)
        return list((await connection.execute(query)).scalars())


async def used_by(engine: AsyncEngine, organization: Organization) -> int:
    async with engine.connect() as connection:
        query = select(func.coalesce(func.sum(usage_metrics.c.value), 0)).where(
            usage_metrics.c.org_id == organization.id
        )
        return int((await connection.execute(query)).scalar_one())


async def test_every_released_item_has_one_row_and_counts_once(engine: AsyncEngine, gate: PostgresGate) -> None:
    one, two = await found_organization(engine), await found_organization(engine)
    verdict = await gate.release(
        offer((one, one.keys[0]), (two, two.keys[0]), (one, one.keys[1]), (one, one.keys[0])), wait=False
    )
    assert verdict.refused == {}
    assert await rows_of(engine, one) == [1, 2, 3]
    assert await rows_of(engine, two) == [1]
    assert (await used_by(engine, one), await used_by(engine, two)) == (3, 1)


async def test_a_row_says_who_signed_what_with_which_version(engine: AsyncEngine, gate: PostgresGate) -> None:
    one = await found_organization(engine)
    digest = os.urandom(32)
    await gate.release(offer((one, one.keys[0]), digest=digest), wait=False)
    (row,), _ = await PostgresLedger(Database(engine)).list(one.id, limit=10, cursor="")
    assert (row.event, row.resource_id, row.key_version, row.digest) == ("key.signed", one.keys[0], 1, digest)
    assert (row.actor_type, row.actor_id) == ("api_key", one.caller.principal.actor_id)
    assert (row.ip_address, row.user_agent) == ("192.0.2.1", "test")


async def test_another_organizations_key_is_as_unknown_as_none(engine: AsyncEngine, gate: PostgresGate) -> None:
    one, two = await found_organization(engine), await found_organization(engine)
    verdict = await gate.release(offer((one, two.keys[0]), (one, UUID(int=7)), (one, one.keys[0])), wait=False)
    assert verdict.refused == {0: "KEY_NOT_FOUND", 1: "KEY_NOT_FOUND"}
    assert await rows_of(engine, one) == [1]
    assert await rows_of(engine, two) == []


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (KeyState.CREATING, "KEY_NOT_FOUND"),
        (KeyState.DISABLED, "KEY_DISABLED"),
        (KeyState.DELETED, "KEY_DELETED"),
        (KeyState.DESTROYED, "KEY_NOT_FOUND"),
        (KeyState.ABANDONED, "KEY_NOT_FOUND"),
    ],
)
async def test_a_key_signs_only_while_it_is_enabled(
    engine: AsyncEngine, gate: PostgresGate, state: KeyState, reason: str
) -> None:
    one = await found_organization(engine)
    async with engine.begin() as connection:
        await connection.execute(update(keys).where(keys.c.id == one.keys[0]).values(state=state.value))
    verdict = await gate.release(offer((one, one.keys[0]), (one, one.keys[1])), wait=False)
    assert verdict.refused == {0: reason}


@pytest.mark.parametrize(("low", "high", "refused"), [(1, 1, False), (2, 3, True), (1, 2, False)])
async def test_a_version_below_the_minimum_or_unknown_does_not_sign(
    engine: AsyncEngine, gate: PostgresGate, low: int, high: int, refused: bool
) -> None:
    one = await found_organization(engine)
    async with engine.begin() as connection:
        await connection.execute(
            update(keys).where(keys.c.id == one.keys[0]).values(min_version=low, current_version=high)
        )
    verdict = await gate.release(offer((one, one.keys[0])), wait=False)
    assert verdict.refused == ({0: "KEY_VERSION_UNAVAILABLE"} if refused else {})


async def test_a_revoked_or_expired_api_key_releases_nothing(engine: AsyncEngine, gate: PostgresGate) -> None:
    revoked, expired = await found_organization(engine), await found_organization(engine)
    mine = api_keys.c.id
    async with engine.begin() as connection:
        await connection.execute(
            update(api_keys).where(mine == revoked.caller.principal.actor_id).values(revoked_at=func.now())
        )
        await connection.execute(
            update(api_keys).where(mine == expired.caller.principal.actor_id).values(expires_at=func.now())
        )
    verdict = await gate.release(offer((revoked, revoked.keys[0]), (expired, expired.keys[0])), wait=False)
    assert verdict.refused == {0: "API_KEY_REVOKED", 1: "API_KEY_EXPIRED"}
    assert await rows_of(engine, revoked) == []


async def test_quotas_are_exact_under_concurrency(engine: AsyncEngine, gate: PostgresGate) -> None:
    one = await found_organization(engine, quota=50)
    verdicts = await asyncio.gather(*(gate.release(offer(*[(one, one.keys[0])] * 7), wait=True) for _ in range(12)))
    refused = [reason for verdict in verdicts for reason in verdict.refused.values()]
    assert refused == ["QUOTA_EXCEEDED"] * (12 * 7 - 50)
    # 50 signatures, and one row each for the warning at 80 % and the first refusal.
    assert await rows_of(engine, one) == list(range(1, 53))
    assert await used_by(engine, one) == 50
    rows, _ = await PostgresLedger(Database(engine)).list(one.id, limit=100, cursor="")
    told = [(row.event, row.metadata["used"]) for row in rows if row.event != "key.signed"]
    assert [event for event, _ in told] == ["quota.exceeded", "quota.warning"]
    assert 40 <= int(told[1][1]) <= 50


async def test_a_head_that_is_held_elsewhere_holds_back_its_own_items_only(
    engine: AsyncEngine, gate: PostgresGate
) -> None:
    one, two = await found_organization(engine), await found_organization(engine)
    async with PostgresLedger(Database(engine)).change(one.id):
        verdict = await gate.release(offer((one, one.keys[0]), (two, two.keys[0])), wait=False)
        assert verdict.refused == {0: HELD}
        waiting = asyncio.create_task(gate.release(offer((one, one.keys[0])), wait=True))
        await asyncio.sleep(0.2)
        assert not waiting.done()
    assert (await waiting).refused == {}
    assert (await rows_of(engine, one), await rows_of(engine, two)) == ([1], [1])


async def test_what_waited_for_a_change_is_judged_by_what_the_change_left(
    engine: AsyncEngine, gate: PostgresGate
) -> None:
    """The crux: the snapshot that entitles an item is taken after the lock; a change that committed first forbids."""
    one = await found_organization(engine)
    async with PostgresLedger(Database(engine)).change(one.id) as change:
        waiting = asyncio.create_task(gate.release(offer((one, one.keys[0]), (one, one.keys[1])), wait=True))
        await asyncio.sleep(0.2)
        await change.connection.execute(
            update(keys).where(keys.c.id == one.keys[0]).values(state=KeyState.DELETED.value)
        )
        change.record("key.deleted", caller=one.caller, resource_type="key", resource_id=one.keys[0])
    assert (await waiting).refused == {0: "KEY_DELETED"}
    rows, _ = await PostgresLedger(Database(engine)).list(one.id, limit=10, cursor="")
    assert [(row.sequence, row.event) for row in rows] == [(2, "key.signed"), (1, "key.deleted")]


async def test_a_request_id_counts_once_and_cannot_be_used_for_something_else(
    engine: AsyncEngine, gate: PostgresGate
) -> None:
    one = await found_organization(engine)
    digest = os.urandom(32)
    for _ in range(3):
        verdict = await gate.release(offer((one, one.keys[0]), requests=["r"], digest=digest), wait=False)
        assert verdict.refused == {}
    assert await rows_of(engine, one) == [1]
    assert await used_by(engine, one) == 1
    other_data = await gate.release(offer((one, one.keys[0]), requests=["r"]), wait=False)
    other_key = await gate.release(offer((one, one.keys[1]), requests=["r"], digest=digest), wait=False)
    assert [other_data.refused, other_key.refused] == [{0: "REQUEST_ID_REUSED"}] * 2


async def test_request_ids_belong_to_their_organization(engine: AsyncEngine, gate: PostgresGate) -> None:
    one, two = await found_organization(engine), await found_organization(engine)
    for organization in (one, two):
        verdict = await gate.release(offer((organization, organization.keys[0]), requests=["same"]), wait=False)
        assert verdict.refused == {}
    assert (await rows_of(engine, one), await rows_of(engine, two)) == ([1], [1])


async def test_a_replay_needs_the_right_that_the_first_time_needed(engine: AsyncEngine, gate: PostgresGate) -> None:
    one = await found_organization(engine)
    digest = os.urandom(32)
    await gate.release(offer((one, one.keys[0]), requests=["r"], digest=digest), wait=False)
    async with engine.begin() as connection:
        await connection.execute(update(keys).where(keys.c.id == one.keys[0]).values(state=KeyState.DISABLED.value))
    verdict = await gate.release(offer((one, one.keys[0]), requests=["r"], digest=digest), wait=False)
    assert verdict.refused == {0: "KEY_DISABLED"}


async def test_a_request_id_is_free_again_after_24_hours(engine: AsyncEngine, gate: PostgresGate) -> None:
    one = await found_organization(engine)
    await gate.release(offer((one, one.keys[0]), requests=["r"]), wait=False)
    async with engine.begin() as connection:
        await connection.execute(
            update(sign_requests)
            .where(sign_requests.c.org_id == one.id)
            .values(created_at=func.now() - text("interval '24 hours 1 second'"))
        )
    assert (await gate.release(offer((one, one.keys[0]), requests=["r"]), wait=False)).refused == {}
    assert await rows_of(engine, one) == [1, 2]


async def test_concurrent_batches_of_many_organizations_never_deadlock_and_leave_no_gap(
    engine: AsyncEngine, gate: PostgresGate
) -> None:
    organizations = [await found_organization(engine) for _ in range(5)]

    async def many(turn: int) -> None:
        parts = [(o, o.keys[0]) for o in (organizations[turn % 5 :] + organizations[: turn % 5])]
        assert (await gate.release(offer(*parts), wait=True)).refused == {}

    await asyncio.gather(*(many(turn) for turn in range(40)))
    for organization in organizations:
        assert await rows_of(engine, organization) == list(range(1, 41))
    async with engine.connect() as connection:
        heads = await connection.execute(
            select(ledger_heads.c.size).where(ledger_heads.c.org_id.in_([o.id for o in organizations]))
        )
        assert set(heads.scalars()) == {40}


LOSE = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'popsigner-gate'")


async def test_a_connection_that_is_lost_within_a_batch_fails_it_and_the_next_one_opens_another(
    engine: AsyncEngine, gate: PostgresGate
) -> None:
    one = await found_organization(engine)
    await gate.release(offer((one, one.keys[0])), wait=True)
    async with engine.connect() as holder, engine.connect() as connection:
        await holder.execute(select(ledger_heads).where(ledger_heads.c.org_id == one.id).with_for_update())
        waiting = asyncio.create_task(gate.release(offer((one, one.keys[0])), wait=True))
        await asyncio.sleep(0.2)
        await connection.execute(LOSE)
        with pytest.raises(errors.LedgerUnavailable):
            await waiting
    assert (await gate.release(offer((one, one.keys[0])), wait=True)).refused == {}
    assert await rows_of(engine, one) == [1, 2]


async def test_a_connection_that_is_lost_between_two_batches_is_replaced(
    engine: AsyncEngine, gate: PostgresGate
) -> None:
    one = await found_organization(engine)
    await gate.release(offer((one, one.keys[0])), wait=False)
    async with engine.connect() as connection:
        await connection.execute(LOSE)
    # It may be noticed by its end, or by the batch that meets it: nothing is released then.
    for _ in range(2):
        with contextlib.suppress(errors.LedgerUnavailable):
            await gate.release(offer((one, one.keys[0])), wait=False)
            break
    assert await rows_of(engine, one) == [1, 2]
