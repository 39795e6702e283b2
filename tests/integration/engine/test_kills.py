"""kill -9 before and after every write of a change, in a real OpenBao: the same request finishes, nothing is lost."""

import asyncio
import base64
import contextlib
import json
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import aiohttp
import ecdsa
import pytest

from popsigner_plugin.gen.popsigner.engine.v1.stored_pb2 import StoredKey, StoredPresence
from tests.integration.engine.calls import encoded, fresh_name, sign_batch
from tests.integration.engine.faults import Fault, Faults, killable
from tests.support.openbao import OpenBaoServer, Vault
from tests.unit.plugin.outside import AgeIdentity, wrapped

IDENTITY = AgeIdentity.made()
OTHER = AgeIdentity.made()


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[OpenBaoServer, Faults]]:
    with pytest.MonkeyPatch.context() as patch, killable(patch, tmp_path_factory.mktemp("faults")) as parts:
        yield parts


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """One key and what is asked of the engine about it."""

    server: OpenBaoServer
    vault: Vault
    pem: str
    name: str = field(default_factory=fresh_name)
    scalar: bytes = field(default_factory=lambda: b"\x0a" + os.urandom(31))

    async def asked(self, method: str, path: str, data: Mapping[str, object] | None = None) -> tuple[int, Any]:
        """Ask until the engine itself has answered: a few requests fail while OpenBao starts it again."""
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                status, body = await self.vault.call(method, path, data)
                if status < 500:
                    return status, body
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)

    async def bring_in(self) -> tuple[int, Any]:
        body = {
            "ciphertext": encoded(wrapped(self.scalar, self.pem)),
            "exportable": True,
            "deletion_allowed": True,
            "recovery_recipient": IDENTITY.recipient,
        }
        return await self.asked("POST", f"keys/{self.name}/import", body)

    async def rotate(self) -> tuple[int, Any]:
        return await self.asked("POST", f"keys/{self.name}/rotate", {"to_version": 2})

    async def reseal(self) -> tuple[int, Any]:
        return await self.asked("POST", f"recovery/{self.name}", {"recipient": OTHER.recipient})

    async def unseal(self) -> tuple[int, Any]:
        return await self.asked("DELETE", f"recovery/{self.name}")

    async def export(self) -> tuple[int, Any]:
        return await self.asked("POST", f"export/{self.name}", {"recipient": OTHER.recipient, "versions": [2]})

    async def delete(self) -> tuple[int, Any]:
        return await self.asked("DELETE", f"keys/{self.name}")

    async def entries(self) -> dict[str, bytes]:
        """All that storage has below keys/ and present/."""
        _, mounts = await self.vault.call("GET", "/sys/mounts/secp256k1")
        place = f"/sys/raw/logical/{mounts['data']['uuid']}"
        found = {}
        for folder in ("keys", "present"):
            _, listed = await self.vault.call("LIST", f"{place}/{folder}")
            for name in (listed.get("data") or {"keys": []})["keys"]:
                _, body = await self.vault.call("GET", f"{place}/{folder}/{name}?encoding=base64")
                found[f"{folder}/{name}"] = base64.b64decode(body["data"]["value"])
        return found


Step = Callable[[Desk], Awaitable[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """before: what was done to the key earlier. writes: each moment at which the engine is killed, under its name.
    versions: how many the key has when all is done. reader: who then opens its recovery copies."""

    name: str
    before: tuple[Step, ...]
    ask: Step
    writes: tuple[tuple[str, Fault], ...]
    versions: int
    reader: AgeIdentity | None = IDENTITY


def named(name: str, operation: str, below: str, nth: int = 1) -> tuple[tuple[str, Fault], ...]:
    return tuple((f"{moment} {name}", Fault(moment, operation, below, nth)) for moment in ("before", "after"))


KEY = named("the key", "put", "keys/")
INDEX = named("the index", "put", "present/")


async def left(desk: Desk) -> None:
    """Both versions are known outside, so both are in the index."""
    assert (await desk.asked("GET", f"recovery/{desk.name}"))[0] == 200


IMPORTED = (Desk.bring_in,)
ROTATED = (Desk.bring_in, Desk.rotate)

CHANGES = [
    Change(name="import", before=(), ask=Desk.bring_in, writes=INDEX + KEY, versions=1),
    Change(name="rotate", before=IMPORTED, ask=Desk.rotate, writes=KEY, versions=2),
    Change(name="another recipient", before=ROTATED, ask=Desk.reseal, writes=KEY, versions=2, reader=OTHER),
    Change(name="no recipient", before=ROTATED, ask=Desk.unseal, writes=KEY, versions=2, reader=None),
    Change(name="export", before=ROTATED, ask=Desk.export, writes=INDEX, versions=2),
    Change(
        name="delete",
        before=(*ROTATED, left),
        ask=Desk.delete,
        writes=(
            *named("the zeros", "put", "keys/"),
            *named("the first version's index", "delete", "present/"),
            *named("the second version's index", "delete", "present/", 2),
            *named("the entry", "delete", "keys/"),
        ),
        versions=0,
    ),
]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        pytest.param(change, fault, id=f"{change.name}, killed {step}")
        for change in CHANGES
        for step, fault in change.writes
    ],
)
async def test_the_same_request_finishes_what_a_kill_stopped(
    machine: tuple[OpenBaoServer, Faults], change: Change, fault: Fault
) -> None:
    server, faults = machine
    vault = await server.login()
    try:
        _, body = await vault.call("GET", "wrapping_key")
        desk = Desk(server=server, vault=vault, pem=body["data"]["public_key"])
        for step in change.before:
            await step(desk)
        (before,) = server.engines()
        faults.arm(fault)
        await change.ask(desk)
        assert not faults.armed()
        (after,) = server.engines()
        assert after.pid != before.pid
        status, body = await change.ask(desk)
        entries = await desk.entries()
        sound(entries)
        if change.versions:
            assert status in (200, 204), body
            await whole(desk, change, entries)
        else:
            # Who repeats a deletion that had come to its end hears that there is no such key.
            assert status in (204, 404), body
            assert f"keys/{desk.name}" not in entries
            assert (await desk.bring_in())[0] == 200
            sound(await desk.entries())
    finally:
        await vault.close()


async def whole(desk: Desk, change: Change, entries: Mapping[str, bytes]) -> None:
    """Exactly these versions, the first as its owner signs, and a copy of each for the reader."""
    stored = StoredKey.FromString(entries[f"keys/{desk.name}"])
    assert [version.version for version in stored.versions] == list(range(1, change.versions + 1))
    owner = ecdsa.SigningKey.from_string(desk.scalar, ecdsa.SECP256k1, hashfunc=sha256)
    assert stored.versions[0].public_key == owner.verifying_key.to_string("compressed")
    digest = os.urandom(32)
    answer = await sign_batch(desk.vault, [desk.name], [0], digest)
    newest = ecdsa.VerifyingKey.from_string(stored.versions[-1].public_key, ecdsa.SECP256k1)
    assert newest.verify_digest(answer.signatures[0], digest)
    status, body = await desk.asked("GET", f"recovery/{desk.name}")
    if change.reader is None:
        assert status == 404
        return
    for version in stored.versions:
        sealed = base64.b64decode(body["data"]["versions"][str(version.version)]["ciphertext"])
        assert json.loads(change.reader.read(sealed))["private_key"] == version.scalar.hex()


def sound(entries: Mapping[str, bytes]) -> None:
    """Every key is whole, and every entry of the index names a key that has that private key."""
    held = {}
    for place, blob in entries.items():
        if place.startswith("keys/"):
            versions = StoredKey.FromString(blob).versions
            assert versions
            assert all(any(version.scalar) for version in versions)
            for version in versions:
                held[sha256(version.public_key).hexdigest()] = place.removeprefix("keys/")
    for place, blob in entries.items():
        if place.startswith("present/"):
            assert StoredPresence.FromString(blob).name == held[place.removeprefix("present/")]
