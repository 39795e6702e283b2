"""OpenBao in a container: the node's own OpenBao, with secrets that are given as files and never made.

    python run_openbao.py           write the configuration, install the engine, run OpenBao until SIGTERM
    python run_openbao.py --check   exit with 0 if it is initialised and unsealed (the health check)

There is one configuration of OpenBao, in popsigner_node.openbao; this file says only where things lie.
"""

import argparse
import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from popsigner_node.errors import NodeError
from popsigner_node.openbao import STOP_SIGNAL, OpenBao
from popsigner_node.unix_http import UnixConnection
from popsigner_plugin.install import Registration, install

FOLDER = Path("/var/lib/openbao")
SOCKET = Path("/run/openbao/bao.sock")
SECRETS = Path("/run/secrets")
API_PORT = 8200
CLUSTER_PORT = 8201
# OpenBao stops answering when it cannot write its audit trail, so the trail must not fill the volume.
AUDIT_LIMIT = 256 * 2**20
PATIENCE = 60.0
POLL_SECONDS = 0.2
ROUND_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerOpenBao(OpenBao):
    """The node's OpenBao with its secrets in another folder: `unseal_key` (32 bytes), `server_secret_id` and
    `node_secret_id`."""

    secrets: Path
    temporary: Path

    @property
    def unseal_key(self) -> Path:
        return self.secrets / "unseal_key"

    @property
    def secret_id_file(self) -> Path:
        return self.secrets / "server_secret_id"

    @property
    def node_secret_id_file(self) -> Path:
        return self.secrets / "node_secret_id"

    def prepare(self) -> None:
        """Make the folders and check the secrets. Raises NodeError."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        if not self._initialised.exists():
            # A first start that was interrupted: it holds no key yet, and OpenBao cannot take it up again.
            shutil.rmtree(self._raft, ignore_errors=True)
            self._registered.unlink(missing_ok=True)
        self._raft.mkdir(mode=0o700, exist_ok=True)
        self.plugins.mkdir(mode=0o700, exist_ok=True)
        for secret in (self.secret_id_file, self.node_secret_id_file, self.unseal_key):
            if not os.access(secret, os.R_OK):
                raise NodeError(f"The secret {secret} is missing or cannot be read by uid {os.geteuid()}.")
        self.check_unseal_key()

    def environment(self) -> Mapping[str, str]:
        """The node's, but the engine's own socket stays out of the folder that is shared with the server."""
        # Not super(): a dataclass with slots is another class than the one that this method was written in.
        return {**OpenBao.environment(self), "TMPDIR": str(self.temporary)}

    def healthy(self) -> bool:
        """True once the first start is complete and OpenBao is unsealed."""
        if not self._initialised.exists():
            return False
        try:
            with contextlib.closing(UnixConnection(self.socket, timeout=5)) as connection:
                connection.request("GET", "/v1/sys/health")
                return connection.getresponse().status == HTTPStatus.OK
        except OSError:
            return False

    def run(self, engine: Registration, *, patience: float) -> int:
        """Run OpenBao until it ends or SIGTERM comes; its exit code.

        engine: as it was installed. patience: seconds until it must be ready; after that it is stopped, and 1 returned,
        as when it does not take this release's policies.
        """
        process = subprocess.Popen(self.command(), env=dict(self.environment()))
        stopping = threading.Event()

        def stop(*_: object) -> None:
            stopping.set()
            process.send_signal(STOP_SIGNAL)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        ended = os.pidfd_open(process.pid)
        deadline = time.monotonic() + patience
        settled = given_up = False
        while process.poll() is None:
            if not settled and not given_up and not stopping.is_set() and self.ready():
                try:
                    self.settle(engine)
                    settled = True
                except NodeError as error:
                    # Not when somebody has just stopped it: then it went away while it was asked.
                    if not stopping.is_set():
                        given_up = True
                        sys.stderr.write(f"openbao: {error}\n")
                        process.send_signal(STOP_SIGNAL)
            elif not settled and not given_up and time.monotonic() > deadline:
                given_up = True
                sys.stderr.write(f"openbao: it is not ready after {patience:.0f} seconds; the lines above say why.\n")
                process.send_signal(STOP_SIGNAL)
            self.rotate_audit_log(process.pid, limit=AUDIT_LIMIT)
            select.select([ended], [], [], ROUND_SECONDS if settled else POLL_SECONDS)
        return 1 if given_up else process.returncode


def main() -> int:
    parser = argparse.ArgumentParser(description="Run OpenBao with POPSigner's engine, or check the one that runs.")
    parser.add_argument("--check", action="store_true", help="exit with 0 if it is healthy")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="raft, plugin, audit trail")
    parser.add_argument("--socket", type=Path, default=SOCKET, help="where it answers")
    parser.add_argument("--secrets", type=Path, default=SECRETS, help="unseal_key, server_secret_id, node_secret_id")
    parser.add_argument("--temporary", type=Path, default=Path("/tmp"), help="for the engine's socket")  # noqa: S108 - a tmpfs that is the container's own
    parser.add_argument("--api-port", type=int, default=API_PORT, help="on loopback; raft asks for it")
    parser.add_argument("--cluster-port", type=int, default=CLUSTER_PORT, help="on loopback; raft asks for it")
    parser.add_argument("--patience", type=float, default=PATIENCE, help="seconds until it must be ready")
    chosen = parser.parse_args()
    vault = ContainerOpenBao(
        folder=chosen.folder,
        socket=chosen.socket,
        secrets=chosen.secrets,
        temporary=chosen.temporary,
        api_port=chosen.api_port,
        cluster_port=chosen.cluster_port,
    )
    if chosen.check:
        return 0 if vault.healthy() else 1
    os.umask(0o077)
    try:
        vault.prepare()
        engine = install(vault.plugins)
        vault.configure(engine)
    except NodeError as error:
        sys.stderr.write(f"openbao: {error}\n")
        return int(error.code)
    return vault.run(engine, patience=chosen.patience)


if __name__ == "__main__":
    sys.exit(main())
