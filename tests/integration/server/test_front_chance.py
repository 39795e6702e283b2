"""Calls that begin, go on and end in any order, on connections that share a small room: what is counted as held is what
is there, after every step, and nothing at the end."""

import asyncio
from collections import Counter
from typing import Any
from unittest.mock import patch

import h2.events
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from popsigner_http2 import frames
from popsigner_http2.frames import Code, frame
from popsigner_server.transport import body
from popsigner_server.transport.interceptors.base import Call, Handler, Rpc
from popsigner_server.transport.interceptors.errors import Errors
from tests.integration.server.front import SIGN, STREAM, WATCH, Front, Owned, asked, served, until
from tests.integration.server.front_peer import CEILING, CHECK, Peer, framed

NOWHERE = "/popsigner.v1.SignService/Forge"
ROOM, PROCESS = 150_000, 250_000
PEERS = 3
# A call's whole body, which its steps send from; longer than a stream's window and than each room.
BODIES = {
    SIGN: framed(asked(300_000)),
    STREAM: b"".join(framed(asked(20_000, number)) for number in range(1, 16)),
    NOWHERE: framed(asked(300_000)),
    CHECK: framed(bytes((0x0A, 0xE0, 0xA7, 0x12)) + b"x" * 300_000),
    WATCH: framed(b"") + bytes(300_000),
}


class Doorman:
    """Lets nobody in until the next `open`."""

    def __init__(self) -> None:
        self._door = asyncio.Event()

    def open(self) -> None:
        self._door.set()
        self._door = asyncio.Event()

    def wrap(self, rpc: Rpc, proceed: Handler) -> Handler:
        async def handle(call: Call, request: Any) -> Any:
            if rpc.path == SIGN:
                await self._door.wait()
            return await proceed(call, request)

        return handle


class Talk:
    """One call of a peer, which says what it has to say whether or not anybody listens or allows it."""

    def __init__(self, peer: Peer, path: str, timeout: str, owner: str) -> None:
        self.peer = peer
        self.stream = peer.begin(path, {"grpc-timeout": timeout, "x-organization": owner})
        self.rest = BODIES[path]
        self.ended = False

    def say(self, size: int, *, padding: int = 0) -> None:
        content, self.rest = self.rest[:size], self.rest[size:]
        for start in range(0, len(content), 10_000):
            part = content[start : start + 10_000]
            if padding:
                self._frame(frames.DATA, frames.PADDED, bytes((padding,)) + part + bytes(padding))
            else:
                self._frame(frames.DATA, 0, part)

    def end(self) -> None:
        self._frame(frames.DATA, frames.END_STREAM, b"")

    def reset(self) -> None:
        self._frame(frames.RST_STREAM, 0, frames.NUMBER.pack(Code.CANCEL))

    def _frame(self, kind: int, flags: int, payload: bytes) -> None:
        self.peer.raw(frame(kind, flags, self.stream, payload))


AT = st.integers(0, PEERS - 1)
TIMEOUTS, OWNERS = st.sampled_from(["", "", "5m"]), st.sampled_from(["", "1", "2"])
STEPS = st.one_of(
    st.tuples(st.just("begin"), st.sampled_from(sorted(BODIES)), st.tuples(AT, TIMEOUTS, OWNERS)),
    st.tuples(st.just("say"), st.integers(0, 9), st.integers(1, 140_000)),
    st.tuples(st.just("say padded"), st.integers(0, 9), st.integers(1, 60_000)),
    st.tuples(st.sampled_from(["say all", "end", "end", "reset"]), st.integers(0, 9), st.just(0)),
    st.tuples(st.sampled_from(["open", "lose", "wait"]), AT, st.just(0)),
)


@given(steps=st.lists(STEPS, min_size=5, max_size=40))
@settings(max_examples=60, deadline=None)
def test_what_is_counted_is_what_is_there(steps: list[tuple[str, Any, Any]]) -> None:
    async def whole() -> None:
        async with asyncio.timeout(CEILING):
            await played(steps)

    with patch.object(body, "HELD", ROOM), patch.object(body, "HELD_BY_ALL", PROCESS):
        uvloop.run(whole())


async def played(steps: list[tuple[str, Any, Any]]) -> None:
    doorman = Doorman()
    async with served(interceptors=[Errors(), doorman, Owned()]) as front:
        peers: list[Peer] = []
        talks: list[Talk] = []
        for kind, first, second in steps:
            while len(peers) < PEERS:
                peers.append(await dialled(front))
            if kind == "begin":
                talks.append(Talk(peers[second[0]], first, *second[1:]))
            elif kind == "open":
                doorman.open()
            elif kind == "wait":
                await asyncio.sleep(0.01)
            elif kind == "lose":
                gone = peers.pop(first)
                gone.writer.transport.abort()
                talks = [talk for talk in talks if talk.peer is not gone]
            elif talks:
                done(kind, talks[first % len(talks)], second)
            for peer in peers:
                # Refused where there is no room.
                await peer.until(h2.events.StreamEnded, peer.call(CHECK, framed(b"")))
                peer.events.clear()
            look(front)
        for peer in peers:
            peer.writer.transport.abort()
        await until(lambda: front.held == 0 and front.calls == 0)


def done(kind: str, talk: Talk, size: int) -> None:
    if kind == "say":
        talk.say(size)
    elif kind == "say padded":
        talk.say(size, padding=200)
    elif kind == "say all":
        talk.say(len(talk.rest))
    elif kind == "end":
        talk.end()
    else:
        talk.reset()


async def dialled(front: Front) -> Peer:
    peer = Peer(*await asyncio.open_connection("127.0.0.1", front.port))
    await peer.until(h2.events.WindowUpdated, 0)
    return peer


def look(front: Front) -> None:
    there: Counter[int] = Counter()
    for connection in front.server._open:
        for exchange in connection.calls._exchanges.values():
            # A question to health has a room of its own.
            if exchange.body._room._outer is front.server._rooms.all:
                there[id(exchange.body._room)] += len(exchange.body._received)
    rooms = [*(connection.calls._room for connection in front.server._open), *front.server._rooms._owned.values()]
    for room in rooms:
        assert room.held == there[id(room)] <= ROOM
    assert front.held == there.total() <= PROCESS
