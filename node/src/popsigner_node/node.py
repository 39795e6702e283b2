"""The node: starts the parts of a POP in order, keeps them running, and stops them again."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Iterable
from pathlib import Path

from popsigner_node import housekeeping, leftovers, staging
from popsigner_node.children import Child, Program
from popsigner_node.errors import NodeError, root_cause
from popsigner_node.founded import Founded, schema_digest
from popsigner_node.layout import Layout, said_plainly
from popsigner_node.open_files import raise_limit
from popsigner_node.openbao import OpenBao
from popsigner_node.parts import envoy_program, server_program, web_program
from popsigner_node.plan import Options, Plan
from popsigner_node.postgres import EmbeddedPostgres
from popsigner_node.progress import Progress
from popsigner_node.ready import Served
from popsigner_node.server import Bootstrap, Server
from popsigner_node.stores import PATIENCE, start_database, start_vault

_POLL = 0.03
_PLUGIN = "plugin"
_SECONDS_BETWEEN_ROUNDS = 0.5
_LOG_LIMIT = 64 * 2**20
_AUDIT_LIMIT = 256 * 2**20


class Node:
    """One run of `popsigner up`."""

    def __init__(self, *, options: Options, progress: Progress) -> None:
        self._options = options
        self._progress = progress
        self._layout = Layout.opened(options.data_dir)
        self._stores: list[Child] = []
        self._servers: list[Child] = []
        self._gateway: list[Child] = []
        self._engine: int | None = None
        self._first: Bootstrap | None = None
        self._served: Served | None = None

    async def run(self) -> None:
        """Start everything, serve until SIGTERM or SIGINT, stop everything. Raises NodeError."""
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        stopped = asyncio.create_task(stop.wait())
        work = asyncio.create_task(self._work())
        try:
            await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                await work
        except OSError as error:
            raise said_plainly(error, self._layout.root) from error
        finally:
            work.cancel()
            stopped.cancel()
            await asyncio.gather(work, stopped, return_exceptions=True)
            await self._stop()
            if self._served is None:
                self._rescue_api_key()

    async def _work(self) -> None:
        if self._options.ready_file is not None:
            self._check_ready_file(self._options.ready_file)
        for name in await asyncio.to_thread(leftovers.end, self._layout.pids, postgres=self._layout.postgres):
            self._progress.say(f"ended {name}, which an earlier popsigner had left")
        staging.sweep(self._layout.root)
        raise_limit()
        plan = Plan.made(self._options, self._layout)
        plan.secrets.prepare()
        if plan.vault is not None:
            # Now and not beside the others: the server's settings name the secret id's file, and a missing unseal key
            # ends the start before anything runs.
            plan.vault.prepare()
        try:
            async with asyncio.TaskGroup() as group:
                vault = group.create_task(self._start_vault(plan.vault))
                database = group.create_task(self._start_database(plan.cluster))
                gateway = group.create_task(self._start_gateway(plan))
                founding = group.create_task(self._start_servers(plan, after=database))
                group.create_task(self._try_the_walk(plan, after=[vault, gateway, founding]))
        except BaseExceptionGroup as failures:
            raise root_cause(failures) from failures
        self._announce(plan, founding.result())
        while True:
            await asyncio.sleep(_SECONDS_BETWEEN_ROUNDS)
            self._round(plan.vault)

    def _check_ready_file(self, path: Path) -> None:
        if not path.parent.is_dir():
            raise NodeError(f"The folder of --ready-file {path} does not exist: make it first.")
        # One from an earlier run would tell its reader that we serve.
        path.unlink(missing_ok=True)

    async def _start_database(self, cluster: EmbeddedPostgres | None) -> None:
        if cluster is None:
            return
        with self._progress.step("PostgreSQL"):
            if not cluster.initialised():
                self._layout.founded.unlink(missing_ok=True)
            await start_database(cluster, self._start_store)

    async def _start_vault(self, vault: OpenBao | None) -> None:
        if vault is None:
            return
        with self._progress.step("OpenBao and the signing engine"):
            await start_vault(vault, self._start_store, log=self._log("openbao"))

    async def _start_store(self, program: Program) -> None:
        await self._child(program, self._stores).start(within=PATIENCE)

    async def _start_servers(self, plan: Plan, *, after: Awaitable[None]) -> Bootstrap:
        """Schema, organization, servers. They do not wait for the vault: a server that finds none yet looks again."""
        await after
        first, schema = plan.servers[0], schema_digest()
        noted = Founded.read(self._layout.founded) if plan.cluster is not None else None
        if noted is None or noted.schema != schema:
            with self._progress.step("database schema"):
                await first.migrate()
        programs = [
            server_program(part, number=number, data=self._layout.root)
            for number, part in enumerate(plan.servers, start=1)
        ]
        with self._progress.step("server"):
            starts = [self._child(program, self._servers).start(within=PATIENCE) for program in programs]
            serving = asyncio.gather(*starts)
            found = Bootstrap(organization=noted.organization, api_key=None) if noted else await self._found(first)
            await serving
        if plan.cluster is not None:
            Founded(organization=found.organization, schema=schema).write(self._layout.founded)
        return found

    async def _found(self, server: Server) -> Bootstrap:
        # Once it is committed the owner's key exists and this process alone can show it: a stop in between waits.
        founding = asyncio.create_task(server.bootstrap())
        try:
            await asyncio.shield(founding)
        finally:
            self._first = await founding
        return self._first

    async def _start_gateway(self, plan: Plan) -> None:
        with self._progress.step("Envoy and the log-in pages"):
            await asyncio.to_thread(plan.gateway.configure)
            data = self._layout.root
            programs = (envoy_program(plan.gateway, data=data), web_program(plan.web, data=data))
            await asyncio.gather(*(self._child(each, self._gateway).start(within=PATIENCE) for each in programs))

    async def _try_the_walk(self, plan: Plan, *, after: Iterable[Awaitable[object]]) -> None:
        await asyncio.gather(*after)
        host, port = plan.addresses.http_host, plan.addresses.http
        deadline = time.monotonic() + PATIENCE
        while not await asyncio.to_thread(plan.gateway.carries, host, port):
            if time.monotonic() > deadline:
                raise NodeError(
                    f"Envoy does not reach the server after {PATIENCE:.0f} seconds (logs: {self._layout.logs})."
                )
            await asyncio.sleep(_POLL)

    def _child(self, program: Program, tier: list[Child]) -> Child:
        log = self._log(program.name)
        child = Child(program=program, log=log, changed=self._changed, say=self._progress.say)
        tier.append(child)
        return child

    def _log(self, name: str) -> Path:
        return self._layout.logs / f"{name}.log"

    async def _stop(self) -> None:
        if self._served is not None and self._options.ready_file is not None:
            self._options.ready_file.unlink(missing_ok=True)
        # The servers first: they answer what is running and refuse what is new with DRAINING while Envoy still carries
        # both. Then nothing waits in Envoy, and after it nothing asks for the stores.
        for tier in (self._servers, self._gateway, self._stores):
            await asyncio.gather(*(child.stop() for child in tier))
        self._layout.pids.unlink(missing_ok=True)
        self._layout.tidy()

    def _processes(self) -> dict[str, int]:
        children = [*self._stores, *self._servers, *self._gateway]
        pids = {child.program.name: child.pid for child in children} | {_PLUGIN: self._engine}
        return {name: pid for name, pid in pids.items() if pid is not None}

    def _changed(self) -> None:
        """A child has a new process: what others read about it must say so."""
        processes = self._processes()
        try:
            leftovers.record(self._layout.pids, processes)
            if self._served is not None and self._options.ready_file is not None:
                self._served.write(self._options.ready_file, processes)
        except OSError as error:
            # A full disk must not end the watch over the children; the files are written again at the next change.
            self._progress.say(str(said_plainly(error, self._layout.root)))

    def _round(self, vault: OpenBao | None) -> None:
        pid = self._processes().get("openbao")
        engine = None if pid is None else housekeeping.only_child(pid)
        if vault is not None and pid is not None:
            vault.rotate_audit_log(pid, limit=_AUDIT_LIMIT)
        if engine != self._engine:
            self._engine = engine
            self._changed()
        for log in self._layout.logs.glob("*.log"):
            housekeeping.shorten(log, limit=_LOG_LIMIT)

    def _announce(self, plan: Plan, first: Bootstrap) -> None:
        self._served = Served(
            http=plan.addresses.http_url(tls=self._options.tls is not None),
            grpc=plan.addresses.grpc_listen,
            grpc_socket=f"unix://{plan.servers[0].socket}",
            public_url=plan.web.public_url,
            organization=first.organization,
            api_key=first.api_key,
            data_dir=self._layout.root,
        )
        self._changed()
        self._progress.result(self._served.greeting(seconds=self._progress.started()))
        if self._options.tls is None and not plan.addresses.only_this_machine:
            self._progress.say(
                f"{self._options.bind} may be reached from other machines and speaks plaintext, API keys included:"
                " use --tls-cert and --tls-key unless something in front of it speaks TLS"
            )

    def _rescue_api_key(self) -> None:
        """A start that ends after the owner's key was made must still show it: nothing can show it later."""
        if self._first is not None and self._first.api_key is not None:
            self._progress.result(f"The owner's API key was made, and is shown this once: {self._first.api_key}")
