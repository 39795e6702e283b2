"""What one run consists of: the options, and the parts with their places and addresses."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from popsigner_gateway.envoy import Tls
from popsigner_node.addresses import Addresses
from popsigner_node.envoy import Envoy
from popsigner_node.layout import Layout
from popsigner_node.openbao import OpenBao
from popsigner_node.postgres import EmbeddedPostgres
from popsigner_node.secret_files import SecretFiles
from popsigner_node.server import Backends, Server
from popsigner_node.web import Web

DRAIN_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What `popsigner up` was asked for. port 0: free ports for everything. grpc_port None: the customary one.

    public_url None: this machine's own address. trusted_hops: proxies before Envoy that say who calls. database_url,
    bao_address: somebody else's PostgreSQL and OpenBao; then ours are not started.
    """

    port: int
    grpc_port: int | None
    bind: str
    data_dir: Path
    ready_file: Path | None
    servers: int
    tls: Tls | None
    public_url: str | None
    trusted_hops: int
    database_url: str | None
    database_password_file: Path | None
    bao_address: str | None
    bao_secret_id_file: Path | None
    bao_ca_file: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The parts of one run. cluster, vault: None where somebody else's are used."""

    addresses: Addresses
    secrets: SecretFiles
    cluster: EmbeddedPostgres | None
    vault: OpenBao | None
    servers: list[Server]
    web: Web
    gateway: Envoy

    @classmethod
    def made(cls, options: Options, layout: Layout) -> Self:
        """Choose the addresses and put everything in its place. Raises NodeError for a port that is taken."""
        addresses = Addresses.chosen(
            bind=options.bind, port=options.port, grpc_port=options.grpc_port, servers=options.servers
        )
        cluster = EmbeddedPostgres(folder=layout.postgres, sockets=layout.run)
        vault = OpenBao(
            folder=layout.openbao,
            socket=layout.run / "bao.sock",
            api_port=addresses.bao_api,
            cluster_port=addresses.bao_cluster,
        )
        secrets = SecretFiles(folder=layout.secrets)
        backends = Backends(
            database_url=options.database_url or cluster.url(),
            database_password_file=options.database_password_file,
            bao_address=options.bao_address or vault.address,
            bao_secret_id_file=options.bao_secret_id_file or vault.secret_id_file,
            bao_ca_file=options.bao_ca_file,
            secrets=secrets,
        )
        servers = [
            Server(
                backends=backends,
                listen=addresses.grpc_listen,
                socket=layout.run / ("server.sock" if number == 1 else f"server-{number}.sock"),
                metrics_listen=addresses.metrics_listen(number),
                drain=DRAIN_SECONDS,
            )
            for number in range(1, options.servers + 1)
        ]
        web = Web(
            socket=layout.run / "web.sock",
            server=servers[0].socket,
            secrets=secrets,
            public_url=options.public_url or addresses.public_url(tls=options.tls is not None),
        )
        gateway = Envoy(
            folder=layout.envoy,
            listen=addresses.http_listen,
            servers=[server.socket for server in servers],
            web=web.socket,
            admin_socket=layout.run / "envoy.sock",
            tls=options.tls,
            trusted_hops=options.trusted_hops,
        )
        return cls(
            addresses=addresses,
            secrets=secrets,
            cluster=cluster if options.database_url is None else None,
            vault=vault if options.bao_address is None else None,
            servers=servers,
            web=web,
            gateway=gateway,
        )
