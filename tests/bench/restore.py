"""How long a backup, a restore and an exit drill take, and what the backup does to signatures and changes meanwhile.

python -m tests.bench.restore
python -m tests.bench.restore --keys 1000 --signatures 200000

--signatures rows are put into the ledger before the backup: what a restore takes grows with them. After the restore
every key signs, and its signature is its old public key's; then the exit drill leaves with every one of them.
"""

import argparse
import asyncio
import json
import os
import shutil
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
from coincurve import PublicKey
from rich.console import Console
from rich.table import Table

from popsigner_server.gen.popsigner.v1 import key_pb2, sign_pb2
from tests.integration.node.backups import Keeper, command, stores
from tests.support.load import Wire
from tests.support.pop import Pop

BATCH = 50
DIGEST = bytes(31) + b"\x01"
TIMEOUT = 60.0

ROWS = """
    WITH head AS (UPDATE ledger_heads SET size = size + %(rows)s RETURNING org_id, size - %(rows)s AS size)
    INSERT INTO audit_logs (org_id, seq, id, event, actor_type, resource_type, resource_id, key_version, digest, hash,
                            user_agent, ip_address)
    SELECT h.org_id, h.size + n, popsigner_uuidv7(), 'key.signed', 'api_key', 'key', gen_random_uuid(), 1,
           sha256(n::text::bytea), 0, 'tests.bench.restore', '192.0.2.1'
    FROM head h, generate_series(1, %(rows)s) n
"""

Keys = Mapping[str, bytes]


async def made_keys(wire: Wire, count: int) -> Keys:
    """That many new keys: public keys (33 bytes) by id."""
    found: dict[str, bytes] = {}
    for start in range(0, count, BATCH):
        names = [key_pb2.KeyName(name=f"bench-{n}") for n in range(start, min(count, start + BATCH))]
        request = key_pb2.BatchCreateKeysRequest(keys=names)
        answer = await wire.keys.BatchCreateKeys(request, metadata=wire.metadata, timeout=TIMEOUT)
        found |= {key.id: bytes.fromhex(key.public_key) for key in answer.keys}
    return found


async def all_sign(wire: Wire, keys: Keys) -> None:
    """Every key signs, and as the key that it was."""
    names = list(keys)
    for start in range(0, len(names), BATCH):
        items = [
            sign_pb2.SignItem(key_id=key, data=DIGEST, prehashed=True, format=sign_pb2.DER)
            for key in names[start : start + BATCH]
        ]
        request = sign_pb2.BatchSignRequest(requests=items)
        answer = await wire.signing.BatchSign(request, metadata=wire.metadata, timeout=TIMEOUT)
        for item, result in zip(items, answer.signatures, strict=True):
            assert PublicKey(keys[item.key_id]).verify(result.signature, DIGEST, hasher=None)


async def slowest(call: Callable[[], Awaitable[object]], until: asyncio.Event) -> list[float]:
    """The latencies of one call after another, in seconds, ascending."""
    found = []
    while not until.is_set():
        began = time.perf_counter()
        await call()
        found.append(time.perf_counter() - began)
    return sorted(found)


async def ran(*words: object, pop: Pop | None = None) -> tuple[float, dict[str, Any]]:
    """A command's seconds, and what it says that it did; with a POP, as its owner."""
    began = time.perf_counter()
    owner = {"POPSIGNER_API_KEY": pop.api_key, "POPSIGNER_ENDPOINT": pop.http} if pop is not None else {}
    process = await asyncio.create_subprocess_exec(
        *command(*words, "--json"), stdout=asyncio.subprocess.PIPE, env=os.environ | owner
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return time.perf_counter() - began, json.loads(out)


async def beside(pop: Pop, keys: Keys, work: Awaitable[object]) -> tuple[list[float], list[float]]:
    """Signatures and changes while `work` goes on; the latencies of both."""
    ended, first = asyncio.Event(), next(iter(keys))
    flags = iter(range(10**9))
    async with Wire(pop.grpc_socket, pop.api_key) as signer, Wire(pop.grpc_socket, pop.api_key) as owner:

        async def sign() -> None:
            request = sign_pb2.SignRequest(key_id=first, data=b"while a backup is made")
            await signer.signing.Sign(request, metadata=signer.metadata, timeout=TIMEOUT)

        async def change() -> None:
            request = key_pb2.UpdateKeyRequest(key_id=first, metadata={"turn": str(next(flags))})
            await owner.keys.UpdateKey(request, metadata=owner.metadata, timeout=TIMEOUT)

        async with asyncio.TaskGroup() as group:
            signed = group.create_task(slowest(sign, ended))
            changed = group.create_task(slowest(change, ended))
            try:
                await work
            finally:
                ended.set()
    return signed.result(), changed.result()


async def measure(pop: Pop, home: Path, *, count: int, signatures: int) -> dict[str, str]:
    """The whole way; seconds and milliseconds by what they are of."""
    keeper, archive, told = Keeper(home), home / "pop.age", {}
    await ran("recovery", "set", keeper.recipient, "--confirm", keeper.recipient[-6:], pop=pop)
    async with Wire(pop.grpc_socket, pop.api_key) as wire:
        keys = await made_keys(wire, count)
    with psycopg.connect(stores(pop).cluster.superuser_url()) as database:
        database.execute(ROWS, {"rows": signatures})
    quiet = await beside(pop, keys, asyncio.sleep(3))
    words = ("backup", "--data-dir", pop.data_dir, "--recipient", keeper.recipient, "--to")
    backups = asyncio.ensure_future(_several(words, archive))
    busy = await beside(pop, keys, backups)
    seconds, done = backups.result()
    told["keys, ledger rows, archive"] = f"{count}, {done['ledger_rows']}, {done['bytes'] / 2**20:.1f} MiB"
    told["backup"] = f"{seconds:.1f} s ({_parts(done)})"
    for what, before, during in (("signature", quiet[0], busy[0]), ("change", quiet[1], busy[1])):
        told[f"one {what}, p50 / p99 / longest"] = f"{_three(during)}; without a backup {_three(before)}"
    pop.stop()
    shutil.rmtree(pop.data_dir)
    seconds, done = await ran("restore", archive, "--data-dir", pop.data_dir, "--identity", keeper.file)
    told["restore"] = f"{seconds:.1f} s ({_parts(done)})"
    pop.start()
    told["start of the restored POP"] = f"{pop.seconds_to_start:.1f} s"
    began = time.perf_counter()
    async with Wire(pop.grpc_socket, pop.api_key) as wire:
        await all_sign(wire, keys)
    told["every key signed"] = f"{time.perf_counter() - began:.1f} s"
    report = home / "report.json"
    seconds, done = await ran("exit-drill", "--identity", keeper.file, "--report", report, pop=pop)
    told["exit drill"] = f"{seconds:.1f} s ({json.dumps(done['totals'])})"
    seconds, _ = await ran("exit-drill", "verify", report)
    told["its report verified"] = f"{seconds:.1f} s"
    return told


async def _several(words: tuple[object, ...], archive: Path) -> tuple[float, dict[str, Any]]:
    """Three in a row, for latencies to be seen; the last one is kept."""
    for number in range(2):
        await ran(*words, archive.with_suffix(f".{number}"))
    return await ran(*words, archive)


def _parts(done: Mapping[str, Any]) -> str:
    return ", ".join(f"{part} {seconds:.2f}" for part, seconds in done["seconds"].items())


def _three(latencies: list[float]) -> str:
    p99 = latencies[min(len(latencies) - 1, int(len(latencies) * 0.99))]
    return f"{latencies[len(latencies) // 2] * 1e3:.1f} / {p99 * 1e3:.1f} / {latencies[-1] * 1e3:.1f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description="Time a backup and a restore.")
    parser.add_argument("--keys", type=int, default=1_000)
    parser.add_argument("--signatures", type=int, default=100_000)
    chosen = parser.parse_args()
    with TemporaryDirectory(prefix="restore-") as home, Pop.started() as pop:
        told = asyncio.run(measure(pop, Path(home), count=chosen.keys, signatures=chosen.signatures))
    table = Table("what", "measured")
    for what, found in told.items():
        table.add_row(what, found)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
