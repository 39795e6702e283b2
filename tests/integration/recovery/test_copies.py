"""The recovery copies as they are handed out: which, to whom, in pages, and with nothing beside ciphertext."""

import asyncio
import json
from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pyrage  # type: ignore[import-untyped]  # publishes no types
import pytest
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from popsigner_server import errors
from popsigner_server.domain.ids import Prefix, new_id, show
from popsigner_server.domain.keys import KeyState
from popsigner_server.domain.principals import Caller, Role
from popsigner_server.keys.copies import LABEL, Copies, Page
from popsigner_server.storage import pages
from popsigner_server.storage.tables import api_keys, audit_logs, keys, namespaces, org_members
from popsigner_server.transport import convert_recovery
from popsigner_server.vault import Sealed
from tests.integration.recovery.kit import Kit, bounded, furnished, new_recipient, reading
from tests.support.memory_vault import MemoryVault

IDENTITY = pyrage.x25519.Identity.generate()
RECIPIENT = str(IDENTITY.to_public())
OTHER = new_recipient()


@pytest.fixture
async def ready(kit: Kit) -> Kit:
    """With a recipient, and no key yet."""
    await kit.set(RECIPIENT)
    return kit


async def page_of(kit: Kit, *, limit: int = 100, cursor: str = "", caller: Caller | None = None) -> Page:
    return await kit.copies.page(caller or kit.owner, limit=limit, cursor=cursor)


async def all_of(kit: Kit, *, limit: int) -> list[Page]:
    found = [await page_of(kit, limit=limit)]
    while found[-1].following:
        found.append(await page_of(kit, limit=limit, cursor=found[-1].following))
    return found


def label_of(label: bytes) -> dict[str, str]:
    opened = pyrage.decrypt(label, [IDENTITY])
    assert len(opened) == LABEL
    read: dict[str, str] = json.loads(opened)
    # Canonical, filled up behind.
    assert json.dumps(read, sort_keys=True, separators=(",", ":")) == opened.decode().rstrip(" ")
    return read


async def test_every_key_is_in_it_once_oldest_first_with_all_its_versions(ready: Kit) -> None:
    made = [await ready.key(f"key-{number}") for number in range(7)]
    await ready.rotate(made[2], 2)
    await ready.rotate(made[2], 3)
    found = await all_of(ready, limit=3)
    assert [len(page.copies) for page in found] == [3, 3, 1]
    copies = [copy for page in found for copy in page.copies]
    assert [label_of(copy.label)["id"] for copy in copies] == [show(Prefix.KEY, key_id) for key_id in made]
    for key_id, copy in zip(made, copies, strict=True):
        versions = ready.memory.versions(key_id.hex)
        assert copy.versions == [(key.public_key.format(), b"sealed:" + key.secret) for key in versions]
    assert {page.recipient for page in found} == {RECIPIENT}
    assert not any(page.uncovered for page in found)


async def test_a_label_says_what_the_key_is_called(ready: Kit) -> None:
    key_id = await ready.key("sequencer-1")
    async with ready.engine.begin() as connection:
        space = new_id()
        await connection.execute(
            insert(namespaces).values(id=space, org_id=ready.mine.id, name="staging", address_prefix="mocha")
        )
        await connection.execute(update(keys).where(keys.c.id == key_id).values(namespace_id=space))
    (copy,) = (await page_of(ready)).copies
    assert label_of(copy.label) == {
        "address_prefix": "mocha",
        "id": show(Prefix.KEY, key_id),
        "name": "sequencer-1",
        "namespace": "staging",
    }


async def test_labels_of_all_names_are_as_long(ready: Kit) -> None:
    async with ready.engine.begin() as connection:
        longest = {"name": "n" * 63, "address_prefix": "p" * 83}
        await connection.execute(update(namespaces).where(namespaces.c.org_id == ready.mine.id).values(longest))
    for name in ("a", "k" * 100):
        await ready.key(name)
    assert [label_of(copy.label)["name"] for copy in (await page_of(ready)).copies] == ["a", "k" * 100]


async def test_there_is_nothing_in_it_but_ciphertext_and_public_keys(ready: Kit) -> None:
    for name in ("sequencer", "batcher"):
        await ready.key(name)
    plain = await ready.key("plain")
    await ready.memory.seal(plain.hex, recipient="")
    answer = convert_recovery.page_to_proto(await page_of(ready, limit=2))
    rest = convert_recovery.page_to_proto(await page_of(ready, limit=2, cursor=answer.next_cursor))
    assert [field.name for field, _ in rest.ListFields()] == ["recipient", "uncovered"]
    # The cursor is for this server alone.
    assert urlsafe_b64decode(answer.next_cursor + "==").startswith(b"recovery:")
    answer.next_cursor = ""
    words = [b"sequencer", b"batcher", b"plain", b"production", b"celestia", b"test", b"192.0.2.1"]
    words += [ready.mine.id.hex.encode(), ready.mine.id.bytes, show(Prefix.ORGANIZATION, ready.mine.id).encode()]
    async with ready.engine.connect() as connection:
        for (key_id,) in await connection.execute(select(keys.c.id).where(keys.c.org_id == ready.mine.id)):
            words += [key_id.hex.encode(), key_id.bytes, str(key_id).encode(), show(Prefix.KEY, key_id).encode()]
    for message in (answer, rest):
        assert not [word for word in words if word in message.SerializeToString()]


async def test_the_first_page_writes_its_row_and_the_others_write_none(ready: Kit) -> None:
    for number in range(3):
        await ready.key(f"key-{number}")
    reader = reading(await ready.person(Role.VIEWER))
    await page_of(ready, limit=2)
    first = await page_of(ready, limit=2, caller=reader)
    await page_of(ready, limit=2, cursor=first.following, caller=reader)
    _, mine, row = await ready.trail()
    assert (row.event, row.actor_id, row.resource_id) == (
        "recovery.exported",
        reader.principal.actor_id,
        ready.mine.id,
    )
    assert row.metadata == {"recipient": RECIPIENT}
    assert mine.actor_id == ready.owner.principal.actor_id


async def test_without_a_recipient_there_are_none_and_no_row_says_so(kit: Kit) -> None:
    await kit.key("key")
    with pytest.raises(errors.RecoveryMissing):
        await page_of(kit)
    assert await kit.trail() == []


@pytest.mark.parametrize("kind", ["key_ids", "namespace_ids"])
async def test_an_api_key_that_does_not_reach_every_key_gets_none(ready: Kit, kind: str) -> None:
    await ready.key("key")
    with pytest.raises(errors.ApiKeyRestricted):
        await page_of(ready, caller=bounded(ready.owner, **{kind: frozenset({new_id()})}))
    assert len(await ready.trail()) == 1


async def test_somebody_who_just_lost_the_right_gets_none_and_no_row(ready: Kit) -> None:
    await ready.key("key")
    person, program = await ready.person(Role.VIEWER), ready.owner
    async with ready.engine.begin() as connection:
        await connection.execute(delete(org_members).where(org_members.c.user_id == person.principal.actor_id))
        await connection.execute(
            update(api_keys).where(api_keys.c.id == program.principal.actor_id).values(revoked_at=func.now())
        )
    for caller, refusal in ((person, errors.MembershipMissing), (program, errors.ApiKeyRevoked)):
        with pytest.raises(refusal):
            await page_of(ready, caller=caller)
    assert len(await ready.trail()) == 1


async def test_a_cursor_without_its_row_opens_nothing(ready: Kit, engine: AsyncEngine) -> None:
    """Else one that is made up would be a way around the audit trail."""
    for number in range(2):
        await ready.key(f"key-{number}")
    other = await ready.person(Role.OWNER)
    theirs = await furnished(engine, vault=ready.vault)
    await theirs.set(RECIPIENT)
    await theirs.key("one")
    await theirs.key("two")
    stolen = (await page_of(theirs, limit=1)).following
    async with ready.ledger.change(ready.mine.id) as change:
        change.record("key.exported", caller=ready.owner, metadata={"recipient": RECIPIENT})
    for cursor in (
        "!",
        pages.write("keys", new_id()),
        pages.write("recovery", UUID(int=0)),
        pages.write("recovery", f"1.{UUID(int=0)}"),
        pages.write("recovery", f"2.{UUID(int=0)}"),
        pages.write("recovery", f"99.{UUID(int=0)}"),
        pages.write("recovery", f"-3.{UUID(int=0)}"),
        stolen,
    ):
        with pytest.raises(errors.InvalidCursor):
            await page_of(ready, cursor=cursor)
    genuine = (await page_of(ready, limit=1)).following
    with pytest.raises(errors.InvalidCursor):
        await page_of(ready, cursor=genuine, caller=other)
    anothers = (await page_of(ready, limit=1, caller=await ready.person(Role.OWNER))).following
    with pytest.raises(errors.InvalidCursor):
        await page_of(ready, cursor=anothers, caller=other)
    assert len((await page_of(ready, cursor=genuine)).copies) == 1
    async with ready.engine.begin() as connection:
        exported = (audit_logs.c.org_id == ready.mine.id, audit_logs.c.event == "recovery.exported")
        made = audit_logs.c.created_at
        await connection.execute(update(audit_logs).where(*exported).values(created_at=made + timedelta(days=-1)))
    with pytest.raises(errors.InvalidCursor):
        await page_of(ready, cursor=genuine)


async def test_after_a_change_the_old_identity_opens_nothing_that_is_handed_out(ready: Kit) -> None:
    made = [await ready.key(f"key-{number}") for number in range(3)]
    cursor = (await page_of(ready, limit=1)).following
    await ready.set(OTHER)
    await ready.pass_time(days=3, seconds=1)
    await ready.settings.take_effect()
    # The vault has copies for the old one still.
    assert {ready.memory.recipients[key_id.hex] for key_id in made} == {RECIPIENT}
    page = await page_of(ready)
    assert (page.recipient, page.copies) == (OTHER, [])
    assert page.uncovered == [ready.memory.keys[key_id.hex].public_key.format() for key_id in made]
    # Nor does a page of a list that was begun before hand out more.
    with pytest.raises(errors.InvalidCursor):
        await page_of(ready, cursor=cursor)

    await ready.turn()

    page = await page_of(ready)
    assert (len(page.copies), page.uncovered) == (3, [])
    for copy in page.copies:
        with pytest.raises(pyrage.DecryptError):
            pyrage.decrypt(copy.label, [IDENTITY])


async def test_after_a_removal_nothing_is_handed_out(ready: Kit) -> None:
    for number in range(2):
        await ready.key(f"key-{number}")
    cursor = (await page_of(ready, limit=1)).following
    await ready.set("")
    await ready.pass_time(days=3, seconds=1)
    await ready.settings.take_effect()
    for asked in ("", cursor):
        with pytest.raises(errors.RecoveryMissing):
            await page_of(ready, cursor=asked)


async def test_while_a_first_recipient_waits_nothing_is_handed_out(kit: Kit) -> None:
    """Else whoever registers one with a stolen credential would read the keys that are made before it is cancelled."""
    old = await kit.key("old")
    await kit.set(RECIPIENT)
    await kit.key("new")
    with pytest.raises(errors.RecoveryChangeWaiting, match="are handed out from"):
        await page_of(kit)
    assert "recovery.exported" not in [row.event for row in await kit.trail()]
    await kit.pass_time(days=3, seconds=1)
    await kit.settings.take_effect()
    page = await page_of(kit)
    assert [label_of(copy.label)["name"] for copy in page.copies] == ["new"]
    assert page.uncovered == [kit.memory.keys[old.hex].public_key.format()]


async def test_a_version_that_only_the_vault_knows_is_not_handed_out(ready: Kit) -> None:
    key_id = await ready.key("key")
    unknown = await ready.rotate(key_id, 2, known=False)
    (copy,) = (await page_of(ready)).copies
    assert len(copy.versions) == 1
    assert unknown not in dict(copy.versions)


async def test_a_version_that_the_vault_lacks_or_has_otherwise_is_uncovered(ready: Kit) -> None:
    """As after a restore of an older backup of either."""
    key_id, other = await ready.key("key"), await ready.key("other")
    second = await ready.rotate(key_id, 2)
    ready.memory.later.clear()
    wrong = (await ready.row(other)).public_key
    ready.memory.keys[other.hex] = type(ready.memory.keys[other.hex])()
    page = await page_of(ready)
    assert [len(copy.versions) for copy in page.copies] == [1]
    assert page.uncovered == [second, wrong]


async def test_keys_in_every_state_but_destroyed_are_in_it(ready: Kit) -> None:
    for state in KeyState:
        await ready.key(state.name, state=state)
    begun = await ready.key("begun", state=KeyState.DELETED)
    await ready.write(begun, destruction_began_at=func.now())
    page = await page_of(ready)
    assert {label_of(copy.label)["name"] for copy in page.copies} == {"ENABLED", "DISABLED", "DELETED"}
    assert page.uncovered == []


class Interrupted(MemoryVault):
    """`meanwhile` runs before each answer."""

    meanwhile: Any = None

    async def recovery(self, name: str) -> Sealed | None:
        if self.meanwhile is not None:
            await self.meanwhile(name)
        return await MemoryVault.recovery(self, name)


async def test_a_key_that_is_destroyed_meanwhile_is_left_out(engine: AsyncEngine) -> None:
    vault = Interrupted()
    kit = await furnished(engine, vault=vault)
    await kit.set(RECIPIENT)
    gone, lost = await kit.key("gone"), await kit.key("lost")
    await kit.key("stays")

    async def destroy(name: str) -> None:
        if name == gone.hex:
            await kit.write(gone, state=KeyState.DESTROYED.value)
        if name in (gone.hex, lost.hex):
            await vault.destroy(name)

    public_key = vault.keys[lost.hex].public_key.format()
    vault.meanwhile = destroy
    page = await page_of(kit)
    assert [label_of(copy.label)["name"] for copy in page.copies] == ["stays"]
    # The vault does not know it, and nobody destroyed it: the owner is told.
    assert page.uncovered == [public_key]


async def test_a_vault_that_is_away_ends_the_page(ready: Kit) -> None:
    for number in range(20):
        await ready.key(f"key-{number}")
    ready.memory.away = True
    with pytest.raises(errors.VaultUnavailable):
        await page_of(ready)


async def test_so_many_questions_are_under_way_at_once_over_all_callers(engine: AsyncEngine) -> None:
    vault = Interrupted()
    kit = await furnished(engine, vault=vault)
    await kit.set(RECIPIENT)
    for number in range(30):
        await kit.key(f"key-{number}")
    under_way, most = 0, 0

    async def counted(_: str) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.002)
        under_way -= 1

    vault.meanwhile = counted
    found = await asyncio.gather(*(page_of(kit) for _ in range(5)))
    assert [len(page.copies) for page in found] == [30] * 5
    assert most == 8


async def test_the_copies_of_a_deleted_organization_can_be_fetched(ready: Kit) -> None:
    """Its days of grace may be the last ones in which it can leave."""
    await ready.key("key")
    await ready.close(deleted=True)
    assert len((await page_of(ready)).copies) == 1
    assert (await ready.told())[-1] == ("recovery.exported", RECIPIENT)


async def test_no_row_no_copies(ready: Kit) -> None:
    """Where the audit row cannot be written, the vault is not asked."""
    await ready.key("key")

    class Broken:
        @asynccontextmanager
        async def change(self, organization_id: UUID, *, closed: bool = False) -> AsyncIterator[Any]:
            async with ready.ledger.change(organization_id, closed=closed) as change:
                yield change
                raise errors.LedgerUnavailable

    class Unasked(MemoryVault):
        async def recovery(self, name: str) -> Sealed | None:
            raise AssertionError("asked")

    copies = Copies(ready.database, Broken(), Unasked())
    with pytest.raises(errors.LedgerUnavailable):
        await copies.page(ready.owner, limit=10, cursor="")


async def test_the_copies_of_another_organization_are_not_among_ours(ready: Kit, engine: AsyncEngine) -> None:
    theirs = await furnished(engine, vault=ready.vault)
    await theirs.set(RECIPIENT)
    await theirs.key("theirs")
    await ready.key("ours")
    assert [label_of(copy.label)["name"] for copy in (await page_of(ready)).copies] == ["ours"]
    astray = replace(ready.owner, principal=replace(ready.owner.principal, organization_id=theirs.mine.id))
    with pytest.raises(errors.CredentialsInvalid):
        await page_of(theirs, caller=astray)
