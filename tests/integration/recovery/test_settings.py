"""Registering, replacing, removing and cancelling a recovery recipient: what holds when, who may, and what is told."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from popsigner_server import errors
from popsigner_server.domain.keys import KeyState
from popsigner_server.domain.principals import ActorKind, Caller, Role
from popsigner_server.keys.recovery import recipient_of
from popsigner_server.settings import Settings
from popsigner_server.storage.tables import (
    api_keys,
    org_members,
    recovery_recipients,
    sessions,
)
from tests.integration.recovery.kit import WAIT, Kit, bounded, furnished, new_recipient

FIRST, SECOND, THIRD = new_recipient(), new_recipient(), new_recipient()


async def in_force(kit: Kit) -> str:
    """Whom a new key is sealed to."""
    async with kit.database.tenant(kit.mine.id) as connection:
        return await recipient_of(connection, kit.mine.id)


async def test_a_first_recipient_holds_for_new_keys_at_once_and_waits_for_the_others(kit: Kit) -> None:
    old = await kit.key("old")
    before = await kit.now()

    announced = await kit.set(FIRST)

    assert announced.change is not None
    assert (announced.recipient, announced.change.recipient) == (FIRST, FIRST)
    assert before + WAIT <= announced.change.effective_at <= await kit.now() + WAIT
    assert announced.change.announced_at + WAIT == announced.change.effective_at
    assert (announced.change.announced_by_kind, announced.change.announced_by) == (
        ActorKind.API_KEY,
        kit.owner.principal.actor_id,
    )
    assert await in_force(kit) == FIRST
    new = await kit.key("new")
    assert await kit.turn() == 0
    assert await kit.sealed_to(old, new) == [None, FIRST]
    assert ((await kit.get()).keys, (await kit.get()).covered) == (2, 1)

    await kit.pass_time(days=3, seconds=1)
    assert await kit.turn() == 1
    assert await kit.sealed_to(old, new) == [FIRST, FIRST]
    settled = await kit.get()
    assert (settled.recipient, settled.since, settled.change) == (FIRST, announced.since, None)
    assert (settled.keys, settled.covered) == (2, 2)
    (asked, done) = await kit.trail()
    assert (asked.event, asked.actor_id, asked.metadata["recipient"]) == (
        "recovery.recipient_announced",
        kit.owner.principal.actor_id,
        f"none -> {FIRST}",
    )
    assert asked.metadata["effective_at"] == announced.change.effective_at.isoformat(timespec="seconds")
    assert (done.event, done.actor_type, done.metadata) == (
        "recovery.recipient_changed",
        "system",
        {"recipient": f"none -> {FIRST}"},
    )


async def test_it_does_not_take_effect_a_moment_too_early(kit: Kit) -> None:
    old = await kit.key("old")
    await kit.set(FIRST)
    await kit.pass_time(days=3, seconds=-30)
    assert await kit.turn() == 0
    assert await kit.sealed_to(old) == [None]
    assert (await kit.get()).change is not None


async def test_a_change_that_was_cancelled_and_announced_anew_meanwhile_waits_anew(kit: Kit) -> None:
    """The job found the first one due, and gets the head after its owner's second thoughts."""
    await kit.key("key")
    await kit.set(FIRST)
    assert not await kit.settings._take_effect(kit.mine.id)
    assert (await kit.get()).change is not None


@pytest.mark.parametrize("state", [None, KeyState.DESTROYED, KeyState.ABANDONED])
async def test_without_a_key_there_is_nothing_to_wait_for(kit: Kit, state: KeyState | None) -> None:
    if state is not None:
        await kit.key("gone", state=state)
    registered = await kit.set(FIRST)
    assert (registered.recipient, registered.change) == (FIRST, None)
    assert registered.since is not None
    assert await kit.told() == [("recovery.recipient_changed", f"none -> {FIRST}")]


@pytest.mark.parametrize("state", [KeyState.CREATING, KeyState.DISABLED, KeyState.DELETED])
async def test_a_key_in_any_other_state_makes_a_first_recipient_wait(kit: Kit, state: KeyState) -> None:
    await kit.key("here", state=state)
    assert (await kit.set(FIRST)).change is not None


async def test_a_change_waits_as_a_whole(kit: Kit) -> None:
    key = await kit.key("key")
    await kit.settle(FIRST)

    changed = await kit.set(SECOND)

    assert changed.change is not None
    assert (changed.recipient, changed.change.recipient, changed.covered) == (FIRST, SECOND, 1)
    new = await kit.key("new")
    assert await kit.turn() == 0
    assert await kit.sealed_to(key, new) == [FIRST, FIRST]
    await kit.pass_time(days=3, seconds=1)
    assert await kit.turn() == 2
    assert await kit.sealed_to(key, new) == [SECOND, SECOND]
    after = await kit.get()
    assert (after.recipient, after.change, after.covered) == (SECOND, None, 2)
    assert after.since is not None
    assert changed.since is not None
    assert after.since > changed.since
    assert (await kit.told())[2:] == [
        ("recovery.recipient_announced", f"{FIRST} -> {SECOND}"),
        ("recovery.recipient_changed", f"{FIRST} -> {SECOND}"),
    ]


async def test_a_removal_waits_as_a_whole(kit: Kit) -> None:
    key = await kit.key("key")
    await kit.settle(FIRST)
    removing = await kit.set("")
    assert removing.change is not None
    assert (removing.recipient, removing.change.recipient) == (FIRST, "")
    await kit.turn()
    assert await kit.sealed_to(key) == [FIRST]

    await kit.pass_time(days=3, seconds=1)
    await kit.turn()

    assert await kit.sealed_to(key) == [None]
    gone = await kit.get()
    assert (gone.recipient, gone.since, gone.change, gone.covered) == ("", None, None, 0)
    assert (await kit.told())[-1] == ("recovery.recipient_changed", f"{FIRST} -> none")
    with pytest.raises(errors.RecoveryMissing):
        await kit.set("")


async def test_what_is_so_or_waits_to_be_so_is_left_alone_and_leaves_no_row(kit: Kit) -> None:
    await kit.key("key")
    first = await kit.set(FIRST)
    assert await kit.set(FIRST) == first
    await kit.pass_time(days=3, seconds=1)
    await kit.turn()
    settled = await kit.get()
    assert await kit.set(FIRST) == settled
    change = await kit.set(SECOND)
    assert await kit.set(SECOND) == change
    await kit.settings.cancel(kit.owner)
    removal = await kit.set("")
    assert await kit.set("") == removal
    assert len(await kit.trail()) == 5


async def test_while_a_change_waits_there_is_no_other(kit: Kit) -> None:
    await kit.key("key")
    for registered, others in (("", (FIRST, SECOND)), (FIRST, (SECOND, THIRD)), (FIRST, ("", SECOND))):
        if registered:
            await kit.settle(registered)
        waits, other = others
        before = await kit.set(waits)
        for refused in {other, registered, ""} - {waits}:
            with pytest.raises(errors.RecoveryChangeWaiting):
                await kit.set(refused)
        assert await kit.get() == before
        await kit.settings.cancel(kit.owner)


async def test_a_cancelled_first_recipient_is_gone_with_what_was_sealed_to_it(kit: Kit) -> None:
    old = await kit.key("old")
    await kit.set(FIRST)
    new = await kit.key("new")

    cancelled = await kit.settings.cancel(kit.owner)

    assert (cancelled.recipient, cancelled.since, cancelled.change, cancelled.covered) == ("", None, None, 0)
    assert await in_force(kit) == ""
    with pytest.raises(errors.RecoveryMissing):
        await kit.copies.page(kit.owner, limit=10, cursor="")
    await kit.turn()
    assert await kit.sealed_to(old, new) == [None, None]
    assert (await kit.told())[-1] == ("recovery.change_cancelled", f"{FIRST} -> none")
    await kit.pass_time(days=4)
    assert await kit.turn() == 0
    assert (await kit.get()).recipient == ""


@pytest.mark.parametrize("to_come", [SECOND, ""])
async def test_a_cancelled_change_leaves_everything_as_it_is(kit: Kit, to_come: str) -> None:
    key = await kit.key("key")
    await kit.settle(FIRST)
    before = await kit.get()
    await kit.set(to_come)
    assert await kit.settings.cancel(kit.owner) == before
    await kit.pass_time(days=4)
    await kit.turn()
    assert await kit.sealed_to(key) == [FIRST]
    assert (await kit.told())[-1] == ("recovery.change_cancelled", f"{to_come or 'none'} -> {FIRST}")
    with pytest.raises(errors.RecoveryMissing):
        await kit.settings.cancel(kit.owner)


async def test_any_owner_can_cancel_and_nobody_else(kit: Kit) -> None:
    await kit.key("key")
    await kit.set(FIRST)
    for role in (Role.VIEWER, Role.OPERATOR, Role.ADMIN):
        somebody = await kit.person(role)
        for call in (kit.settings.cancel(somebody), kit.settings.set(somebody, SECOND)):
            with pytest.raises(errors.RoleMissing):
                await call
    another = await kit.person(Role.OWNER)
    await kit.settings.cancel(another)
    assert (await kit.trail())[-1].actor_id == another.principal.actor_id


async def lose_the_right(kit: Kit, caller: Caller, how: str) -> type[errors.SignerError]:
    """Takes it away in the database alone, so that the caller's principal is stale; and what refuses the caller now."""
    person = caller.principal.actor_id
    statements: dict[str, tuple[Any, type[errors.SignerError]]] = {
        "demoted": (update(org_members).where(org_members.c.user_id == person).values(role=3), errors.RoleMissing),
        "removed": (delete(org_members).where(org_members.c.user_id == person), errors.MembershipMissing),
        "logged out": (
            update(sessions).where(sessions.c.user_id == person).values(ended_at=func.now()),
            errors.SessionEnded,
        ),
        "revoked": (
            update(api_keys).where(api_keys.c.id == person).values(revoked_at=func.now()),
            errors.ApiKeyRevoked,
        ),
        "rotated": (update(api_keys).where(api_keys.c.id == person).values(generation=3), errors.ApiKeyRevoked),
    }
    statement, refusal = statements[how]
    async with kit.engine.begin() as connection:
        await connection.execute(statement)
    return refusal


@pytest.mark.parametrize("how", ["demoted", "removed", "logged out", "revoked", "rotated"])
async def test_a_right_that_was_taken_away_changes_nothing_more(kit: Kit, how: str) -> None:
    await kit.key("key")
    stale = kit.owner if how in ("revoked", "rotated") else await kit.person(Role.OWNER)
    await kit.set(FIRST)
    before, rows = await kit.get(), await kit.trail()
    refusal = await lose_the_right(kit, stale, how)
    for call in (kit.settings.set(stale, SECOND), kit.settings.set(stale, FIRST), kit.settings.cancel(stale)):
        with pytest.raises(refusal):
            await call
    assert (await kit.get(), await kit.trail()) == (before, rows)


async def test_of_a_change_and_its_cancellation_one_comes_first_and_settles_it(kit: Kit, engine: AsyncEngine) -> None:
    """Many servers, a change whose time has come, and owners who cancel it at the same moment."""
    for _ in range(6):
        kit = await furnished(engine)
        await kit.key("key")
        await kit.settle(FIRST)
        await kit.set(SECOND)
        await kit.pass_time(days=3, seconds=1)
        servers = [await furnished(engine, vault=kit.vault, of=kit.mine) for _ in range(4)]
        outcomes = await asyncio.gather(
            *(server.settings.take_effect() for server in servers),
            *(server.settings.cancel(kit.owner) for server in servers[:2]),
            return_exceptions=True,
        )
        effected = sum(outcome for outcome in outcomes[:4] if isinstance(outcome, int))
        cancelled = sum(not isinstance(outcome, BaseException) for outcome in outcomes[4:])
        assert (effected, cancelled) in ((1, 0), (0, 1))
        assert (await in_force(kit)) == (SECOND if effected else FIRST)
        assert len(await kit.trail()) == 4


async def test_of_two_owners_who_register_at_once_one_is_told_that_another_change_waits(kit: Kit) -> None:
    await kit.key("key")
    outcomes = await asyncio.gather(*(kit.set(new_recipient()) for _ in range(8)), return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, errors.RecoveryChangeWaiting)]
    assert len(refused) == 7
    assert len(await kit.trail()) == 1


async def test_without_a_wait_a_change_holds_at_once(engine: AsyncEngine) -> None:
    kit = await furnished(engine, wait=timedelta(0))
    key = await kit.key("key")
    for recipient in (FIRST, SECOND, ""):
        changed = await kit.set(recipient)
        assert (changed.recipient, changed.change) == (recipient, None)
        await kit.turn()
        assert await kit.sealed_to(key) == [recipient or None]
    assert [event for event, _ in await kit.told()] == ["recovery.recipient_changed"] * 3


async def test_in_a_deleted_organization_nothing_takes_effect_but_a_cancellation(kit: Kit) -> None:
    """Else whoever announced a change could delete the organization, and nobody could cancel it any more."""
    key = await kit.key("key")
    await kit.set(FIRST)
    await kit.close(deleted=True)
    await kit.pass_time(days=4)
    assert await kit.turn() == 0
    assert await kit.sealed_to(key) == [None]
    with pytest.raises(errors.OrganizationDeleted):
        await kit.set(FIRST)

    assert (await kit.settings.cancel(kit.owner)).recipient == ""

    await kit.close(deleted=False)
    assert await kit.turn() == 0
    assert await kit.sealed_to(key) == [None]


async def test_a_change_whose_time_came_while_the_organization_was_deleted_takes_effect_after_it(kit: Kit) -> None:
    key = await kit.key("key")
    await kit.set(FIRST)
    await kit.close(deleted=True)
    await kit.pass_time(days=4)
    await kit.turn()
    await kit.close(deleted=False)
    assert await kit.turn() == 1
    assert await kit.sealed_to(key) == [FIRST]


async def test_another_organization_has_nothing_of_it(kit: Kit, engine: AsyncEngine) -> None:
    theirs = await furnished(engine, vault=kit.vault)
    ours, other = await kit.key("key"), await theirs.key("key")
    await kit.settle(FIRST)
    await kit.set(SECOND)
    assert await theirs.sealed_to(other) == [None]
    assert (await theirs.get()).recipient == ""
    assert (await theirs.get()).change is None
    assert await theirs.trail() == []
    with pytest.raises(errors.RecoveryMissing):
        await theirs.settings.cancel(theirs.owner)
    # Nor does their API key change anything in ours, whatever the principal says.
    stranger = _as(kit.owner, theirs.owner.principal.actor_id)
    for call in (kit.settings.cancel(stranger), kit.settings.set(stranger, THIRD)):
        with pytest.raises(errors.CredentialsInvalid):
            await call
    assert await kit.sealed_to(ours) == [FIRST]


def _as(caller: Caller, actor_id: UUID) -> Caller:
    return replace(caller, principal=replace(caller.principal, actor_id=actor_id))


async def test_a_limited_api_key_counts_the_keys_that_it_reaches(kit: Kit) -> None:
    await kit.settle(FIRST)
    key, _ = await kit.key("one"), await kit.key("two")
    seen = await kit.settings.get(bounded(kit.owner, key_ids=frozenset({key})).principal)
    assert (seen.recipient, seen.keys, seen.covered) == (FIRST, 1, 1)


@pytest.mark.parametrize("seconds", [-1, 30 * 86_400 + 1])
def test_the_wait_is_at_most_thirty_days(tmp_path: Path, seconds: int) -> None:
    file = tmp_path / "secret"
    file.write_text("0" * 64)
    values: dict[str, Any] = {
        "database_url": "postgresql://unused/",
        "bao_addr": "http://127.0.0.1:1",
        "bao_secret_id_file": file,
        "sealing_key_file": file,
        "gateway_secret_file": file,
    }
    assert Settings(**values).recovery_wait == 259_200
    with pytest.raises(ValueError, match="recovery_wait"):
        Settings(**values, recovery_wait=seconds)


async def test_the_database_holds_one_row_an_organization(kit: Kit) -> None:
    await kit.set(FIRST)
    await kit.settle(SECOND)
    async with kit.engine.connect() as connection:
        mine = recovery_recipients.c.org_id == kit.mine.id
        assert await connection.scalar(select(func.count()).select_from(recovery_recipients).where(mine)) == 1
