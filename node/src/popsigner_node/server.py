"""The server's processes: `python -m popsigner_server`, set up through its environment."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from popsigner_node.errors import NodeError
from popsigner_node.lifeline import tied
from popsigner_node.secret_files import SecretFiles

STOP_SIGNAL = signal.SIGTERM

_SERVING = b"\x08\x01"  # HealthCheckResponse{status: SERVING}; the request for the whole server is the empty message
_PREFIX = "POPSIGNER_"
# The command line client's own names; the first is a secret.
_CLIENT_NAMES = {"POPSIGNER_API_KEY", "POPSIGNER_API_KEY_FILE", "POPSIGNER_ENDPOINT", "POPSIGNER_ORGANIZATION"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """The first organization; api_key is None unless it was made just now."""

    organization: str
    api_key: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Backends:
    """Where the server finds its database and its vault. Secrets are paths of files."""

    database_url: str
    database_password_file: Path | None
    bao_address: str
    bao_secret_id_file: Path
    bao_ca_file: Path | None
    secrets: SecretFiles

    def settings(self) -> dict[str, str]:
        chosen = {
            "POPSIGNER_DATABASE_URL": self.database_url,
            "POPSIGNER_DATABASE_PASSWORD_FILE": self.database_password_file,
            "POPSIGNER_BAO_ADDR": self.bao_address,
            "POPSIGNER_BAO_SECRET_ID_FILE": self.bao_secret_id_file,
            "POPSIGNER_BAO_CA_FILE": self.bao_ca_file,
        }
        return {name: str(value) for name, value in chosen.items() if value is not None} | self.secrets.settings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One server process.

    listen: `host:port`, shared by all server processes (SO_REUSEPORT). socket, metrics_listen: this one's own.
    drain: seconds that running calls get at SIGTERM.
    """

    backends: Backends
    listen: str
    socket: Path
    metrics_listen: str
    drain: float

    def command(self, verb: str = "serve") -> list[str]:
        """Run this as a child of this process's main thread; `serve` drains at SIGTERM."""
        return tied([sys.executable, "-m", "popsigner_server", verb], death_signal=signal.SIGKILL)

    def environment(self) -> Mapping[str, str]:
        """The whole environment: the operator's own POPSIGNER_ settings, overruled by what the node decides."""
        passed = {
            name: value
            for name, value in os.environ.items()
            if (name.startswith(_PREFIX) and name not in _CLIENT_NAMES) or name in ("PATH", "HOME", "SSL_CERT_FILE")
        }
        own = {
            "LC_ALL": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "POPSIGNER_LISTEN": self.listen,
            "POPSIGNER_LISTEN_SOCKET": str(self.socket),
            "POPSIGNER_METRICS_LISTEN": self.metrics_listen,
            "POPSIGNER_DRAIN_SECONDS": str(self.drain),
        }
        return passed | own | self.backends.settings()

    async def migrate(self) -> None:
        """Bring the database to the newest schema. Raises NodeError."""
        await self._run("migrate")

    async def bootstrap(self) -> Bootstrap:
        """Make the first organization if there is none. Raises NodeError."""
        answer = json.loads((await self._run("bootstrap")).strip().splitlines()[-1])
        return Bootstrap(organization=answer["organization"], api_key=answer["api_key"])

    async def ready(self) -> bool:
        """True once the server says SERVING, that is when its database and its vault answer it (grpc.health.v1)."""
        if not self._listens():
            return False
        # gRPC takes a third of a second to import, which the other parts' start covers when it happens here.
        import grpc

        async with grpc.aio.insecure_channel(f"unix:{self.socket}") as channel:
            check = channel.unary_unary(
                "/grpc.health.v1.Health/Check", request_serializer=bytes, response_deserializer=bytes
            )
            try:
                return bool(await check(b"", timeout=2) == _SERVING)
            except grpc.aio.AioRpcError:
                return False

    def _listens(self) -> bool:
        """Whether somebody accepts on the socket: asked often, and much cheaper than a gRPC channel that fails."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    async def _run(self, verb: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *self.command(verb),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=dict(self.environment()),
            start_new_session=True,
        )
        try:
            out, err = await process.communicate()
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise
        if process.returncode != 0:
            words = err.decode(errors="replace").strip().splitlines() or ["it wrote nothing"]
            raise NodeError(f"popsigner-server {verb} failed: {words[-1].removeprefix('popsigner-server: ')[:300]}")
        return out.decode()
