"""When a key was used: `last_used_at` and one `auth.api_key_used` row a minute, over all processes."""

import asyncio
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select

from popsigner_server.storage.tables import ledger_heads
from tests.integration.api_keys.conftest import Office, wish
from tests.support.organizations import Organization, found_organization


async def test_many_uses_in_many_processes_are_one_row_with_who_and_from_where(
    office: Office, branch: Office, mine: Organization
) -> None:
    made, text = await office.api_keys.create(mine.caller, wish())
    for place in (office, branch):
        used = await place.caller(text, ip_address="203.0.113.9")
        for _ in range(20):
            place.verifier.note(used)
    await asyncio.gather(office.verifier.close(), branch.verifier.close())

    (row,) = await office.rows(mine, "auth.api_key_used")
    assert (row.actor_type, row.actor_id, row.resource_type, row.resource_id) == (
        "api_key",
        made.id,
        "api_key",
        made.id,
    )
    assert (row.ip_address, row.user_agent) == ("203.0.113.9", "test/1")
    assert (await office.row(made.id))["last_used_at"] == row.created_at
    assert (office.counts.lost, branch.counts.lost) == (0, 0)


async def test_processes_that_write_at_once_write_once(office: Office, mine: Organization) -> None:
    _, text = await office.api_keys.create(mine.caller, wish())
    used = await office.caller(text)
    seconds = await asyncio.gather(*(office.records.note_use(used) for _ in range(12)))
    assert len(await office.rows(mine, "auth.api_key_used")) == 1
    # A look that began before the note was made may find it already: then its minute has not begun.
    assert all(50 < left < 70 for left in seconds)


async def test_a_minute_later_there_is_another_row_and_before_it_none(office: Office, mine: Organization) -> None:
    made, text = await office.api_keys.create(mine.caller, wish())
    used = await office.caller(text)
    await office.records.note_use(used)
    await office.change(made.id, last_used_at=datetime.now(UTC) - timedelta(seconds=45))
    assert 10 < await office.records.note_use(used) <= 15
    assert len(await office.rows(mine, "auth.api_key_used")) == 1
    await office.change(made.id, last_used_at=datetime.now(UTC) - timedelta(seconds=60))
    assert await office.records.note_use(used) == 60
    assert len(await office.rows(mine, "auth.api_key_used")) == 2


async def test_a_use_within_the_minute_does_not_ask_for_the_head(office: Office, mine: Organization) -> None:
    _, text = await office.api_keys.create(mine.caller, wish())
    used = await office.caller(text)
    await office.records.note_use(used)
    async with office.engine.begin() as holder:
        await holder.execute(select(ledger_heads).where(ledger_heads.c.org_id == mine.id).with_for_update())
        await asyncio.wait_for(office.records.note_use(used), 30)


async def test_a_call_does_not_wait_for_its_note(office: Office, mine: Organization) -> None:
    _, text = await office.api_keys.create(mine.caller, wish())
    used = await office.caller(text)
    async with office.engine.begin() as holder:
        await holder.execute(select(ledger_heads).where(ledger_heads.c.org_id == mine.id).with_for_update())
        office.verifier.note(used)
        assert (await office.caller(text)).principal == used.principal
    await office.verifier.close()
    assert len(await office.rows(mine, "auth.api_key_used")) == 1


async def test_a_note_that_cannot_be_written_is_counted_and_the_key_goes_on(office: Office, mine: Organization) -> None:
    lost = await found_organization(office.engine, keys_of=0)
    _, text = await office.api_keys.create(lost.caller, wish())
    used = await office.caller(text)
    async with office.engine.begin() as connection:
        await connection.execute(ledger_heads.delete().where(ledger_heads.c.org_id == lost.id))
    office.verifier.note(used)
    _, text = await office.api_keys.create(mine.caller, wish())
    office.verifier.note(await office.caller(text))
    await office.verifier.close()
    assert office.counts.lost == 1
    assert len(await office.rows(mine, "auth.api_key_used")) == 1


async def test_the_trail_of_a_deleted_organization_still_says_who_knocks(office: Office, mine: Organization) -> None:
    _, text = await office.api_keys.create(mine.caller, wish())
    used = await office.caller(text)
    async with office.engine.begin() as connection:
        await connection.execute(
            ledger_heads.update().where(ledger_heads.c.org_id == mine.id).values(closed_at=func.now())
        )
    await office.records.note_use(used)
    assert len(await office.rows(mine, "auth.api_key_used")) == 1


async def test_rows_of_uses_stand_in_the_one_sequence_of_the_ledger(office: Office, mine: Organization) -> None:
    texts = [(await office.api_keys.create(mine.caller, wish()))[1] for _ in range(5)]
    used = [await office.caller(text) for text in texts]
    await asyncio.gather(
        *(office.records.note_use(caller) for caller in used),
        *(office.api_keys.create(mine.caller, wish()) for _ in range(5)),
    )
    rows, _ = await office.ledger.list(mine.id, limit=100, cursor="")
    assert [row.sequence for row in rows[::-1]] == list(range(1, 16))


async def test_a_key_that_is_gone_is_not_noted(office: Office, mine: Organization) -> None:
    made, text = await office.api_keys.create(mine.caller, wish())
    used = await office.caller(text)
    async with office.engine.begin() as connection:
        await connection.exec_driver_sql(f"DELETE FROM api_keys WHERE id = '{made.id}'")
    await office.records.note_use(used)
    assert await office.rows(mine, "auth.api_key_used") == []
