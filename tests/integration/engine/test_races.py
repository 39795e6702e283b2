"""What a change forbids does not happen after its answer, whatever is on its way."""

import asyncio
import os
import time
from dataclasses import dataclass, field

import pytest

from popsigner_plugin.gen.popsigner.engine.v1.packed_pb2 import DISABLED, UNKNOWN_KEY
from tests.integration.engine.calls import create, sign_batch
from tests.support.openbao import OpenBaoServer, Vault


@dataclass(slots=True)
class Signing:
    """Batches that are sent without a pause; when each was sent, and with how many signatures it came back."""

    vault: Vault
    name: str
    items: int
    trips: list[tuple[float, int, list[int]]] = field(default_factory=list)
    stop: bool = False

    async def run(self) -> None:
        while not self.stop:
            sent = time.monotonic()
            answer = await sign_batch(self.vault, [self.name], [0] * self.items, os.urandom(32 * self.items))
            self.trips.append((sent, sum(map(bool, answer.signatures)), list(answer.refusals)))


@pytest.mark.parametrize("items", [1, 256])
@pytest.mark.parametrize("change", ["delete", "disable"])
async def test_a_key_deleted_or_disabled_under_load_stops_signing_at_once(
    vault: Vault, change: str, items: int
) -> None:
    name, _ = await create(vault, deletion_allowed=True)
    signing = Signing(vault, name, items)
    runs = [asyncio.create_task(signing.run()) for _ in range(6)]
    await asyncio.sleep(0.4)
    if change == "delete":
        status, _ = await vault.call("DELETE", f"keys/{name}")
        assert status == 204
    else:
        status, _ = await vault.call("POST", f"keys/{name}/config", {"enabled": False})
        assert status == 200
    changed = time.monotonic()
    await asyncio.sleep(0.3)
    signing.stop = True
    await asyncio.gather(*runs)
    before = [count for sent, count, _ in signing.trips if sent < changed]
    after = [(count, refusals) for sent, count, refusals in signing.trips if sent >= changed]
    assert before.count(items) > 5
    assert len(after) > 5
    assert all(trip == (0, [UNKNOWN_KEY if change == "delete" else DISABLED]) for trip in after)


async def test_a_key_made_anew_under_its_old_name_never_signs_as_the_old_one(vault: Vault) -> None:
    name, old = await create(vault, deletion_allowed=True)
    signing = Signing(vault, name, 1)
    runs = [asyncio.create_task(signing.run()) for _ in range(4)]
    for _ in range(5):
        await vault.call("DELETE", f"keys/{name}")
        _, new = await create(vault, name, deletion_allowed=True)
        status, body = await vault.call("POST", f"sign/{name}", {"input": "", "hash": "sha256"})
        assert (status, body["data"]["public_key"]) == (200, new.hex())
        assert new != old
    signing.stop = True
    await asyncio.gather(*runs)


async def test_a_reload_of_the_plugin_under_load_fails_no_signature(openbao: OpenBaoServer, vault: Vault) -> None:
    name, _ = await create(vault)
    signing = Signing(vault, name, 16)
    runs = [asyncio.create_task(signing.run()) for _ in range(4)]
    await asyncio.sleep(0.2)
    (before,) = openbao.engines()
    status, body = await vault.call("POST", "/sys/plugins/reload/backend", {"mounts": ["secp256k1/"]})
    assert status == 200, body
    reloaded = time.monotonic()
    await asyncio.sleep(0.3)
    signing.stop = True
    await asyncio.gather(*runs)
    (after,) = openbao.engines()
    assert after.pid != before.pid
    assert any(sent > reloaded for sent, _, _ in signing.trips)
    assert all(count == 16 for _, count, _ in signing.trips)
