"""Devices that were approved and have not come for their tokens: who ends their sessions ends these too. Whoever talked
a person into the approval could otherwise wait until the person has logged out everywhere, and then begin a session."""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import delete, func, select, text, update

from popsigner_server import errors
from popsigner_server.identity.devices import Outcome, Started
from popsigner_server.identity.people import Visit
from popsigner_server.identity.sessions import Issued
from popsigner_server.storage.tables import device_logins, sessions
from tests.integration.identity.house import HERE, House


@pytest.fixture(autouse=True)
async def _nobody_waits(house: House) -> None:
    async with house.engine.begin() as connection:
        await connection.execute(delete(device_logins))


@dataclass(frozen=True, slots=True)
class Talked:
    """A person with a session, and a device that they approved."""

    issued: Issued
    visit: Visit
    device: Started


async def talked_into_it(house: House) -> Talked:
    _, issued = await house.member(await house.organization())
    visit = await house.reception.visitors.visit(issued.access_token)
    device = await house.reception.devices.start("cli", HERE)
    await house.reception.devices.decide(device.user_code, visit, approve=True)
    return Talked(issued, visit, device)


async def live(house: House, issued: Issued) -> int:
    return await house.count(sessions, sessions.c.user_id == issued.user_id, sessions.c.ended_at.is_(None))


async def poll(house: House, device: Started) -> Outcome:
    return (await house.reception.devices.poll(device.device_code, HERE))[0]


async def everywhere(house: House, talked: Talked) -> None:
    await house.reception.sessions.revoke_all(talked.issued.user_id, HERE)


async def this_one(house: House, talked: Talked) -> None:
    await house.reception.sessions.revoke(talked.issued.user_id, talked.issued.session_id, HERE)


async def reuse(house: House, talked: Talked) -> None:
    await house.reception.sessions.refresh(talked.issued.refresh_token, HERE)
    with pytest.raises(errors.RefreshTokenReused):
        await house.reception.sessions.refresh(talked.issued.refresh_token, HERE)


@pytest.mark.parametrize("end", [everywhere, this_one, reuse])
async def test_a_device_that_was_approved_before_begins_no_session_afterwards(house: House, end: Any) -> None:
    talked, stranger = await talked_into_it(house), await talked_into_it(house)
    await end(house, talked)
    assert await poll(house, talked.device) is Outcome.DENIED
    assert await live(house, talked.issued) == 0
    # Nobody else's is.
    assert await poll(house, stranger.device) is Outcome.APPROVED


async def test_logging_out_of_the_browser_leaves_the_device_that_was_just_let_in(house: House) -> None:
    """On somebody else's computer that is what people do: approve, and log out before the program has asked."""
    talked = await talked_into_it(house)
    await house.reception.sessions.end(talked.issued.refresh_token)
    assert await poll(house, talked.device) is Outcome.APPROVED


async def test_a_provider_that_is_connected_again_begins_with_nobody(house: House) -> None:
    organization = await house.organization()
    provider = await house.provider_of(organization, issuer="https://issuer.of-before.example")
    await house.invite(organization, "d@example.org")
    issued = await house.log_in(provider, "d@example.org")
    device = await house.reception.devices.start("cli", HERE)
    visit = await house.reception.visitors.visit(issued.access_token)
    await house.reception.devices.decide(device.user_code, visit, approve=True)
    await house.reception.providers.disconnect(organization.caller, provider.id)
    await house.provider_of(organization, issuer="https://issuer.of-before.example")
    assert await poll(house, device) is Outcome.DENIED
    assert await live(house, issued) == 0


async def test_of_a_poll_and_the_end_of_everything_at_once_nothing_is_left(house: House) -> None:
    for _ in range(15):
        talked = await talked_into_it(house)
        await asyncio.gather(poll(house, talked.device), everywhere(house, talked), everywhere(house.beside(), talked))
        await poll(house, talked.device)
        assert await live(house, talked.issued) == 0


async def test_a_poll_that_is_being_answered_ends_with_the_rest(house: House) -> None:
    """The end of everything comes while the device's answer is written and not committed."""
    talked = await talked_into_it(house)
    async with house.engine.begin() as connection:
        # Holds the answer back behind its lock on the device's row, in front of the person's.
        await connection.execute(text("SELECT FROM users WHERE id = :id FOR UPDATE"), {"id": talked.issued.user_id})
        polling = asyncio.create_task(poll(house, talked.device))
        await _until_waiting(house, 1)
        ending = asyncio.create_task(everywhere(house, talked))
        await _until_waiting(house, 2)
    assert await polling is Outcome.APPROVED
    await ending
    assert await live(house, talked.issued) == 0


async def _until_waiting(house: House, count: int) -> None:
    query = text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    async with asyncio.timeout(30):
        while True:
            async with house.engine.connect() as connection:
                if (await connection.execute(query)).scalar_one() >= count:
                    return
            await asyncio.sleep(0.01)


async def test_whose_session_has_ended_decides_nothing_whatever_a_cache_says(house: House) -> None:
    _, issued = await house.member(await house.organization())
    visit = await house.reception.visitors.visit(issued.access_token)
    device = await house.reception.devices.start("cli", HERE)
    await house.reception.sessions.end(issued.refresh_token)
    for approve in (True, False):
        with pytest.raises(errors.SessionEnded):
            await house.reception.devices.decide(device.user_code, visit, approve=approve)
    assert await poll(house, device) is Outcome.PENDING


async def test_a_session_whose_time_is_over_decides_nothing(house: House) -> None:
    _, issued = await house.member(await house.organization())
    visit = await house.reception.visitors.visit(issued.access_token)
    device = await house.reception.devices.start("cli", HERE)
    async with house.engine.begin() as connection:
        await connection.execute(
            update(sessions).where(sessions.c.id == issued.session_id).values(expires_at=func.now())
        )
    with pytest.raises(errors.SessionEnded):
        await house.reception.devices.decide(device.user_code, visit, approve=True)


async def test_a_decision_and_the_end_of_everything_at_once_agree(house: House) -> None:
    """Whichever comes first: no approval by a session that has ended is left to be answered."""
    for _ in range(15):
        _, issued = await house.member(await house.organization())
        visit = await house.reception.visitors.visit(issued.access_token)
        device = await house.reception.devices.start("cli", HERE)
        await asyncio.gather(
            house.reception.devices.decide(device.user_code, visit, approve=True),
            house.beside().reception.sessions.revoke_all(issued.user_id, HERE),
            return_exceptions=True,
        )
        async with house.engine.begin() as connection:
            query = select(device_logins.c.approved).where(device_logins.c.answered_at.is_(None))
            assert True not in (await connection.execute(query)).scalars().all()
