"""Rotation: a new secret for the same key, the old one for as long as was said, exactly, in every process."""

import asyncio
import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import func

from popsigner_server import errors
from popsigner_server.domain.principals import Bounds, Caller, Role, Scope
from popsigner_server.identity.bounds import networks_of
from popsigner_server.identity.hashing import check_of
from popsigner_server.ledger.gate import PostgresGate
from popsigner_server.storage.engine import Database
from popsigner_server.storage.notices import API_KEY_CHANGED, Listener
from tests.integration.api_keys.conftest import Office, admin, id_of, offer, secret_of, wish
from tests.support.organizations import Organization, found_organization

HOUR = timedelta(hours=1)


async def test_both_secrets_are_the_same_key_until_the_overlap_ends(
    office: Office, mine: Organization, gate: PostgresGate
) -> None:
    made, old = await office.api_keys.create(mine.caller, wish())
    rotated, new = await office.api_keys.rotate(mine.caller, made.id, overlap=HOUR)
    assert (id_of(new), secret_of(new) != secret_of(old)) == (made.id, True)
    assert rotated.previous_until is not None
    assert timedelta(minutes=59) < rotated.previous_until - datetime.now(UTC) <= HOUR
    by_old, by_new = await office.caller(old), await office.caller(new)
    assert (by_old.principal.generation, by_new.principal.generation) == (1, 2)
    assert (by_old.principal.expires_at, by_new.principal.expires_at) == (rotated.previous_until, None)
    assert (await gate.release(offer(mine, by_old, by_new), wait=False)).refused == {}

    # Its end, for both who remember it and who do not.
    await office.change(made.id, previous_expires_at=func.now())
    assert (await gate.release(offer(mine, by_old, by_new), wait=False)).refused == {0: "API_KEY_REVOKED"}
    office.verifier.forget(made.id)
    with pytest.raises(errors.ApiKeyRevoked, match="replaced"):
        await office.caller(old)
    assert (await office.caller(new)).principal.generation == 2


async def test_without_an_overlap_the_old_secret_ends_at_once_also_where_it_is_remembered(
    office: Office, branch: Office, mine: Organization, gate: PostgresGate
) -> None:
    made, old = await office.api_keys.create(mine.caller, wish())
    remembered = await branch.caller(old)
    rotated, new = await office.api_keys.rotate(mine.caller, made.id, overlap=timedelta(0))
    assert rotated.previous_until is None
    # The notice has not arrived: reads go on for that moment, and nothing signs.
    assert await branch.caller(old) == remembered
    assert (await gate.release(offer(mine, remembered), wait=False)).refused == {0: "API_KEY_REVOKED"}
    branch.verifier.forget(made.id)
    with pytest.raises(errors.ApiKeyRevoked):
        await branch.caller(old)
    by_new = await branch.caller(new)
    assert (await gate.release(offer(mine, by_new), wait=False)).refused == {}


async def test_of_two_rotations_in_a_row_the_first_ones_old_secret_ends_at_once(
    office: Office, branch: Office, mine: Organization, gate: PostgresGate
) -> None:
    made, first = await office.api_keys.create(mine.caller, wish())
    by_first = await branch.caller(first)
    _, second = await office.api_keys.rotate(mine.caller, made.id, overlap=HOUR)
    by_second = await branch.caller(second)
    assert (await gate.release(offer(mine, by_first, by_second), wait=False)).refused == {}
    _, third = await office.api_keys.rotate(mine.caller, made.id, overlap=HOUR)
    branch.counts.now += 1.0
    by_third = await branch.caller(third)
    verdict = await gate.release(offer(mine, by_first, by_second, by_third), wait=False)
    assert verdict.refused == {0: "API_KEY_REVOKED"}
    branch.verifier.forget(made.id)
    with pytest.raises(errors.CredentialsInvalid):
        await branch.caller(first)
    assert [row.metadata["overlap_seconds"] for row in await office.rows(mine, "api_key.rotated")] == ["3600", "3600"]


async def test_the_new_secret_works_in_every_process_before_it_has_heard_of_it(
    office: Office, branch: Office, mine: Organization
) -> None:
    made, old = await office.api_keys.create(mine.caller, wish())
    for overlap in (HOUR, timedelta(0), HOUR):
        await branch.verifier.principal(old)
        _, new = await office.api_keys.rotate(mine.caller, made.id, overlap=overlap)
        branch.counts.now += 1
        assert (await branch.verifier.principal(new)).actor_id == made.id
        branch.verifier.forget(made.id)
        old = new


async def test_a_rotation_is_announced_when_it_commits(office: Office, mine: Organization, database: str) -> None:
    heard: asyncio.Queue[UUID] = asyncio.Queue()
    listening = asyncio.Event()
    listener = asyncio.create_task(Listener(database, {API_KEY_CHANGED: heard.put_nowait}, [listening.set]).run())
    try:
        await asyncio.wait_for(listening.wait(), 30)
        made, _ = await office.api_keys.create(mine.caller, wish())
        await office.api_keys.rotate(mine.caller, made.id, overlap=HOUR)
        assert await asyncio.wait_for(heard.get(), 30) == made.id
        await office.api_keys.revoke(mine.caller, made.id)
        assert await asyncio.wait_for(heard.get(), 30) == made.id
    finally:
        listener.cancel()


async def test_what_cannot_be_rotated_says_why(office: Office, mine: Organization) -> None:
    other = await found_organization(office.engine, keys_of=0)
    gone, _ = await office.api_keys.create(mine.caller, wish())
    await office.change(gone.id, expires_at=datetime.now(UTC) - HOUR)
    revoked, _ = await office.api_keys.create(mine.caller, wish())
    await office.api_keys.revoke(mine.caller, revoked.id)
    for caller, api_key_id, refusal in (
        (mine.caller, gone.id, errors.ApiKeyExpired),
        (mine.caller, revoked.id, errors.ApiKeyRevoked),
        (other.caller, gone.id, errors.ApiKeyNotFound),
        (mine.caller, other.caller.principal.actor_id, errors.ApiKeyNotFound),
    ):
        with pytest.raises(refusal):
            await office.api_keys.rotate(caller, api_key_id, overlap=HOUR)
    assert await office.rows(mine, "api_key.rotated") == []


async def test_nobody_renews_a_key_that_may_more_than_they(office: Office, mine: Organization) -> None:
    _, text = await admin(office, mine)
    maker = await office.caller(text)
    wider, _ = await office.api_keys.create(mine.caller, wish(scopes=frozenset({Scope.KEYS_WRITE})))
    with pytest.raises(errors.ScopeMissing):
        await office.api_keys.rotate(maker, wider.id, overlap=HOUR)
    higher, _ = await office.api_keys.create(mine.caller, wish(role=Role.OWNER))
    with pytest.raises(errors.RoleMissing):
        await office.api_keys.rotate(maker, higher.id, overlap=HOUR)
    narrower, _ = await office.api_keys.create(mine.caller, wish())
    await office.api_keys.rotate(maker, narrower.id, overlap=HOUR)


async def test_nobody_renews_a_key_that_is_bound_less_than_they(office: Office, mine: Organization) -> None:
    ends = datetime.now(UTC) + timedelta(days=1)
    bounds = Bounds(networks=networks_of(["203.0.113.0/24"]))
    own, text = await admin(office, mine, bounds=bounds, expires_at=ends)
    maker = await office.caller(text)
    unbound, _ = await office.api_keys.create(mine.caller, wish(expires_at=ends))
    endless, _ = await office.api_keys.create(mine.caller, wish(bounds=bounds))
    for key in (unbound, endless):
        with pytest.raises(errors.InvalidField) as refused:
            await office.api_keys.rotate(maker, key.id, overlap=HOUR)
        assert refused.value.faults[0].field == "api_key_id"
    # Itself it may.
    await office.api_keys.rotate(maker, own.id, overlap=HOUR)


async def test_an_old_secret_cannot_fetch_itself_the_new_one(office: Office, mine: Organization) -> None:
    """It was replaced because it may have leaked: in its overlap it makes nothing that outlives the overlap."""
    own, old = await admin(office, mine)
    _, new = await office.api_keys.rotate(mine.caller, own.id, overlap=HOUR)
    thief = await office.caller(old)
    with pytest.raises(errors.InvalidField):
        await office.api_keys.rotate(thief, own.id, overlap=timedelta(days=30))
    with pytest.raises(errors.InvalidField):
        await office.api_keys.create(thief, wish())
    owner = await office.caller(new)
    await office.api_keys.rotate(owner, own.id, overlap=timedelta(0))


async def test_a_revocation_ends_both_secrets(office: Office, mine: Organization, gate: PostgresGate) -> None:
    made, old = await office.api_keys.create(mine.caller, wish())
    _, new = await office.api_keys.rotate(mine.caller, made.id, overlap=HOUR)
    callers = [await office.caller(old), await office.caller(new)]
    await office.api_keys.revoke(mine.caller, made.id)
    verdict = await gate.release(offer(mine, *callers), wait=False)
    assert set(verdict.refused.values()) == {"API_KEY_REVOKED"}
    assert len(verdict.refused) == 2
    office.verifier.forget(made.id)
    for text in (old, new):
        with pytest.raises(errors.ApiKeyRevoked):
            await office.caller(text)


async def test_a_key_of_before_gets_its_checks_by_use_also_that_of_its_old_secret(
    office: Office, mine: Organization
) -> None:
    made, old = await office.api_keys.create(mine.caller, wish())
    await office.change(made.id, key_check=None)
    _, new = await office.api_keys.rotate(mine.caller, made.id, overlap=HOUR)
    assert (await office.row(made.id))["previous_check"] is None
    await office.caller(old)
    await office.caller(new)
    row = await office.row(made.id)
    assert (row["previous_check"], row["key_check"]) == (check_of(secret_of(old)), check_of(secret_of(new)))
    await office.change(made.id, key_check=None)
    office.verifier.forget(made.id)
    await office.caller(new)
    assert (await office.row(made.id))["key_check"] == check_of(secret_of(new))


async def test_a_check_is_not_stored_for_a_secret_that_was_replaced_meanwhile(
    office: Office, mine: Organization
) -> None:
    made, old = await office.api_keys.create(mine.caller, wish())
    record = await office.records.load(made.id)
    assert record is not None
    for _ in range(2):
        await office.api_keys.rotate(mine.caller, made.id, overlap=HOUR)
    await office.change(made.id, key_check=None, previous_check=None)
    await office.records.keep_check(made.id, record.secrets[0], check_of(secret_of(old)))
    row = await office.row(made.id)
    assert (row["key_check"], row["previous_check"]) == (None, None)


async def test_identity_may_write_checks_and_nothing_else_of_a_key(office: Office, mine: Organization) -> None:
    made, _ = await office.api_keys.create(mine.caller, wish())
    row = await office.row(made.id)
    for column in row.keys() - {"key_check", "previous_check"}:
        with pytest.raises(Exception, match="permission denied"):
            async with Database(office.engine).identity() as connection:
                await connection.exec_driver_sql(f"UPDATE api_keys SET {column} = {column}")


async def test_rotations_at_once_are_one_after_the_other_and_the_last_two_secrets_are_valid(
    office: Office, branch: Office, mine: Organization
) -> None:
    made, first = await office.api_keys.create(mine.caller, wish())
    offices = itertools.cycle((office, branch))
    rotations = await asyncio.gather(
        *(next(offices).api_keys.rotate(mine.caller, made.id, overlap=HOUR) for _ in range(8))
    )
    assert (await office.row(made.id))["generation"] == 9
    fresh = Office.opened(office.engine)
    found = []
    for text in (first, *(text for _, text in rotations)):
        try:
            found.append((await fresh.verifier.principal(text)).generation)
        except errors.CredentialsInvalid:
            continue
    await fresh.verifier.close()
    assert sorted(found) == [8, 9]


async def test_a_program_that_takes_the_newest_secret_is_never_refused_while_a_key_is_rotated(
    office: Office, branch: Office, mine: Organization, gate: PostgresGate
) -> None:
    made, text = await office.api_keys.create(mine.caller, wish())
    texts, done = [text], asyncio.Event()

    async def use(place: Office) -> int:
        released = 0
        while not done.is_set() or not released:
            newest = texts[-1]
            # So that no process is out of second looks: there is no flood here.
            place.counts.now += 1.0
            verdict = await gate.release(offer(mine, await place.caller(newest)), wait=True)
            # Two rotations end a secret, and so many may have passed since it was chosen.
            assert verdict.refused == {} or newest != texts[-1]
            released += not verdict.refused
        return released

    users = [asyncio.create_task(use(place)) for place in (office, branch)]
    for _ in range(6):
        _, text = await office.api_keys.rotate(mine.caller, made.id, overlap=HOUR)
        texts.append(text)
        for place in (office, branch):
            place.verifier.forget(made.id)
            await place.verifier.principal(text)
    done.set()
    assert all(await asyncio.gather(*users))


async def test_a_caller_is_the_same_whichever_secret_it_shows(office: Office, mine: Organization) -> None:
    made, old = await office.api_keys.create(mine.caller, wish())
    _, new = await office.api_keys.rotate(mine.caller, made.id, overlap=HOUR)
    by_old, by_new = await office.caller(old), await office.caller(new)
    same: Caller = replace(by_old, principal=replace(by_old.principal, generation=2, expires_at=None))
    assert same == by_new
