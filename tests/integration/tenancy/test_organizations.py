"""An organization's life: founded, renamed, deleted, restored."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from popsigner_server import errors
from popsigner_server.domain.ids import new_id
from popsigner_server.domain.principals import Role
from popsigner_server.storage.tables import api_keys, ledger_heads, namespaces, organizations
from popsigner_server.tenancy.organizations import GRACE, Organizations
from tests.integration.tenancy.house import House, unique


async def test_who_founds_an_organization_owns_it(house: House) -> None:
    mary = await house.person(await house.organization(), None)

    founded = await house.organizations.create(mary.person, name="Éclair & Sons")

    assert (founded.name, founded.plan, founded.deleted_at) == ("Éclair & Sons", "free", None)
    assert founded.slug.startswith("eclair-sons")
    (member,), _ = await house.members.list(founded.id, limit=10, cursor="")
    assert (member.user_id, member.role) == (mary.id, Role.OWNER)
    assert await house.events(founded.id) == ["organization.created", "member.joined"]
    assert await house.scalar(select(namespaces.c.name).where(namespaces.c.org_id == founded.id)) == "production"
    quota = select(ledger_heads.c.signature_quota).where(ledger_heads.c.org_id == founded.id)
    assert await house.scalar(quota) == house.plans.of("free").signatures_per_month


async def test_many_of_one_name_have_slugs_of_their_own(house: House) -> None:
    mary, name = await house.person(await house.organization(), None), unique("same")

    founded = await asyncio.gather(*(house.organizations.create(mary.person, name=name) for _ in range(8)))

    slugs = {organization.slug for organization in founded}
    assert len(slugs) == 8
    assert name in slugs
    assert all(slug.startswith(name) for slug in slugs)


async def test_where_the_operator_founds_nobody_else_does(house: House) -> None:
    mary = await house.person(await house.organization(), None)
    closed = Organizations(house.database, house.ledger, house.plans, sign_up=False)

    with pytest.raises(errors.SignUpClosed):
        await closed.create(mary.person, name="mine")


async def test_whom_an_organization_vouches_for_founds_none(house: House) -> None:
    ours = await house.organization()
    mary = await house.person(ours, None)

    with pytest.raises(errors.SignUpClosed):
        await house.organizations.create(replace(mary.person, provider_org=ours.id), name="mine")


async def test_a_person_who_is_gone_founds_nothing(house: House) -> None:
    mary = await house.person(await house.organization(), None)
    name = unique("ghost")

    with pytest.raises(errors.SessionEnded):
        await house.organizations.create(replace(mary.person, user_id=new_id()), name=name)

    assert await house.scalar(select(organizations.c.id).where(organizations.c.name == name)) is None


async def test_a_renamed_organization_keeps_its_slug(house: House) -> None:
    ours = await house.organization()
    before = await house.organizations.get(ours.id)

    changed = await house.organizations.update(ours.caller, name="Another")
    again = await house.organizations.update(ours.caller, name="Another")

    assert changed == again == replace(before, name="Another")
    (row,) = await house.trail(ours.id)
    assert (row.event, row.metadata) == ("organization.updated", {"before": before.name, "after": "Another"})


@pytest.mark.parametrize("typed", ["", "name", "Name ", "*"])
async def test_a_deletion_needs_the_name_typed_in_full(house: House, typed: str) -> None:
    ours = await house.organization()

    with pytest.raises(errors.InvalidField):
        await house.organizations.delete(ours.caller, name=typed)

    assert not await house.closed(ours.id)
    assert await house.events(ours.id) == []


async def test_a_deleted_organization_changes_no_more_and_is_still_read(house: House) -> None:
    ours = await house.organization()
    mary = await house.person(ours, Role.VIEWER)
    name = (await house.organizations.get(ours.id)).name

    deleted = await house.organizations.delete(ours.caller, name=name)

    assert deleted.deleted_at is not None
    assert deleted.erase_at is not None
    assert abs(deleted.erase_at - deleted.deleted_at - GRACE) < timedelta(minutes=1)
    assert await house.closed(ours.id)
    assert await house.events(ours.id) == ["organization.deleted"]
    assert (await house.organizations.get(ours.id)).erase_at == deleted.erase_at
    assert len((await house.members.list(ours.id, limit=10, cursor=""))[0]) == 1
    for change in (
        house.organizations.update(ours.caller, name="x"),
        house.organizations.delete(ours.caller, name=name),
        house.members.update(ours.caller, mary.id, role=Role.ADMIN),
        house.members.remove(mary.caller, mary.id, revoke_api_keys=False),
        house.invitations.create(ours.caller, email="a@example.com", role=Role.VIEWER, expires_at=None),
    ):
        with pytest.raises(errors.OrganizationDeleted):
            await change
    assert await house.events(ours.id) == ["organization.deleted"]


async def test_within_the_grace_period_a_deletion_is_taken_back(house: House) -> None:
    ours = await house.organization()
    before = await house.organizations.get(ours.id)
    await house.organizations.delete(ours.caller, name=before.name)

    restored = await house.organizations.restore(ours.caller)

    assert restored == before == await house.organizations.restore(ours.caller)
    assert not await house.closed(ours.id)
    assert await house.events(ours.id) == ["organization.deleted", "organization.restored"]


async def test_after_the_grace_period_nothing_is_taken_back(house: House) -> None:
    ours = await house.organization()
    await house.organizations.delete(ours.caller, name=(await house.organizations.get(ours.id)).name)
    await house.execute(
        update(organizations).where(organizations.c.id == ours.id).values(erase_at=func.clock_timestamp())
    )

    with pytest.raises(errors.OrganizationDeleted):
        await house.organizations.restore(ours.caller)

    assert await house.closed(ours.id)


@pytest.mark.parametrize(("role", "allowed"), [(Role.OWNER, True), (Role.ADMIN, False), (Role.VIEWER, False)])
async def test_only_an_owner_ends_an_organization_or_brings_it_back(house: House, role: Role, allowed: bool) -> None:
    ours = await house.organization()
    mary = await house.person(ours, role)
    name = (await house.organizations.get(ours.id)).name
    # Whatever the caches still say of her.
    stale = mary.in_(ours.id, Role.OWNER)

    if allowed:
        await house.organizations.delete(stale, name=name)
        await house.organizations.restore(stale)
    else:
        with pytest.raises(errors.RoleMissing):
            await house.organizations.delete(stale, name=name)
        await house.organizations.delete(ours.caller, name=name)
        with pytest.raises(errors.RoleMissing):
            await house.organizations.restore(stale)


async def test_a_revoked_api_key_changes_nothing_whatever_a_cache_says(house: House) -> None:
    ours = await house.organization()
    await house.execute(
        update(api_keys).where(api_keys.c.id == ours.caller.principal.actor_id).values(revoked_at=func.now())
    )

    with pytest.raises(errors.ApiKeyRevoked):
        await house.organizations.update(ours.caller, name="x")


async def test_of_deletions_at_once_one_is_written_down(house: House) -> None:
    ours = await house.organization()
    name = (await house.organizations.get(ours.id)).name

    ends = await asyncio.gather(
        *(house.organizations.delete(ours.caller, name=name) for _ in range(10)), return_exceptions=True
    )

    assert sum(isinstance(end, errors.OrganizationDeleted) for end in ends) == 9
    assert await house.events(ours.id) == ["organization.deleted"]
