"""Peers that send and do not read: what is kept for them is little, and all of it comes when they read."""

import asyncio

from popsigner_http2 import frames
from popsigner_http2.connection import BUFFER_BYTES
from popsigner_http2.frames import frame
from tests.unit.http2.parts import BLOCK, SETTLED, Served, asking, requests, widening
from tests.unit.http2.sockets import Peer, dialled

PING = frame(frames.PING, 0, 0, b"12345678")
# What a transport takes before it says that the peer does not read (asyncio, uvloop).
HIGH = 65_536
# One request, and the peer takes answers of any length.
WIDE = (
    SETTLED + frames.settings({frames.INITIAL_WINDOW_SIZE: 2**30}) + widening(2**30) + asking(1, block=b"\x20" + BLOCK)
)


def kept(peer: Peer) -> int:
    """Bytes that wait for the peer in this process, but for answers that wait with their calls."""
    connection = peer.connection
    waiting = [*connection._writer._out, *connection._writer._pongs, connection._rest]
    return peer.transport.get_write_buffer_size() + sum(map(len, waiting))


async def test_pings_of_a_peer_that_does_not_read_are_not_read_either() -> None:
    pings = 60_000
    async with dialled(Served()) as peer:
        await peer.say(SETTLED)
        rest = await peer.fill(PING * pings)
        assert len(rest) > pings * len(PING) // 2
        assert HIGH < kept(peer) <= HIGH + 2 * BUFFER_BYTES
        said = asyncio.ensure_future(peer.say(rest))
        answered = await peer.hear(frames.PING, pings)
        await said
        assert {(each.flags, each.payload) for each in answered} == {(frames.ACK, b"12345678")}
        assert kept(peer) == 0


async def test_requests_of_a_peer_that_does_not_read_wait_and_are_answered_when_it_reads() -> None:
    answer, count = bytes(4_000), 6_000
    async with dialled(Served(answer=answer)) as peer:
        await peer.say(WIDE)
        rest = await peer.fill(requests(count - 1, first=3))
        begun = len(peer.calls.begun)
        # What is sent with the last turn goes beyond.
        assert HIGH < kept(peer) <= HIGH + BUFFER_BYTES + 80 * (len(answer) + 100)
        assert begun < count - 1 - len(rest) // len(requests(1))
        await asyncio.sleep(0.01)
        assert len(peer.calls.begun) == begun
        said = asyncio.ensure_future(peer.say(rest))
        answered = await peer.hear(frames.DATA, count)
        await said
        assert [each.stream for each in answered] == list(range(1, 2 * count, 2))
        assert all(each.payload == answer for each in answered)


async def test_answers_that_come_while_the_peer_does_not_read_wait_with_their_calls() -> None:
    calls, answer = 100, bytes(range(250)) * 400
    async with dialled(Served(answer=None)) as peer:
        await peer.say(WIDE + requests(calls - 1, first=3))
        rest = await peer.fill(PING * 60_000)
        assert len(peer.calls.begun) == calls
        before = kept(peer)
        for number in reversed(peer.calls.begun):
            peer.calls.answer(number, answer)
        await asyncio.sleep(0.01)
        assert kept(peer) - before < 100 * calls
        await peer.hear(frames.DATA, calls * 7)
        said = peer.heard
        for number in peer.calls.begun:
            mine = [each for each in said if each.stream == number and each.kind != frames.WINDOW_UPDATE]
            assert b"".join(each.payload for each in mine if each.kind == frames.DATA) == answer
            assert (mine[0].kind, mine[1].kind) == (frames.HEADERS, frames.DATA)
        first = [each.stream for each in said if each.kind == frames.DATA][::7]
        assert first == list(reversed(peer.calls.begun))
        assert rest


async def test_a_peer_that_leaves_without_having_read_is_forgotten() -> None:
    served = Served(answer=None)
    async with dialled(served) as peer:
        await peer.say(WIDE)
        await peer.fill(PING * 60_000)
        peer.calls.answer(1, bytes(100_000))
        peer.leave()
        peer.connection.abort()
        await asyncio.wait_for(peer.connection.lost, 5)
        assert peer.calls.over
        assert not served.open
        assert kept(peer) == 0
