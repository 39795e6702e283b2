"""Log-ins: once each, with a verified address, and only for whom somebody has asked in."""

import asyncio
from collections import Counter
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, select, text, update

from popsigner_server import errors
from popsigner_server.domain.ids import new_id
from popsigner_server.domain.principals import Role
from popsigner_server.identity.logins import Logins
from popsigner_server.identity.sessions import Sessions
from popsigner_server.ledger.changes import Change
from popsigner_server.storage.tables import api_keys, invitations, organizations, sessions, used_logins, users
from popsigner_server.tenancy.invitations import invited
from tests.integration.identity.house import HERE, House


async def test_an_invited_person_logs_in_and_is_known_from_then_on(house: House) -> None:
    organization, provider = await house.organization(), await house.own_provider()
    await house.invite(organization, "grace@example.org")
    first = await house.log_in(provider, "Grace@Example.org", subject="g-1", name="Grace\n Hopper \x1b[1m")
    async with house.engine.begin() as connection:
        person = (await connection.execute(select(users).where(users.c.id == first.user_id))).mappings().one()
        await connection.execute(update(invitations).values(revoked_at=func.now()))
    assert (person["email"], person["name"], person["subject"]) == ("grace@example.org", "Grace Hopper [1m", "g-1")
    assert person["last_login_at"] is not None
    again = await house.log_in(provider, "grace@new.example", subject="g-1", name="Rear Admiral Hopper")
    visit = await house.reception.visitors.visit(again.access_token)
    assert (again.user_id, visit.email, visit.name) == (first.user_id, "grace@new.example", "Rear Admiral Hopper")


async def test_a_changed_address_is_seen_by_every_session_of_the_person(house: House) -> None:
    organization, provider = await house.organization(), await house.own_provider()
    await house.invite(organization, "one@example.org")
    first = await house.log_in(provider, "one@example.org", subject="s")
    other = house.beside()
    assert (await other.reception.visitors.visit(first.access_token)).email == "one@example.org"
    await house.log_in(provider, "two@example.org", subject="s")
    other.reception.visitors.forget_user(first.user_id)
    assert (await other.reception.visitors.visit(first.access_token)).email == "two@example.org"


async def test_somebody_whom_nobody_invited_stays_outside(house: House) -> None:
    provider = await house.own_provider()
    with pytest.raises(errors.NotInvited):
        await house.log_in(provider, "stranger@example.org")
    assert await house.count(users, users.c.provider_id == provider.id) == 0


async def test_where_sign_up_is_open_the_pops_own_providers_bring_anybody(house: House) -> None:
    open_house = house.beside(sign_up=True)
    provider = await house.own_provider()
    issued = await open_house.log_in(provider, "anybody@example.org")
    assert (await open_house.reception.visitors.visit(issued.access_token)).organizations == frozenset()


async def test_open_sign_up_does_not_open_the_provider_of_an_organization(house: House) -> None:
    open_house, organization = house.beside(sign_up=True), await house.organization()
    provider = await house.provider_of(organization)
    with pytest.raises(errors.NotInvited):
        await open_house.log_in(provider, "anybody@example.org")


@pytest.mark.parametrize("spoiled", ["expired", "revoked", "accepted", "inviter", "deleted"])
async def test_an_invitation_that_is_not_open_lets_nobody_in(house: House, spoiled: str) -> None:
    organization, provider = await house.organization(), await house.own_provider()
    email = f"{spoiled}@example.org"
    invitation = await house.invite(organization, email)
    changes: dict[str, Any] = {
        "expired": update(invitations).where(invitations.c.id == invitation).values(expires_at=func.now()),
        "revoked": update(invitations).where(invitations.c.id == invitation).values(revoked_at=func.now()),
        "accepted": update(invitations).where(invitations.c.id == invitation).values(accepted_at=func.now()),
        "inviter": update(api_keys).where(api_keys.c.org_id == organization.id).values(revoked_at=func.now()),
        "deleted": update(organizations).where(organizations.c.id == organization.id).values(deleted_at=func.now()),
    }
    async with house.engine.begin() as connection:
        await connection.execute(changes[spoiled])
    with pytest.raises(errors.NotInvited):
        await house.log_in(provider, email)


async def test_an_address_that_the_provider_has_not_verified_is_refused_for_known_people_too(house: House) -> None:
    organization, provider = await house.organization(), await house.own_provider()
    await house.invite(organization, "v@example.org")
    with pytest.raises(errors.EmailUnverified):
        await house.log_in(provider, "v@example.org", email_verified=False)
    await house.log_in(provider, "v@example.org")
    with pytest.raises(errors.EmailUnverified):
        await house.log_in(provider, "v@example.org", email_verified=False)


async def test_two_subjects_with_one_address_are_two_people(house: House) -> None:
    organization, provider, other = await house.organization(), await house.own_provider(), await house.own_provider()
    await house.invite(organization, "same@example.org")
    issued = [
        await house.log_in(provider, "same@example.org", subject="1"),
        await house.log_in(provider, "same@example.org", subject="2"),
        await house.log_in(provider, "same@example.org", subject="1 "),
        await house.log_in(other, "same@example.org", subject="1"),
    ]
    assert len({one.user_id for one in issued}) == 4


async def test_whoever_takes_a_members_address_elsewhere_is_not_that_member(house: House) -> None:
    organization = await house.organization()
    _, member = await house.member(organization, Role.OWNER)
    email = (await house.reception.visitors.visit(member.access_token)).email
    thief = house.beside(sign_up=True)
    issued = await thief.log_in(await house.own_provider(), email)
    assert issued.user_id != member.user_id
    assert (await thief.reception.visitors.visit(issued.access_token)).organizations == frozenset()


async def test_the_issuer_of_one_organization_cannot_come_in_by_anothers_invitation(house: House) -> None:
    mine, theirs = await house.organization(), await house.organization()
    provider = await house.provider_of(mine)
    await house.invite(theirs, "victim@example.org")
    with pytest.raises(errors.NotInvited):
        await house.log_in(provider, "victim@example.org")


async def test_the_issuer_of_one_organization_is_nobody_in_another_even_with_a_membership_there(house: House) -> None:
    mine, theirs = await house.organization(), await house.organization()
    provider = await house.provider_of(mine)
    await house.invite(mine, "insider@example.org")
    issued = await house.log_in(provider, "insider@example.org")
    await house.join(issued.user_id, mine, Role.VIEWER)
    await house.join(issued.user_id, theirs, Role.OWNER)
    again = await house.log_in(provider, "insider@example.org")
    visit = await house.reception.visitors.visit(again.access_token)
    assert visit.organizations == {mine.id}
    assert visit.principal(None).organization_id == mine.id
    assert await house.events(theirs, "auth.login") == []


async def test_of_50_completions_of_one_log_in_exactly_one_begins_a_session(house: House) -> None:
    organization, provider = await house.organization(), await house.own_provider()
    await house.invite(organization, "fifty@example.org")
    vouched = house.vouched(provider, "fifty@example.org")
    processes = [house, house.beside(), house.beside()]
    ends = await asyncio.gather(
        *(processes[n % 3].reception.logins.complete(vouched, HERE) for n in range(50)), return_exceptions=True
    )
    assert Counter(type(end).__name__ for end in ends) == {"Issued": 1, "LoginReplayed": 49}
    (issued,) = [end for end in ends if not isinstance(end, BaseException)]
    assert await house.count(sessions, sessions.c.user_id == issued.user_id) == 1


async def test_first_log_ins_at_once_make_one_person(house: House) -> None:
    organization, provider = await house.organization(), await house.own_provider()
    await house.invite(organization, "twice@example.org")
    issued = await asyncio.gather(*(house.log_in(provider, "twice@example.org") for _ in range(8)))
    assert len({one.user_id for one in issued}) == 1
    assert await house.count(users, users.c.provider_id == provider.id) == 1


async def test_a_refused_log_in_begins_nothing_and_may_be_tried_again_with_an_invitation(house: House) -> None:
    organization, provider = await house.organization(), await house.own_provider()
    vouched = house.vouched(provider, "later@example.org")
    with pytest.raises(errors.NotInvited):
        await house.reception.logins.complete(vouched, HERE)
    await house.invite(organization, "later@example.org")
    await house.reception.logins.complete(vouched, HERE)
    with pytest.raises(errors.LoginReplayed):
        await house.reception.logins.complete(vouched, HERE)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("login_id", ""),
        ("login_id", "too-short"),
        ("login_id", "x" * 256),
        ("login_id", "ü" * 30),
        ("subject", ""),
        ("subject", "x" * 256),
        ("subject", "a\x00b"),
        ("subject", "a\nb"),
        ("email", ""),
        ("email", "nobody"),
        ("email", "two@example.org, one@example.org"),
        ("email", "\u212aelvin@example.org"),
        ("email", "a@" + "b" * 260),
    ],
)
async def test_what_a_provider_says_is_checked(house: House, field: str, value: str) -> None:
    open_house = house.beside(sign_up=True)
    with pytest.raises(errors.InvalidField) as refused:
        await open_house.log_in(await house.own_provider(), **({"subject": "s"} | {field: value}))
    assert refused.value.faults[0].field == field


async def test_an_unknown_provider_brings_nobody(house: House) -> None:
    provider = await house.own_provider()
    with pytest.raises(errors.IdentityProviderNotFound):
        await house.log_in(provider, provider_id=new_id())


async def test_used_log_ins_are_kept_as_hashes_and_forgotten_after_a_day(house: House) -> None:
    open_house, provider = house.beside(sign_up=True), await house.own_provider()
    old, new = (house.vouched(provider, "u@example.org") for _ in range(2))
    await open_house.reception.logins.complete(old, HERE)
    async with house.engine.begin() as connection:
        await connection.execute(update(used_logins).values(created_at=func.now() - timedelta(days=1, minutes=1)))
    await open_house.reception.logins.complete(new, HERE)
    await house.reception.sweep()
    async with house.engine.begin() as connection:
        assert await connection.scalar(select(func.count()).select_from(used_logins)) == 1
        shown = await connection.scalar(text("SELECT string_agg(t::text, '') FROM used_logins t"))
    assert new.login_id not in str(shown)
    with pytest.raises(errors.LoginReplayed):
        await open_house.reception.logins.complete(new, HERE)


class NoTrail:
    """A ledger whose database is away."""

    def change(self, organization_id: UUID, *, closed: bool = False) -> AbstractAsyncContextManager[Change]:
        raise errors.LedgerUnavailable


async def test_no_tokens_are_given_out_where_the_trail_cannot_be_written(house: House) -> None:
    provider, known = await house.member(await house.organization())
    email = (await house.reception.visitors.visit(known.access_token)).email

    sessions_without = Sessions(house.database, NoTrail(), house.reception.tokens)
    logins = Logins(house.database, sessions_without, invited=invited, sign_up=False)
    with pytest.raises(errors.LedgerUnavailable):
        await logins.complete(house.vouched(provider, email), HERE)
