"""Members: the ladder of roles, the last owner, and what goes with a person who is removed."""

import asyncio
import itertools
from collections.abc import Coroutine
from typing import Any

import pytest
from psycopg import AsyncConnection
from sqlalchemy import func, insert, select, update

from popsigner_server import errors
from popsigner_server.domain.ids import new_id
from popsigner_server.domain.principals import Role
from popsigner_server.storage.notices import API_KEY_CHANGED, USER_CHANGED
from popsigner_server.storage.tables import api_keys, org_members
from tests.integration.tenancy.house import House, Somebody
from tests.support.organizations import Organization

LADDER = [Role.VIEWER, Role.OPERATOR, Role.ADMIN, Role.OWNER]


async def _role(house: House, ours: Organization, who: Somebody) -> Role | None:
    query = select(org_members.c.role).where(org_members.c.org_id == ours.id, org_members.c.user_id == who.id)
    role = await house.scalar(query)
    return None if role is None else Role(role)


@pytest.mark.parametrize(("mine", "theirs", "new"), list(itertools.product(LADDER, LADDER, LADDER)))
async def test_nobody_gives_or_takes_a_role_above_their_own(house: House, mine: Role, theirs: Role, new: Role) -> None:
    ours = await house.organization()
    await house.person(ours, Role.OWNER)
    me, other = await house.person(ours, mine), await house.person(ours, theirs)
    allowed = mine >= Role.ADMIN and mine >= max(theirs, new)

    if allowed:
        changed = await house.members.update(me.caller, other.id, role=new)
        assert changed.role is new
    else:
        with pytest.raises(errors.RoleMissing):
            await house.members.update(me.caller, other.id, role=new)

    assert await _role(house, ours, other) is (new if allowed else theirs)
    rows = await house.trail(ours.id)
    if allowed and new is not theirs:
        assert [(row.event, row.actor_id, row.resource_id, row.metadata) for row in rows] == [
            ("member.updated", me.id, other.id, {"role_before": theirs.name, "role_after": new.name})
        ]
    else:
        assert rows == []


@pytest.mark.parametrize(("mine", "theirs"), list(itertools.product(LADDER, LADDER)))
async def test_nobody_removes_somebody_above_them(house: House, mine: Role, theirs: Role) -> None:
    ours = await house.organization()
    await house.person(ours, Role.OWNER)
    me, other = await house.person(ours, mine), await house.person(ours, theirs)

    if mine >= max(Role.ADMIN, theirs):
        await house.members.remove(me.caller, other.id, revoke_api_keys=False)
        (row,) = await house.trail(ours.id)
        assert (row.event, row.actor_id, row.resource_id) == ("member.removed", me.id, other.id)
        assert row.metadata == {"role": theirs.name}
        assert await _role(house, ours, other) is None
    else:
        with pytest.raises(errors.RoleMissing):
            await house.members.remove(me.caller, other.id, revoke_api_keys=False)
        assert await _role(house, ours, other) is theirs


@pytest.mark.parametrize("role", LADDER)
async def test_everybody_may_leave(house: House, role: Role) -> None:
    ours = await house.organization()
    await house.person(ours, Role.OWNER)
    me = await house.person(ours, role)

    await house.members.remove(me.caller, me.id, revoke_api_keys=False)

    assert await house.events(ours.id) == ["member.left"]
    with pytest.raises(errors.MembershipMissing):
        await house.members.remove(me.caller, me.id, revoke_api_keys=False)


async def test_the_last_owner_neither_leaves_nor_steps_down(house: House) -> None:
    ours = await house.organization()
    me = await house.person(ours, Role.OWNER)
    await house.person(ours, Role.ADMIN)

    for attempt in (
        house.members.remove(me.caller, me.id, revoke_api_keys=False),
        house.members.update(me.caller, me.id, role=Role.ADMIN),
        # Nor for an owner API key.
        house.members.remove(ours.caller, me.id, revoke_api_keys=False),
        house.members.update(ours.caller, me.id, role=Role.VIEWER),
    ):
        with pytest.raises(errors.LastOwner):
            await attempt

    assert await _role(house, ours, me) is Role.OWNER
    assert await house.events(ours.id) == []


@pytest.mark.parametrize("how", ["leave", "step down", "one another"])
async def test_of_owners_who_go_at_once_one_stays(house: House, how: str) -> None:
    ours = await house.organization()
    owners = [await house.person(ours, Role.OWNER) for _ in range(6)]

    def go(owner: Somebody, following: Somebody) -> Coroutine[Any, Any, object]:
        if how == "leave":
            return house.members.remove(owner.caller, owner.id, revoke_api_keys=False)
        if how == "step down":
            return house.members.update(owner.caller, owner.id, role=Role.VIEWER)
        return house.members.remove(owner.caller, following.id, revoke_api_keys=False)

    pairs = list(zip(owners, owners[1:] + owners[:1], strict=True))
    ends = await asyncio.gather(*(go(one, other) for one, other in pairs), return_exceptions=True)

    left = [owner for owner in owners if await _role(house, ours, owner) is Role.OWNER]
    refused = [end for end in ends if isinstance(end, errors.SignerError)]
    assert len(left) >= 1
    assert len(refused) == len(left)
    if how != "one another":
        assert [type(end) for end in refused] == [errors.LastOwner]


async def test_a_demoted_administrator_changes_nobody_whatever_a_cache_says(house: House) -> None:
    ours = await house.organization()
    me, other = await house.person(ours, Role.ADMIN), await house.person(ours, Role.VIEWER)
    await house.members.update(ours.caller, me.id, role=Role.OPERATOR)

    with pytest.raises(errors.RoleMissing):
        await house.members.remove(me.caller, other.id, revoke_api_keys=False)
    with pytest.raises(errors.RoleMissing):
        await house.members.update(me.caller, other.id, role=Role.ADMIN)
    with pytest.raises(errors.RoleMissing):
        await house.invitations.create(me.caller, email="a@example.com", role=Role.VIEWER, expires_at=None)


async def test_another_organizations_people_are_not_there(house: House) -> None:
    ours, theirs = await house.organization(), await house.organization()
    stranger = await house.person(theirs, Role.VIEWER)

    for nobody in (stranger.id, new_id()):
        with pytest.raises(errors.UserNotFound):
            await house.members.update(ours.caller, nobody, role=Role.VIEWER)
        with pytest.raises(errors.UserNotFound):
            await house.members.remove(ours.caller, nobody, revoke_api_keys=True)
    assert await _role(house, theirs, stranger) is Role.VIEWER


async def _made_by(house: House, ours: Organization, who: Somebody, role: Role, **more: object) -> object:
    key_id = new_id()
    values = {"created_by_kind": "user", "created_by": who.id} | more
    await house.execute(
        insert(api_keys).values(
            id=key_id, org_id=ours.id, name="made", key_hash="-", scopes=[], role=role.value, **values
        )
    )
    return key_id


async def test_the_api_keys_that_a_person_made_go_with_them_where_asked(house: House, database: str) -> None:
    ours, theirs = await house.organization(), await house.organization()
    me, other = await house.person(ours, Role.ADMIN), await house.person(ours, Role.VIEWER)
    made = [await _made_by(house, ours, other, Role.VIEWER), await _made_by(house, ours, other, Role.UNSPECIFIED)]
    await _made_by(house, ours, other, Role.VIEWER, revoked_at=func.now())
    kept = [
        await _made_by(house, ours, me, Role.VIEWER),
        await _made_by(house, theirs, other, Role.VIEWER),
        # An API key whose id is the person's: no person made that one.
        await _made_by(house, ours, other, Role.VIEWER, created_by_kind="api_key"),
    ]

    async with await AsyncConnection.connect(database, autocommit=True) as listening:
        for channel in (API_KEY_CHANGED, USER_CHANGED):
            await listening.execute(f"LISTEN {channel}")
        revoked = await house.members.remove(me.caller, other.id, revoke_api_keys=True)
        heard = {(notice.channel, notice.payload) async for notice in listening.notifies(timeout=30, stop_after=3)}

    assert revoked == made
    assert heard == {(USER_CHANGED, other.id.hex)} | {(API_KEY_CHANGED, key_id.hex) for key_id in revoked}
    live = select(api_keys.c.id).where(api_keys.c.revoked_at.is_(None), api_keys.c.id.in_([*made, *kept]))
    async with house.engine.connect() as connection:
        assert set((await connection.execute(live)).scalars()) == set(kept)
    assert await house.events(ours.id) == ["member.removed", "api_key.revoked", "api_key.revoked"]


async def test_api_keys_stay_where_nobody_asked(house: House) -> None:
    ours = await house.organization()
    other = await house.person(ours, Role.ADMIN)
    key_id = await _made_by(house, ours, other, Role.ADMIN)

    assert await house.members.remove(ours.caller, other.id, revoke_api_keys=False) == []

    assert await house.scalar(select(api_keys.c.revoked_at).where(api_keys.c.id == key_id)) is None


async def test_an_api_key_above_the_callers_role_keeps_the_whole_change_from_happening(house: House) -> None:
    ours = await house.organization()
    me, once_owner = await house.person(ours, Role.ADMIN), await house.person(ours, Role.ADMIN)
    key_id = await _made_by(house, ours, once_owner, Role.OWNER)

    with pytest.raises(errors.RoleMissing):
        await house.members.remove(me.caller, once_owner.id, revoke_api_keys=True)

    assert await _role(house, ours, once_owner) is Role.ADMIN
    assert await house.scalar(select(api_keys.c.revoked_at).where(api_keys.c.id == key_id)) is None
    assert await house.events(ours.id) == []


async def test_who_leaves_without_being_an_administrator_revokes_nothing(house: House) -> None:
    ours = await house.organization()
    me = await house.person(ours, Role.OPERATOR)

    with pytest.raises(errors.RoleMissing):
        await house.members.remove(me.caller, me.id, revoke_api_keys=True)

    assert await _role(house, ours, me) is Role.OPERATOR


async def test_pages_of_members_are_in_the_order_of_their_joining(house: House) -> None:
    ours = await house.organization()
    people = [await house.person(ours, Role.VIEWER) for _ in range(7)]
    # Joined in another order than they were born, three of them at once.
    order = [people[i] for i in (4, 0, 6, 2, 1, 5, 3)]
    for place, who in enumerate(order):
        moment = func.now() + func.make_interval(0, 0, 0, 0, 0, min(place, 4))
        mine = (org_members.c.org_id == ours.id, org_members.c.user_id == who.id)
        await house.execute(update(org_members).where(*mine).values(created_at=moment))
    # One statement gave each its own now(); make the last three truly one moment.
    latest = select(func.max(org_members.c.created_at)).where(org_members.c.org_id == ours.id).scalar_subquery()
    together = [who.id for who in order[4:]]
    await house.execute(update(org_members).where(org_members.c.user_id.in_(together)).values(created_at=latest))

    found, cursor, pages = [], "", 0
    while pages == 0 or cursor:
        page, cursor = await house.members.list(ours.id, limit=2, cursor=cursor)
        found += [member.user_id for member in page]
        pages += 1

    assert pages == 4
    assert found == [who.id for who in order[:4]] + sorted(together)


@pytest.mark.parametrize("cursor", ["x", "bWVtYmVyczp4", "bWVtYmVyczoxLng", "bmFtZXNwYWNlczoxLng", "a" * 300])
async def test_a_cursor_of_nobodys_is_refused(house: House, cursor: str) -> None:
    with pytest.raises(errors.InvalidCursor):
        await house.members.list(new_id(), limit=2, cursor=cursor)
