"""The two parts that keep something: how they are started, by the node and, without the others, by a backup or a
restore."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Self

from popsigner_node import leftovers, ports
from popsigner_node.children import Child, Program
from popsigner_node.errors import root_cause
from popsigner_node.layout import Layout
from popsigner_node.openbao import OpenBao
from popsigner_node.parts import openbao_program, postgres_program
from popsigner_node.postgres import EmbeddedPostgres
from popsigner_node.progress import Progress
from popsigner_plugin.install import install

PATIENCE = 60.0
"""Seconds that a part gets to become ready."""

Start = Callable[[Program], Awaitable[object]]


async def start_database(cluster: EmbeddedPostgres, start: Start) -> None:
    """Make the data folder where there is none, run PostgreSQL, make roles and database. Raises NodeError."""
    await asyncio.to_thread(cluster.initialise)
    await start(postgres_program(cluster))
    await asyncio.to_thread(cluster.create_database)


async def start_vault(vault: OpenBao, start: Start, *, log: Path) -> None:
    """Install the engine, run OpenBao, which sets itself up at its first start, and give it this release's policies;
    `prepare` comes before. Raises NodeError."""
    engine = await asyncio.to_thread(install, vault.plugins)
    vault.configure(engine)
    await start(openbao_program(vault, log=log))
    await asyncio.to_thread(vault.settle, engine)


async def both(vault: Coroutine[Any, Any, None], database: Coroutine[Any, Any, None]) -> None:
    """Work on the two at the same time. Raises the first failure that has a sentence."""
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(vault)
            group.create_task(database)
    except BaseExceptionGroup as failures:
        raise root_cause(failures) from failures


class Stores:
    """PostgreSQL and OpenBao of one data directory, on its sockets alone: nobody else is served."""

    def __init__(self, layout: Layout, progress: Progress) -> None:
        api, cluster = ports.free(2)
        self.layout = layout
        self.cluster = EmbeddedPostgres(folder=layout.postgres, sockets=layout.run)
        self.vault = OpenBao(folder=layout.openbao, socket=layout.run / "bao.sock", api_port=api, cluster_port=cluster)
        self._progress = progress
        self._children: list[Child] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def log(self, name: str) -> Path:
        return self.layout.logs / f"{name}.log"

    async def start(self, program: Program) -> Child:
        """Run a program until `stop`. Raises NodeError."""
        child = Child(program=program, log=self.log(program.name), changed=self._changed, say=self._progress.say)
        self._children.append(child)
        await child.start(within=PATIENCE)
        return child

    async def start_both(self) -> None:
        """Start what a stopped POP has. Raises NodeError."""
        self.vault.prepare()
        await both(
            start_vault(self.vault, self.start, log=self.log("openbao")), start_database(self.cluster, self.start)
        )

    async def end(self, child: Child) -> None:
        """Stop one of them before the others."""
        await child.stop()
        self._children.remove(child)

    async def stop(self) -> None:
        """Stop what was started, in order; do nothing about what another process runs."""
        if self._children:
            await asyncio.gather(*(child.stop() for child in self._children))
            self._children.clear()
            self.layout.pids.unlink(missing_ok=True)

    def _changed(self) -> None:
        pids = {child.program.name: child.pid for child in self._children}
        leftovers.record(self.layout.pids, {name: pid for name, pid in pids.items() if pid is not None})
