"""Invitations: for one address, for one time, by somebody who may."""

import asyncio
import hashlib
import itertools
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select, update

from popsigner_server import errors
from popsigner_server.domain.ids import Prefix, new_id, show
from popsigner_server.domain.principals import Caller, Role
from popsigner_server.storage.tables import api_keys, invitations, org_members, organizations, users
from popsigner_server.tenancy.invitations import LIFETIME, LONGEST
from tests.integration.tenancy.house import House, Somebody, unique
from tests.support.organizations import Organization
from tests.support.people import new_provider

LADDER = [Role.VIEWER, Role.OPERATOR, Role.ADMIN, Role.OWNER]


async def invite(
    house: House, caller: Caller, email: str | None = None, *, role: Role = Role.VIEWER, until: datetime | None = None
) -> str:
    """The token."""
    address = email or f"{unique('somebody')}@example.com"
    _, token = await house.invitations.create(caller, email=address, role=role, expires_at=until)
    return token


async def _members(house: House, ours: Organization) -> int:
    query = select(func.count()).select_from(org_members).where(org_members.c.org_id == ours.id)
    return int(await house.scalar(query))


async def _age(house: House, token: str) -> None:
    """The invitation's time is over."""
    hashed = hashlib.sha256(token.encode()).digest()
    await house.execute(
        update(invitations).where(invitations.c.token_hash == hashed).values(expires_at=func.clock_timestamp())
    )


async def test_the_invited_person_becomes_a_member_once(house: House) -> None:
    ours = await house.organization()
    mary = await house.person(ours, None)
    token = await invite(house, ours.caller, mary.row.email, role=Role.OPERATOR)

    preview = await house.invitations.preview(token)
    organization, member = await house.invitations.accept(mary.person, token)

    assert (preview.organization, preview.slug) == (organization.name, organization.slug)
    assert (preview.email, preview.role) == (mary.row.email, Role.OPERATOR)
    assert organization.id == ours.id
    assert (member.user_id, member.email, member.role) == (mary.id, mary.row.email, Role.OPERATOR)
    for again in (house.invitations.preview(token), house.invitations.accept(mary.person, token)):
        with pytest.raises((errors.InvitationExpired, errors.AlreadyMember)):
            await again
    invited, joined = await house.trail(ours.id)
    assert (invited.event, invited.metadata) == ("member.invited", {"role": "OPERATOR"})
    assert invited.resource_id is not None
    assert (joined.event, joined.actor_id, joined.resource_id) == ("member.joined", mary.id, mary.id)
    assert joined.metadata == {"role": "OPERATOR", "invitation": show(Prefix.INVITATION, invited.resource_id)}


async def test_a_token_has_256_random_bits_and_only_its_hash_is_kept(house: House) -> None:
    ours = await house.organization()
    token = await invite(house, ours.caller)

    assert re.fullmatch(r"inv_[0-9a-f]{64}", token)
    assert await house.tables_that_hold([token, token.removeprefix("inv_")]) == []
    hashed = select(invitations.c.token_hash).where(invitations.c.org_id == ours.id)
    assert await house.scalar(hashed) == hashlib.sha256(token.encode()).digest()


async def test_an_invitation_lasts_seven_days_or_as_long_as_asked(house: House) -> None:
    ours, now = await house.organization(), datetime.now(UTC)
    asked = now + timedelta(days=29)

    plain, _ = await house.invitations.create(ours.caller, email="a@example.com", role=Role.VIEWER, expires_at=None)
    long, _ = await house.invitations.create(ours.caller, email="b@example.com", role=Role.VIEWER, expires_at=asked)

    assert now + LIFETIME <= plain.expires_at < now + LIFETIME + timedelta(minutes=5)
    assert long.expires_at == asked
    for wrong in (now, now - timedelta(days=1), now + LONGEST + timedelta(hours=1)):
        with pytest.raises(errors.InvalidField):
            await invite(house, ours.caller, until=wrong)


@pytest.mark.parametrize(("mine", "invited"), list(itertools.product(LADDER, LADDER)))
async def test_nobody_invites_above_their_own_role(house: House, mine: Role, invited: Role) -> None:
    ours = await house.organization()
    me = await house.person(ours, mine)

    if mine >= max(Role.ADMIN, invited):
        await invite(house, me.caller, role=invited)
    else:
        with pytest.raises(errors.RoleMissing):
            await invite(house, me.caller, role=invited)


async def test_one_address_has_one_open_invitation(house: House) -> None:
    ours, theirs = await house.organization(), await house.organization()
    address = f"{unique('one')}@example.com"
    first = await invite(house, ours.caller, address)

    with pytest.raises(errors.InvitationExists):
        await invite(house, ours.caller, address)
    await invite(house, theirs.caller, address)
    await _age(house, first)
    second = await invite(house, ours.caller, address)

    with pytest.raises(errors.InvitationExpired):
        await house.invitations.preview(first)
    await house.invitations.preview(second)


async def test_of_invitations_of_one_address_at_once_one_is_made(house: House) -> None:
    ours = await house.organization()

    ends = await asyncio.gather(
        *(invite(house, ours.caller, "same@example.com") for _ in range(10)), return_exceptions=True
    )

    assert sum(isinstance(end, str) for end in ends) == 1
    assert sum(isinstance(end, errors.InvitationExists) for end in ends) == 9
    assert await house.events(ours.id) == ["member.invited"]


async def test_a_member_is_not_invited(house: House) -> None:
    ours = await house.organization()
    mary = await house.person(ours, Role.VIEWER)

    with pytest.raises(errors.AlreadyMember):
        await invite(house, ours.caller, mary.row.email)


async def test_a_member_does_not_join_again_by_another_address(house: House) -> None:
    ours = await house.organization()
    mary = await house.person(ours, Role.OWNER)
    token = await invite(house, ours.caller, "new@example.com", role=Role.VIEWER)
    await house.execute(update(users).where(users.c.id == mary.id).values(email="new@example.com"))

    with pytest.raises(errors.AlreadyMember):
        await house.invitations.accept(mary.person, token)

    await house.invitations.preview(token)


async def test_an_invitation_is_for_the_address_of_the_last_login_and_no_other(house: House) -> None:
    ours = await house.organization()
    mary, eve = await house.person(ours, None), await house.person(ours, None)
    token = await invite(house, ours.caller, mary.row.email)

    # Whatever address a cached session still has.
    pretending = replace(eve.person, email=mary.row.email)
    with pytest.raises(errors.InvitationNotFound):
        await house.invitations.accept(pretending, token)
    await house.execute(update(users).where(users.c.id == mary.id).values(email="moved@example.com"))
    with pytest.raises(errors.InvitationNotFound):
        await house.invitations.accept(mary.person, token)

    assert await _members(house, ours) == 0


@pytest.mark.parametrize("token", ["", "inv_", "inv_" + "0" * 64, "x" * 10_000])
async def test_an_unknown_token_is_for_nobody(house: House, token: str) -> None:
    mary = await house.person(await house.organization(), None)

    with pytest.raises(errors.InvitationNotFound):
        await house.invitations.accept(mary.person, token)
    with pytest.raises(errors.InvitationNotFound):
        await house.invitations.preview(token)


@pytest.mark.parametrize("end", ["over", "revoked", "accepted"])
async def test_what_is_over_revoked_or_used_lets_nobody_in(house: House, end: str) -> None:
    ours = await house.organization()
    mary = await house.person(ours, None)
    made, token = await house.invitations.create(ours.caller, email=mary.row.email, role=Role.VIEWER, expires_at=None)
    if end == "over":
        await _age(house, token)
    elif end == "revoked":
        await house.invitations.revoke(ours.caller, made.id)
    else:
        await house.invitations.accept(mary.person, token)
        await house.person(ours, Role.OWNER)
        await house.members.remove(ours.caller, mary.id, revoke_api_keys=False)
    before = await _members(house, ours)

    with pytest.raises(errors.InvitationExpired):
        await house.invitations.accept(mary.person, token)
    with pytest.raises(errors.InvitationExpired):
        await house.invitations.preview(token)

    assert await _members(house, ours) == before
    assert (await house.invitations.list(ours.id, limit=10, cursor=""))[0] == []


async def test_of_two_people_with_the_address_at_once_one_comes_in(house: House) -> None:
    """Two providers may both have verified it."""
    ours = await house.organization()
    people = [await house.person(ours, None) for _ in range(8)]
    await house.execute(
        update(users).where(users.c.id.in_([who.id for who in people])).values(email="both@example.com")
    )
    token = await invite(house, ours.caller, "both@example.com")

    ends = await asyncio.gather(
        *(house.invitations.accept(who.person, token) for who in people for _ in range(2)), return_exceptions=True
    )

    assert sum(isinstance(end, tuple) for end in ends) == 1
    assert all(isinstance(end, tuple | errors.InvitationExpired | errors.AlreadyMember) for end in ends)
    assert await _members(house, ours) == 1
    assert (await house.events(ours.id)).count("member.joined") == 1


async def test_a_revocation_and_an_acceptance_at_once_agree(house: House) -> None:
    for _ in range(10):
        ours = await house.organization()
        mary = await house.person(ours, None)
        made, token = await house.invitations.create(
            ours.caller, email=mary.row.email, role=Role.VIEWER, expires_at=None
        )

        revoked, accepted = await asyncio.gather(
            house.invitations.revoke(ours.caller, made.id),
            house.invitations.accept(mary.person, token),
            return_exceptions=True,
        )

        joined = isinstance(accepted, tuple)
        assert isinstance(accepted, tuple | errors.InvitationExpired)
        assert (revoked is None) != joined
        assert await _members(house, ours) == int(joined)
        assert (await house.events(ours.id))[1:] == ["member.joined" if joined else "invitation.revoked"]


async def test_whom_an_organizations_own_provider_vouches_for_comes_into_that_organization_alone(house: House) -> None:
    ours, theirs = await house.organization(), await house.organization()
    async with house.engine.begin() as connection:
        provider_id = await new_provider(connection, organization_id=theirs.id)
    eve = await house.person(theirs, None, provider_id=provider_id)
    vouched = replace(eve.person, provider_org=theirs.id)
    into_ours = await invite(house, ours.caller, eve.row.email)
    into_theirs = await invite(house, theirs.caller, eve.row.email)

    with pytest.raises(errors.InvitationNotFound):
        await house.invitations.accept(vouched, into_ours)
    organization, _ = await house.invitations.accept(vouched, into_theirs)

    assert organization.id == theirs.id
    assert await _members(house, ours) == 0


async def _fire(house: House, ours: Organization, who: Somebody, how: str) -> None:
    if how == "removed":
        await house.members.remove(ours.caller, who.id, revoke_api_keys=False)
    else:
        await house.members.update(ours.caller, who.id, role=Role[how])


@pytest.mark.parametrize(
    ("made_as", "invited", "how", "stands"),
    [
        (Role.ADMIN, Role.VIEWER, "removed", False),
        (Role.ADMIN, Role.VIEWER, "OPERATOR", False),
        (Role.OWNER, Role.OWNER, "ADMIN", False),
        (Role.OWNER, Role.ADMIN, "ADMIN", True),
    ],
)
async def test_an_invitation_falls_with_the_right_to_make_it(
    house: House, made_as: Role, invited: Role, how: str, stands: bool
) -> None:
    """Nobody who is about to be removed keeps a door open for themselves."""
    ours = await house.organization()
    await house.person(ours, Role.OWNER)
    admin, mary = await house.person(ours, made_as), await house.person(ours, None)
    token = await invite(house, admin.caller, mary.row.email, role=invited)

    await _fire(house, ours, admin, how)

    listed, _ = await house.invitations.list(ours.id, limit=10, cursor="")
    assert len(listed) == int(stands)
    if stands:
        await house.invitations.accept(mary.person, token)
        return
    with pytest.raises(errors.InvitationExpired):
        await house.invitations.preview(token)
    with pytest.raises(errors.InvitationExpired):
        await house.invitations.accept(mary.person, token)
    # And it stands in nobody's way.
    await invite(house, ours.caller, mary.row.email)


@pytest.mark.parametrize("end", ["revoked_at", "expires_at"])
async def test_the_invitations_of_an_api_key_end_with_it(house: House, end: str) -> None:
    ours = await house.organization()
    mary = await house.person(ours, None)
    token = await invite(house, ours.caller, mary.row.email)
    mine = api_keys.c.id == ours.caller.principal.actor_id
    await house.execute(update(api_keys).where(mine).values({end: func.clock_timestamp()}))

    with pytest.raises(errors.InvitationExpired):
        await house.invitations.accept(mary.person, token)


async def test_a_deleted_organization_lets_nobody_in(house: House) -> None:
    ours = await house.organization()
    mary = await house.person(ours, None)
    token = await invite(house, ours.caller, mary.row.email)
    await house.organizations.delete(ours.caller, name=(await house.organizations.get(ours.id)).name)

    with pytest.raises(errors.OrganizationDeleted):
        await house.invitations.accept(mary.person, token)
    with pytest.raises(errors.InvitationExpired):
        await house.invitations.preview(token)


async def test_another_organizations_invitation_is_not_there(house: House) -> None:
    ours, theirs = await house.organization(), await house.organization()
    made, _ = await house.invitations.create(theirs.caller, email="a@example.com", role=Role.VIEWER, expires_at=None)

    for nothing in (made.id, new_id()):
        with pytest.raises(errors.InvitationNotFound):
            await house.invitations.revoke(ours.caller, nothing)
    assert (await house.invitations.list(ours.id, limit=10, cursor=""))[0] == []
    assert len((await house.invitations.list(theirs.id, limit=10, cursor=""))[0]) == 1


async def test_a_revoked_invitation_is_revoked_once(house: House) -> None:
    ours = await house.organization()
    made, _ = await house.invitations.create(ours.caller, email="a@example.com", role=Role.ADMIN, expires_at=None)

    await house.invitations.revoke(ours.caller, made.id)
    with pytest.raises(errors.InvitationNotFound):
        await house.invitations.revoke(ours.caller, made.id)

    row = (await house.trail(ours.id))[-1]
    assert (row.event, row.resource_id, row.metadata) == ("invitation.revoked", made.id, {"role": "ADMIN"})


async def test_pages_of_invitations_are_oldest_first(house: House) -> None:
    ours = await house.organization()
    addresses = [f"n{i}@example.com" for i in (4, 1, 3, 0, 2)]
    for address in addresses:
        await invite(house, ours.caller, address)

    first, cursor = await house.invitations.list(ours.id, limit=3, cursor="")
    second, end = await house.invitations.list(ours.id, limit=3, cursor=cursor)

    assert [invitation.email for invitation in first + second] == addresses
    assert end == ""


async def test_members_and_open_invitations_together_stay_within_the_plan(house: House) -> None:
    ours = await house.organization(plan="pro")
    limit = house.plans.of("pro").members
    assert limit is not None
    people = [await house.person(ours, None) for _ in range(2 * limit)]

    tokens = await asyncio.gather(
        *(invite(house, ours.caller, who.row.email) for who in people), return_exceptions=True
    )

    made = {who.id: token for who, token in zip(people, tokens, strict=True) if isinstance(token, str)}
    assert len(made) == limit
    assert sum(isinstance(token, errors.QuotaExceeded) for token in tokens) == limit
    await asyncio.gather(*(house.invitations.accept(who.person, made[who.id]) for who in people if who.id in made))
    assert await _members(house, ours) == limit
    with pytest.raises(errors.QuotaExceeded):
        await invite(house, ours.caller)


async def test_who_was_invited_before_the_plan_shrank_stays_outside(house: House) -> None:
    ours = await house.organization()
    people = [await house.person(ours, None) for _ in range(4)]
    tokens = [await invite(house, ours.caller, who.row.email) for who in people]
    await house.execute(update(organizations).where(organizations.c.id == ours.id).values(plan="free"))

    ends = await asyncio.gather(
        *(house.invitations.accept(who.person, token) for who, token in zip(people, tokens, strict=True)),
        return_exceptions=True,
    )

    assert sum(isinstance(end, tuple) for end in ends) == 1
    assert sum(isinstance(end, errors.QuotaExceeded) for end in ends) == 3
    assert await _members(house, ours) == 1


async def test_invitations_that_lapsed_hold_no_place(house: House) -> None:
    ours = await house.organization(plan="free")
    admin = await house.person(ours, None)
    token = await invite(house, ours.caller)
    with pytest.raises(errors.QuotaExceeded):
        await invite(house, ours.caller, admin.row.email)
    await _age(house, token)

    await invite(house, ours.caller, admin.row.email)
