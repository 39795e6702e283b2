"""`popsigner up`: the command line of the node."""

import asyncio
import os
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

DEFAULT_DATA_DIR = Path("~/.local/share/popsigner")
_MOST_SERVERS = 64
_CORES_OF_ONE_SERVER = 4


def up(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Public port for JSON, gRPC and gRPC-Web; 0: free ports for all.")
    ] = 8080,
    bind: Annotated[str, typer.Option(help="Address that the public port listens on.")] = "127.0.0.1",
    data_dir: Annotated[Path, typer.Option(help="Where keys, database and logs live.")] = DEFAULT_DATA_DIR,
    ready_file: Annotated[
        Path | None, typer.Option(help="Write this JSON file once the POP serves; removed when it stops.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain (PEM) for the public port.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key (PEM).")] = None,
    public_url: Annotated[
        str | None,
        typer.Option(
            help="How browsers reach the public port, e.g. https://pop.example.com; log-in redirects go there."
        ),
    ] = None,
    trusted_hops: Annotated[
        int,
        typer.Option(min=0, max=16, help="Proxies in front of the public port that append to x-forwarded-for."),
    ] = 0,
    servers: Annotated[
        int | None, typer.Option(min=1, max=_MOST_SERVERS, help="Server processes; default: one per 4 cores.")
    ] = None,
    grpc_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Loopback port of the server's own gRPC; default 9090.")
    ] = None,
    database_url: Annotated[
        str | None, typer.Option(help="Use this PostgreSQL (libpq URL without password) and start none.")
    ] = None,
    database_password_file: Annotated[Path | None, typer.Option(help="File with that database's password.")] = None,
    bao_addr: Annotated[
        str | None, typer.Option(help="Use this OpenBao (https://… or unix://…) and start none.")
    ] = None,
    bao_secret_id_file: Annotated[
        Path | None, typer.Option(help="File with the AppRole secret id for that OpenBao.")
    ] = None,
    bao_ca_file: Annotated[Path | None, typer.Option(help="CA certificate (PEM) of that OpenBao.")] = None,
) -> None:
    """Run a whole POP on this machine: PostgreSQL, OpenBao with the signing engine, server and Envoy.

    The first start prints the organization, the owner's API key (once) and
    a curl that signs. Ctrl-C stops everything in order; keys and data stay
    in the data directory.

    Examples:

      popsigner up

      popsigner up --bind 0.0.0.0 --port 443 --tls-cert crt.pem --tls-key key.pem

      popsigner up --port 0 --data-dir /srv/pop --ready-file /run/pop.json

      popsigner up --database-url postgresql://popsigner@db/popsigner

    Exit codes: 0 stopped, 1 a part failed, 2 wrong options, 10 port taken,
    11 data directory in use, 12 data directory of another version,
    13 unseal key missing or wrong, 14 disk full, 15 no permission,
    16 the engine refused to run.
    """
    # The node's modules take a third of a second to import; `popsigner --help` and every other command do without.
    from popsigner_gateway.envoy import Tls
    from popsigner_node.errors import NodeError
    from popsigner_node.node import Node
    from popsigner_node.plan import Options
    from popsigner_node.progress import Progress

    _check(bind, tls_cert, tls_key, database_url, bao_addr, bao_secret_id_file)
    _check_public_url(public_url)
    options = Options(
        port=port,
        grpc_port=grpc_port,
        bind=bind,
        data_dir=data_dir,
        ready_file=ready_file,
        servers=servers or max(1, (os.cpu_count() or 1) // _CORES_OF_ONE_SERVER),
        tls=Tls(certificate=tls_cert.resolve(), private_key=tls_key.resolve()) if tls_cert and tls_key else None,
        public_url=public_url,
        trusted_hops=trusted_hops,
        database_url=database_url,
        database_password_file=database_password_file,
        bao_address=bao_addr,
        bao_secret_id_file=bao_secret_id_file,
        bao_ca_file=bao_ca_file,
    )
    # Everything below the data directory belongs to its owner alone, also what the children write.
    os.umask(0o077)
    try:
        asyncio.run(Node(options=options, progress=Progress()).run())
    except NodeError as error:
        typer.echo(f"popsigner: {error}", err=True)
        raise typer.Exit(error.code) from None


def _check_public_url(url: str | None) -> None:
    """Refuse what no identity provider would send a browser to."""
    if url is None:
        return
    parts = urlsplit(url)
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.path.strip("/") or parts.query:
        raise typer.BadParameter(f"--public-url {url} must be a scheme and a host, e.g. https://pop.example.com.")
    if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise typer.BadParameter("--public-url must begin with https:// unless it is this machine's loopback.")


def _check(
    bind: str,
    tls_cert: Path | None,
    tls_key: Path | None,
    database_url: str | None,
    bao_addr: str | None,
    bao_secret_id_file: Path | None,
) -> None:
    """Refuse what does not belong together, as a wrong option (exit code 2)."""
    if sys.platform != "linux":
        raise typer.BadParameter("a POP runs on Linux; use the container images elsewhere.")
    try:
        ip_address(bind)
    except ValueError:
        raise typer.BadParameter(f"--bind {bind} is no IP address; use one of this machine's.") from None
    if (tls_cert is None) != (tls_key is None):
        raise typer.BadParameter("--tls-cert and --tls-key go together.")
    for path in (tls_cert, tls_key, bao_secret_id_file):
        if path is not None and not os.access(path, os.R_OK):
            raise typer.BadParameter(f"{path} does not exist or cannot be read.")
    if database_url is not None and urlsplit(database_url).password is not None:
        raise typer.BadParameter(
            "--database-url holds a password, which every user of this machine could read from the process list:"
            " put it into a file and pass --database-password-file."
        )
    if (bao_addr is None) != (bao_secret_id_file is None):
        raise typer.BadParameter("--bao-addr and --bao-secret-id-file go together.")
