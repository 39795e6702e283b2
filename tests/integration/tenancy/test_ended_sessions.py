"""People whose session has just ended, while the process that serves them still remembers it: they found, join and end
nothing any more. And how many organizations one person may own who founds another."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import func, select, update

from popsigner_server import errors
from popsigner_server.domain.principals import Role
from popsigner_server.identity.session_rows import end_sessions
from popsigner_server.storage.tables import org_members, organizations, sessions, users
from popsigner_server.tenancy import organizations as founding
from popsigner_server.tenancy.account import Accounts
from tests.integration.tenancy.house import House, Somebody, unique


async def log_out(house: House, who: Somebody) -> None:
    async with house.database.identity() as connection:
        await end_sessions(connection, who.id, who.person.session_id, reason="revoked")


async def be_over(house: House, who: Somebody) -> None:
    await house.execute(update(sessions).where(sessions.c.user_id == who.id).values(expires_at=func.now()))


ENDS = pytest.mark.parametrize("end", [log_out, be_over])


@ENDS
async def test_whose_session_has_ended_founds_nothing(house: House, end: Any) -> None:
    mary, name = await house.person(await house.organization(), None), unique("late")
    await end(house, mary)
    with pytest.raises(errors.SessionEnded):
        await house.organizations.create(mary.person, name=name)
    assert await house.scalar(select(organizations.c.id).where(organizations.c.name == name)) is None


@ENDS
async def test_whose_session_has_ended_joins_nothing(house: House, end: Any) -> None:
    ours = await house.organization()
    mary = await house.person(ours, None)
    _, token = await house.invitations.create(ours.caller, email=mary.row.email, role=Role.VIEWER, expires_at=None)
    await end(house, mary)
    with pytest.raises(errors.SessionEnded):
        await house.invitations.accept(mary.person, token)
    assert await house.events(ours.id) == ["member.invited"]
    # The invitation waits for the next log-in.
    assert (await house.invitations.preview(token)).email == mary.row.email


@ENDS
async def test_whose_session_has_ended_does_not_end_the_account(house: House, end: Any) -> None:
    ours = await house.organization()
    mary = await house.person(ours, Role.VIEWER)
    await end(house, mary)
    with pytest.raises(errors.SessionEnded):
        await house.accounts.delete(mary.person, email=mary.row.email)
    assert await house.scalar(select(users.c.id).where(users.c.id == mary.id)) == mary.id
    assert await house.events(ours.id) == []


async def test_a_session_that_ends_while_the_trails_are_gone_through_saves_the_account(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = await house.organization()
    mary = await house.person(ours, Role.VIEWER)
    forget = Accounts._forget_in_trails

    async def ended_meanwhile(accounts: Accounts, user_id: Any) -> None:
        await forget(accounts, user_id)
        await log_out(house, mary)

    monkeypatch.setattr(Accounts, "_forget_in_trails", ended_meanwhile)
    with pytest.raises(errors.SessionEnded):
        await house.accounts.delete(mary.person, email=mary.row.email)
    assert await house.scalar(select(org_members.c.role).where(org_members.c.user_id == mary.id)) == Role.VIEWER.value


async def test_one_person_founds_so_many_organizations_and_no_more_however_many_come_at_once(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(founding, "OWNED", 3)
    mary, name = await house.person(await house.organization(), Role.ADMIN), unique("mine")
    ends = await asyncio.gather(
        *(house.organizations.create(mary.person, name=name) for _ in range(8)), return_exceptions=True
    )
    made = [end for end in ends if not isinstance(end, BaseException)]
    refused = [end for end in ends if isinstance(end, errors.QuotaExceeded)]
    assert (len(made), len(refused)) == (3, 5)
    assert {error.quota for error in refused} == {"organizations"}
    # One that is deleted can be restored, and counts until then; one that somebody else owns does not.
    caller = mary.in_(made[0].id, Role.OWNER)
    await house.organizations.delete(caller, name=name)
    with pytest.raises(errors.QuotaExceeded):
        await house.organizations.create(mary.person, name=name)
    await house.person(made[1], Role.OWNER)  # type: ignore[arg-type]
    await house.members.update(mary.in_(made[1].id, Role.OWNER), mary.id, role=Role.ADMIN)
    await house.organizations.create(mary.person, name=name)


async def test_what_one_person_owns_keeps_no_other_from_founding(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(founding, "OWNED", 1)
    home = await house.organization()
    for _ in range(3):
        somebody = await house.person(home, None)
        await house.organizations.create(somebody.person, name=unique("first"))
