"""A known private key goes through a whole POP, and then nobody has it: no log, no file of the data directory, no
process's memory, but for the one copy that the engine signs with."""

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyrage  # type: ignore[import-untyped]  # publishes no types
import pytest

from popsigner import AsyncClient
from popsigner.gen.popsigner.v1 import Key
from tests.support.memory_search import Hit, search_files, search_memory
from tests.support.pop import Pop

COLLECTED_WITHIN = 180.0


@pytest.fixture
def pop() -> Iterator[Pop]:
    with Pop.started(environment={"POPSIGNER_LOG_LEVEL": "debug", "POPSIGNER_RECOVERY_WAIT": "0"}) as pop:
        yield pop


def everybody(pop: Pop) -> dict[int, str]:
    """Every process of the POP, the node's own and the database's children too."""
    assert pop.process is not None
    node = psutil.Process(pop.process.pid)
    names = {pid: name for name, pid in pop.processes.items()}
    return {process.pid: names.get(process.pid, process.name()) for process in [node, *node.children(recursive=True)]}


async def found(pop: Pop, scalar: bytes) -> dict[str, list[Hit]]:
    """Where the private key is in memory, by process."""
    names = everybody(pop)
    alive = [pid for pid in names if psutil.pid_exists(pid)]
    by_name: dict[str, list[Hit]] = {}
    for hit in await asyncio.to_thread(search_memory, alive, scalar):
        by_name.setdefault(names[hit.pid], []).append(hit)
    return by_name


async def settled(pop: Pop, scalar: bytes, client: AsyncClient, other: Key, held: int) -> dict[str, list[Hit]]:
    """Where it is once garbage was collected, as soon as it is in the engine alone, at most `held` times.

    OpenBao's collector comes with new work, and each connection keeps its last message until the next.
    """
    deadline = time.monotonic() + COLLECTED_WITHIN
    while True:
        hits = await found(pop, scalar)
        if (hits.keys() <= {"plugin"} and len(hits.get("plugin", [])) <= held) or time.monotonic() > deadline:
            assert hits.keys() <= {"plugin"}
            return hits
        await asyncio.gather(*(client.keys.create(name=os.urandom(8).hex()) for _ in range(8)))
        await asyncio.gather(*(client.sign(other, os.urandom(200)) for _ in range(200)))


@pytest.mark.timeout(600)  # It reads the memory of a whole POP, for every spelling of the key.
async def test_a_private_key_that_was_imported_signed_and_exported_is_nowhere_else(pop: Pop, tmp_path: Path) -> None:
    scalar = b"\x0f" + os.urandom(31)
    identity = pyrage.x25519.Identity.generate()
    async with AsyncClient(endpoint=pop.http, api_key=pop.api_key) as client:
        await client.recovery.set(str(identity.to_public()))
        key = await client.keys.import_key(bytearray(scalar), name="planted", exportable=True)
        for _ in range(20):
            await client.sign(key, os.urandom(200))
        sealed = await client.keys.export(key, recipient=str(identity.to_public()))
        assert scalar.hex().encode() in pyrage.decrypt(sealed.versions[0].ciphertext, [identity])
        copies = [each async for each in client.recovery.copies()]
        assert copies
        await client.keys.rotate(key)
        await client.keys.disable(key)
        await client.keys.enable(key)
        await client.sign(key, b"x", key_version=1)
        other = await client.keys.create(name="other")
        # The one copy that signs, and no other.
        assert [hit.spelling for hit in (await settled(pop, scalar, client, other, 1)).get("plugin", [])] == ["raw"]
        await client.keys.delete(key, force=True)
        assert await settled(pop, scalar, client, other, 0) == {}
    assert search_files([pop.data_dir, pop.output], scalar) == []
    pop.stop()
    assert search_files([pop.data_dir, pop.output], scalar) == []
