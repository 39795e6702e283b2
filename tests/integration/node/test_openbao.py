"""The node's OpenBao with the real engine, without server and database."""

import asyncio
import contextlib
import dataclasses
import hashlib
import http.client
import io
import json
import shutil
import signal
import tempfile
import time
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from popsigner_node import ports
from popsigner_node.children import Child
from popsigner_node.errors import Exit, NodeError
from popsigner_node.openbao import OpenBao
from popsigner_node.parts import openbao_program
from popsigner_node.policies import MOUNT, NODE_ROLE, SERVER_ROLE
from popsigner_node.unix_http import UnixConnection
from popsigner_plugin.install import install


class Vault:
    """An OpenBao in a folder of its own."""

    def __init__(self, home: Path) -> None:
        api, cluster = ports.free(2)
        self.part = OpenBao(folder=home / "openbao", socket=home / "bao.sock", api_port=api, cluster_port=cluster)
        self.log = home / "log"
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self, *, stop_after: float | None = None) -> None:
        """Start and wait until ready; or kill it after so many seconds."""
        self.part.prepare()
        engine = install(self.part.plugins)
        self.part.configure(engine)
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self.part.command(), env=dict(self.part.environment()), stdout=log, stderr=log
            )
        if stop_after is not None:
            await asyncio.sleep(stop_after)
            await self.end(signal.SIGKILL)
            return
        deadline = time.monotonic() + 30
        while not await asyncio.to_thread(self.part.ready):
            assert self._process.returncode is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            await asyncio.sleep(0.05)
        self.part.settle(engine)

    async def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)
            await self._process.wait()

    def call(self, method: str, path: str, body: object = None, *, token: str = "") -> tuple[int, Any]:
        with contextlib.closing(UnixConnection(self.part.socket, timeout=10)) as connection:
            headers = {"X-Vault-Token": token, "content-type": "application/json"}
            connection.request(method, f"/v1/{path}", None if body is None else json.dumps(body), headers)
            answer: http.client.HTTPResponse = connection.getresponse()
            content = answer.read()
            return answer.status, json.loads(content) if content else None

    def server_token(self) -> str:
        login = {"role_id": SERVER_ROLE, "secret_id": self.part.secret_id_file.read_text()}
        status, answer = self.call("POST", "auth/approle/login", login)
        assert status == 200
        return str(answer["auth"]["client_token"])


@pytest.fixture(scope="module")
async def vault() -> AsyncIterator[Vault]:
    home = Path(tempfile.mkdtemp(prefix="bao-", dir="/tmp"))
    vault = Vault(home)
    try:
        await vault.start()
        yield vault
    finally:
        await vault.end()
        shutil.rmtree(home)


def test_the_servers_token_makes_keys_and_is_a_renewable_one_without_other_policies(vault: Vault) -> None:
    token = vault.server_token()
    status, _ = vault.call("POST", f"{MOUNT}/keys/made-by-the-server", {}, token=token)
    assert status in (200, 204)
    status, listing = vault.call("GET", f"{MOUNT}/keys?list=true", token=token)
    assert "made-by-the-server" in listing["data"]["keys"]
    status, looked_up = vault.call("GET", "auth/token/lookup-self", token=token)
    assert looked_up["data"]["policies"] == ["popsigner-server"]
    status, renewed = vault.call("POST", "auth/token/renew-self", {}, token=token)
    assert (status, renewed["auth"]["renewable"]) == (200, True)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "sys/mounts", None),
        ("POST", "sys/mounts/mine", {"type": "kv"}),
        ("GET", "sys/policies/acl/popsigner-server", None),
        ("POST", "sys/policies/acl/popsigner-server", {"policy": 'path "*" { capabilities = ["sudo"] }'}),
        ("POST", "auth/token/create", {}),
        ("GET", f"auth/approle/role/{SERVER_ROLE}", None),
        ("POST", f"auth/approle/role/{SERVER_ROLE}/secret-id", {}),
        ("GET", "sys/policies/acl/popsigner-node", None),
        ("GET", "sys/storage/raft/snapshot", None),
        ("POST", f"auth/approle/role/{NODE_ROLE}/secret-id", {}),
        ("POST", f"{MOUNT}/wrapping_key/rotate", {}),
        ("POST", f"{MOUNT}/sign/made-by-the-server", {"input": "AA=="}),
        ("GET", "sys/raw/core", None),
        ("POST", "sys/seal", {}),
    ],
)
def test_the_servers_token_may_do_nothing_else(vault: Vault, method: str, path: str, body: object) -> None:
    status, _ = vault.call(method, path, body, token=vault.server_token())
    assert status in (403, 404)
    if status == 404:
        assert path.startswith("sys/raw")  # not there at all unless it is switched on


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", f"{MOUNT}/keys?list=true", None),
        ("GET", f"{MOUNT}/keys/made-by-the-server", None),
        ("POST", f"{MOUNT}/export/made-by-the-server", {}),
        ("POST", f"{MOUNT}/batch/sign", {"packed": ""}),
        ("GET", "sys/mounts", None),
        ("POST", "auth/token/create", {}),
        ("POST", "sys/policies/acl/another", {"policy": 'path "*" { capabilities = ["sudo"] }'}),
        ("POST", "sys/storage/raft/snapshot", {}),
        ("POST", "sys/storage/raft/snapshot-force", {}),
    ],
)
def test_the_nodes_token_writes_policies_takes_snapshots_and_nothing_else(
    vault: Vault, method: str, path: str, body: object
) -> None:
    with vault.part.session(NODE_ROLE) as session:
        assert session.call("GET", "auth/token/lookup-self")[1]["data"]["policies"] == [NODE_ROLE]
        assert session.call(method, path, body)[0] == 403


def test_the_nodes_token_ends_with_its_session(vault: Vault) -> None:
    with vault.part.session(NODE_ROLE) as session:
        token = session._headers["X-Vault-Token"]
        assert vault.call("GET", "auth/token/lookup-self", token=token)[0] == 200
    assert vault.call("GET", "auth/token/lookup-self", token=token)[0] == 403


def test_policies_that_differ_are_written_and_no_others(vault: Vault) -> None:
    assert vault.part.align_policies() == []
    with vault.part.session(NODE_ROLE) as session:
        older = {"policy": 'path "secp256k1/keys" { capabilities = ["list"] }'}
        assert session.call("POST", f"sys/policies/acl/{SERVER_ROLE}", older)[0] == 204
    assert vault.part.align_policies() == [SERVER_ROLE]
    assert vault.part.align_policies() == []


def test_a_vault_that_does_not_know_the_node_is_named(vault: Vault) -> None:
    file = vault.part.node_secret_id_file
    right = file.read_text()
    file.write_text("0" * 64)
    try:
        with pytest.raises(NodeError, match=r"put the file back from its backup\. .* set up a new POP"):
            vault.part.align_policies()
    finally:
        file.write_text(right)


def test_no_root_token_is_left(vault: Vault) -> None:
    entries = [json.loads(line) for line in vault.part.audit_log.read_text().splitlines()]
    roots = [entry for entry in entries if "root" in (entry.get("auth") or {}).get("policies", [])]
    first_login = next(entry for entry in entries if entry["request"]["path"] == "auth/approle/login")
    assert roots, "the trail shows the set-up itself"
    assert max(entry["time"] for entry in roots) < first_login["time"]
    assert roots[-1]["request"]["path"] == "auth/token/revoke-self"


def test_a_long_audit_trail_is_moved_aside_and_nothing_is_missing(vault: Vault) -> None:
    token = vault.server_token()
    vault.part.rotate_audit_log(vault.pid, limit=10**9)
    assert not vault.part.audit_log.with_name("audit.log.1").exists()
    vault.part.rotate_audit_log(vault.pid, limit=1)
    older = vault.part.audit_log.with_name("audit.log.1")
    assert older.exists()
    for number in range(50):
        vault.call("GET", f"{MOUNT}/keys/after-the-rotation-{number}", token=token)
        time.sleep(0.01)
    trail = older.read_text() + vault.part.audit_log.read_text()
    assert all(f"{MOUNT}/keys/after-the-rotation-{number}" in trail for number in range(50))
    assert "after-the-rotation-49" in vault.part.audit_log.read_text()


def _spoiled(launcher: Path) -> str:
    """Give the launcher a wrong digest of one of the files that it checks; return the launcher's own new digest."""
    content = launcher.read_bytes()
    line, _, archive = content.partition(b"\n")
    fresh = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(fresh, "w") as new:
        for name in old.namelist():
            manifest = json.loads(old.read(name)) if name == "manifest.json" else None
            if manifest is not None:
                manifest["modules"][0]["sha256"] = "0" * 64
            new.writestr(name, old.read(name) if manifest is None else json.dumps(manifest))
    spoiled = line + b"\n" + fresh.getvalue()
    launcher.write_bytes(spoiled)
    return hashlib.sha256(spoiled).hexdigest()


async def test_an_engine_whose_files_were_changed_is_refused_in_one_sentence() -> None:
    home = Path(tempfile.mkdtemp(prefix="bao-", dir="/tmp"))
    vault = Vault(home)
    try:
        vault.part.prepare()
        engine = install(vault.part.plugins)
        sha256 = _spoiled(vault.part.plugins / engine.command)
        vault.part.configure(dataclasses.replace(engine, sha256=sha256))
        program = openbao_program(vault.part, log=vault.log)
        child = Child(program=program, log=vault.log, changed=lambda: None, say=lambda text: None)
        try:
            with pytest.raises(NodeError, match="is not the file that was installed") as failure:
                await child.start(within=30)
        finally:
            await child.stop()
        assert failure.value.code is Exit.ENGINE_REFUSED
        assert len(str(failure.value).splitlines()) == 1
    finally:
        shutil.rmtree(home)


async def test_a_first_start_that_was_killed_is_made_anew() -> None:
    home = Path(tempfile.mkdtemp(prefix="bao-", dir="/tmp"))
    vault = Vault(home)
    try:
        await vault.start(stop_after=2.5)
        await vault.start()
        status, _ = vault.call("POST", f"{MOUNT}/keys/first", {}, token=vault.server_token())
        assert status in (200, 204)
    finally:
        await vault.end()
        shutil.rmtree(home)
