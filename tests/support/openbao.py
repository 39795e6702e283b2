"""A throw-away OpenBao with the engine mounted: the node's own configuration, in a folder of its own.

@pytest.fixture(scope="session")
def openbao() -> Iterator[OpenBaoServer]:
    with OpenBaoServer.started() as server:
        yield server

vault = await openbao.login()                   # everything on the mount; login(SERVER_ROLE): what the server may
await vault.call("POST", "keys/k1", {})         # -> status, body
"""

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import aiohttp
import psutil

from popsigner_node import ports
from popsigner_node.openbao import STOP_SIGNAL, OpenBao
from popsigner_node.policies import MOUNT, SERVER_ROLE
from popsigner_plugin.install import COMMAND, Registration, install

TESTER = "tester"

# A second AppRole beside the server's, for what the server may not: paths for direct users, plugin reloads, and a look
# into storage. Everything that the engine says on standard error is in the log.
_TESTER = f"""
raw_storage_endpoint = true
initialize "test" {{
  request "policy" {{
    operation = "update"
    path = "sys/policies/acl/{TESTER}"
    data = {{ policy = "path \\"*\\" {{ capabilities = [\\"create\\", \\"read\\", \\"update\\", \\"patch\\", \\"delete\\", \\"list\\", \\"sudo\\"] }}" }}
  }}
  request "role" {{
    operation = "update"
    path = "auth/approle/role/{TESTER}"
    data = {{ role_id = "{TESTER}" token_policies = ["{TESTER}"] }}
  }}
  request "secret-id" {{
    operation = "update"
    path = "auth/approle/role/{TESTER}/custom-secret-id"
    data = {{ secret_id = "{TESTER}" }}
  }}
}}
"""  # noqa: E501 - HCL has no line breaks in strings


class OpenBaoServer:
    """A running OpenBao. Start it from the main thread: it ends with the thread that started it."""

    def __init__(self, *, home: Path, quiet: bool = False) -> None:
        api_port, cluster_port = ports.free(2)
        self.home = home
        self.bao = OpenBao(folder=home / "bao", socket=home / "s", api_port=api_port, cluster_port=cluster_port)
        self.log = home / "log"
        self._log_level = "info" if quiet else "trace"
        self.registration: Registration | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    @contextmanager
    def started(cls, *, quiet: bool = False) -> Iterator[Self]:
        """Install the engine, initialise, start, yield, stop, remove. quiet: log as in production, for measuring."""
        home = Path(tempfile.mkdtemp(prefix="bao-", dir="/tmp"))
        server = cls(home=home, quiet=quiet)
        try:
            server.start()
            yield server
        finally:
            server.stop()
            shutil.rmtree(home, ignore_errors=True)

    @property
    def configuration(self) -> Path:
        return Path(self.bao.command()[-1].removeprefix("-config="))

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def start(self, *, timeout: float = 30.0) -> None:
        """Start (again, after `stop` or `kill`) and wait until the engine answers. timeout: seconds."""
        self.bao.folder.mkdir(mode=0o700, exist_ok=True)
        self.bao.prepare()
        self.registration = install(self.bao.plugins)
        self.bao.configure(self.registration)
        with self.configuration.open("a") as file:
            file.write(f'log_level = "{self._log_level}"\n{_TESTER}')
        deadline = time.monotonic() + timeout
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.bao.command(), env=dict(self.bao.environment()), stdout=log, stderr=log
            )
        while not self.bao.ready():
            assert self._process.poll() is None, f"OpenBao ended while it started:\n{self.log.read_text()[-4000:]}"
            assert time.monotonic() < deadline, f"OpenBao does not answer:\n{self.log.read_text()[-4000:]}"
            time.sleep(0.02)
        self.bao.settle(self.registration)

    def stop(self) -> None:
        """Stop in order; nothing happens when it does not run."""
        if self._process is not None:
            self._process.send_signal(STOP_SIGNAL)
            self._process.wait(timeout=20)
            self._process = None

    def kill(self) -> None:
        """SIGKILL to OpenBao, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=20)
            self._process = None

    def engines(self) -> list[psutil.Process]:
        """The engine's processes that this OpenBao started."""
        launcher = str(self.bao.plugins / COMMAND)
        return [child for child in psutil.Process(self.pid).children() if launcher in child.cmdline()]

    async def login(self, role: str = TESTER) -> "Vault":
        """A session with the role's rights; close it with `await vault.close()`."""
        vault = Vault(self.bao)
        secret_id = self.bao.secret_id_file.read_text() if role == SERVER_ROLE else role
        status, body = await vault.call("POST", "/auth/approle/login", {"role_id": role, "secret_id": secret_id})
        assert status == 200, body
        vault.token = body["auth"]["client_token"]
        return vault


class Vault:
    """HTTP to one OpenBao. Paths are the engine's; one with a leading slash is OpenBao's."""

    def __init__(self, bao: OpenBao) -> None:
        self.token = ""
        connector = aiohttp.UnixConnector(path=str(bao.socket), limit=0)
        self._session = aiohttp.ClientSession("http://openbao", connector=connector)

    async def call(self, method: str, path: str, data: Mapping[str, Any] | None = None) -> tuple[int, Any]:
        """One request; its status and its JSON (None where there is no body)."""
        where = f"/v1{path}" if path.startswith("/") else f"/v1/{MOUNT}/{path}"
        headers = {"X-Vault-Token": self.token} if self.token else {}
        if method == "PATCH":
            headers["Content-Type"] = "application/merge-patch+json"
        content = None if data is None else json.dumps(data).encode()
        async with self._session.request(method, where, data=content, headers=headers) as answer:
            body = await answer.read()
            return answer.status, json.loads(body) if body else None

    async def close(self) -> None:
        await self._session.close()
