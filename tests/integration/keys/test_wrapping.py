"""The wrapping key as a server gives it out: one question to the vault for all who ask, and none of them kept waiting
for what has changed."""

import asyncio
from dataclasses import dataclass, field

import pytest

from popsigner_server import errors
from popsigner_server.keys.wrapping import FRESH, WrappingKeys
from popsigner_server.vault import WrappingKey
from tests.integration.keys.desk import Desk
from tests.support.memory_vault import MemoryVault


@dataclass(slots=True)
class Changing(MemoryVault):
    """A vault that gives out another wrapping key each time, when it is let."""

    asked: int = 0
    let: asyncio.Event = field(default_factory=asyncio.Event)

    async def wrapping_key(self) -> WrappingKey:
        self.asked += 1
        number = self.asked
        await self.let.wait()
        if self.away:
            raise errors.VaultUnavailable
        return WrappingKey(id=f"{number:064}", public_key="-", wrapping="-", created_at_ms=number)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_all_who_ask_within_some_seconds_are_answered_by_one_question() -> None:
    vault, clock = Changing(), Clock()
    wrapping_keys = WrappingKeys(vault, clock=clock)
    asking = [asyncio.create_task(wrapping_keys.current()) for _ in range(100)]
    await asyncio.sleep(0)
    # One who goes away takes nothing from the others.
    asking[0].cancel()
    vault.let.set()
    answers = await asyncio.gather(*asking[1:])
    assert ({answer.created_at_ms for answer in answers}, vault.asked) == ({1}, 1)
    clock.now += FRESH - 0.001
    assert (await wrapping_keys.current()).created_at_ms == 1
    clock.now += 0.001
    assert (await wrapping_keys.current()).created_at_ms == 2


async def test_a_failure_is_everybodys_who_waits_and_nobodys_after() -> None:
    vault = Changing(away=True)
    wrapping_keys = WrappingKeys(vault, clock=Clock())
    asking = [asyncio.create_task(wrapping_keys.current()) for _ in range(10)]
    await asyncio.sleep(0)
    vault.let.set()
    ends = await asyncio.gather(*asking, return_exceptions=True)
    assert {type(end) for end in ends} == {errors.VaultUnavailable}
    assert vault.asked == 1
    vault.away = False
    assert (await wrapping_keys.current()).created_at_ms == 2


async def test_a_wrapping_key_that_the_vault_refused_is_not_given_out_again(desk: Desk) -> None:
    vault = Changing()
    vault.let.set()
    wrapping_keys = WrappingKeys(vault, clock=Clock())
    importing = type(desk.importing)(desk.reservations, desk.vault, wrapping_keys)
    assert (await wrapping_keys.current()).created_at_ms == 1
    with pytest.raises(errors.WrappingKeyUnknown):
        await desk.bring_in(b"\x01" * 32, wrapping_key="1" * 64, importing=importing)
    assert (await wrapping_keys.current()).created_at_ms == 2
