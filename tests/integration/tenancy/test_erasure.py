"""The erasure of an organization: nothing of it is left but ids, however often it is interrupted."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import delete, func, insert, select, text, update

from popsigner_server import errors
from popsigner_server.domain.ids import new_id
from popsigner_server.domain.keys import KeyState
from popsigner_server.domain.principals import Role
from popsigner_server.storage.engine import Database
from popsigner_server.storage.tables import (
    api_keys,
    audit_logs,
    device_logins,
    invitations,
    key_versions,
    keys,
    metadata,
    org_members,
    organizations,
    quota_notices,
    recovery_recipients,
    refresh_tokens,
    sessions,
    sign_requests,
    usage_metrics,
    users,
)
from popsigner_server.tenancy import erasure, operator
from popsigner_server.tenancy.erasure import Erasure
from tests.integration.tenancy.house import ADDRESS, PROGRAM, House, Somebody, unique
from tests.integration.tenancy.test_invitations import invite
from tests.support.organizations import Organization
from tests.support.people import new_provider

RECIPIENT = "age1fjkp3wsqr53x64jvx45a6t5e76xczp3yvswtdcddjq2sxjfqnfcqsf8n6f"
# What a key's life and its recovery leave in the trail that names nobody.
LIFE = {"effective_at": "2026-01-13T12:00:00+00:00", "min_version": "1 -> 2", "state": "ENABLED -> DISABLED"}
LIFE |= {"version": "1 -> 2", "versions": "1, 2", "wrapping": "age"}
STEPS = ["_begin", "_destroy_keys", "_forget_keys", "_end_access", "_clear", "_pseudonymise", "_finish"]


class Crash(BaseException):
    """Nothing on the way catches it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estate:
    """An organization with a row in every table, deleted, its grace period over; and a neighbour."""

    organization: Organization
    name: str
    slug: str
    # Belongs to it alone; belongs to the neighbour too; is vouched for by its own provider, and belongs nowhere.
    lone: Somebody
    shared: Somebody
    vouched: Somebody
    neighbour: Organization

    @property
    def words(self) -> list[str]:
        """What must be nowhere afterwards."""
        people = [word for who in (self.lone, self.vouched) for word in (who.row.email, who.row.name, who.row.subject)]
        return [self.name, self.slug, "secret-request", "second-program", "guest@example.com", RECIPIENT, *people]


async def _estate(house: House) -> Estate:
    ours, neighbour = await house.organization(keys_of=3), await house.organization(keys_of=1)
    name, slug = unique("Acme"), unique("acme")
    async with house.engine.begin() as connection:
        await connection.execute(
            update(organizations).where(organizations.c.id == ours.id).values(name=name, slug=slug)
        )
        provider_id = await new_provider(connection, organization_id=ours.id)
    lone, shared = await house.person(ours, Role.OWNER), await house.person(ours, Role.ADMIN)
    vouched = await house.person(ours, None, provider_id=provider_id)
    token = await invite(house, neighbour.caller, shared.row.email)
    await house.invitations.accept(shared.person, token)
    await invite(house, lone.caller, "guest@example.com")
    for key_id in (*ours.keys, *neighbour.keys):
        await house.vault.create(key_id.hex, exportable=False)
    await _used(house, ours, lone)
    await house.organizations.delete(lone.caller, name=name)
    await _let_time_pass(house, ours)
    return Estate(
        organization=ours, name=name, slug=slug, lone=lone, shared=shared, vouched=vouched, neighbour=neighbour
    )


async def _used(house: House, ours: Organization, who: Somebody) -> None:
    now, month = func.now(), func.date_trunc("month", func.now())
    async with house.engine.begin() as connection:
        for key_id, state in zip(ours.keys, (KeyState.ENABLED, KeyState.DELETED, KeyState.DESTROYED), strict=True):
            await connection.execute(update(keys).where(keys.c.id == key_id).values(state=state.value))
            await connection.execute(
                insert(key_versions).values(key_id=key_id, version=1, org_id=ours.id, public_key=b"\x02" * 33)
            )
        await connection.execute(
            insert(sign_requests).values(
                org_id=ours.id, request_id="secret-request", key_id=ours.keys[0], key_version=1, digest=b"d" * 32
            )
        )
        await connection.execute(
            insert(usage_metrics).values(
                org_id=ours.id, metric="signatures", period_start=month, period_end=now, value=7
            )
        )
        await connection.execute(
            insert(quota_notices).values(org_id=ours.id, metric="signatures", period_start=month, level="warning")
        )
        await connection.execute(insert(recovery_recipients).values(org_id=ours.id, recipient=RECIPIENT))
        await connection.execute(
            insert(refresh_tokens).values(token_hash=who.id.bytes, session_id=who.person.session_id)
        )
        await connection.execute(
            insert(device_logins).values(
                device_hash=who.id.bytes, user_code=who.id.hex[-8:], client_name="cli", expires_at=now, user_id=who.id
            )
        )
    async with house.ledger.change(ours.id) as change:
        change.record("key.updated", caller=who.caller, metadata={"name": "second-program", "role": "ADMIN"})
        change.rows[-1]["request_id"] = "secret-request"
    async with house.ledger.change(ours.id) as change:
        change.record("key.deleted", caller=None, metadata={"force": "false"})
        change.record(
            "recovery.recipient_announced", caller=None, metadata={"recipient": f"none -> {RECIPIENT}"} | LIFE
        )


async def _let_time_pass(house: House, ours: Organization) -> None:
    await house.execute(
        update(organizations).where(organizations.c.id == ours.id).values(erase_at=func.now() - timedelta(seconds=1))
    )


async def _rows_of(house: House, organization: Organization) -> dict[str, list[str]]:
    rows = {}
    async with house.engine.connect() as connection:
        for table in metadata.sorted_tables:
            if "org_id" in table.c:
                query = text(f"SELECT t::text FROM {table.name} t WHERE org_id = :org ORDER BY 1")
                rows[table.name] = list((await connection.execute(query, {"org": organization.id})).scalars())
    return rows


async def _assert_gone(house: House, estate: Estate, before: dict[str, list[str]], trail: int) -> None:
    ours = estate.organization
    assert await house.tables_of(ours.id) == {"audit_logs", "ledger_heads"}
    async with house.engine.connect() as connection:
        row = (await connection.execute(select(organizations).where(organizations.c.id == ours.id))).mappings().one()
        people = set((await connection.execute(select(users.c.id))).scalars())
        owners = set((await connection.execute(select(sessions.c.user_id))).scalars())
    assert (row["name"], row["slug"], row["erase_at"]) == ("", f"erased-{ours.id.hex}", None)
    assert row["erased_at"] is not None
    assert await house.tables_that_hold(estate.words) == []
    assert people.isdisjoint({estate.lone.id, estate.vouched.id})
    assert estate.shared.id in people
    assert estate.shared.id in owners
    assert set(house.vault.keys).isdisjoint(key_id.hex for key_id in ours.keys)
    await _assert_trail_is_nobodys(house, ours, trail)
    # The neighbour has everything that it had, and its key.
    assert await _rows_of(house, estate.neighbour) == before
    assert {key_id.hex for key_id in estate.neighbour.keys} <= set(house.vault.keys)


async def _assert_trail_is_nobodys(house: House, ours: Organization, trail: int) -> None:
    rows = await house.trail(ours.id)
    assert len(rows) == trail + 3
    assert {(row.ip_address, row.user_agent, row.request_id) for row in rows} == {(None, None, None)}
    assert [row.event for row in rows].count("organization.erased") == 1
    destroyed = [row.resource_id for row in rows if row.event == "key.destroyed"]
    assert (len(destroyed), set(destroyed)) == (2, set(ours.keys[:2])), (
        "each once, but for the one that was destroyed before"
    )
    assert {key for row in rows for key in row.metadata} <= set(erasure.IMPERSONAL)
    (updated,) = (row for row in rows if row.event == "key.updated")
    assert (updated.metadata, updated.actor_type, updated.actor_id is None) == ({"role": "ADMIN"}, "user", False)
    (force,) = (row.metadata for row in rows if row.event == "key.deleted")
    assert force == {"force": "false"}
    (told,) = (row.metadata for row in rows if row.event == "recovery.recipient_announced")
    assert told == LIFE


async def test_when_its_time_has_come_nothing_is_left_but_ids(house: House) -> None:
    estate = await _estate(house)
    before, trail = await _rows_of(house, estate.neighbour), len(await house.trail(estate.organization.id))
    assert await house.tables_of(estate.organization.id) == {
        table.name for table in metadata.sorted_tables if "org_id" in table.c
    }, "a table is missing in this test"

    assert await house.erasure.run() == 1

    await _assert_gone(house, estate, before, trail)
    assert await house.erasure.run() == 0


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
async def test_a_crash_at_any_step_is_made_good(
    house: House, monkeypatch: pytest.MonkeyPatch, step: str, when: str
) -> None:
    estate = await _estate(house)
    before, trail = await _rows_of(house, estate.neighbour), len(await house.trail(estate.organization.id))
    real: Callable[..., Awaitable[Any]] = getattr(Erasure, step)

    async def crash(self: Erasure, *arguments: Any) -> Any:
        if when == "after":
            await real(self, *arguments)
        raise Crash(step)

    with monkeypatch.context() as broken:
        broken.setattr(Erasure, step, crash)
        with pytest.raises(Crash):
            await house.erasure.run()

    await house.erasure.run()

    await _assert_gone(house, estate, before, trail)


async def test_a_vault_that_is_away_leaves_every_key_remembered(house: House) -> None:
    estate = await _estate(house)
    before, trail = await _rows_of(house, estate.neighbour), len(await house.trail(estate.organization.id))
    house.vault.away = True

    with pytest.raises(errors.VaultUnavailable):
        await house.erasure.run()

    left = select(func.count()).select_from(keys).where(keys.c.org_id == estate.organization.id)
    assert await house.scalar(left) == 3
    house.vault.away = False
    assert await house.erasure.run() == 1
    await _assert_gone(house, estate, before, trail)


async def test_a_vault_that_fails_in_between_leaves_what_it_did_not_destroy(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    estate = await _estate(house)
    before, trail = await _rows_of(house, estate.neighbour), len(await house.trail(estate.organization.id))
    monkeypatch.setattr(erasure, "KEYS", 1)
    real = type(house.vault).destroy
    destroyed: list[str] = []

    async def fail_at_the_second(vault: Any, name: str) -> None:
        if len(destroyed) == 1:
            raise errors.VaultUnavailable
        destroyed.append(name)
        await real(vault, name)

    with monkeypatch.context() as broken:
        broken.setattr(type(house.vault), "destroy", fail_at_the_second)
        with pytest.raises(errors.VaultUnavailable):
            await house.erasure.run()
    query = select(keys.c.id).where(keys.c.org_id == estate.organization.id)
    async with house.engine.connect() as connection:
        left = {key_id.hex for key_id in (await connection.execute(query)).scalars()}
    assert left == {key_id.hex for key_id in estate.organization.keys} - set(destroyed)

    assert await house.erasure.run() == 1

    await _assert_gone(house, estate, before, trail)


async def test_several_servers_at_once_do_it_once(house: House) -> None:
    estate = await _estate(house)
    before, trail = await _rows_of(house, estate.neighbour), len(await house.trail(estate.organization.id))

    await asyncio.gather(*(house.erasure.run() for _ in range(6)))
    await house.erasure.run()

    await _assert_gone(house, estate, before, trail)


async def test_nothing_is_erased_before_its_time(house: House) -> None:
    ours = await house.organization(keys_of=1)
    await house.vault.create(ours.keys[0].hex, exportable=False)
    await house.organizations.delete(ours.caller, name=(await house.organizations.get(ours.id)).name)
    before = await _rows_of(house, ours)

    assert await house.erasure.run() == 0

    assert await _rows_of(house, ours) == before
    assert ours.keys[0].hex in house.vault.keys
    assert (await house.organizations.restore(ours.caller)).deleted_at is None


async def test_a_restoration_and_the_erasure_agree(house: House) -> None:
    """Whoever comes first settles it: either everything is there, or nothing."""
    for _ in range(8):
        ours = await house.organization(keys_of=1)
        await house.vault.create(ours.keys[0].hex, exportable=False)
        await house.organizations.delete(ours.caller, name=(await house.organizations.get(ours.id)).name)
        moment = func.clock_timestamp() + timedelta(milliseconds=15)
        await house.execute(update(organizations).where(organizations.c.id == ours.id).values(erase_at=moment))

        async def until_over(organization_id: UUID = ours.id) -> None:
            query = select(
                organizations.c.erased_at.is_not(None) & organizations.c.erase_at.is_(None)
                | organizations.c.deleted_at.is_(None)
            ).where(organizations.c.id == organization_id)
            while not await house.scalar(query):
                await house.erasure.run()

        async def restore(caller: Any = ours.caller) -> bool:
            try:
                await asyncio.sleep(0.012)
                await house.organizations.restore(caller)
            except errors.SignerError:
                return False
            return True

        restored, _nothing = await asyncio.gather(restore(), until_over())

        assert (ours.keys[0].hex in house.vault.keys) == restored
        assert await house.closed(ours.id) != restored
        assert ("organization.erased" in await house.events(ours.id)) != restored


async def test_once_begun_nothing_restores_it_and_no_owner_key_is_issued(house: House) -> None:
    ours = await house.organization()
    name = (await house.organizations.get(ours.id)).name
    await house.organizations.delete(ours.caller, name=name)
    await _let_time_pass(house, ours)
    assert await house.erasure._begin(ours.id)
    # A clock that steps back must not bring it back.
    await house.execute(
        update(organizations).where(organizations.c.id == ours.id).values(erase_at=func.now() + timedelta(days=1))
    )

    with pytest.raises(errors.OrganizationDeleted):
        await house.organizations.restore(ours.caller)
    with pytest.raises(ValueError, match="no organization"):
        await operator.issue_owner_key(house.database, f"erased-{ours.id.hex}", environment="live")


async def test_a_creation_under_way_is_waited_for(house: House) -> None:
    """Its private key may still come into the vault: the sweeper knows when it cannot any more."""
    ours = await house.organization(keys_of=2)
    await house.execute(update(keys).where(keys.c.id == ours.keys[0]).values(state=KeyState.CREATING.value))
    await house.organizations.delete(ours.caller, name=(await house.organizations.get(ours.id)).name)
    await _let_time_pass(house, ours)

    assert await house.erasure.run() == 0
    assert await house.erasure.run() == 0

    async with house.engine.connect() as connection:
        query = select(keys.c.id).where(keys.c.org_id == ours.id)
        assert list((await connection.execute(query)).scalars()) == [ours.keys[0]]
    assert await house.scalar(select(api_keys.c.id).where(api_keys.c.org_id == ours.id)) is None
    # The sweeper.
    await house.execute(delete(keys).where(keys.c.id == ours.keys[0]))
    assert await house.erasure.run() == 1


async def test_somebody_who_logs_in_at_this_moment_is_erased_too(house: House) -> None:
    estate = await _estate(house)
    before, trail = await _rows_of(house, estate.neighbour), len(await house.trail(estate.organization.id))
    late = new_id()
    async with house.engine.begin() as connection:
        await connection.execute(
            insert(users).values(
                id=late, provider_id=estate.vouched.row.provider_id, subject="late", email="late@x", name="late"
            )
        )
        # Not committed yet: the provider cannot go.
        turn = asyncio.create_task(house.erasure.run())
        await _until_somebody_waits(house)
    assert await turn == 1

    await _assert_gone(house, estate, before, trail)
    assert await house.scalar(select(users.c.id).where(users.c.id == late)) is None


async def test_one_that_cannot_be_ended_holds_up_no_other(house: House) -> None:
    """A person of its own provider who belongs elsewhere: a row that nothing here writes."""
    first, second = await _estate(house), await _estate(house)
    wrong = insert(org_members).values(org_id=second.neighbour.id, user_id=first.vouched.id, role=1)
    await house.execute(wrong)

    assert await house.erasure.run() == 1

    assert await house.tables_of(second.organization.id) == {"audit_logs", "ledger_heads"}
    assert "identity_providers" in await house.tables_of(first.organization.id)
    await house.execute(delete(org_members).where(org_members.c.user_id == first.vouched.id))
    assert await house.erasure.run() == 1
    assert await house.tables_of(first.organization.id) == {"audit_logs", "ledger_heads"}


async def test_a_key_that_the_vault_cannot_destroy_holds_up_its_own_organization_alone(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await _estate(house), await _estate(house)
    stuck = select(keys.c.id).where(keys.c.org_id == first.organization.id).limit(1)
    broken, real = (await house.scalar(stuck)).hex, type(house.vault).destroy

    async def fail_at_one(vault: Any, name: str) -> None:
        if name == broken:
            raise errors.VaultUnavailable
        await real(vault, name)

    with monkeypatch.context() as patch:
        patch.setattr(type(house.vault), "destroy", fail_at_one)
        with pytest.raises(errors.VaultUnavailable):
            await house.erasure.run()
    assert await house.tables_of(second.organization.id) == {"audit_logs", "ledger_heads"}
    assert "keys" in await house.tables_of(first.organization.id)

    assert await house.erasure.run() == 1
    assert await house.tables_of(first.organization.id) == {"audit_logs", "ledger_heads"}


async def _until_somebody_waits(house: House) -> None:
    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    for _ in range(6000):
        if await house.scalar(waiting):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("nobody waits")


async def test_the_trail_stays_as_long_as_the_plan_says_and_the_tombstone_as_long_as_the_trail(house: House) -> None:
    free, forever = await house.organization(plan="free"), await house.organization(plan="self-hosted")
    for ours in (free, forever):
        await house.organizations.delete(ours.caller, name=(await house.organizations.get(ours.id)).name)
        await _let_time_pass(house, ours)
    assert await house.erasure.run() == 2
    days = house.plans.of("free").audit_retention_days
    assert days is not None

    async def age(by: timedelta) -> None:
        mine = audit_logs.c.org_id.in_([free.id, forever.id])
        await house.execute(update(audit_logs).where(mine).values(created_at=func.now() - by))
        await house.erasure.run()

    await age(timedelta(days=days) - timedelta(hours=1))
    assert len(await house.trail(free.id)) == 2

    await age(timedelta(days=days, hours=1))
    assert await house.tables_of(free.id) == set()
    assert await house.scalar(select(organizations.c.id).where(organizations.c.id == free.id)) is None
    assert len(await house.trail(forever.id)) == 2


async def test_an_invitation_that_is_over_is_forgotten_after_a_month(house: House) -> None:
    ours = await house.organization()
    for i in range(3):
        await invite(house, ours.caller, f"n{i}@example.com")
    old = func.now() - timedelta(days=31)
    emails = invitations.c.email
    mine = update(invitations).where(invitations.c.org_id == ours.id)
    await house.execute(mine.where(emails == "n0@example.com").values(expires_at=old))
    await house.execute(mine.where(emails == "n1@example.com").values(revoked_at=func.now() - timedelta(days=29)))

    await house.erasure.run()

    async with house.engine.connect() as connection:
        left = set((await connection.execute(select(emails).where(invitations.c.org_id == ours.id))).scalars())
    assert left == {"n1@example.com", "n2@example.com"}


async def test_long_trails_are_pseudonymised_a_page_at_a_time(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasure, "ROWS", 3)
    ours = await house.organization()
    for _ in range(10):
        async with house.ledger.change(ours.id) as change:
            change.record("key.updated", caller=ours.caller, metadata={"name": "x"})
    await house.organizations.delete(ours.caller, name=(await house.organizations.get(ours.id)).name)
    await _let_time_pass(house, ours)

    assert await house.erasure.run() == 1

    rows = await house.trail(ours.id)
    assert {(row.ip_address, row.user_agent) for row in rows} == {(None, None)}
    assert all(not row.metadata for row in rows)
    assert ADDRESS not in str(rows)
    assert PROGRAM not in str(rows)


async def test_what_was_restored_behind_the_look_at_the_list_is_left_alone(house: House) -> None:
    ours = await house.organization()
    await house.organizations.delete(ours.caller, name=(await house.organizations.get(ours.id)).name)
    before = await _rows_of(house, ours)
    assert not await house.erasure._begin(ours.id)
    assert await _rows_of(house, ours) == before
    await house.organizations.restore(ours.caller)
    before = await _rows_of(house, ours)

    assert not await house.erasure._erase(ours.id)

    assert await _rows_of(house, ours) == before


async def test_an_owner_key_that_was_asked_for_before_the_beginning_comes_no_more_after_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = await house.organization()
    await house.organizations.delete(ours.caller, name=(await house.organizations.get(ours.id)).name)
    await _let_time_pass(house, ours)
    find = operator.find_organization

    async def and_then_it_begins(database: Database, reference: str) -> UUID:
        found = await find(database, reference)
        await house.erasure.run()
        return found

    monkeypatch.setattr(operator, "find_organization", and_then_it_begins)

    with pytest.raises(ValueError, match="being erased"):
        await operator.issue_owner_key(house.database, ours.id.hex, environment="live")

    assert await house.scalar(select(api_keys.c.id).where(api_keys.c.org_id == ours.id)) is None
