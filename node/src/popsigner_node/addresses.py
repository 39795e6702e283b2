"""Which TCP ports one run of a POP uses."""

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Self

from popsigner_node import ports

GRPC_PORT = 9090
METRICS_PORT = 9464
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """bind, http: where Envoy listens. The others are loopback ports; metrics has one a server process."""

    bind: str
    http: int
    grpc: int
    metrics: tuple[int, ...]
    bao_api: int
    bao_cluster: int

    @classmethod
    def chosen(cls, *, bind: str, port: int, grpc_port: int | None, servers: int) -> Self:
        """port 0: free ports for everything; else the customary ones, which must be free (NodeError if they are not).

        OpenBao's two are always free ones: nobody but OpenBao itself uses them.
        """
        bao_api, bao_cluster, http, grpc, *metrics = ports.free(4 + servers)
        if port == 0:
            grpc = grpc_port or grpc
        else:
            http, grpc = port, grpc_port or (GRPC_PORT if grpc_port is None else grpc)
            metrics = list(range(METRICS_PORT, METRICS_PORT + servers))
        addresses = cls(
            bind=bind, http=http, grpc=grpc, metrics=tuple(metrics), bao_api=bao_api, bao_cluster=bao_cluster
        )
        ports.require_free(bind, http, option="--port")
        ports.require_free(_LOOPBACK, grpc, option="--grpc-port")
        for each in metrics:
            ports.require_free(_LOOPBACK, each, option="--port 0, or free it")
        return addresses

    @property
    def grpc_listen(self) -> str:
        return f"{_LOOPBACK}:{self.grpc}"

    def metrics_listen(self, number: int) -> str:
        """Of server process `number`, counted from 1."""
        return f"{_LOOPBACK}:{self.metrics[number - 1]}"

    @property
    def http_listen(self) -> str:
        return f"{_bracketed(self.bind)}:{self.http}"

    @property
    def only_this_machine(self) -> bool:
        return ip_address(self.bind).is_loopback

    @property
    def http_host(self) -> str:
        """How a client on this machine names the host that Envoy listens on."""
        return {"0.0.0.0": _LOOPBACK, "::": "::1"}.get(self.bind, self.bind)  # noqa: S104 - compared, not bound

    def http_url(self, *, tls: bool) -> str:
        """How a client on this machine reaches Envoy."""
        return f"{'https' if tls else 'http'}://{_bracketed(self.http_host)}:{self.http}"

    def public_url(self, *, tls: bool) -> str:
        """Where people's browsers find the log-in pages unless the operator says otherwise. In plaintext that is this
        machine's loopback, wherever Envoy listens: no identity provider sends anybody elsewhere without TLS."""
        return self.http_url(tls=tls) if tls or self.only_this_machine else f"http://{_LOOPBACK}:{self.http}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
