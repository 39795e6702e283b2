"""What one process takes away, the others refuse within a second: the notices reach their caches."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from sqlalchemy import delete

from popsigner_server import errors
from popsigner_server.domain.principals import Role
from popsigner_server.identity.sessions import Issued
from popsigner_server.storage.notices import ORGANIZATION_CHANGED, USER_CHANGED, Listener, announce
from popsigner_server.storage.tables import org_members
from tests.integration.identity.house import HERE, House
from tests.support.organizations import Organization


class Heard:
    """A process's ear: says when a notice has been dealt with."""

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        self.something = asyncio.Event()


@pytest.fixture
async def listening(house: House, database: str) -> AsyncIterator[tuple[House, Heard]]:
    """Another process, whose cache hears the notices."""
    other, heard = house.beside(), Heard()

    def told(forget: Callable[..., None]) -> Callable[..., None]:
        def hear(*subject: object) -> None:
            forget(*subject)
            heard.something.set()

        return hear

    listener = Listener(
        database,
        heard={channel: told(forget) for channel, forget in other.reception.heard().items()},
        missed=[other.reception.visitors.forget_all, heard.ready.set],
    )
    task = asyncio.create_task(listener.run())
    await asyncio.wait_for(heard.ready.wait(), 20)
    yield other, heard
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def logged_out(house: House, issued: Issued, organization: Organization) -> None:
    await house.reception.sessions.end(issued.refresh_token)


async def revoked(house: House, issued: Issued, organization: Organization) -> None:
    await house.reception.sessions.revoke_all(issued.user_id, HERE)


async def stolen(house: House, issued: Issued, organization: Organization) -> None:
    await house.reception.sessions.refresh(issued.refresh_token, HERE)
    with pytest.raises(errors.RefreshTokenReused):
        await house.reception.sessions.refresh(issued.refresh_token, HERE)


@pytest.mark.parametrize("taken", [logged_out, revoked, stolen])
async def test_a_session_that_ends_here_is_refused_there(
    house: House,
    listening: tuple[House, Heard],
    taken: Callable[[House, Issued, Organization], Awaitable[None]],
) -> None:
    other, heard = listening
    organization = await house.organization()
    _, issued = await house.member(organization)
    assert (await other.reception.visitors.visit(issued.access_token)).user_id == issued.user_id
    heard.something.clear()
    await taken(house, issued, organization)
    await asyncio.wait_for(heard.something.wait(), 20)
    with pytest.raises(errors.SessionEnded):
        await other.reception.visitors.visit(issued.access_token)


async def test_the_people_of_a_disconnected_provider_are_refused_there(
    house: House, listening: tuple[House, Heard]
) -> None:
    other, heard = listening
    organization = await house.organization()
    provider = await house.provider_of(organization)
    await house.invite(organization, "n@example.org")
    issued = await house.log_in(provider, "n@example.org")
    await other.reception.visitors.visit(issued.access_token)
    heard.something.clear()
    await house.reception.providers.disconnect(organization.caller, provider.id)
    await asyncio.wait_for(heard.something.wait(), 20)
    with pytest.raises(errors.SessionEnded):
        await other.reception.visitors.visit(issued.access_token)


async def test_a_removed_member_is_nobody_there(house: House, listening: tuple[House, Heard]) -> None:
    other, heard = listening
    organization = await house.organization()
    _, issued = await house.member(organization, Role.ADMIN)
    visit = await other.reception.visitors.visit(issued.access_token)
    assert visit.principal(None).organization_id == organization.id
    heard.something.clear()
    async with house.engine.begin() as connection:
        await connection.execute(delete(org_members).where(org_members.c.user_id == issued.user_id))
        await announce(connection, USER_CHANGED, issued.user_id)
    await asyncio.wait_for(heard.something.wait(), 20)
    with pytest.raises(errors.MembershipMissing):
        (await other.reception.visitors.visit(issued.access_token)).principal(None)


async def test_a_changed_organization_is_read_anew_there(house: House, listening: tuple[House, Heard]) -> None:
    other, heard = listening
    organization = await house.organization()
    _, issued = await house.member(organization)
    before = await other.reception.visitors.visit(issued.access_token)
    assert await other.reception.visitors.visit(issued.access_token) is before
    heard.something.clear()
    async with house.engine.begin() as connection:
        await announce(connection, ORGANIZATION_CHANGED, organization.id)
    await asyncio.wait_for(heard.something.wait(), 20)
    assert await other.reception.visitors.visit(issued.access_token) is not before
