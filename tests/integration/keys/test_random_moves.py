"""Random moves by concurrent callers: no key is lost that was not finally deleted, and none signs in a state that
forbids it. What is held against them is the trail alone, in the order of the ledger, as a customer reads it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from popsigner_server import errors
from popsigner_server.domain.keys import KeyState
from popsigner_server.ledger import Row
from tests.integration.keys.desk import Desk, furnished

CALLERS = 3
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
    "force",
    "sweep",
)
# What a caller may be told while others move the same key.
REFUSALS = (
    errors.KeyDeleted,
    errors.KeyDisabled,
    errors.KeyNotFound,
    errors.KeyVersionChanged,
    errors.KeyVersionUnavailable,
    errors.InvalidField,
)
# `force` ends everything, so it is rare.
COMMON = st.sampled_from([move for move in MOVES if move not in ("force", "sweep")])
MOVE = st.one_of(COMMON, COMMON, COMMON, st.sampled_from(MOVES))


@dataclass(slots=True)
class Story:
    """A key by its audit rows."""

    state: KeyState = KeyState.ENABLED
    before: KeyState = KeyState.ENABLED
    version: int = 1
    minimum: int = 1
    signatures: int = 0
    odd: list[str] = field(default_factory=list)

    def read(self, row: Row) -> None:
        enabled, disabled, deleted = KeyState.ENABLED, KeyState.DISABLED, KeyState.DELETED
        match row.event:
            case "key.signed":
                self.signatures += 1
                assert row.key_version is not None
                self._hold(self.state is enabled and self.minimum <= row.key_version <= self.version, row)
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


def does(desk: Desk, reference: str) -> dict[str, Callable[[], Awaitable[object]]]:
    caller, life = desk.mine.caller, desk.lifecycle

    def minimum(version: int) -> Awaitable[object]:
        return life.update(caller, reference, name=None, metadata={}, check=lambda _: None, min_version=version)

    return {
        "enable": lambda: life.enable(caller, reference),
        "disable": lambda: life.disable(caller, reference),
        "delete": lambda: life.delete(caller, reference, force=False),
        "undelete": lambda: life.undelete(caller, reference),
        "rotate": lambda: desk.rotation.rotate(caller, reference, expected=0),
        "minimum 1": lambda: minimum(1),
        "minimum 2": lambda: minimum(2),
        "sign": lambda: desk.sign(reference),
        "sign 1": lambda: desk.sign(reference, 1),
        "force": lambda: life.delete(caller, reference, force=True),
        "sweep": lambda: life.sweep(),
    }


async def played(desk: Desk, reference: str, moves: list[str]) -> int:
    """One caller's moves, one after the other; how many signatures it was answered."""
    signed = 0
    for move in moves:
        try:
            await does(desk, reference)[move]()
        except REFUSALS:
            continue
        signed += move.startswith("sign")
    return signed


async def judge(desk: Desk, key_id: UUID, reference: str, answered: int) -> None:
    story = Story()
    for row in await desk.trail():
        if row.resource_id == key_id:
            story.read(row)
    assert not story.odd
    assert story.signatures == answered
    key = await desk.key(reference)
    assert (key.state, key.version, key.min_version) == (story.state, story.version, story.minimum)
    if story.state is KeyState.DESTROYED:
        assert key_id.hex not in desk.vault.keys
        return
    # Nothing was lost: what is not finally deleted can be brought back, and signs with every version.
    made = desk.vault.versions(key_id.hex)
    assert len(made) >= story.version == await desk.rows_of(key_id)
    caller = desk.mine.caller
    await desk.lifecycle.undelete(caller, reference)
    await desk.lifecycle.enable(caller, reference)
    await desk.lifecycle.update(caller, reference, name=None, metadata={}, check=lambda _: None, min_version=1)
    for version in range(1, story.version + 1):
        signature = await desk.sign(reference, version)
        assert bytes.fromhex(signature.key.public_key) == made[version - 1].public_key.format()


@pytest.mark.timeout(300)
@given(plan=st.lists(st.lists(MOVE, min_size=1, max_size=8), min_size=CALLERS, max_size=CALLERS))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_key_is_lost_and_none_signs_in_a_state_that_forbids_it(database: str, plan: list[list[str]]) -> None:
    async def run() -> None:
        engine: AsyncEngine = create_async_engine(database.replace("postgresql://", "postgresql+psycopg://"))
        try:
            async with furnished(engine, database) as desk:
                reference = await desk.create("subject")
                key_id = (await desk.key(reference)).id
                answered = await asyncio.gather(*(played(desk, reference, moves) for moves in plan))
                await judge(desk, key_id, reference, sum(answered))
        finally:
            await engine.dispose()

    asyncio.run(run())
