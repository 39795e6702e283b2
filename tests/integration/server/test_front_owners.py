"""Whose unread requests are how many: once it is known who calls they are the caller's, over all connections, and take
nothing of what others on the same ones may hold."""

import asyncio
from typing import Any
from uuid import UUID

import grpc
import pytest

from popsigner_server.transport import body
from popsigner_server.transport.interceptors.base import Call, Handler, Rpc
from popsigner_server.transport.interceptors.errors import Errors
from tests.integration.server.front import SIGN, STREAM, Front, Owned, asked, on_uvloop, served, status_in, until
from tests.integration.server.front_peer import PREFIX, Peer, framed

TOO_LARGE = (grpc.StatusCode.RESOURCE_EXHAUSTED, "REQUEST_TOO_LARGE")
REQUEST = framed(asked(60_000))
# But for the last byte.
PART = PREFIX + 60_000 - 1
ORGANIZATIONS = [{"x-organization": "1"}, {"x-organization": "2"}]
PERSONS = [{"x-person": "1"}, {"x-person": "2"}]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "HELD", 100_000)
    monkeypatch.setattr(body, "HELD_BY_ALL", 190_000)


class Unsure:
    """In front of who says who calls."""

    def __init__(self) -> None:
        self.known = asyncio.Event()

    def wrap(self, rpc: Rpc, proceed: Handler) -> Handler:
        async def handle(call: Call, request: Any) -> Any:
            await self.known.wait()
            return await proceed(call, request)

        return handle


def part(peer: Peer, owner: dict[str, str], path: str = SIGN) -> int:
    return peer.call(path, REQUEST[:-1], owner, end=False)


def forgotten(front: Front) -> bool:
    """Whether no owner's room is left."""
    return not front.server._rooms._owned


def of(front: Front, number: int) -> int:
    room = front.server._rooms._owned.get(UUID(int=number))
    return 0 if room is None else room.held


@pytest.mark.parametrize("owners", [ORGANIZATIONS, PERSONS])
@on_uvloop
async def test_callers_on_one_connection_hold_each_their_own(owners: list[dict[str, str]]) -> None:
    async with served(interceptors=[Errors(), Owned()]) as front, front.dialled() as peer:
        streams = []
        for owner in owners:
            streams.append(part(peer, owner))
            await peer.alive()
        assert (of(front, 1), of(front, 2), front.held) == (PART, PART, 2 * PART)
        assert peer_room(front) == 0
        for stream in streams:
            peer.send(stream, REQUEST[-1:], end=True)
            assert await peer.answer(stream)
        await until(lambda: forgotten(front))


def peer_room(front: Front) -> int:
    return sum(connection.calls._room.held for connection in front.server._open)


@pytest.mark.parametrize("path", [SIGN, STREAM])
@on_uvloop
async def test_a_caller_holds_no_more_on_two_connections_than_on_one(path: str) -> None:
    one, other = ORGANIZATIONS
    async with served(interceptors=[Errors(), Owned()]) as front, front.dialled() as peer, front.dialled() as second:
        held = part(peer, one)
        await peer.alive()
        assert status_in(await second.refused(part(second, one, path))) == TOO_LARGE
        assert (of(front, 1), front.held) == (PART, PART)
        # Others are not touched by it.
        assert await second.answer(second.call(SIGN, REQUEST, other))
        peer.send(held, REQUEST[-1:], end=True)
        assert await peer.answer(held)
        assert await second.answer(second.call(SIGN, REQUEST, one))


@on_uvloop
async def test_what_came_before_it_was_known_whose_it_is_becomes_theirs() -> None:
    unsure = Unsure()
    async with served(interceptors=[Errors(), unsure, Owned()]) as front, front.dialled() as peer:
        stream = part(peer, ORGANIZATIONS[0])
        await peer.alive()
        assert (of(front, 1), peer_room(front)) == (0, PART)
        unsure.known.set()
        await until(lambda: (of(front, 1), peer_room(front)) == (PART, 0))
        peer.send(stream, REQUEST[-1:], end=True)
        assert await peer.answer(stream)


@on_uvloop
async def test_or_is_refused_where_they_have_no_room_for_it() -> None:
    unsure = Unsure()
    async with (
        served(interceptors=[Errors(), unsure, Owned()]) as front,
        front.dialled() as peer,
        front.dialled() as second,
    ):
        first = part(peer, ORGANIZATIONS[0])
        await peer.alive()
        refused = part(second, ORGANIZATIONS[0])
        await second.alive()
        assert front.held == 2 * PART
        unsure.known.set()
        assert status_in(await second.refused(refused)) == TOO_LARGE
        assert (of(front, 1), front.held) == (PART, PART)
        peer.send(first, REQUEST[-1:], end=True)
        assert await peer.answer(first)


@on_uvloop
async def test_all_callers_together_hold_no_more_than_the_process_has_room_for() -> None:
    async with served(interceptors=[Errors(), Owned()]) as front, front.dialled() as peer:
        for owner in ORGANIZATIONS:
            part(peer, owner)
            await peer.alive()
        refused = part(peer, {"x-organization": "3"})
        assert status_in(await peer.refused(refused)) == TOO_LARGE
        assert front.held == 2 * PART


@on_uvloop
async def test_many_that_hold_all_they_may_leave_as_much_to_who_comes_next() -> None:
    """One person can have many organizations, and one proxy many connections."""
    room, small = 190_000, framed(asked(3_000))
    async with served(interceptors=[Errors(), Owned()]) as front, front.dialled() as peer:
        for owner in range(1, 5):
            for _ in range(40):
                last = peer.call(SIGN, small[:-1], {"x-organization": str(owner)}, end=False)
                await peer.alive()
            assert status_in(await peer.refused(last)) == TOO_LARGE
        held = [of(front, owner) for owner in range(1, 5)]
        # Each half of what the ones before have left, where the first two could have had it all.
        assert held[0] <= room / 2
        assert room - front.held >= min(held) >= len(small)
        assert await peer.answer(peer.call(SIGN, small, {"x-organization": "5"}))


@pytest.mark.parametrize("end", ["reset", "lost", "cut", "late"])
@on_uvloop
async def test_nothing_of_theirs_stays_counted(end: str) -> None:
    async with served(interceptors=[Errors(), Owned()]) as front, front.dialled() as peer:
        more = {"grpc-timeout": "200m"} if end == "late" else {}
        stream = peer.call(SIGN, REQUEST[:-1], ORGANIZATIONS[0] | more, end=False)
        await until(lambda: of(front, 1) == PART)
        if end == "reset":
            peer.reset(stream)
        elif end == "lost":
            peer.writer.transport.abort()
        elif end == "cut":
            peer.send(stream, b"", end=True)
        await until(lambda: front.held == 0)
        await until(lambda: forgotten(front))
