"""Names of identity providers, of which an organization chooses some: one whose name server never answers holds up its
own log-ins, and nobody else's."""

import asyncio
import socket
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest

from popsigner_gateway.web.faults import Fault
from popsigner_gateway.web.providers import outbound
from popsigner_gateway.web.providers.outbound import LOOKS, Names, Outbound, Reach

ADDRESS = "203.0.113.7"


@dataclass
class Resolver:
    """The system's: names that begin with `slow` are answered when it is told to. Like the real one it goes on when its
    caller has gone."""

    asked: Counter[str] = field(default_factory=Counter)
    answers: asyncio.Event = field(default_factory=asyncio.Event)

    async def getaddrinfo(self, host: str, port: None, **_: Any) -> list[Any]:
        self.asked[host] += 1
        if host.startswith("slow"):
            await self.answers.wait()
        if host.endswith("unknown.example"):
            raise socket.gaierror("nobody")
        # Each address comes once for each protocol where nobody says which.
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ADDRESS, 0))] * 2


@pytest.fixture
async def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    resolver = Resolver()
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolver.getaddrinfo)
    return resolver


async def test_all_who_ask_for_one_name_wait_for_one_look(resolver: Resolver) -> None:
    names = Names()
    asking = [asyncio.create_task(names.addresses("slow.example")) for _ in range(200)]
    await asyncio.sleep(0)
    for task in asking[:150]:
        # Each waits 10 s at most, and the look goes on.
        task.cancel()
    await asyncio.sleep(0)
    resolver.answers.set()
    ends = await asyncio.gather(*asking[150:], names.addresses("slow.example"))
    assert ends == [[ADDRESS]] * 51
    assert resolver.asked["slow.example"] == 1
    # Nothing of it is believed later: what stands behind a name may have changed.
    await names.addresses("slow.example")
    assert resolver.asked["slow.example"] == 2


async def test_names_that_are_never_answered_leave_room_for_those_that_were_found(resolver: Resolver) -> None:
    names = Names()
    await names.addresses("good.example")
    asking = [asyncio.create_task(names.addresses(f"slow-{number}.example")) for number in range(2 * LOOKS)]
    await asyncio.sleep(0)
    assert sum(resolver.asked.values()) - 1 < LOOKS
    assert await names.addresses("good.example") == [ADDRESS]
    with pytest.raises(OSError, match="too many"):
        await names.addresses("stranger.example")
    resolver.answers.set()
    ends = await asyncio.gather(*asking, return_exceptions=True)
    assert all(end == [ADDRESS] or isinstance(end, OSError) for end in ends)
    assert await names.addresses("stranger.example") == [ADDRESS]


async def test_a_name_that_is_found_by_nobody_is_not_known(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbound, "_STRANGERS", 0)
    names = Names()
    for _ in range(2):
        with pytest.raises(OSError, match="too many"):
            await names.addresses("unknown.example")
    monkeypatch.setattr(outbound, "_STRANGERS", 1)
    with pytest.raises(socket.gaierror):
        await names.addresses("unknown.example")
    monkeypatch.setattr(outbound, "_STRANGERS", 0)
    with pytest.raises(OSError, match="too many"):
        await names.addresses("unknown.example")


async def test_a_name_that_was_slow_once_has_to_be_prompt_again(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else whoever answers promptly until then could take the kept threads, too."""
    monkeypatch.setattr(outbound, "PROMPT", 0.05)
    names = Names()
    looking = asyncio.create_task(names.addresses("slow.example"))
    await asyncio.sleep(0.1)
    resolver.answers.set()
    assert await looking == [ADDRESS]
    monkeypatch.setattr(outbound, "_STRANGERS", 0)
    with pytest.raises(OSError, match="too many"):
        await names.addresses("slow.example")
    monkeypatch.setattr(outbound, "_STRANGERS", 1)
    monkeypatch.setattr(outbound, "PROMPT", 60)
    await names.addresses("slow.example")
    monkeypatch.setattr(outbound, "_STRANGERS", 0)
    assert await names.addresses("slow.example") == [ADDRESS]


async def test_what_is_remembered_of_names_is_bounded(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbound, "_KNOWN", 5)
    names = Names()
    for number in range(50):
        await names.addresses(f"{number}.example")
    assert (len(names._prompt), len(names._under_way)) == (5, 0)


async def test_who_is_turned_away_is_told_to_come_again(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbound, "_STRANGERS", 0)
    with pytest.raises(Fault) as refused:
        await Outbound(reach=Reach()).json("https://idp.example/keys")
    assert (refused.value.reason, refused.value.status) == ("PROVIDER_UNAVAILABLE", 503)
    assert refused.value.retry_after
