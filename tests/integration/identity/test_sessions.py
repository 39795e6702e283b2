"""Sessions: traded, stolen, ended; exactly, however many come at once."""

import asyncio
import hashlib
from collections import Counter
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from popsigner_server import errors
from popsigner_server.identity.session_rows import LONGEST, MOST, Origin
from popsigner_server.storage.tables import refresh_tokens, sessions
from tests.integration.identity.house import HERE, House

THERE = Origin(ip_address="198.51.100.9", user_agent="another browser")


async def test_a_refresh_token_is_traded_for_the_next_tokens_of_the_same_session(house: House) -> None:
    _, issued = await house.member(await house.organization())
    renewed = await house.reception.sessions.refresh(issued.refresh_token, THERE)
    assert renewed.session_id == issued.session_id
    assert renewed.session_expires_at == issued.session_expires_at
    assert renewed.refresh_token != issued.refresh_token
    assert (await house.reception.visitors.visit(renewed.access_token)).session_id == issued.session_id
    (session,) = await house.reception.sessions.list(issued.user_id)
    assert (session.ip_address, session.user_agent) == ("198.51.100.9", "another browser")


async def test_a_session_lives_for_30_days_at_most_however_it_is_renewed(house: House) -> None:
    _, issued = await house.member(await house.organization())
    async with house.engine.begin() as connection:
        begun = (await connection.execute(select(sessions).where(sessions.c.id == issued.session_id))).mappings().one()
        assert begun["expires_at"] - begun["created_at"] == LONGEST == timedelta(days=30)
        await connection.execute(
            update(sessions).where(sessions.c.id == issued.session_id).values(expires_at=func.now())
        )
    with pytest.raises(errors.SessionEnded):
        await house.reception.sessions.refresh(issued.refresh_token, HERE)
    assert await house.reception.sessions.list(issued.user_id) == []


async def test_a_token_of_the_sessions_last_minutes_ends_with_it(house: House) -> None:
    _, issued = await house.member(await house.organization())
    async with house.engine.begin() as connection:
        await connection.execute(
            update(sessions)
            .where(sessions.c.id == issued.session_id)
            .values(expires_at=func.now() + timedelta(minutes=2))
        )
    renewed = await house.reception.sessions.refresh(issued.refresh_token, HERE)
    assert renewed.expires_in <= 120


async def test_a_refresh_token_that_comes_again_ends_the_session_with_its_access_tokens(house: House) -> None:
    organization = await house.organization()
    _, issued = await house.member(organization)
    renewed = await house.reception.sessions.refresh(issued.refresh_token, HERE)
    with pytest.raises(errors.RefreshTokenReused):
        await house.reception.sessions.refresh(issued.refresh_token, THERE)
    with pytest.raises(errors.SessionEnded):
        await house.reception.sessions.refresh(renewed.refresh_token, HERE)
    for access_token in (issued.access_token, renewed.access_token):
        with pytest.raises(errors.SessionEnded):
            await house.beside().reception.visitors.visit(access_token)
    (row,) = await house.events(organization, "auth.session_ended")
    assert (row.metadata, row.resource_id) == ({"reason": "reuse"}, issued.session_id)
    assert row.ip_address == "198.51.100.9"


async def test_a_stolen_token_that_comes_again_and_again_is_told_of_once(house: House) -> None:
    organization = await house.organization()
    _, issued = await house.member(organization)
    await house.reception.sessions.refresh(issued.refresh_token, HERE)
    for _ in range(3):
        with pytest.raises(errors.RefreshTokenReused):
            await house.reception.sessions.refresh(issued.refresh_token, THERE)
    assert len(await house.events(organization, "auth.session_ended")) == 1


async def test_reuse_in_one_session_leaves_the_persons_others_alone(house: House) -> None:
    provider, one = await house.member(await house.organization())
    email = (await house.reception.visitors.visit(one.access_token)).email
    other = await house.log_in(provider, email)
    await house.reception.sessions.refresh(one.refresh_token, HERE)
    with pytest.raises(errors.RefreshTokenReused):
        await house.reception.sessions.refresh(one.refresh_token, HERE)
    assert (await house.reception.sessions.refresh(other.refresh_token, HERE)).session_id == other.session_id


async def test_of_many_refreshes_at_once_exactly_one_wins_and_the_session_ends(house: House) -> None:
    organization = await house.organization()
    _, issued = await house.member(organization)
    processes = [house.beside(), house.beside()]
    ends = await asyncio.gather(
        *(processes[number % 2].reception.sessions.refresh(issued.refresh_token, HERE) for number in range(24)),
        return_exceptions=True,
    )
    assert Counter(type(end).__name__ for end in ends) == {"Issued": 1, "RefreshTokenReused": 23}
    assert await house.count(refresh_tokens, refresh_tokens.c.session_id == issued.session_id) == 2
    assert len(await house.events(organization, "auth.session_ended")) == 1
    (winner,) = [end for end in ends if not isinstance(end, BaseException)]
    with pytest.raises(errors.SessionEnded):
        await house.reception.sessions.refresh(winner.refresh_token, HERE)


@pytest.mark.parametrize("token", ["", "psr_", "psr_" + "0" * 64, "psk_live_x", "\x00"])
async def test_an_unknown_refresh_token_is_refused(house: House, token: str) -> None:
    with pytest.raises(errors.CredentialsInvalid):
        await house.reception.sessions.refresh(token, HERE)


async def test_the_database_holds_the_hash_of_a_refresh_token_alone(house: House) -> None:
    _, issued = await house.member(await house.organization())
    everything = await house.everything()
    assert hashlib.sha256(issued.refresh_token.encode()).hexdigest() in everything
    assert issued.refresh_token.removeprefix("psr_") not in everything
    assert issued.access_token not in everything


async def test_logging_out_ends_the_session_and_an_unknown_token_is_no_failure(house: House) -> None:
    organization = await house.organization()
    _, issued = await house.member(organization)
    await house.reception.sessions.end("psr_" + "0" * 64)
    await house.reception.sessions.end(issued.refresh_token)
    await house.reception.sessions.end(issued.refresh_token)
    with pytest.raises(errors.SessionEnded):
        await house.reception.sessions.refresh(issued.refresh_token, HERE)
    (row,) = await house.events(organization, "auth.session_ended")
    assert row.metadata == {"reason": "logout"}


async def test_a_person_ends_one_of_their_own_sessions_and_nobody_elses(house: House) -> None:
    organization = await house.organization()
    _, mine = await house.member(organization)
    _, theirs = await house.member(organization)
    with pytest.raises(errors.SessionNotFound):
        await house.reception.sessions.revoke(mine.user_id, theirs.session_id, HERE)
    await house.reception.sessions.revoke(mine.user_id, mine.session_id, HERE)
    with pytest.raises(errors.SessionNotFound):
        await house.reception.sessions.revoke(mine.user_id, mine.session_id, HERE)
    assert len(await house.reception.sessions.list(theirs.user_id)) == 1


async def test_logging_out_everywhere_ends_every_session_of_the_person(house: House) -> None:
    organization = await house.organization()
    provider, one = await house.member(organization)
    email = (await house.reception.visitors.visit(one.access_token)).email
    others = [await house.log_in(provider, email) for _ in range(3)]
    assert await house.reception.sessions.revoke_all(one.user_id, HERE) == 4
    assert await house.reception.sessions.list(one.user_id) == []
    for issued in (one, *others):
        with pytest.raises(errors.SessionEnded):
            await house.beside().reception.visitors.visit(issued.access_token)
    assert {row.metadata["reason"] for row in await house.events(organization, "auth.session_ended")} == {"revoked"}


async def test_a_person_has_a_bounded_number_of_sessions_and_the_oldest_end(house: House) -> None:
    provider, first = await house.member(await house.organization())
    email = (await house.reception.visitors.visit(first.access_token)).email
    for _ in range(MOST):
        await house.log_in(provider, email)
    alive = await house.reception.sessions.list(first.user_id)
    assert len(alive) == MOST
    assert first.session_id not in {session.id for session in alive}


async def test_what_is_over_for_a_day_is_forgotten_and_what_is_not_stays(house: House) -> None:
    organization = await house.organization()
    _, over = await house.member(organization)
    _, ended = await house.member(organization)
    _, alive = await house.member(organization)
    past = func.now() - timedelta(days=1, minutes=1)
    async with house.engine.begin() as connection:
        await connection.execute(update(sessions).where(sessions.c.id == over.session_id).values(expires_at=past))
        await connection.execute(update(sessions).where(sessions.c.id == ended.session_id).values(ended_at=past))
    await asyncio.gather(house.reception.sweep(), house.beside().reception.sweep())
    assert await house.count(sessions, sessions.c.id.in_([over.session_id, ended.session_id])) == 0
    assert await house.count(refresh_tokens, refresh_tokens.c.session_id == over.session_id) == 0
    assert await house.count(sessions, sessions.c.id == alive.session_id) == 1


async def test_a_log_in_is_told_to_every_organization_of_the_person(house: House) -> None:
    one, two = await house.organization(), await house.organization()
    provider, issued = await house.member(one)
    await house.join(issued.user_id, two)
    email = (await house.reception.visitors.visit(issued.access_token)).email
    again = await house.log_in(provider, email)
    for organization in (one, two):
        newest = (await house.events(organization, "auth.login"))[0]
        assert (newest.actor_type, newest.actor_id) == ("user", issued.user_id)
        assert (newest.resource_type, newest.resource_id) == ("session", again.session_id)
        assert (newest.ip_address, newest.user_agent) == (HERE.ip_address, HERE.user_agent)
