"""The gateway's web application: log-in pages and OAuth endpoints, behind Envoy on a unix socket of its own."""

import contextlib
import http.client
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from popsigner_node.lifeline import tied
from popsigner_node.secret_files import SecretFiles
from popsigner_node.unix_http import UnixConnection

STOP_SIGNAL = signal.SIGTERM

_PREFIX = "POPSIGNER_GATEWAY_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Web:
    """One process. socket: where it listens. server: the server's socket. public_url: how browsers reach Envoy."""

    socket: Path
    server: Path
    secrets: SecretFiles
    public_url: str

    def command(self) -> list[str]:
        """Run this as a child of this process's main thread; it drains at SIGTERM."""
        return tied([sys.executable, "-m", "popsigner_gateway.web.cli", "serve"], death_signal=signal.SIGKILL)

    def environment(self) -> Mapping[str, str]:
        """The whole environment: the operator's own POPSIGNER_GATEWAY_ settings, overruled by what the node decides."""
        passed = {
            name: value
            for name, value in os.environ.items()
            if name.startswith(_PREFIX) or name in ("PATH", "HOME", "SSL_CERT_FILE")
        }
        own = {
            "LC_ALL": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "POPSIGNER_GATEWAY_LISTEN": f"unix://{self.socket}",
            "POPSIGNER_GATEWAY_SERVER": f"unix://{self.server}",
            "POPSIGNER_GATEWAY_PUBLIC_URL": self.public_url,
        }
        secret = "POPSIGNER_GATEWAY_SECRET_FILE"  # noqa: S105 - the name of a setting
        return passed | own | {secret: self.secrets.settings()[secret]}

    def ready(self) -> bool:
        """True once it answers."""
        with contextlib.closing(UnixConnection(self.socket, timeout=2)) as connection:
            try:
                connection.request("GET", "/internal/ready")
                return connection.getresponse().status == HTTPStatus.OK
            except (OSError, http.client.HTTPException):
                return False
