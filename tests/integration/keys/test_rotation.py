"""A key's versions over a real database and the real gate: crashes between any two steps, and callers at the same
moment."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import pytest

from popsigner_server import errors
from popsigner_server.domain.keys import Key, KeyVersion
from popsigner_server.domain.principals import UNBOUND
from popsigner_server.keys.rotation import Rotation
from popsigner_server.ledger.changes import Change
from popsigner_server.limits.pace import Pace
from tests.integration.keys.desk import Desk
from tests.support.memory_vault import MemoryVault


async def rotate(desk: Desk, reference: str, expected: int = 0) -> tuple[Key, KeyVersion]:
    return await desk.rotation.rotate(desk.mine.caller, reference, expected=expected)


async def set_minimum(desk: Desk, reference: str, version: int) -> Key:
    return await desk.lifecycle.update(
        desk.mine.caller, reference, name=None, metadata={}, check=lambda _: None, min_version=version
    )


async def test_a_rotated_key_has_a_new_address_and_both_versions_sign(desk: Desk) -> None:
    reference = await desk.create("subject")
    before = await desk.key(reference)
    assert (await desk.sign(reference)).key.version == 1
    key, previous = await rotate(desk, reference)
    assert (key.version, key.min_version, previous.version) == (2, 1, 1)
    assert (previous.address, previous.public_key, previous.signs) == (before.address, before.public_key, True)
    assert key.address != before.address
    assert key == await desk.key(reference)
    # At once, in this process, though its notice is still on the way.
    assert (await desk.sign(reference)).key.public_key == key.public_key.hex()
    assert (await desk.sign(reference, 1)).key.public_key == before.public_key.hex()
    assert (await desk.sign(reference, 2)).key.version == 2
    with pytest.raises(errors.KeyVersionUnavailable):
        await desk.sign(reference, 3)
    (row,) = [row for row in await desk.trail() if row.event != "key.signed"]
    assert (row.event, row.resource_id) == ("key.rotated", key.id)
    assert row.metadata == {"version": "1 -> 2", "address": f"{before.address} -> {key.address}"}


async def test_versions_are_listed_newest_first_and_say_which_sign(desk: Desk) -> None:
    reference = await desk.create("subject")
    made = [await desk.key(reference)] + [(await rotate(desk, reference))[0] for _ in range(2)]
    await set_minimum(desk, reference, 2)
    versions = await desk.catalogue.versions(desk.mine.id, reference, bounds=UNBOUND)
    assert [(version.version, version.signs) for version in versions] == [(3, True), (2, True), (1, False)]
    assert [version.address for version in reversed(versions)] == [key.address for key in made]
    await desk.lifecycle.disable(desk.mine.caller, reference)
    versions = await desk.catalogue.versions(desk.mine.id, reference, bounds=UNBOUND)
    assert not any(version.signs for version in versions)


async def test_the_minimum_takes_the_right_away_and_gives_it_back(desk: Desk) -> None:
    reference = await desk.create("subject")
    await rotate(desk, reference)
    assert (await set_minimum(desk, reference, 2)).min_version == 2
    with pytest.raises(errors.KeyVersionUnavailable):
        await desk.sign(reference, 1)
    await desk.sign(reference)
    await set_minimum(desk, reference, 0)
    await set_minimum(desk, reference, 2)
    assert (await set_minimum(desk, reference, 1)).min_version == 1
    await desk.sign(reference, 1)
    with pytest.raises(errors.InvalidField):
        await set_minimum(desk, reference, 3)
    told = [row.metadata["min_version"] for row in await desk.trail() if row.event == "key.updated"]
    assert told == ["1 -> 2", "2 -> 1"]


async def test_a_process_that_missed_a_rotation_signs_with_the_version_that_may(desk: Desk) -> None:
    """Whoever leaves the version open never meets KEY_VERSION_UNAVAILABLE because of a cache."""
    reference = await desk.create("subject")
    await desk.sign(reference)
    elsewhere = Rotation(desk.ledger, desk.vault, desk.catalogue, type(desk.cache)(desk.catalogue, Pace()))
    await elsewhere.rotate(desk.mine.caller, reference, expected=0)
    assert (await desk.sign(reference)).key.version == 1
    await set_minimum(desk, reference, 2)
    assert (await desk.sign(reference)).key.version == 2


class Crash(BaseException):
    """The server's end, at a named step."""


class Failing(MemoryVault):
    """A vault at whose rotation the server ends, before or after it."""

    step: str = ""

    async def rotate(self, name: str, *, to_version: int) -> bytes:
        if self.step == "before the vault":
            raise Crash
        made = await MemoryVault.rotate(self, name, to_version=to_version)
        if self.step == "after the vault":
            raise Crash
        return made


class FailingLedger:
    """A ledger at whose change the server ends: before it, inside, or behind its commit."""

    def __init__(self, desk: Desk, step: str) -> None:
        self._desk = desk
        self._step = step

    @asynccontextmanager
    async def change(self, organization_id: UUID, *, closed: bool = False) -> AsyncIterator[Change]:
        if self._step == "before the change":
            raise Crash
        async with self._desk.ledger.change(organization_id, closed=closed) as change:
            yield change
            if self._step == "before the commit":
                raise Crash
        if self._step == "after the commit":
            raise Crash


STEPS = ["before the vault", "after the vault", "before the change", "before the commit", "after the commit"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("expected", [0, 1])
async def test_a_rotation_that_was_cut_off_is_finished_by_the_same_command(
    desk: Desk, step: str, expected: int
) -> None:
    reference = await desk.create("subject")
    key_id = (await desk.key(reference)).id
    vault = Failing(keys=desk.vault.keys, later=desk.vault.later)
    vault.step = step
    cut_off = Rotation(FailingLedger(desk, step), vault, desk.catalogue, desk.cache)
    with pytest.raises(Crash):
        await cut_off.rotate(desk.mine.caller, reference, expected=expected)
    committed = step == "after the commit"
    # The version that only the vault knows signs nothing, for nobody.
    if not committed:
        assert (await desk.sign(reference)).key.version == 1
        with pytest.raises(errors.KeyVersionUnavailable):
            await desk.sign(reference, 2)
    key, previous = await rotate(desk, reference, expected)
    # Without the number a repetition after the commit is a rotation of its own.
    version = 3 if committed and not expected else 2
    assert (key.version, previous.version) == (version, version - 1)
    assert len(desk.vault.versions(key_id.hex)) == await desk.rows_of(key_id) == version
    assert [row.event for row in await desk.trail()].count("key.rotated") == version - 1
    assert key.public_key == desk.vault.versions(key_id.hex)[-1].public_key.format()
    await desk.sign(reference)


async def test_a_repetition_answers_the_same_and_one_that_is_outdated_is_told(desk: Desk) -> None:
    reference = await desk.create("subject")
    first = await rotate(desk, reference, 1)
    assert await rotate(desk, reference, 1) == first
    with pytest.raises(errors.KeyVersionChanged, match="2"):
        await rotate(desk, reference, 5)
    await rotate(desk, reference, 2)
    with pytest.raises(errors.KeyVersionChanged, match="3"):
        await rotate(desk, reference, 1)
    assert (await desk.key(reference)).version == 3


@pytest.mark.parametrize("expected", [0, 1])
async def test_callers_at_the_same_moment_agree_and_lose_nothing(desk: Desk, expected: int) -> None:
    reference = await desk.create("subject")
    ends = await asyncio.gather(*(rotate(desk, reference, expected) for _ in range(12)), return_exceptions=True)
    answers = [end for end in ends if not isinstance(end, BaseException)]
    assert all(isinstance(end, errors.KeyVersionChanged) for end in ends if isinstance(end, BaseException))
    key = await desk.key(reference)
    if expected:
        assert {(answer.version, previous.version) for answer, previous in answers} == {(2, 1)}
        assert (key.version, len(answers)) == (2, 12)
    assert len(desk.vault.versions(key.id.hex)) == await desk.rows_of(key.id) == key.version
    assert [row.event for row in await desk.trail()].count("key.rotated") == key.version - 1
    for version in range(1, key.version + 1):
        await desk.sign(reference, version)


@pytest.mark.parametrize(("verb", "refusal"), [("disable", errors.KeyDisabled), ("delete", errors.KeyDeleted)])
async def test_a_key_that_is_stopped_during_its_rotation_keeps_its_version(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, verb: str, refusal: type[errors.SignerError]
) -> None:
    """Refused under the head, after the vault has made a version: that one waits for the next rotation."""
    reference = await desk.create("subject")
    caller, life, made = desk.mine.caller, desk.lifecycle, MemoryVault.rotate

    async def stopped_meanwhile(vault: MemoryVault, name: str, *, to_version: int) -> bytes:
        public_key = await made(vault, name, to_version=to_version)
        await (life.disable(caller, reference) if verb == "disable" else life.delete(caller, reference, force=False))
        return public_key

    with monkeypatch.context() as patch:
        patch.setattr(MemoryVault, "rotate", stopped_meanwhile)
        with pytest.raises(refusal):
            await rotate(desk, reference)
    waiting = desk.vault.versions((await desk.key(reference)).id.hex)
    assert len(waiting) == 2
    assert (await desk.key(reference)).version == 1
    # Refused before the vault is asked.
    desk.vault.away = True
    with pytest.raises(refusal):
        await rotate(desk, reference)
    desk.vault.away = False
    await (life.enable(caller, reference) if verb == "disable" else life.undelete(caller, reference))
    assert (await desk.sign(reference)).key.version == 1
    key, _ = await rotate(desk, reference)
    assert (key.version, key.public_key) == (2, waiting[1].public_key.format())


async def test_a_key_that_is_destroyed_during_its_rotation_leaves_nothing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = await desk.create("subject")
    made = MemoryVault.rotate

    async def destroyed_before(vault: MemoryVault, name: str, *, to_version: int) -> bytes:
        await desk.lifecycle.delete(desk.mine.caller, reference, force=True)
        return await made(vault, name, to_version=to_version)

    monkeypatch.setattr(MemoryVault, "rotate", destroyed_before)
    with pytest.raises(errors.KeyNotFound):
        await rotate(desk, reference)
    assert (desk.vault.keys, desk.vault.later) == ({}, {})


async def test_a_key_with_every_version_that_it_can_have_is_told_so(desk: Desk) -> None:
    reference = await desk.create("subject")
    for expected in range(1, 64):
        await rotate(desk, reference, expected)
    with pytest.raises(errors.KeyVersionsExhausted):
        await rotate(desk, reference)
    assert (await desk.key(reference)).version == 64
    await desk.sign(reference, 1)
