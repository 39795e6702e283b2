"""Random moves by concurrent callers: no key is lost that was not finally deleted, and none signs or leaves in a state
that forbids it; one that was destroyed can come back by import, as another key. What is held against them is the trail
alone, in the order of the ledger, as a customer reads it."""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID

import coincurve
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from popsigner_server import errors
from popsigner_server.domain.ids import Prefix, show
from popsigner_server.domain.keys import KeyState
from popsigner_server.ledger import Row
from popsigner_server.vault import Placed, Sealed
from tests.integration.keys.desk import Desk, furnished
from tests.support.memory_vault import MemoryVault

CALLERS = 3
NAME = "production/subject"
MOVES = (
    "enable",
    "disable",
    "delete",
    "undelete",
    "rotate",
    "minimum 1",
    "minimum 2",
    "sign",
    "sign 1",
    "export",
    "export 1",
    "import",
    "force",
    "sweep",
)
# What a caller may be told while others move the same key.
REFUSALS = (
    errors.DeadlinePassed,
    errors.KeyDeleted,
    errors.KeyDisabled,
    errors.KeyNameTaken,
    errors.KeyNotFound,
    errors.KeyPresent,
    errors.KeyVersionChanged,
    errors.KeyVersionUnavailable,
    errors.InvalidField,
)
# `force` ends a key, so that it is rare; the name is then free for an import.
COMMON = st.sampled_from([move for move in MOVES if move not in ("force", "sweep")])
MOVE = st.one_of(COMMON, COMMON, COMMON, st.sampled_from(MOVES))

Result = TypeVar("Result")


class Dawdling(MemoryVault):
    """What it is asked for arrives late, and its answers do: between the two others make their moves."""

    async def bring_in(self, name: str, **wrapped: Any) -> Placed:
        return await self._late(MemoryVault.bring_in(self, name, **wrapped))

    async def export(self, name: str, **asked: Any) -> Sealed:
        return await self._late(MemoryVault.export(self, name, **asked))

    async def rotate(self, name: str, *, to_version: int) -> bytes:
        return await self._late(MemoryVault.rotate(self, name, to_version=to_version))

    async def destroy(self, name: str) -> None:
        await self._late(MemoryVault.destroy(self, name))

    async def _late(self, work: Awaitable[Result]) -> Result:
        await asyncio.sleep(random.random() / 100)
        done = await work
        await asyncio.sleep(random.random() / 100)
        return done


@dataclass(slots=True)
class Story:
    """A key by its audit rows."""

    state: KeyState = KeyState.ENABLED
    before: KeyState = KeyState.ENABLED
    version: int = 1
    minimum: int = 1
    signatures: int = 0
    exports: int = 0
    odd: list[str] = field(default_factory=list)

    def read(self, row: Row) -> None:
        enabled, disabled, deleted = KeyState.ENABLED, KeyState.DISABLED, KeyState.DELETED
        match row.event:
            case "key.signed":
                self.signatures += 1
                assert row.key_version is not None
                self._hold(self.state is enabled and self.minimum <= row.key_version <= self.version, row)
            case "key.imported":
                self._hold(self == Story(), row)
            case "key.exported":
                self.exports += 1
                versions = [int(version) for version in row.metadata["versions"].split(", ")]
                self._hold(self.state in (enabled, disabled) and max(versions) <= self.version, row)
            case "key.enabled":
                self._hold(self.state is disabled, row)
                self.state = enabled
            case "key.disabled":
                self._hold(self.state is enabled, row)
                self.state = disabled
            case "key.rotated":
                self._hold(self.state is enabled, row)
                self.version += 1
                assert row.metadata["version"] == f"{self.version - 1} -> {self.version}"
            case "key.updated":
                self._hold(self.state in (enabled, disabled), row)
                self.minimum = int(row.metadata["min_version"].split(" -> ")[1])
                self._hold(self.minimum <= self.version, row)
            case "key.deleted":
                self._hold(self.state in (enabled, disabled), row)
                self.state, self.before = deleted, self.state
            case "key.restored":
                self._hold(self.state is deleted, row)
                self.state = self.before
            case "key.destroyed":
                self._hold(self.state is deleted, row)
                self.state = KeyState.DESTROYED
            case other:
                self.odd.append(other)

    def _hold(self, right: bool, row: Row) -> None:
        if not right:
            self.odd.append(f"{row.sequence}: {row.event} of version {row.key_version} while {self}")


def does(desk: Desk, secret: bytes) -> dict[str, Callable[[], Awaitable[object]]]:
    caller, life = desk.mine.caller, desk.lifecycle

    def minimum(version: int) -> Awaitable[object]:
        return life.update(caller, NAME, name=None, metadata={}, check=lambda _: None, min_version=version)

    return {
        "enable": lambda: life.enable(caller, NAME),
        "disable": lambda: life.disable(caller, NAME),
        "delete": lambda: life.delete(caller, NAME, force=False),
        "undelete": lambda: life.undelete(caller, NAME),
        "rotate": lambda: desk.rotation.rotate(caller, NAME, expected=0),
        "minimum 1": lambda: minimum(1),
        "minimum 2": lambda: minimum(2),
        "sign": lambda: desk.sign(NAME),
        "sign 1": lambda: desk.sign(NAME, 1),
        "export": lambda: desk.hand_out(NAME),
        "export 1": lambda: desk.hand_out(NAME, 1),
        "import": lambda: desk.bring_in(secret, exportable=True),
        "force": lambda: life.delete(caller, NAME, force=True),
        "sweep": lambda: life.sweep(),
    }


async def played(desk: Desk, secret: bytes, moves: list[str]) -> Counter[str]:
    """One caller's moves, one after the other; how many of each kind were answered."""
    answered: Counter[str] = Counter()
    for move in moves:
        try:
            await does(desk, secret)[move]()
        except REFUSALS:
            continue
        answered[move.split()[0]] += 1
    return answered


async def judge(desk: Desk, answered: Counter[str]) -> None:
    stories: dict[UUID, Story] = defaultdict(Story)
    for row in await desk.trail():
        assert row.resource_id is not None
        stories[row.resource_id].read(row)
    assert [story.odd for story in stories.values()] == [[]] * len(stories)
    assert sum(story.signatures for story in stories.values()) == answered["sign"]
    assert sum(story.exports for story in stories.values()) == answered["export"]
    # The first is not a move.
    assert len(stories) == 1 + answered["import"]
    await desk.age()
    await desk.lifecycle.sweep()
    # Nothing is in the vault that no key leads to, nor is anything lost.
    kept = {key_id.hex for key_id, story in stories.items() if story.state is not KeyState.DESTROYED}
    assert desk.vault.keys.keys() == kept
    for key_id, story in stories.items():
        await judge_key(desk, key_id, story)


async def judge_key(desk: Desk, key_id: UUID, story: Story) -> None:
    """What is not finally deleted can be brought back, and signs with every version."""
    reference = show(Prefix.KEY, key_id)
    key = await desk.key(reference)
    assert (key.state, key.version, key.min_version) == (story.state, story.version, story.minimum)
    if story.state is KeyState.DESTROYED:
        return
    made = desk.vault.versions(key_id.hex)
    assert len(made) >= story.version == await desk.rows_of(key_id)
    caller = desk.mine.caller
    await desk.lifecycle.undelete(caller, reference)
    await desk.lifecycle.enable(caller, reference)
    await desk.lifecycle.update(caller, reference, name=None, metadata={}, check=lambda _: None, min_version=1)
    for version in range(1, story.version + 1):
        signature = await desk.sign(reference, version)
        assert bytes.fromhex(signature.key.public_key) == made[version - 1].public_key.format()
    left = await desk.hand_out(reference, *range(1, story.version + 1))
    assert [each.ciphertext for each in left.versions] == [b"sealed:" + key.secret for key in made[: story.version]]


@pytest.mark.timeout(300)
@given(plan=st.lists(st.lists(MOVE, min_size=1, max_size=8), min_size=CALLERS, max_size=CALLERS))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_key_is_lost_and_none_serves_in_a_state_that_forbids_it(database: str, plan: list[list[str]]) -> None:
    async def run() -> None:
        engine: AsyncEngine = create_async_engine(database.replace("postgresql://", "postgresql+psycopg://"))
        try:
            async with furnished(engine, database, Dawdling()) as desk:
                secret: bytes = coincurve.PrivateKey().secret
                await desk.bring_in(secret, exportable=True)
                ends = await asyncio.gather(*(played(desk, secret, moves) for moves in plan))
                await judge(desk, sum(ends, Counter()))
        finally:
            await engine.dispose()

    asyncio.run(run())
