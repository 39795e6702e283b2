"""The end of a person's account: nothing is left that names them, and every trail knows that they left."""

import asyncio
from uuid import UUID

import pytest
from sqlalchemy import func, insert, select, text, update

from popsigner_server import errors
from popsigner_server.domain.ids import new_id
from popsigner_server.domain.principals import Role
from popsigner_server.storage.tables import (
    api_keys,
    audit_logs,
    device_logins,
    org_members,
    refresh_tokens,
    sessions,
    users,
)
from popsigner_server.tenancy import account
from popsigner_server.tenancy.account import Accounts
from tests.integration.tenancy.house import ADDRESS, House, Somebody
from tests.integration.tenancy.test_invitations import invite


async def _lived(house: House, who: Somebody) -> None:
    """A row of theirs wherever people leave one."""
    await house.execute(insert(refresh_tokens).values(token_hash=who.id.bytes * 2, session_id=who.person.session_id))
    await house.execute(
        insert(device_logins).values(
            device_hash=who.id.bytes * 2,
            user_code=who.id.hex[-8:],
            client_name="cli",
            ip_address=ADDRESS,
            expires_at=func.now(),
            user_id=who.id,
        )
    )


async def test_nothing_is_left_that_names_the_person(house: House) -> None:
    ours, theirs, third = [await house.organization() for _ in range(3)]
    me, other = await house.person(ours, Role.ADMIN), await house.person(ours, Role.OWNER)
    await house.invitations.accept(me.person, await invite(house, theirs.caller, me.row.email))
    await invite(house, third.caller, me.row.email)
    await house.members.update(me.caller, me.id, role=Role.OPERATOR)
    await _lived(house, me)
    seen = await house.scalar(select(func.count()).select_from(audit_logs).where(audit_logs.c.actor_id == me.id))
    assert seen == 2

    await house.accounts.delete(me.person, email=me.row.email.upper())

    assert await house.tables_that_hold([me.row.email, me.row.name, me.row.subject]) == []
    assert await house.scalar(select(users.c.id).where(users.c.id == me.id)) is None
    for table in (sessions, device_logins, org_members):
        assert await house.scalar(select(func.count()).select_from(table).where(table.c.user_id == me.id)) == 0
    trails = select(func.count()).where(audit_logs.c.actor_id == me.id)
    assert await house.scalar(trails) == 4
    left = trails.where(audit_logs.c.ip_address.is_not(None) | audit_logs.c.user_agent.is_not(None))
    assert await house.scalar(left) == 0
    for organization in (ours, theirs):
        last = (await house.trail(organization.id))[-1]
        assert (last.event, last.actor_id, last.resource_id) == ("member.left", me.id, me.id)
    # The others stay as they were.
    assert (await house.members.list(ours.id, limit=9, cursor=""))[0][0].user_id == other.id
    rows = select(func.count()).where(audit_logs.c.actor_id == ours.caller.principal.actor_id)
    await house.organizations.update(ours.caller, name="Another name")
    assert await house.scalar(rows.where(audit_logs.c.ip_address.is_not(None))) == 1


async def test_what_the_person_made_stays_the_organizations(house: House) -> None:
    ours = await house.organization()
    me = await house.person(ours, Role.VIEWER)
    key_id = new_id()
    await house.execute(
        insert(api_keys).values(
            id=key_id, org_id=ours.id, name="job", key_hash="-", scopes=[], role=1, created_by_kind="user",
            created_by=me.id,
        )
    )  # fmt: skip

    await house.accounts.delete(me.person, email=me.row.email)

    query = select(api_keys.c.revoked_at.is_(None), api_keys.c.created_by).where(api_keys.c.id == key_id)
    async with house.engine.connect() as connection:
        assert (await connection.execute(query)).one() == (True, me.id)


@pytest.mark.parametrize("typed", ["", "me", "someone@example.com", "\u212a@example.com"])
async def test_the_end_of_an_account_needs_its_address_typed_in_full(house: House, typed: str) -> None:
    ours = await house.organization()
    me = await house.person(ours, Role.VIEWER)

    with pytest.raises(errors.InvalidField):
        await house.accounts.delete(me.person, email=typed)

    assert await house.scalar(select(users.c.email).where(users.c.id == me.id)) == me.row.email


async def test_the_last_owner_of_any_organization_stays_whole(house: House) -> None:
    ours, theirs = await house.organization(), await house.organization()
    me, other = await house.person(ours, Role.OWNER), await house.person(ours, Role.OWNER)
    token = await invite(house, theirs.caller, me.row.email, role=Role.OWNER)
    await house.invitations.accept(me.person, token)

    with pytest.raises(errors.LastOwner) as refusal:
        await house.accounts.delete(me.person, email=me.row.email)

    assert (await house.organizations.get(theirs.id)).slug in refusal.value.detail
    assert (await house.organizations.get(ours.id)).slug not in refusal.value.detail
    # Neither did anything happen where another owner is.
    assert await house.events(ours.id) == []
    assert await house.scalar(select(audit_logs.c.ip_address).where(audit_logs.c.actor_id == me.id)) is not None
    assert len((await house.members.list(ours.id, limit=9, cursor=""))[0]) == 2
    await house.accounts.delete(other.person, email=other.row.email)


async def test_a_deleted_organization_holds_nobody_back(house: House) -> None:
    ours = await house.organization()
    me = await house.person(ours, Role.OWNER)
    await house.organizations.delete(me.caller, name=(await house.organizations.get(ours.id)).name)

    await house.accounts.delete(me.person, email=me.row.email)

    assert await house.events(ours.id) == ["organization.deleted", "member.left"]


async def test_of_owners_who_end_their_accounts_at_once_one_stays(house: House) -> None:
    ours, theirs = await house.organization(), await house.organization()
    owners = [await house.person(ours, Role.OWNER) for _ in range(5)]
    for owner in owners:
        await house.execute(insert(org_members).values(org_id=theirs.id, user_id=owner.id, role=Role.OWNER.value))

    ends = await asyncio.gather(
        *(house.accounts.delete(owner.person, email=owner.row.email) for owner in owners), return_exceptions=True
    )

    assert sorted(type(end).__name__ for end in ends) == ["LastOwner", *["NoneType"] * 4]
    for organization in (ours, theirs):
        (left,) = (await house.members.list(organization.id, limit=9, cursor=""))[0]
        assert left.role is Role.OWNER
        assert await house.events(organization.id) == ["member.left"] * 4


async def test_an_account_ends_once(house: House) -> None:
    ours = await house.organization()
    me = await house.person(ours, Role.VIEWER)

    ends = await asyncio.gather(
        *(house.accounts.delete(me.person, email=me.row.email) for _ in range(5)), return_exceptions=True
    )

    assert sorted(type(end).__name__ for end in ends) == ["NoneType", *["SessionEnded"] * 4]
    assert await house.events(ours.id) == ["member.left"]


async def test_who_joins_while_the_account_ends_is_not_left_behind(house: House) -> None:
    """An acceptance and the end of the account: one of them comes first, and nothing hangs on a person who is gone."""
    for _ in range(10):
        ours, theirs = await house.organization(), await house.organization()
        me = await house.person(ours, Role.VIEWER)
        token = await invite(house, theirs.caller, me.row.email)

        accepted, ended = await asyncio.gather(
            house.invitations.accept(me.person, token),
            house.accounts.delete(me.person, email=me.row.email),
            return_exceptions=True,
        )

        assert ended is None
        assert isinstance(
            accepted, tuple | errors.SessionEnded | errors.InvitationNotFound | errors.InvitationExpired
        ), accepted
        assert await house.scalar(select(org_members.c.role).where(org_members.c.user_id == me.id)) is None
        assert await house.tables_that_hold([me.row.email]) == []
        events = await house.events(theirs.id)
        assert events.count("member.joined") == events.count("member.left")


async def test_long_trails_are_gone_through_a_page_at_a_time(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account, "ROWS", 3)
    organizations = [await house.organization() for _ in range(3)]
    me = await house.person(organizations[0], Role.ADMIN)
    for organization in organizations:
        for number in range(4):
            async with house.ledger.change(organization.id) as change:
                change.record("key.updated", caller=me.caller, metadata={"email": me.row.email, "name": str(number)})
            async with house.ledger.change(organization.id) as change:
                change.record("key.updated", caller=organization.caller)
    # Before the slack of the last step, so that only the pages reach them.
    await house.execute(
        update(audit_logs)
        .where(audit_logs.c.actor_id == me.id)
        .values(created_at=func.now() - text("interval '1 hour'"))
    )

    await house.accounts.delete(me.person, email=me.row.email)

    mine = select(audit_logs.c.metadata, audit_logs.c.ip_address, audit_logs.c.user_agent).where(
        audit_logs.c.actor_id == me.id, audit_logs.c.event == "key.updated"
    )
    async with house.engine.connect() as connection:
        rows = (await connection.execute(mine)).all()
    assert sorted(str(row.metadata) for row in rows) == sorted([str({"name": str(n)}) for n in range(4)] * 3)
    assert {(row.ip_address, row.user_agent) for row in rows} == {(None, None)}
    others = select(func.count()).where(audit_logs.c.event == "key.updated", audit_logs.c.ip_address.is_not(None))
    assert await house.scalar(others.where(audit_logs.c.org_id.in_([o.id for o in organizations]))) == 12


async def test_an_interrupted_end_is_ended_the_next_time(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = await house.organization()
    me = await house.person(ours, Role.VIEWER)
    with monkeypatch.context() as broken:

        async def crash(*_: object) -> None:
            raise ConnectionError

        broken.setattr(Accounts, "_end", crash)
        with pytest.raises(ConnectionError):
            await house.accounts.delete(me.person, email=me.row.email)
    assert await house.scalar(select(users.c.id).where(users.c.id == me.id)) == me.id

    await house.accounts.delete(me.person, email=me.row.email)

    assert await house.scalar(select(users.c.id).where(users.c.id == me.id)) is None


async def test_what_is_told_of_a_person_is_told_by_nobodys_program(house: House) -> None:
    """The row of the leaving itself has neither address nor program."""
    ours = await house.organization()
    me = await house.person(ours, Role.VIEWER)
    await house.accounts.delete(me.person, email=me.row.email)
    (row,) = await house.trail(ours.id)
    assert (row.ip_address, row.user_agent) == (None, None)


async def test_what_the_person_did_meanwhile_is_forgotten_with_the_rest(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the pages and the locks they may still have signed."""
    ours = await house.organization()
    me = await house.person(ours, Role.OPERATOR)
    real = Accounts._forget_in_trails

    async def and_then_something_more(accounts: Accounts, user_id: UUID) -> None:
        await real(accounts, user_id)
        async with house.ledger.change(ours.id) as change:
            change.record("key.signed", caller=me.caller)

    monkeypatch.setattr(Accounts, "_forget_in_trails", and_then_something_more)

    await house.accounts.delete(me.person, email=me.row.email)

    rows = await house.trail(ours.id)
    assert [row.event for row in rows] == ["key.signed", "member.left"]
    assert {(row.ip_address, row.user_agent, row.actor_id) for row in rows} == {(None, None, me.id)}
