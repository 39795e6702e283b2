"""`kill -9` of every part while 32 clients sign: the POP comes back by itself, and nothing that it answered is lost."""

import asyncio
import contextlib
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field

import grpc
import psutil
import psycopg
import pytest

from popsigner_server.gen.popsigner.v1 import key_pb2
from tests.integration.promises.site import database_url
from tests.integration.promises.trail import Trail, assert_verifies
from tests.support.load import AWAY, Client, Item, Load, Signed, Wire, reason_of
from tests.support.pop import Pop

PARTS = ("server", "openbao", "plugin", "postgres")
KILLS = 3
# What the issue promises, in seconds: from SIGKILL to a signature of the part's new process.
RECOVERY = 10.0
# Whoever waits longer for an answer gives up, and asks again.
CALL = 4.0
# A storm ends by itself after so many seconds.
STORM = 90.0
MESSAGES = 5_000
PAUSE = 0.03
# Of each client between two deaths.
ANSWERS = 10
CREATORS = 2
# Of each creator in one storm, at most.
CREATIONS = 100
SAMPLE = 100


@pytest.fixture(scope="module")
def pop() -> Iterator[Pop]:
    # One server: its death is everybody's.
    with Pop.started(options=["--servers", "1"]) as pop:
        yield pop


@pytest.fixture(scope="module")
async def owner(pop: Pop) -> AsyncIterator[Wire]:
    async with Wire(pop.grpc_socket, pop.api_key) as wire:
        yield wire


@dataclass(slots=True)
class Told:
    """Everything that the POP answered to this module's clients; one part's storm adds to that of the others."""

    answered: list[Signed] = field(default_factory=list)
    asked: list[Item] = field(default_factory=list)
    # Every acknowledged key and its public key.
    keys: dict[str, str] = field(default_factory=dict)


@pytest.fixture(scope="module")
async def told(owner: Wire) -> Told:
    request = key_pb2.BatchCreateKeysRequest(prefix="worker", count=8)
    made = await owner.keys.BatchCreateKeys(request, metadata=owner.metadata, timeout=30)
    return Told(keys={key.id: key.public_key for key in made.keys})


@dataclass(slots=True)
class Creator:
    """Creates keys one after another, with a new name each time; remembers those that were acknowledged."""

    wire: Wire
    stopped: bool = False
    keys: dict[str, str] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)

    async def run(self) -> None:
        for _ in range(CREATIONS):
            name = f"storm-{random.getrandbits(64):016x}"
            request = key_pb2.CreateKeyRequest(name=name)
            try:
                made = await self.wire.keys.CreateKey(request, metadata=self.wire.metadata, timeout=self.wire.patience)
            except grpc.aio.AioRpcError as error:
                self.refused.append(reason_of(error))
            else:
                self.keys[made.key.id] = made.key.public_key
            await asyncio.sleep(0.25)
            if self.stopped:
                return


def thirty_two_clients(wires: Sequence[Wire], keys: list[str]) -> list[Client]:
    """14 of Sign, 6 of Sign twice at once, 6 of BatchSign and 6 of SignStream. Of each kind every other one, and of the
    second all, name their requests and repeat by that name what met a POP that was away."""
    asks = [wire.sign_one for wire in wires[:14]] + [wire.sign_twice for wire in wires[14:20]]
    asks += [wire.sign_batch for wire in wires[20:26]] + [wire.sign_stream for wire in wires[26:]]
    return [
        Client(
            ask,
            keys=keys,
            messages=MESSAGES,
            size=4 if place >= 20 else 1,
            named=place % 2 == 0 or 14 <= place < 20,
            pause=PAUSE,
        )
        for place, ask in enumerate(asks)
    ]


async def until(true: Callable[[], bool], *, within: float, what: str) -> None:
    deadline = time.monotonic() + within
    while not true():
        assert time.monotonic() < deadline, f"{what} within {within:.0f} s"
        await asyncio.sleep(0.02)


def engine_of(pop: Pop) -> int | None:
    """The process of the engine that the running OpenBao started."""
    with contextlib.suppress(KeyError, psutil.NoSuchProcess):
        for child in psutil.Process(pop.processes["openbao"]).children():
            if child.status() != psutil.STATUS_ZOMBIE:
                return child.pid
    return None


def takes_connections(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


async def kill_and_recover(pop: Pop, part: str, told: Told) -> float:
    """SIGKILL, and the seconds until a signature that was asked for after the part's new process had its place."""
    # OpenBao starts the engine, the node reads of it: the table is right a moment after either was started.
    await until(lambda: engine_of(pop) == pop.processes.get("plugin", -1), within=RECOVERY, what="no engine")
    engine = engine_of(pop)
    began = time.monotonic()
    await asyncio.to_thread(pop.kill, part)
    if part == "plugin":
        await until(lambda: engine_of(pop) not in (None, engine), within=RECOVERY, what="no new engine")
    elif part == "postgres":
        # Sessions outlive their postmaster by a moment, and sign: only a new one takes a connection.
        await until(lambda: takes_connections(database_url(pop)), within=RECOVERY, what="no new PostgreSQL")
    async with Wire(pop.grpc_socket, pop.api_key, patience=CALL) as wire:
        while True:
            item = Item(key_id=next(iter(told.keys)), data=os.urandom(32))
            told.asked.append(item)
            (outcome,) = await wire.sign_one([item])
            seconds = time.monotonic() - began
            if isinstance(outcome, Signed):
                told.answered.append(outcome)
                return seconds
            assert outcome.reason in AWAY, outcome.reason
            assert seconds < RECOVERY, f"no signature {seconds:.1f} s after the death of {part}:\n{pop.report()}"
            await asyncio.sleep(0.05)


async def all_are_answered(clients: list[Client]) -> None:
    """Every client is answered some times more."""
    heard = [len(client.answered) for client in clients]
    await until(
        lambda: all(len(client.answered) >= before + ANSWERS for client, before in zip(clients, heard, strict=True)),
        within=STORM,
        what="a client is not answered",
    )


async def storm(pop: Pop, part: str, told: Told) -> list[str]:
    """32 clients sign and others create keys while the part is killed; returns the reasons of what was refused."""
    wires = [Wire(pop.grpc_socket, pop.api_key, patience=CALL) for _ in range(32 + CREATORS)]
    clients = thirty_two_clients(wires[:32], list(told.keys))
    creators = [Creator(wire) for wire in wires[32:]]
    load = Load(seconds=STORM)
    load.start(*clients)
    creating = [asyncio.create_task(creator.run()) for creator in creators]
    try:
        # Each death meets a storm, and after the last one it goes on: every client is being answered.
        await all_are_answered(clients)
        for _ in range(KILLS):
            seconds = await kill_and_recover(pop, part, told)
            assert seconds < RECOVERY
            await all_are_answered(clients)
    finally:
        for creator in creators:
            creator.stopped = True
        await load.stop()
        await asyncio.gather(*creating)
        for wire in wires:
            await wire.close()
    told.answered += load.answered
    told.asked += load.asked
    for creator in creators:
        told.keys |= creator.keys
    return [
        *(refused.reason for refused in load.refused),
        *(reason for creator in creators for reason in creator.refused),
    ]


@pytest.mark.parametrize("part", PARTS)
async def test_a_killed_part_comes_back_and_nothing_answered_is_lost(
    pop: Pop, owner: Wire, told: Told, part: str
) -> None:
    reasons = await storm(pop, part, told)
    assert set(reasons) <= AWAY, Counter(reasons)

    trail = await Trail.read(owner)
    trail.assert_unbroken()
    trail.assert_accounts_for(told.answered, asked=told.asked)
    for signed in random.sample(told.answered, SAMPLE):
        assert_verifies(signed, told.keys[signed.item.key_id])
    await assert_keys_are_there(owner, told, trail)


async def assert_keys_are_there(owner: Wire, told: Told, trail: Trail) -> None:
    """Every acknowledged key is in the catalogue, in the ledger once, and signs."""
    for key_id in told.keys:
        assert trail.place("key.created", key_id) > 0
    items = [Item(key_id=key_id, data=os.urandom(32)) for key_id in told.keys]
    for first in range(0, len(items), 256):
        batch = items[first : first + 256]
        for outcome in await owner.sign_batch(batch):
            assert isinstance(outcome, Signed), outcome
            told.answered.append(outcome)
            assert_verifies(outcome, told.keys[outcome.item.key_id])
        told.asked += batch
