"""Uses of API keys, noted behind the calls: once a minute, coalesced, bounded, and never a call's business."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from uuid import UUID

import pytest

from popsigner_server.domain.ids import new_id
from popsigner_server.domain.principals import ActorKind, Caller, Principal, Role
from popsigner_server.identity import uses as module
from popsigner_server.identity.uses import RETRY, Uses


@dataclass(slots=True)
class Desk:
    """Where notes are written; a test can hold it back or make it fail."""

    now: float = 1_000.0
    again: float = 60.0
    fails: bool = False
    lost: int = 0
    written: list[Caller] = field(default_factory=list)
    open: asyncio.Event = field(default_factory=asyncio.Event)
    writing: int = 0

    async def write(self, caller: Caller) -> float:
        self.writing += 1
        assert self.writing == 1
        try:
            await self.open.wait()
            if self.fails:
                raise OSError("away")
            self.written.append(caller)
        finally:
            self.writing -= 1
        return self.again

    def note_lost(self) -> None:
        self.lost += 1


@pytest.fixture
def desk() -> Desk:
    desk = Desk()
    desk.open.set()
    return desk


@pytest.fixture
async def uses(desk: Desk) -> AsyncIterator[Uses]:
    uses = Uses(desk.write, clock=lambda: desk.now, lost=desk.note_lost)
    yield uses
    desk.open.set()
    await uses.close()


def caller(api_key_id: UUID | None = None) -> Caller:
    principal = Principal(
        organization_id=new_id(),
        actor_id=api_key_id or new_id(),
        actor_kind=ActorKind.API_KEY,
        scopes=frozenset(),
        role=Role.UNSPECIFIED,
        expires_at=None,
        plan="free",
    )
    return Caller(principal=principal, ip_address="192.0.2.1", user_agent="test")


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_key_is_noted_by_its_first_use_and_then_once_a_minute(uses: Uses, desk: Desk) -> None:
    one = caller()
    for _ in range(5):
        uses.note(one)
        await settled()
    assert desk.written == [one]
    desk.now += 59.9
    uses.note(one)
    await settled()
    assert len(desk.written) == 1
    desk.now += 0.1
    uses.note(one)
    await settled()
    assert len(desk.written) == 2


async def test_a_note_does_not_wait_and_uses_at_once_are_one_note(uses: Uses, desk: Desk) -> None:
    desk.open.clear()
    one, two = caller(), caller()
    for _ in range(100):
        uses.note(one)
        uses.note(two)
    await settled()
    assert desk.written == []
    # Also while it is being written.
    uses.note(one)
    desk.open.set()
    await settled()
    assert desk.written == [one, two]


async def test_another_process_that_was_first_says_when_the_next_note_is_due(uses: Uses, desk: Desk) -> None:
    one = caller()
    desk.again = 12.0
    uses.note(one)
    await settled()
    desk.now += 12.0
    uses.note(one)
    await settled()
    assert len(desk.written) == 2


async def test_a_note_that_is_due_again_at_once_is_no_harm(uses: Uses, desk: Desk) -> None:
    desk.again = 0.0
    one = caller()
    for _ in range(3):
        uses.note(one)
        await settled()
    assert (desk.written, desk.lost) == ([one] * 3, 0)


async def test_a_person_is_never_noted(uses: Uses, desk: Desk) -> None:
    one = caller()
    uses.note(replace(one, principal=replace(one.principal, actor_kind=ActorKind.USER)))
    await settled()
    assert desk.written == []


async def test_a_failure_is_counted_stays_off_the_call_and_is_tried_again_later(uses: Uses, desk: Desk) -> None:
    desk.fails = True
    one, two = caller(), caller()
    uses.note(one)
    uses.note(two)
    await settled()
    assert (desk.lost, desk.written) == (2, [])
    desk.fails = False
    uses.note(one)
    await settled()
    assert desk.written == []
    desk.now += RETRY
    uses.note(one)
    await settled()
    assert desk.written == [one]


async def test_what_waits_and_what_is_remembered_are_bounded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING", 8)
    monkeypatch.setattr(module, "REMEMBERED", 16)
    uses = Uses(desk.write, clock=lambda: desk.now, lost=desk.note_lost)
    desk.open.clear()
    uses.note(caller())
    await settled()
    for _ in range(50):
        uses.note(caller())
    assert len(uses._waiting) == 8
    assert len(uses._noted) == 16
    assert desk.lost == 42
    desk.open.set()
    await uses.close()


async def test_keys_that_are_used_no_more_are_forgotten_as_others_are_used(uses: Uses, desk: Desk) -> None:
    for _ in range(50):
        uses.note(caller())
    await settled()
    desk.now += 60.0
    used = caller()
    for _ in range(26):
        uses.note(used)
        await settled()
        desk.now += 60.0
    assert len(uses._noted) == 1


async def test_the_end_waits_for_what_was_noted(uses: Uses, desk: Desk) -> None:
    desk.open.clear()
    noted = [caller() for _ in range(5)]
    for one in noted:
        uses.note(one)
    closing = asyncio.create_task(uses.close())
    await settled()
    assert not closing.done()
    desk.open.set()
    await closing
    assert desk.written == noted


async def test_the_end_does_not_wait_for_ever(uses: Uses, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LAST_NOTES", 0.01)
    desk.open.clear()
    uses.note(caller())
    await settled()
    await uses.close()
    await settled()
    assert desk.writing == 0
