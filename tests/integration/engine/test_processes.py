"""The plugin's process comes back when it dies, goes when OpenBao goes, and is replaced by an upgrade."""

import asyncio
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from popsigner_plugin import install as installer
from popsigner_plugin.install import COMMAND
from tests.integration.engine.calls import create, encoded, fresh_name, sign_batch
from tests.support.openbao import OpenBaoServer, Vault
from tests.unit.plugin.outside import AgeIdentity, wrapped


@pytest.fixture(scope="module")
def own() -> Iterator[OpenBaoServer]:
    """An OpenBao that these tests may kill."""
    with OpenBaoServer.started() as server:
        yield server


async def signs(vault: Vault, name: str) -> bool:
    status, _ = await vault.call("GET", f"keys/{name}")
    if status != 200:
        return False
    answer = await sign_batch(vault, [name], [0], os.urandom(32))
    return len(answer.signatures[0]) == 64


async def seconds_until_signing(server: OpenBaoServer, name: str, *, limit: float) -> float:
    started = time.monotonic()
    while True:
        vault = await server.login()
        try:
            if await signs(vault, name):
                return time.monotonic() - started
        finally:
            await vault.close()
        assert time.monotonic() - started < limit
        await asyncio.sleep(0.02)


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


async def test_a_killed_plugin_is_started_again_by_the_next_requests(
    own: OpenBaoServer, record_property: Callable[[str, object], None]
) -> None:
    vault = await own.login()
    name, _ = await create(vault)
    await vault.close()
    for attempt in range(3):
        (engine,) = own.engines()
        engine.kill()
        seconds = await seconds_until_signing(own, name, limit=10)
        record_property(f"seconds_after_kill_{attempt}", round(seconds, 3))
        (again,) = own.engines()
        assert again.pid != engine.pid


async def test_changes_during_which_the_plugin_is_killed_are_finished_by_asking_again(own: OpenBaoServer) -> None:
    vault = await own.login()
    status, body = await vault.call("GET", "wrapping_key")
    assert status == 200
    pem, identity = body["data"]["public_key"], AgeIdentity.made()
    steps = random.Random(20)

    async def asked(method: str, path: str, data: Mapping[str, object] | None = None) -> tuple[int, Any]:
        """Ask until there is an answer of the engine itself."""
        while True:
            try:
                status, body = await vault.call(method, path, data)
            except aiohttp.ClientError:
                continue
            if status < 500:
                return status, body

    async def life(number: int) -> None:
        name, scalar = fresh_name(), bytes(30) + number.to_bytes(2, "big")
        bring_in = {"ciphertext": encoded(wrapped(scalar, pem)), "recovery_recipient": identity.recipient}
        status, body = await asked("POST", f"keys/{name}/import", bring_in)
        assert status == 200, body
        first = body["data"]["public_key"]
        for version in (2, 3):
            status, body = await asked("POST", f"keys/{name}/rotate", {"to_version": version})
            assert (status, body["data"]["latest_version"]) == (200, version)
        status, body = await asked("GET", f"recovery/{name}")
        assert (status, list(body["data"]["versions"])) == (200, ["1", "2", "3"])
        assert body["data"]["versions"]["1"]["public_key"] == first
        assert (await asked("POST", f"keys/{name}/config", {"deletion_allowed": True}))[0] == 200
        assert (await asked("DELETE", f"keys/{name}"))[0] in (204, 404)
        status, body = await asked("POST", f"keys/{name}/import", bring_in)
        assert (status, body["data"]["public_key"]) == (200, first)

    lives = [asyncio.create_task(life(number)) for number in range(1, 25)]
    kills = 0
    while not all(one.done() for one in lives):
        await asyncio.sleep(steps.uniform(0.05, 0.3))
        for engine in own.engines():
            if kills < 8:
                engine.kill()
                kills += 1
    await asyncio.gather(*lives)
    assert kills > 1
    _, mounts = await vault.call("GET", "/sys/mounts/secp256k1")
    place = f"/sys/raw/logical/{mounts['data']['uuid']}"
    _, keys = await vault.call("LIST", "keys")
    _, present = await vault.call("LIST", f"{place}/present")
    brought_in = [name for name in keys["data"]["keys"] if len(name) == 32]
    assert len(present["data"]["keys"]) == 24
    assert len(brought_in) >= 24
    await vault.close()


async def test_no_plugin_outlives_an_openbao_that_was_killed(own: OpenBaoServer) -> None:
    vault = await own.login()
    name, _ = await create(vault)
    await vault.close()
    engines = own.engines()
    own.kill()
    deadline = time.monotonic() + 3
    while not all(map(gone, engines)):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    await asyncio.to_thread(own.bao.socket.unlink, missing_ok=True)
    own.start()
    assert await seconds_until_signing(own, name, limit=10) < 10


async def test_openbao_stops_the_plugin_when_it_stops_and_the_key_is_there_afterwards(own: OpenBaoServer) -> None:
    vault = await own.login()
    name, public_key = await create(vault)
    await vault.close()
    engines = own.engines()
    own.stop()
    assert all(map(gone, engines))
    own.start()
    vault = await own.login()
    _, read = await vault.call("GET", f"keys/{name}")
    assert read["data"]["public_key"] == public_key.hex()
    await vault.close()


async def test_the_plugins_socket_is_its_owners_alone_and_goes_with_the_process(own: OpenBaoServer) -> None:
    own.stop()
    before = set(own.home.iterdir())
    own.start()
    (engine,) = own.engines()
    folders = [path for path in set(own.home.iterdir()) - before if path.is_dir()]
    assert folders
    for folder in folders:
        assert folder.stat().st_mode & 0o077 == 0
        assert all(path.is_socket() for path in folder.iterdir())
    assert {file.path for file in engine.open_files()} <= {str(own.log)}
    own.stop()
    assert set(own.home.iterdir()) == before
    own.start()


async def test_an_upgrade_of_the_plugin_takes_over_the_mount_and_its_keys(
    own: OpenBaoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = await own.login()
    name, public_key = await create(vault)
    await vault.close()
    before = own.registration
    own.stop()
    launcher = installer._launcher
    monkeypatch.setattr(installer, "_launcher", lambda: launcher().replace(b"does not start: ", b"does not start; ", 1))
    own.start()
    assert before is not None
    assert own.registration is not None
    assert own.registration.sha256 != before.sha256
    vault = await own.login()
    assert await signs(vault, name)
    _, read = await vault.call("GET", f"keys/{name}")
    assert read["data"]["public_key"] == public_key.hex()
    await vault.close()


async def test_openbao_does_not_start_a_launcher_that_was_changed(own: OpenBaoServer) -> None:
    vault = await own.login()
    name, _ = await create(vault)
    launcher: Path = own.bao.plugins / COMMAND
    content = await asyncio.to_thread(launcher.read_bytes)
    await asyncio.to_thread(launcher.write_bytes, content.replace(b"does not start", b"does not begin", 1))
    (engine,) = own.engines()
    engine.kill()
    answers = [await vault.call("GET", f"keys/{name}") for _ in range(3)]
    assert all(status >= 400 for status, _ in answers)
    assert own.engines() == []
    await asyncio.to_thread(launcher.write_bytes, content)
    await vault.close()
    assert await seconds_until_signing(own, name, limit=10) < 10
