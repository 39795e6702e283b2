"""Calls that do not sign are at work a few at a time, each owner's by themselves, and signatures wait for none."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from popsigner_server import errors
from popsigner_server.gen.popsigner.v1 import key_pb2, sign_pb2
from popsigner_server.transport import body
from popsigner_server.transport.contract import CHANGES, READS, _only_reads, rpcs
from popsigner_server.transport.interceptors.base import Call
from popsigner_server.transport.interceptors.errors import Errors
from tests.integration.server.front import SIGN, Front, Owned, echo, on_uvloop, served, status_in, until
from tests.integration.server.front_peer import Peer, framed
from tests.integration.server.test_front_garbage import TIMES, ours

GET_KEY = "/popsigner.v1.KeyService/GetKey"
UPDATE_KEY = "/popsigner.v1.KeyService/UpdateKey"
LIST_PROVIDERS = "/popsigner.internal.v1.LoginService/ListProviders"
OURS, THEIRS = {"x-organization": "1"}, {"x-organization": "2"}
PERSON = {"x-person": "3"}
KEY = framed(key_pb2.GetKeyRequest(key_id="k" * 1_000).SerializeToString())


class Held:
    """Handles Sign at once; all others are at work until they are let go."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()
        self.at_work: Counter[int] = Counter()
        self.most: Counter[int] = Counter()
        self.begun = 0

    async def __call__(self, call: Call, request: Any) -> Any:
        if isinstance(request, sign_pb2.SignRequest):
            return await echo(call, request)
        owner = 0
        if call.known_caller is not None:
            owner = call.known_caller.principal.organization_id.int
        elif call.known_person is not None:
            owner = call.known_person.user_id.int
        self.begun += 1
        self.at_work[owner] += 1
        self.most[owner] = max(self.most[owner], self.at_work[owner])
        try:
            await self.let_go.wait()
        finally:
            self.at_work[owner] -= 1
        return sign_pb2.SignResponse()


@asynccontextmanager
async def site() -> AsyncIterator[tuple[Held, Front, Peer]]:
    held = Held()
    async with served(held, interceptors=[Errors(), Owned()]) as front, front.dialled() as peer:
        yield held, front, peer


def test_what_reads_is_told_from_what_changes() -> None:
    named = {path for path, rpc in rpcs().items() if rpc.name.startswith(("Get", "List", "Verify", "Whoami", "Export"))}
    of_callers = {path: rpc for path, rpc in rpcs().items() if not path.startswith("/popsigner.internal.")}
    # It hands out private keys, with an audit row.
    named -= {"/popsigner.v1.KeyService/ExportKey"}
    assert {path for path, rpc in of_callers.items() if _only_reads(rpc)} == named & of_callers.keys()


@pytest.mark.parametrize(("owner", "number"), [(OURS, 1), (PERSON, 3)])
@on_uvloop
async def test_an_owners_calls_are_at_work_a_few_at_a_time_and_all_are_answered(
    owner: dict[str, str], number: int
) -> None:
    async with site() as (held, front, peer):
        streams = [peer.call(GET_KEY, KEY, owner) for _ in range(20)]
        await until(lambda: front.calls == 20 and held.begun == READS)
        # What waits is counted until its turn comes.
        assert front.held == (20 - READS) * len(KEY)
        held.let_go.set()
        for stream in streams:
            await peer.answer(stream)
        assert (held.begun, held.most[number]) == (20, READS)


@on_uvloop
async def test_a_neighbour_signatures_and_changes_wait_for_no_reads() -> None:
    async with site() as (held, front, peer):
        for _ in range(20):
            peer.call(GET_KEY, KEY, OURS)
        await until(lambda: held.begun == READS)
        for owner in (OURS, THEIRS):
            await peer.answer(peer.call(SIGN, framed(b""), owner))
        for _ in range(20):
            peer.call(GET_KEY, KEY, THEIRS)
        await until(lambda: held.begun == 2 * READS)
        for _ in range(20):
            peer.call(UPDATE_KEY, framed(b""), OURS)
        await until(lambda: held.begun == 2 * READS + CHANGES)
        turns = front.server.turns
        assert (turns.reads.waiting, turns.changes.waiting) == (2 * (20 - READS), 20 - CHANGES)
        # The gateway's questions are everybody's.
        for _ in range(20):
            peer.call(LIST_PROVIDERS, framed(b""))
        await until(lambda: held.begun == 2 * READS + CHANGES + 20)
        assert held.at_work[1] == READS + CHANGES
        assert held.at_work[2] == READS


@on_uvloop
async def test_what_waits_is_its_owners_also_on_a_connection_that_others_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "HELD", 20_000)
    async with site() as (held, front, peer):
        for _ in range(READS):
            peer.call(GET_KEY, KEY, OURS)
        await until(lambda: held.begun == READS)
        waiting = [peer.call(GET_KEY, KEY, OURS) for _ in range(20_000 // len(KEY) + 1)]
        code, reason = status_in(await peer.refused(waiting.pop()))
        assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "REQUEST_TOO_LARGE")
        assert front.held == len(waiting) * len(KEY)
        await peer.answer(peer.call(SIGN, framed(b""), OURS))
        theirs = [peer.call(GET_KEY, KEY, THEIRS) for _ in range(10)]
        await until(lambda: held.begun == 2 * READS)
        held.let_go.set()
        for stream in [*waiting, *theirs]:
            await peer.answer(stream)


@on_uvloop
async def test_who_sends_a_request_slowly_holds_no_turn() -> None:
    async with site() as (held, front, peer):
        slow = [peer.call(GET_KEY, KEY[:-1], OURS, end=False) for _ in range(10)]
        await until(lambda: front.calls == 10)
        peer.call(GET_KEY, KEY, OURS)
        await until(lambda: held.begun == 1)
        for stream in slow:
            peer.send(stream, KEY[-1:], end=True)
        await until(lambda: held.begun == READS)
        held.let_go.set()
        for stream in slow:
            await peer.answer(stream)


@on_uvloop
async def test_who_waits_beyond_its_deadline_or_leaves_never_begins() -> None:
    async with site() as (held, front, peer):
        for _ in range(READS):
            peer.call(GET_KEY, KEY, OURS)
        await until(lambda: held.begun == READS)
        late = [peer.call(GET_KEY, KEY, OURS | {"grpc-timeout": "20m"}) for _ in range(5)]
        left = [peer.call(GET_KEY, KEY, OURS) for _ in range(5)]
        await until(lambda: front.calls == READS + 10)
        for stream in late:
            assert status_in(await peer.refused(stream))[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        for stream in left:
            peer.reset(stream)
        await until(lambda: front.calls == READS)
        assert front.held == 0
        stayed = peer.call(GET_KEY, KEY, OURS)
        held.let_go.set()
        await peer.answer(stayed)
        assert held.begun == READS + 1


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("how", ["answered", "refused", "reset"])
@on_uvloop
async def test_a_call_in_its_turn_leaves_nothing_to_the_collector(how: str) -> None:
    async def handle(call: Call, request: Any) -> Any:
        match how:
            case "refused":
                await asyncio.sleep(0)
                raise errors.KeyNotFound
            case "reset":
                await asyncio.sleep(60)
        return sign_pb2.SignResponse()

    async with served(handle, interceptors=[Errors(), Owned()]) as front, front.dialled() as peer:

        async def some() -> None:
            streams = [peer.call(GET_KEY, KEY, OURS) for _ in range(2 * READS)]
            await until(lambda: front.calls == len(streams) or how != "reset")
            for stream in streams:
                match how:
                    case "answered":
                        await peer.answer(stream)
                    case "refused":
                        await peer.refused(stream)
                    case "reset":
                        peer.reset(stream)
            await until(lambda: not front.calls)
            await asyncio.sleep(0.02)

        for _ in range(3):
            await some()
        before = ours()
        for _ in range(TIMES):
            await some()
        assert not ours() - before
