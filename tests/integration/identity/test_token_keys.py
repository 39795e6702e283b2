"""The keys of access tokens over a real database: made once, turned in time, sealed."""

import asyncio
import json
import secrets
from datetime import timedelta

import jwt
import pytest
from sqlalchemy import delete, select, text

from popsigner_server import errors
from popsigner_server.domain.ids import new_id
from popsigner_server.identity.sealing import Sealing
from popsigner_server.identity.token_keys import AFTERLIFE, AHEAD, LIFE, TokenKey, TokenKeys
from popsigner_server.identity.tokens import UnknownKey
from popsigner_server.storage.tables import token_keys
from tests.integration.identity.house import House


@pytest.fixture(autouse=True)
async def _no_keys(house: House) -> None:
    async with house.engine.begin() as connection:
        await connection.execute(delete(token_keys))


def kid(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


async def published(house: House) -> set[str]:
    """After the minute's turn."""
    await house.reception.tokens.turn()
    return {key["kid"] for key in json.loads(await house.reception.tokens.key_set())["keys"]}


async def test_processes_that_start_together_make_one_key(house: House) -> None:
    processes = [house.beside() for _ in range(6)]
    await asyncio.gather(*(process.reception.tokens.turn() for process in processes))
    assert await house.count(token_keys) == 1


async def test_a_key_signs_for_30_days_and_the_next_is_published_before_it_signs(house: House) -> None:
    _, issued = await house.member(await house.organization())
    first = kid(issued.access_token)
    assert await published(house) == {first}
    house.clock.ahead = LIFE - AHEAD + timedelta(minutes=1)
    (second,) = await published(house) - {first}
    _, issued = await house.member(await house.organization())
    assert kid(issued.access_token) == first
    house.clock.ahead = LIFE + timedelta(minutes=1)
    _, issued = await house.member(await house.organization())
    assert kid(issued.access_token) == second
    assert await published(house) == {first, second}
    house.clock.ahead = LIFE + AFTERLIFE + timedelta(minutes=1)
    assert await published(house) == {second}
    assert await house.count(token_keys) == 1


async def test_the_last_token_of_a_key_is_taken_until_it_is_over(house: House) -> None:
    await house.reception.tokens.turn()
    house.clock.ahead = LIFE - timedelta(seconds=10)
    user_id, session_id, ends = new_id(), new_id(), house.clock() + timedelta(days=1)
    last = await house.reception.tokens.issue(user_id=user_id, session_id=session_id, ends=ends)
    other = house.beside()
    other.clock.ahead = house.clock.ahead + timedelta(minutes=9)
    await other.reception.tokens.turn()
    assert (await other.reception.tokens.verify(last.text)).session_id == session_id
    assert kid((await other.reception.tokens.issue(user_id=user_id, session_id=session_id, ends=ends)).text) != kid(
        last.text
    )


async def test_another_process_reads_a_token_of_a_key_that_it_has_not_heard_of(house: House) -> None:
    other = house.beside()
    with pytest.raises(UnknownKey):
        await other.reception.tokens.verify(foreign_token())
    _, issued = await house.member(await house.organization())
    assert (await other.reception.visitors.visit(issued.access_token)).user_id == issued.user_id


def foreign_token() -> str:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    headers = {"kid": "01a1fc23-1eee-7446-a5d7-1ba12ebc6788", "typ": "at+jwt"}
    return jwt.encode({"iss": "popsigner"}, Ed25519PrivateKey.generate(), algorithm="EdDSA", headers=headers)


async def test_the_first_question_for_the_keys_makes_one_and_a_flood_of_them_reads_once(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(json.loads(await house.reception.tokens.key_set())["keys"]) == 1
    reads = 0
    read = TokenKeys.read

    async def counted(keys: TokenKeys) -> list[TokenKey]:
        nonlocal reads
        reads += 1
        return await read(keys)

    monkeypatch.setattr(TokenKeys, "read", counted)
    other = house.beside()
    answers = await asyncio.gather(*(other.reception.tokens.key_set() for _ in range(30)))
    assert len(set(answers)) == 1
    assert reads == 1


async def test_a_pop_that_lost_its_sealing_key_goes_on_with_a_fresh_one(house: House) -> None:
    _, before = await house.member(await house.organization())
    moved = House.over(house.engine, sealing=Sealing(secrets.token_bytes(32)))
    assert (await moved.reception.visitors.visit(before.access_token)).user_id == before.user_id
    _, after = await moved.member(await moved.organization())
    assert kid(after.access_token) != kid(before.access_token)
    assert await published(moved) == {kid(before.access_token), kid(after.access_token)}
    await moved.reception.tokens.turn()
    assert await house.count(token_keys) == 2


async def test_a_key_whose_row_was_deleted_is_refused_after_the_next_turn(house: House) -> None:
    _, issued = await house.member(await house.organization())
    async with house.engine.begin() as connection:
        await connection.execute(delete(token_keys))
    await house.reception.tokens.turn()
    with pytest.raises(errors.CredentialsInvalid):
        await house.reception.visitors.visit(issued.access_token)


async def test_no_private_key_is_in_the_database(house: House) -> None:
    await house.reception.tokens.turn()
    async with house.engine.begin() as connection:
        (row,) = (await connection.execute(select(token_keys))).mappings().all()
        private = house.sealing.open(row["private_key"], table="token_keys", row=row["id"])
        shown = (await connection.execute(text("SELECT string_agg(t::text, '') FROM token_keys t"))).scalar_one()
    assert len(private) == 32
    assert private.hex() not in shown
    assert private not in bytes(row["private_key"])
