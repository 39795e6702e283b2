"""The job that brings the vault in line: several servers at once, a vault that is away, an end between two steps."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self
from uuid import UUID

import pytest
from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncEngine

from popsigner_server import errors
from popsigner_server.domain.keys import KeyState
from popsigner_server.keys import resealing
from tests.integration.recovery.kit import Kit, furnished, new_recipient
from tests.support.memory_vault import MemoryVault

FIRST, SECOND = new_recipient(), new_recipient()


class Crash(BaseException):
    """Nothing on the way catches it."""


@dataclass(slots=True)
class WatchedVault(MemoryVault):
    """Remembers what was sealed; `before` and `after` may do something around it."""

    sealings: list[tuple[str, str]] = field(default_factory=list)
    at_once: int = 0
    most: int = 0
    before: Callable[[str], object] | None = None
    after: Callable[[str], object] | None = None

    async def seal(self, name: str, *, recipient: str) -> None:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            await asyncio.sleep(0.001)
            if self.before is not None:
                self.before(name)
            await MemoryVault.seal(self, name, recipient=recipient)
            self.sealings.append((name, recipient))
            if self.after is not None:
                self.after(name)
        finally:
            self.at_once -= 1


@pytest.fixture
async def watched(engine: AsyncEngine) -> Kit:
    return await furnished(engine, vault=WatchedVault())


def vault_of(kit: Kit) -> WatchedVault:
    assert isinstance(kit.vault, WatchedVault)
    return kit.vault


async def due(kit: Kit, count: int) -> list[UUID]:
    """Keys that are to be sealed to FIRST."""
    made = [await kit.key(f"key-{number}") for number in range(count)]
    await kit.set(FIRST)
    await kit.pass_time(days=3, seconds=1)
    return made


async def test_every_key_with_a_private_key_that_stays_is_sealed_and_no_other(watched: Kit) -> None:
    states = [KeyState.ENABLED, KeyState.DISABLED, KeyState.DELETED]
    made = [await watched.key(state.name, state=state) for state in states]
    others = [
        await watched.key(state.name, state=state)
        for state in (KeyState.CREATING, KeyState.DESTROYED, KeyState.ABANDONED)
    ]
    begun = await watched.key("begun", state=KeyState.DELETED)
    await watched.write(begun, destruction_began_at=func.now())
    await watched.settle(FIRST)
    assert await watched.sealed_to(*made) == [FIRST] * 3
    assert await watched.sealed_to(*others, begun) == [None] * 4
    assert ((await watched.get()).keys, (await watched.get()).covered) == (3, 3)


async def test_several_servers_share_the_work_and_none_does_anothers(watched: Kit, engine: AsyncEngine) -> None:
    made = await due(watched, 150)
    servers = [await furnished(engine, vault=watched.vault, of=watched.mine) for _ in range(3)]
    counts = await asyncio.gather(*(server.turn() for server in servers))
    assert sum(counts) == len(vault_of(watched).sealings) == len(made)
    assert await watched.sealed_to(*made) == [FIRST] * len(made)
    assert vault_of(watched).most <= len(servers) * resealing.AT_ONCE


async def test_a_turn_is_bounded_and_the_next_goes_on(watched: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resealing, "BATCH", 4)
    monkeypatch.setattr(resealing, "CLAIMS", 3)
    made = await due(watched, 30)
    assert [await watched.turn() for _ in range(4)] == [12, 12, 6, 0]
    assert await watched.sealed_to(*made) == [FIRST] * 30


async def test_an_end_between_vault_and_row_is_repeated(watched: Kit) -> None:
    (key,) = await due(watched, 1)

    def crash(_: str) -> None:
        raise Crash

    vault_of(watched).after = crash
    with pytest.raises(Crash):
        await watched.turn()
    assert vault_of(watched).recipients[key.hex] == FIRST
    assert (await watched.get()).covered == 0
    vault_of(watched).after = None
    # Nobody else touches it before the claim has run out.
    assert await watched.turn() == 0

    await watched.pass_time(minutes=6)

    assert await watched.turn() == 1
    assert await watched.sealed_to(key) == [FIRST]
    assert (await watched.get()).covered == 1


async def test_an_end_before_the_vault_is_repeated(watched: Kit) -> None:
    (key,) = await due(watched, 1)

    def crash(_: str) -> None:
        raise Crash

    vault_of(watched).before = crash
    with pytest.raises(Crash):
        await watched.turn()
    vault_of(watched).before = None
    # Cancelled meanwhile, or taken away: the mark makes it due whatever is chosen.
    await watched.set("")
    await watched.pass_time(days=3, seconds=1)
    assert await watched.turn() == 1
    assert await watched.sealed_to(key) == [None]


async def test_a_key_that_was_sealed_late_to_what_is_no_longer_chosen_is_sealed_again(
    watched: Kit, engine: AsyncEngine
) -> None:
    """A server hangs before the vault; meanwhile the recipient changes, and changes back."""
    (key,) = await due(watched, 1)
    await watched.turn()
    await watched.set(SECOND)
    await watched.pass_time(days=3, seconds=1)
    hanging, go_on = asyncio.Event(), asyncio.Event()
    slow = await furnished(engine, vault=Hanging.beside(watched.memory, hanging, go_on), of=watched.mine)
    late = asyncio.create_task(slow.turn())
    await hanging.wait()
    await watched.set(FIRST)
    await watched.pass_time(days=3, seconds=1)
    # Its claim may have run out, or not yet: another server does not seal beside it.
    await watched.settings.take_effect()
    await watched.write(key, recovery_claimed_at=func.now())
    assert await watched.turn() == 0
    go_on.set()
    await late
    # It hung for longer than its claim: what it has done is not written down, and the mark is still there.
    assert watched.memory.recipients[key.hex] == SECOND
    await watched.pass_time(minutes=6)
    assert await watched.turn() == 1
    assert await watched.sealed_to(key) == [FIRST]


class Hanging(MemoryVault):
    """The same vault, behind a wire on which a sealing waits."""

    @classmethod
    def beside(cls, vault: MemoryVault, hanging: asyncio.Event, go_on: asyncio.Event) -> Self:
        made = cls(keys=vault.keys, later=vault.later, recipients=vault.recipients)
        made.hanging, made.go_on = hanging, go_on
        return made

    hanging: asyncio.Event
    go_on: asyncio.Event

    async def seal(self, name: str, *, recipient: str) -> None:
        self.hanging.set()
        await self.go_on.wait()
        await MemoryVault.seal(self, name, recipient=recipient)


async def test_a_change_in_the_middle_of_a_turn_ends_right(watched: Kit) -> None:
    made = await due(watched, 40)
    tenth, vault = asyncio.Event(), vault_of(watched)
    vault.after = lambda _: tenth.set() if len(vault.sealings) == 10 else None

    async def change() -> int:
        await tenth.wait()
        await watched.set(SECOND)
        await watched.pass_time(days=3, seconds=1)
        return await watched.settings.take_effect()

    _, changed = await asyncio.gather(watched.turn(), change())
    await watched.turn()
    assert changed == 1
    assert FIRST in {recipient for _, recipient in vault.sealings}
    assert await watched.sealed_to(*made) == [SECOND] * len(made)


async def test_a_vault_that_is_away_ends_the_turn_and_the_next_begins_with_the_others(watched: Kit) -> None:
    made = await due(watched, 40)
    watched.memory.away = True
    with pytest.raises(errors.VaultUnavailable):
        await watched.turn()
    watched.memory.away = False
    assert await watched.turn() == 40 - resealing.BATCH
    await watched.pass_time(minutes=6)
    assert await watched.turn() == resealing.BATCH
    assert await watched.sealed_to(*made) == [FIRST] * len(made)


@pytest.mark.parametrize("refusal", [errors.KeyNotFound(), errors.InvalidField("recipient", "is not taken.")])
async def test_a_key_that_the_vault_refuses_holds_up_no_other(watched: Kit, refusal: errors.SignerError) -> None:
    bad, *good = await due(watched, 5)

    def refuse(name: str) -> None:
        if name == bad.hex:
            raise refusal

    vault_of(watched).before = refuse
    assert await watched.turn() == 4
    assert await watched.sealed_to(*good) == [FIRST] * 4
    # It comes again, behind all others.
    vault_of(watched).before = None
    await watched.pass_time(minutes=6)
    assert await watched.turn() == 1
    assert await watched.sealed_to(bad) == [FIRST]


async def test_keys_that_failed_before_come_last(watched: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else some that always fail would hold up all others."""
    monkeypatch.setattr(resealing, "BATCH", 1)
    monkeypatch.setattr(resealing, "CLAIMS", 1)
    bad, good = await due(watched, 2)
    vault_of(watched).keys.pop(bad.hex)
    assert await watched.turn() == 0
    await watched.pass_time(minutes=6)
    assert await watched.turn() == 1
    assert await watched.sealed_to(good) == [FIRST]


async def test_in_a_deleted_organization_no_key_is_sealed(watched: Kit) -> None:
    (key,) = await due(watched, 1)
    await watched.settings.take_effect()
    await watched.close(deleted=True)
    assert await watched.turn() == 0
    await watched.close(deleted=False)
    assert await watched.turn() == 1
    assert await watched.sealed_to(key) == [FIRST]


async def test_copies_of_somebody_else_are_removed_while_a_first_recipient_waits(watched: Kit) -> None:
    """What was sealed to a recipient that was removed, or cancelled, goes; what was sealed to nobody waits."""
    key = await watched.key("key")
    await watched.settle(FIRST)
    plain = await watched.key("plain")
    await watched.memory.seal(plain.hex, recipient="")
    await watched.write(plain, recovery_recipient=None)
    await watched.set("")
    await watched.pass_time(days=3, seconds=1)
    await watched.settings.take_effect()
    await watched.set(SECOND)
    assert await watched.turn() == 1
    assert await watched.sealed_to(key, plain) == [None, None]


async def test_a_key_that_is_not_known_is_made_known(watched: Kit) -> None:
    """As an import that took another's place leaves it: the mark, and copies in the vault."""
    key = await watched.key("key")
    await watched.memory.seal(key.hex, recipient=FIRST)
    await watched.write(key, recovery_recipient=resealing.UNKNOWN)
    assert (await watched.get()).covered == 0
    await watched.set(SECOND)
    assert await watched.turn() == 1
    assert await watched.sealed_to(key) == [None]
