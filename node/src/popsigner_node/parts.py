"""The parts of a POP as programs to run: how each is known to be ready, and what its last words mean."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from popsigner_node import envoy, openbao, postgres, server, web
from popsigner_node.children import Program
from popsigner_node.envoy import Envoy
from popsigner_node.errors import Exit, NodeError
from popsigner_node.layout import disk_full, is_disk_full
from popsigner_node.openbao import OpenBao
from popsigner_node.postgres import EmbeddedPostgres
from popsigner_node.server import Server
from popsigner_node.web import Web

_DATABASE_PATIENCE = 20.0
_VAULT_PATIENCE = 10.0
_AFTER_DRAIN = 5.0


def postgres_program(cluster: EmbeddedPostgres) -> Program:
    def words(text: str) -> NodeError | None:
        if "database files are incompatible with server" in text:
            return NodeError(
                f"{cluster.folder} was made by another major version of PostgreSQL: use the POPSigner that made it.",
                code=Exit.OTHER_VERSION,
            )
        return None

    async def ready() -> bool:
        return await asyncio.to_thread(cluster.ready)

    return Program(
        name="postgres",
        command=cluster.command(),
        environment=cluster.environment(),
        ready=ready,
        diagnose=_or_disk_full(cluster.folder.parent, words),
        stop_signal=postgres.STOP_SIGNAL,
        patience=_DATABASE_PATIENCE,
    )


def openbao_program(vault: OpenBao, *, log: Path, ready: Callable[[], Awaitable[bool]] | None = None) -> Program:
    """ready: when it counts as ready; None: once the server can log in and the engine answers."""

    def words(text: str) -> NodeError | None:
        if "failed to decrypt keys from storage" in text:
            return NodeError(
                f"The unseal key {vault.unseal_key} is not the one that this data directory was made with:"
                " put the right file back from its backup; the vault was not touched.",
                code=Exit.UNSEAL_KEY,
            )
        if "failed to dispense" in text and (refusal := vault.engine_refusal()):
            return NodeError(f"The signing engine refuses to run: {refusal}", code=Exit.ENGINE_REFUSED)
        if "failed to initialize:" in text:
            return NodeError(f"OpenBao could not set up the vault; the next start begins anew (log: {log}).")
        return None

    async def serves() -> bool:
        return await asyncio.to_thread(vault.ready)

    return Program(
        name="openbao",
        command=vault.command(),
        environment=vault.environment(),
        ready=ready or serves,
        diagnose=_or_disk_full(vault.folder, words),
        stop_signal=openbao.STOP_SIGNAL,
        patience=_VAULT_PATIENCE,
    )


def server_program(part: Server, *, number: int, data: Path) -> Program:
    return Program(
        name="server" if number == 1 else f"server-{number}",
        command=part.command(),
        environment=part.environment(),
        ready=part.ready,
        diagnose=_or_disk_full(data, lambda text: None),
        stop_signal=server.STOP_SIGNAL,
        patience=part.drain + _AFTER_DRAIN,
    )


def envoy_program(gateway: Envoy, *, data: Path) -> Program:
    async def ready() -> bool:
        return await asyncio.to_thread(gateway.ready)

    return Program(
        name="envoy",
        command=gateway.command(),
        environment=gateway.environment(),
        ready=ready,
        diagnose=_or_disk_full(data, lambda text: None),
        stop_signal=envoy.STOP_SIGNAL,
        patience=_AFTER_DRAIN,
    )


def web_program(part: Web, *, data: Path) -> Program:
    async def ready() -> bool:
        return await asyncio.to_thread(part.ready)

    return Program(
        name="web",
        command=part.command(),
        environment=part.environment(),
        ready=ready,
        diagnose=_or_disk_full(data, lambda text: None),
        stop_signal=web.STOP_SIGNAL,
        patience=_AFTER_DRAIN,
    )


def _or_disk_full(place: Path, words: Callable[[str], NodeError | None]) -> Callable[[str], NodeError | None]:
    def diagnose(text: str) -> NodeError | None:
        return disk_full(place) if is_disk_full(text) else words(text)

    return diagnose
