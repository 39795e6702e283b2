"""The state table of docs/keys.md, written here once more: every move from every state, what it leads to, what the
trail says of it, and whether the key signs then."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from uuid import UUID

import pytest

from popsigner_server import errors
from popsigner_server.domain.ids import Prefix, show
from popsigner_server.domain.keys import MOVES, Key, KeyState, Move
from popsigner_server.errors import SignerError
from tests.integration.keys.desk import Desk
from tests.support.memory_vault import MemoryVault

E, D, X, Z = KeyState.ENABLED, KeyState.DISABLED, KeyState.DELETED, KeyState.DESTROYED
DELETED, DISABLED = errors.KeyDeleted, errors.KeyDisabled
# What each move leads to from each state, or how it is refused.
TABLE: dict[str, dict[KeyState, KeyState | type[SignerError]]] = {
    "enable": {E: E, D: E, X: DELETED, Z: DELETED},
    "disable": {E: D, D: D, X: DELETED, Z: DELETED},
    "rotate": {E: E, D: DISABLED, X: DELETED, Z: DELETED},
    "rename": {E: E, D: D, X: DELETED, Z: DELETED},
    "export": {E: E, D: D, X: DELETED, Z: DELETED},
    "delete": {E: X, D: X, X: DELETED, Z: DELETED},
    "delete by force": {E: Z, D: Z, X: Z, Z: DELETED},
    # The desk's deleted keys were disabled.
    "undelete": {E: E, D: D, X: D, Z: DELETED},
    "destroy": {E: E, D: D, X: Z, Z: Z},
}
EVENTS = {
    "enable": ["key.enabled"],
    "disable": ["key.disabled"],
    "rotate": ["key.rotated"],
    "rename": ["key.updated"],
    "export": ["key.exported"],
    "delete": ["key.deleted"],
    "delete by force": ["key.deleted", "key.destroyed"],
    "undelete": ["key.restored"],
    "destroy": ["key.destroyed"],
}
# Moves that change nothing, and so say nothing.
IDLE = {("enable", E), ("disable", D), ("undelete", E), ("undelete", D)}
REFUSALS = {D: errors.KeyDisabled, X: errors.KeyDeleted, Z: errors.KeyNotFound}


async def sweep(desk: Desk, reference: str) -> None:
    key = await desk.key(reference)
    if key.state is X:
        await desk.end_window(key.id)
    await desk.lifecycle.sweep()


def moves(desk: Desk, reference: str) -> dict[str, Callable[[], Awaitable[object]]]:
    caller, life = desk.mine.caller, desk.lifecycle
    return {
        "enable": lambda: life.enable(caller, reference),
        "disable": lambda: life.disable(caller, reference),
        "rotate": lambda: desk.rotation.rotate(caller, reference, expected=0),
        "rename": lambda: life.update(caller, reference, name="renamed", metadata={}, check=lambda _: None),
        "export": lambda: desk.hand_out(reference),
        "delete": lambda: life.delete(caller, reference, force=False),
        "delete by force": lambda: life.delete(caller, reference, force=True),
        "undelete": lambda: life.undelete(caller, reference),
        "destroy": lambda: sweep(desk, reference),
    }


@pytest.mark.parametrize("state", [E, D, X, Z], ids=lambda state: state.name)
@pytest.mark.parametrize("move", TABLE)
async def test_every_move_from_every_state(desk: Desk, move: str, state: KeyState) -> None:
    key = await desk.bring_in(os.urandom(32), exportable=True)
    reference = show(Prefix.KEY, key.id)
    await desk.put_into(key.id, state)
    wanted = TABLE[move][state]
    if isinstance(wanted, KeyState):
        await moves(desk, reference)[move]()
    else:
        with pytest.raises(wanted):
            await moves(desk, reference)[move]()
        wanted = state
    after = await desk.key(reference)
    assert after.state is wanted
    moved = TABLE[move][state] is wanted and (move, state) not in IDLE and not (move == "destroy" and state is not X)
    expected = EVENTS[move][-1:] if (move, state) == ("delete by force", X) else EVENTS[move]
    _, *rows = await desk.trail()
    assert [row.event for row in rows] == (expected if moved else [])
    assert (after.deleted_at is None, after.destroy_at is None) == (wanted in (E, D),) * 2
    if rows and rows[0].event in ("key.enabled", "key.disabled", "key.restored", "key.deleted"):
        between = X if move == "delete by force" else wanted
        assert rows[0].metadata["state"] == f"{state.name} -> {between.name}"
    if wanted is E:
        await desk.sign(reference)
    else:
        with pytest.raises(REFUSALS[wanted]):
            await desk.sign(reference)
    assert (key.id.hex in desk.vault.keys) == (wanted is not Z or state is Z)


def test_the_machine_knows_every_move_and_no_state_that_is_no_keys() -> None:
    assert set(MOVES) == set(Move)
    for leads_to in MOVES.values():
        assert leads_to.keys() | frozenset().union(*leads_to.values()) <= {E, D, X, Z}
    assert all(Z not in leads_to for leads_to in MOVES.values()), "nothing leads out of DESTROYED"


@pytest.mark.parametrize("was", [E, D], ids=lambda state: state.name)
async def test_a_restored_key_is_what_it_was(desk: Desk, was: KeyState) -> None:
    reference = await desk.create("subject")
    if was is D:
        await desk.lifecycle.disable(desk.mine.caller, reference)
    await desk.lifecycle.delete(desk.mine.caller, "production/subject", force=False)
    restored = await desk.lifecycle.undelete(desk.mine.caller, "production/subject")
    assert (restored.state, restored.deleted_at, restored.destroy_at) == (was, None, None)
    # And the next deletion has a window of its own.
    again = await desk.lifecycle.delete(desk.mine.caller, reference, force=False)
    assert again.deleted_at is not None
    assert (await desk.lifecycle.undelete(desk.mine.caller, reference)).state is was


async def test_a_window_that_has_ended_is_not_reopened_though_nothing_has_swept(desk: Desk) -> None:
    reference = await desk.create("subject")
    key = await desk.lifecycle.delete(desk.mine.caller, reference, force=False)
    await desk.end_window(key.id)
    with pytest.raises(errors.KeyDeleted, match="restore window"):
        await desk.lifecycle.undelete(desk.mine.caller, reference)


async def test_a_destruction_that_has_begun_is_not_taken_back(desk: Desk) -> None:
    reference = await desk.create("subject")
    desk.vault.away = True
    with pytest.raises(errors.VaultUnavailable):
        await desk.lifecycle.delete(desk.mine.caller, reference, force=True)
    desk.vault.away = False
    with pytest.raises(errors.KeyDeleted):
        await desk.lifecycle.undelete(desk.mine.caller, reference)
    await desk.lifecycle.sweep()
    assert desk.vault.keys == {}


async def test_a_sweeper_that_found_a_key_due_leaves_it_when_it_was_restored_since(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = await desk.create("subject")
    key = await desk.lifecycle.delete(desk.mine.caller, reference, force=False)
    begin = desk.lifecycle._begin_destruction

    async def restored_before(organization_id: UUID, key_id: UUID) -> bool:
        if key_id == key.id:
            await desk.put_into(key.id, X)
            await desk.lifecycle.undelete(desk.mine.caller, reference)
        return await begin(organization_id, key_id)

    await desk.end_window(key.id)
    monkeypatch.setattr(desk.lifecycle, "_begin_destruction", restored_before)
    await desk.lifecycle.sweep()
    assert (await desk.key(reference)).state is D
    assert key.id.hex in desk.vault.keys


async def test_a_key_that_the_sweeper_is_destroying_is_not_restored_whatever_its_window_says(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = await desk.create("subject")
    key = await desk.lifecycle.delete(desk.mine.caller, reference, force=False)
    destroy = desk.vault.destroy
    refused: list[BaseException | Key] = []

    async def restored_meanwhile(_: MemoryVault, name: str) -> None:
        await destroy(name)
        await desk.reopen_window(key.id)
        refused.extend(
            await asyncio.gather(desk.lifecycle.undelete(desk.mine.caller, reference), return_exceptions=True)
        )

    await desk.end_window(key.id)
    monkeypatch.setattr(MemoryVault, "destroy", restored_meanwhile)
    await desk.lifecycle.sweep()
    assert [type(end) for end in refused] == [errors.KeyDeleted]
    assert (await desk.key(reference)).state is Z


async def test_restorations_and_sweeps_at_the_same_moment_lose_no_restored_key(desk: Desk) -> None:
    for number in range(10):
        reference = await desk.create(f"subject-{number}")
        key = await desk.lifecycle.delete(desk.mine.caller, reference, force=False)
        ends = await asyncio.gather(
            desk.lifecycle.undelete(desk.mine.caller, reference),
            desk.end_window(key.id),
            desk.lifecycle.sweep(),
            desk.lifecycle.sweep(),
            return_exceptions=True,
        )
        assert all(not isinstance(end, BaseException) or isinstance(end, errors.KeyDeleted) for end in ends)
        state = (await desk.key(reference)).state
        assert (key.id.hex in desk.vault.keys) == (state is not Z)
        if not isinstance(ends[0], BaseException):
            assert state is E
            await desk.sign(reference)


async def test_a_name_is_free_again_only_after_the_destruction(desk: Desk) -> None:
    first = await desk.create("subject")
    await desk.lifecycle.delete(desk.mine.caller, first, force=False)
    with pytest.raises(errors.KeyNameTaken):
        await desk.create("subject")
    await desk.lifecycle.delete(desk.mine.caller, first, force=True)
    assert await desk.create("subject") != first
