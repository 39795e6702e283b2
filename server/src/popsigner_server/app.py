"""The composition root: every adapter is named here once, top to bottom, and nowhere else."""

import asyncio
import gc
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import structlog

from popsigner_server.domain.plans import SELF_HOSTED, Plans, read_plans
from popsigner_server.errors import SignerError
from popsigner_server.identity.api_keys import ApiKeys
from popsigner_server.identity.verification import Verifier
from popsigner_server.keys.cache import KeyCache
from popsigner_server.keys.catalogue import Catalogue
from popsigner_server.keys.lifecycle import Lifecycle
from popsigner_server.ledger.gate import PostgresGate
from popsigner_server.ledger.maintenance import Maintenance
from popsigner_server.ledger.postgres import PostgresLedger
from popsigner_server.ledger.usage import UsageReader
from popsigner_server.settings import Settings
from popsigner_server.signing.batcher import Batcher
from popsigner_server.signing.queues import Queues
from popsigner_server.signing.signer import Signer
from popsigner_server.storage import UNAVAILABLE
from popsigner_server.storage.engine import Database, conninfo
from popsigner_server.storage.notices import API_KEY_CHANGED, KEY_CHANGED, Listener
from popsigner_server.telemetry import Tracer
from popsigner_server.telemetry.metrics import Metrics, serve_metrics
from popsigner_server.telemetry.traces import open_tracer
from popsigner_server.tenancy.namespaces import Namespaces
from popsigner_server.transport.handlers import (
    batch_create_keys,
    batch_sign,
    create_api_key,
    create_key,
    create_namespace,
    delete_key,
    delete_namespace,
    get_key,
    get_log,
    get_usage,
    list_api_keys,
    list_keys,
    list_logs,
    list_namespaces,
    revoke_api_key,
    rotate_api_key,
    sign,
    sign_stream,
    update_key,
    verify,
)
from popsigner_server.transport.interceptors.auth import Auth
from popsigner_server.transport.interceptors.base import Handler, Interceptor
from popsigner_server.transport.interceptors.deadline import Deadline
from popsigner_server.transport.interceptors.draining import Draining
from popsigner_server.transport.interceptors.errors import Errors
from popsigner_server.transport.interceptors.telemetry import Telemetry
from popsigner_server.transport.server import Server
from popsigner_server.vault import Vault
from popsigner_server.vault.openbao import OpenBao

log = structlog.get_logger(__name__)

# Seconds between two looks at the database and the vault, while both answer and while one does not: a start and a
# recovery wait for this.
SERVING = 1.0
NOT_SERVING = 0.1
SWEEP = 60.0
MAINTENANCE = 3600.0
# Commits of organizations whose head somebody else holds, at once.
LATE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Rooms:
    """The rooms, furnished."""

    metrics: Metrics
    tracer: Tracer
    database: Database
    vault: OpenBao
    gate: PostgresGate
    ledger: PostgresLedger
    catalogue: Catalogue
    key_cache: KeyCache
    lifecycle: Lifecycle
    api_keys: ApiKeys
    verifier: Verifier
    namespaces: Namespaces
    batcher: Batcher
    signer: Signer

    async def close(self) -> None:
        """Settle what was accepted, then give everything back, in reverse order."""
        await self.batcher.close()
        await self.lifecycle.close()
        await self.gate.close()
        await self.vault.close()
        self.verifier.close()
        await self.database.close()
        self.tracer.close()


def plans_of(settings: Settings) -> Plans:
    """The plan catalogue. Raises ValueError with a sentence for a mistake in it."""
    if settings.plans_file is not None:
        return read_plans(settings.plans_file.read_text())
    return read_plans(files("popsigner_server").joinpath("plans.toml").read_text())


def furnish(settings: Settings) -> Rooms:
    """Build every room; nothing is connected yet."""
    plans = plans_of(settings)
    metrics = Metrics()
    tracer = open_tracer(settings.otlp_endpoint)
    database = Database.opened(settings)
    vault = OpenBao(settings)
    gate = PostgresGate(conninfo(settings), prompt=settings.trips, late=LATE)
    ledger = PostgresLedger(database)
    catalogue = Catalogue(database)
    key_cache = KeyCache(catalogue)
    api_keys = ApiKeys(database, ledger, environment=settings.environment)
    verifier = Verifier(
        api_keys, environment=settings.environment, clock=time.monotonic, verified=metrics.argon2_verified
    )
    queues = Queues(limit=settings.queue_limit, weight_of=lambda _: plans.of(SELF_HOSTED).weight)
    batcher = Batcher(
        vault=vault,
        gate=gate,
        queues=queues,
        observer=metrics,
        tracer=tracer,
        batch_limit=settings.batch_limit,
        trips=settings.trips,
    )
    metrics.watch_queue(lambda: queues.items)
    metrics.watch_api_key_cache(hits=lambda: verifier.hits, misses=lambda: verifier.misses)
    return Rooms(
        metrics=metrics,
        tracer=tracer,
        database=database,
        vault=vault,
        gate=gate,
        ledger=ledger,
        catalogue=catalogue,
        key_cache=key_cache,
        lifecycle=Lifecycle(database, ledger, vault, catalogue),
        api_keys=api_keys,
        verifier=verifier,
        namespaces=Namespaces(database, ledger),
        batcher=batcher,
        signer=Signer(key_cache, batcher, tracer),
    )


def handlers_of(rooms: Rooms, environment: str) -> dict[str, Handler]:
    """The handler of every RPC of the contract."""
    return {
        "/popsigner.v1.KeyService/CreateKey": create_key.create_key(rooms.lifecycle),
        "/popsigner.v1.KeyService/BatchCreateKeys": batch_create_keys.batch_create_keys(rooms.lifecycle),
        "/popsigner.v1.KeyService/GetKey": get_key.get_key(rooms.catalogue),
        "/popsigner.v1.KeyService/ListKeys": list_keys.list_keys(rooms.catalogue),
        "/popsigner.v1.KeyService/UpdateKey": update_key.update_key(rooms.lifecycle),
        "/popsigner.v1.KeyService/DeleteKey": delete_key.delete_key(rooms.lifecycle),
        "/popsigner.v1.SignService/Sign": sign.sign(rooms.signer),
        "/popsigner.v1.SignService/BatchSign": batch_sign.batch_sign(rooms.signer),
        "/popsigner.v1.SignService/SignStream": sign_stream.sign_stream(rooms.signer),
        "/popsigner.v1.SignService/Verify": verify.verify(rooms.key_cache),
        "/popsigner.v1.NamespaceService/CreateNamespace": create_namespace.create_namespace(rooms.namespaces),
        "/popsigner.v1.NamespaceService/ListNamespaces": list_namespaces.list_namespaces(rooms.namespaces),
        "/popsigner.v1.NamespaceService/DeleteNamespace": delete_namespace.delete_namespace(rooms.namespaces),
        "/popsigner.v1.ApiKeyService/CreateApiKey": create_api_key.create_api_key(rooms.api_keys, environment),
        "/popsigner.v1.ApiKeyService/ListApiKeys": list_api_keys.list_api_keys(rooms.api_keys, environment),
        "/popsigner.v1.ApiKeyService/RotateApiKey": rotate_api_key.rotate_api_key(rooms.api_keys, environment),
        "/popsigner.v1.ApiKeyService/RevokeApiKey": revoke_api_key.revoke_api_key(rooms.api_keys, environment),
        "/popsigner.v1.AuditService/ListLogs": list_logs.list_logs(rooms.ledger, rooms.catalogue),
        "/popsigner.v1.AuditService/GetLog": get_log.get_log(rooms.ledger),
        "/popsigner.v1.BillingService/GetUsage": get_usage.get_usage(UsageReader(rooms.database)),
    }


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain. Raises what ended a background task, after draining."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    rooms = furnish(settings)
    draining = Draining()
    interceptors: list[Interceptor] = [
        Telemetry(rooms.metrics, rooms.tracer),
        Errors(),
        draining,
        Deadline(),
        Auth(rooms.verifier, trust_gateway=settings.trust_gateway),
    ]
    addresses = [settings.listen]
    if settings.listen_socket is not None:
        settings.listen_socket.unlink(missing_ok=True)
        addresses.append(f"unix:{settings.listen_socket}")
    server = Server(handlers_of(rooms, settings.environment), interceptors, addresses)
    close_metrics = serve_metrics(settings.metrics_listen, rooms.metrics)
    await server.start()
    log.info("listening", addresses=addresses)
    _calm_the_collector()
    background = [asyncio.create_task(work) for work in _background(server, rooms, settings)]
    # None of them ever ends by itself: one that does would leave a server that is only half alive.
    ended, _ = await asyncio.wait(
        [*background, asyncio.create_task(stopping.wait())], return_when=asyncio.FIRST_COMPLETED
    )
    log.info("draining")
    await server.stop(settings.drain_seconds, draining)
    for task in background:
        task.cancel()
    await asyncio.gather(*background, return_exceptions=True)
    await rooms.close()
    close_metrics()
    log.info("stopped")
    for done in ended:
        done.result()


def _calm_the_collector() -> None:
    """What start-up made lives as long as the process: do not look through it again and again. Calls make few cycles,
    so the collector may come less often; it took a tenth of a call's CPU, and showed in the slowest ones."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


def _background(server: Server, rooms: Rooms, settings: Settings) -> list[Coroutine[Any, Any, None]]:
    listener = Listener(
        conninfo(settings),
        heard={KEY_CHANGED: rooms.key_cache.forget, API_KEY_CHANGED: rooms.verifier.forget},
        missed=[rooms.key_cache.forget_all, rooms.verifier.forget_all],
    )
    return [
        _watch(server, rooms.database, rooms.vault),
        rooms.vault.keep_token(),
        listener.run(),
        _every(SWEEP, "sweep", rooms.lifecycle.sweep),
        _every(MAINTENANCE, "maintenance", Maintenance(rooms.database).run),
    ]


async def _watch(server: Server, database: Database, vault: Vault) -> None:
    """Health says SERVING while both the database and the vault answer."""
    while True:
        serving = all(await asyncio.gather(_answers(database), vault.is_ready()))
        await server.set_serving(serving)
        await asyncio.sleep(SERVING if serving else NOT_SERVING)


async def _answers(database: Database) -> bool:
    try:
        async with asyncio.timeout(5):
            await database.ask()
    except (*UNAVAILABLE, OSError, TimeoutError):
        return False
    return True


async def _every(seconds: float, name: str, work: Callable[[], Awaitable[object]]) -> None:
    """Run `work` again and again; a failure is logged, and tried again at the next turn."""
    while True:
        try:
            await work()
        except (*UNAVAILABLE, SignerError, OSError) as error:
            log.warning("background work failed, to be tried again", work=name, error=type(error).__name__)
        await asyncio.sleep(seconds)
