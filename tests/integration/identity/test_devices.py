"""Device log-ins (RFC 8628): one code, one decision, one answer."""

import asyncio
import re
import secrets
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete, func, insert, update

from popsigner_server import errors
from popsigner_server.identity import devices
from popsigner_server.identity.devices import ALPHABET, INTERVAL, LONGEST_INTERVAL, Outcome, Started
from popsigner_server.identity.people import Visit
from popsigner_server.identity.session_rows import Origin
from popsigner_server.identity.sessions import Issued
from popsigner_server.storage.tables import device_logins, sessions
from tests.integration.identity.house import HERE, House


@pytest.fixture(autouse=True)
async def _nobody_waits(house: House) -> None:
    async with house.engine.begin() as connection:
        await connection.execute(delete(device_logins))


async def a_visit(house: House) -> tuple[Issued, Visit]:
    _, issued = await house.member(await house.organization())
    return issued, await house.reception.visitors.visit(issued.access_token)


async def waited(house: House, seconds: float = 60.0) -> None:
    """As if so long had passed since the last poll."""
    async with house.engine.begin() as connection:
        past = device_logins.c.polled_at - timedelta(seconds=seconds)
        await connection.execute(update(device_logins).values(polled_at=past))


async def poll(house: House, started: Started) -> tuple[Outcome, Issued | None]:
    return await house.reception.devices.poll(started.device_code, HERE)


async def test_an_approved_device_gets_a_session_of_its_own_once(house: House) -> None:
    started = await house.reception.devices.start("popsigner 1.0", HERE)
    assert await poll(house, started) == (Outcome.PENDING, None)
    approver, visit = await a_visit(house)
    await house.reception.devices.decide(started.user_code, visit, approve=True)
    await waited(house)
    outcome, issued = await poll(house, started)
    assert outcome is Outcome.APPROVED
    assert issued is not None
    assert issued.user_id == approver.user_id
    assert issued.session_id != approver.session_id
    await house.reception.sessions.refresh(issued.refresh_token, HERE)
    await waited(house)
    assert await poll(house, started) == (Outcome.EXPIRED, None)


async def test_the_log_in_of_a_device_is_in_the_audit_trail(house: House) -> None:
    organization = await house.organization()
    _, issued = await house.member(organization)
    started = await house.reception.devices.start("cli", HERE)
    visit = await house.reception.visitors.visit(issued.access_token)
    await house.reception.devices.decide(started.user_code, visit, approve=True)
    _, device = await poll(house, started)
    assert device is not None
    assert [row.resource_id for row in await house.events(organization, "auth.login")] == [
        device.session_id,
        issued.session_id,
    ]


async def test_of_many_polls_at_once_one_gets_the_tokens(house: House) -> None:
    started = await house.reception.devices.start("cli", HERE)
    issued, visit = await a_visit(house)
    await house.reception.devices.decide(started.user_code, visit, approve=True)
    ends = await asyncio.gather(*(poll(house, started) for _ in range(20)))
    assert Counter(outcome for outcome, _ in ends) == {Outcome.APPROVED: 1, Outcome.EXPIRED: 19}
    assert await house.count(sessions, sessions.c.user_id == issued.user_id, sessions.c.origin == "device") == 1


async def test_a_denied_device_is_told_so_and_gets_nothing(house: House) -> None:
    started = await house.reception.devices.start("cli", HERE)
    _, visit = await a_visit(house)
    await house.reception.devices.decide(started.user_code, visit, approve=False)
    assert await poll(house, started) == (Outcome.DENIED, None)
    await waited(house)
    assert await poll(house, started) == (Outcome.EXPIRED, None)


async def test_a_log_in_is_decided_once(house: House) -> None:
    started = await house.reception.devices.start("cli", HERE)
    _, visit = await a_visit(house)
    ends = await asyncio.gather(
        *(house.reception.devices.decide(started.user_code, visit, approve=n % 2 == 0) for n in range(10)),
        return_exceptions=True,
    )
    assert sum(end is None for end in ends) == 1
    assert sum(isinstance(end, errors.DeviceNotFound) for end in ends) == 9
    with pytest.raises(errors.DeviceNotFound):
        await house.reception.devices.get(started.user_code)


async def test_a_device_that_polls_too_often_is_slowed_down_each_time_more(house: House) -> None:
    started = await house.reception.devices.start("cli", HERE)
    assert (await poll(house, started))[0] is Outcome.PENDING
    assert (await poll(house, started))[0] is Outcome.SLOW_DOWN
    await waited(house, INTERVAL)
    assert (await poll(house, started))[0] is Outcome.SLOW_DOWN
    await waited(house, 3 * INTERVAL)
    assert (await poll(house, started))[0] is Outcome.PENDING
    for _ in range(LONGEST_INTERVAL // INTERVAL + 2):
        assert (await poll(house, started))[0] is Outcome.SLOW_DOWN
    await waited(house, LONGEST_INTERVAL)
    assert (await poll(house, started))[0] is Outcome.PENDING


async def test_a_poll_at_just_the_interval_is_in_time(house: House) -> None:
    started = await house.reception.devices.start("cli", HERE)
    for _ in range(3):
        assert (await poll(house, started))[0] is Outcome.PENDING
        await waited(house, INTERVAL - 0.5)


async def test_a_code_is_over_after_15_minutes(house: House) -> None:
    started = await house.reception.devices.start("cli", HERE)
    _, visit = await a_visit(house)
    async with house.engine.begin() as connection:
        (kept,) = (await connection.execute(device_logins.select())).mappings().all()
        assert kept["expires_at"] - kept["created_at"] == timedelta(minutes=15)
        await connection.execute(update(device_logins).values(expires_at=func.now()))
    assert await poll(house, started) == (Outcome.EXPIRED, None)
    with pytest.raises(errors.DeviceNotFound):
        await house.reception.devices.get(started.user_code)
    with pytest.raises(errors.DeviceNotFound):
        await house.reception.devices.decide(started.user_code, visit, approve=True)
    await house.reception.sweep()
    assert await house.count(device_logins) == 0


async def test_a_code_is_read_as_people_type_it(house: House) -> None:
    started = await house.reception.devices.start("  my laptop ", HERE)
    assert re.fullmatch(f"[{ALPHABET}]{{4}}-[{ALPHABET}]{{4}}", started.user_code)
    code = started.user_code
    for typed in (code.lower(), code.replace("-", ""), f" {code[:4]} {code[5:]} "):
        waiting = await house.reception.devices.get(typed)
        assert (waiting.client_name, waiting.origin) == ("my laptop", HERE)


UNKNOWN = ["", "-", "BCDF-GHJK", "BCDFGHJK' OR 1=1", "\x00", "%", "________", "ß" * 8, "Z" * 5000]


@pytest.mark.parametrize("typed", UNKNOWN)
async def test_a_code_that_nobody_waits_under_is_unknown(house: House, typed: str) -> None:
    await house.reception.devices.start("cli", HERE)
    with pytest.raises(errors.DeviceNotFound):
        await house.reception.devices.get(typed)
    with pytest.raises(errors.DeviceNotFound):
        await house.reception.devices.decide(typed, (await a_visit(house))[1], approve=True)


@pytest.mark.parametrize("code", ["", "0" * 64, "\x00"])
async def test_an_unknown_device_code_is_expired(house: House, code: str) -> None:
    assert await house.reception.devices.poll(code, HERE) == (Outcome.EXPIRED, None)


async def test_the_database_holds_the_hash_of_a_device_code_alone(house: House) -> None:
    started = await house.reception.devices.start("cli", HERE)
    assert started.device_code not in await house.everything()
    assert started.device_code not in repr(started)


async def test_the_device_of_somebody_whose_provider_is_gone_gets_nothing(house: House) -> None:
    organization = await house.organization()
    provider = await house.provider_of(organization)
    await house.invite(organization, "d@example.org")
    issued = await house.log_in(provider, "d@example.org")
    started = await house.reception.devices.start("cli", HERE)
    visit = await house.reception.visitors.visit(issued.access_token)
    await house.reception.devices.decide(started.user_code, visit, approve=True)
    await house.reception.providers.disconnect(organization.caller, provider.id)
    assert await poll(house, started) == (Outcome.DENIED, None)
    assert await house.count(sessions, sessions.c.user_id == issued.user_id, sessions.c.ended_at.is_(None)) == 0


@pytest.mark.parametrize("name", ["x" * 101, "a\nb", "a\x00"])
async def test_a_name_that_cannot_be_shown_is_refused(house: House, name: str) -> None:
    with pytest.raises(errors.InvalidField):
        await house.reception.devices.start(name, HERE)


async def test_so_many_wait_for_one_address_and_no_more_however_many_come_at_once(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "WAITING_OF_ADDRESS", 5)
    ends = await asyncio.gather(
        *(house.reception.devices.start("cli", HERE) for _ in range(12)), return_exceptions=True
    )
    assert sum(isinstance(end, Started) for end in ends) == 5
    assert all(end.retry_after for end in ends if isinstance(end, errors.RateLimited))
    elsewhere = Origin(ip_address="203.0.113.1", user_agent=None)
    await house.reception.devices.start("cli", elsewhere)
    nowhere = Origin(ip_address=None, user_agent=None)
    for _ in range(5):
        await house.reception.devices.start("cli", nowhere)
    with pytest.raises(errors.RateLimited):
        await house.reception.devices.start("cli", nowhere)


async def test_the_addresses_of_one_ipv6_host_are_one(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever rents one machine has 2^64 of them, and nobody else's log-in may wait for theirs."""
    monkeypatch.setattr(devices, "WAITING_OF_ADDRESS", 3)
    for number in range(3):
        await house.reception.devices.start("cli", Origin(ip_address=f"2001:db8:0:1::{number}", user_agent=None))
    for address in ("2001:db8:0:1::ffff", "2001:db8:0:1:8000::"):
        with pytest.raises(errors.RateLimited):
            await house.reception.devices.start("cli", Origin(ip_address=address, user_agent=None))
    for address in ("2001:db8:0:2::1", *(f"::ffff:192.0.2.{number}" for number in range(9))):
        await house.reception.devices.start("cli", Origin(ip_address=address, user_agent=None))


async def test_so_many_wait_in_all_and_no_more(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "WAITING", 3)
    for number in range(3):
        await house.reception.devices.start("cli", Origin(ip_address=f"203.0.113.{number}", user_agent=None))
    with pytest.raises(errors.RateLimited):
        await house.reception.devices.start("cli", Origin(ip_address="203.0.113.9", user_agent=None))
    async with house.engine.begin() as connection:
        await connection.execute(update(device_logins).values(expires_at=func.now()))
    await house.reception.devices.start("cli", Origin(ip_address="203.0.113.9", user_agent=None))


async def test_a_code_that_another_device_has_is_not_given_out_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters = iter("BBBBBBBB" + "CCCCCCCC")
    values: dict[str, Any] = {
        "device_hash": b"-",
        "user_code": "BBBBBBBB",
        "client_name": "another",
        "expires_at": func.now() + timedelta(minutes=1),
    }
    async with house.engine.begin() as connection:
        await connection.execute(insert(device_logins).values(**values))
    monkeypatch.setattr(secrets, "choice", lambda _: next(letters))
    assert (await house.reception.devices.start("cli", HERE)).user_code == "CCCC-CCCC"
