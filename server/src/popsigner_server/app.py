"""The composition root: every adapter is named here once, top to bottom, and nowhere else."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from popsigner_server.domain.plans import SELF_HOSTED
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
from popsigner_server.storage.engine import conninfo, open_engine
from popsigner_server.storage.notices import API_KEY_CHANGED, KEY_CHANGED, Listener
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
    sign,
    sign_stream,
    update_key,
    verify,
)
from popsigner_server.transport.interceptors.auth import Auth
from popsigner_server.transport.interceptors.base import Interceptor
from popsigner_server.transport.interceptors.deadline import Deadline
from popsigner_server.transport.interceptors.errors import Errors
from popsigner_server.transport.interceptors.telemetry import Telemetry
from popsigner_server.transport.server import Server
from popsigner_server.vault import Vault
from popsigner_server.vault.openbao import OpenBao

log = structlog.get_logger(__name__)

# Seconds between two looks at the database and the vault.
READINESS = 1.0
SWEEP = 60.0
MAINTENANCE = 3600.0
# Commits of organizations whose head somebody else holds, at once.
LATE = 4


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)

    metrics = Metrics()
    tracer = open_tracer(settings.otlp_endpoint)
    engine = open_engine(settings)
    vault = OpenBao(settings)
    gate = PostgresGate(conninfo(settings), prompt=settings.trips, late=LATE)
    ledger = PostgresLedger(engine)
    catalogue = Catalogue(engine)
    key_cache = KeyCache(catalogue)
    lifecycle = Lifecycle(engine, ledger, vault, catalogue)
    api_keys = ApiKeys(engine, ledger, environment=settings.environment)
    verifier = Verifier(
        api_keys, environment=settings.environment, clock=time.monotonic, verified=metrics.argon2_verified
    )
    namespaces = Namespaces(engine, ledger)
    queues = Queues(limit=settings.queue_limit, weight_of=lambda _: SELF_HOSTED.weight)
    batcher = Batcher(
        vault=vault,
        gate=gate,
        queues=queues,
        observer=metrics,
        tracer=tracer,
        batch_limit=settings.batch_limit,
        trips=settings.trips,
    )
    signer = Signer(key_cache, batcher, tracer)

    handlers = {
        "/popsigner.v1.KeyService/CreateKey": create_key.create_key(lifecycle),
        "/popsigner.v1.KeyService/BatchCreateKeys": batch_create_keys.batch_create_keys(lifecycle),
        "/popsigner.v1.KeyService/GetKey": get_key.get_key(catalogue),
        "/popsigner.v1.KeyService/ListKeys": list_keys.list_keys(catalogue),
        "/popsigner.v1.KeyService/UpdateKey": update_key.update_key(lifecycle),
        "/popsigner.v1.KeyService/DeleteKey": delete_key.delete_key(lifecycle),
        "/popsigner.v1.SignService/Sign": sign.sign(signer),
        "/popsigner.v1.SignService/BatchSign": batch_sign.batch_sign(signer),
        "/popsigner.v1.SignService/SignStream": sign_stream.sign_stream(signer),
        "/popsigner.v1.SignService/Verify": verify.verify(key_cache),
        "/popsigner.v1.NamespaceService/CreateNamespace": create_namespace.create_namespace(namespaces),
        "/popsigner.v1.NamespaceService/ListNamespaces": list_namespaces.list_namespaces(namespaces),
        "/popsigner.v1.NamespaceService/DeleteNamespace": delete_namespace.delete_namespace(namespaces),
        "/popsigner.v1.ApiKeyService/CreateApiKey": create_api_key.create_api_key(api_keys, settings.environment),
        "/popsigner.v1.ApiKeyService/ListApiKeys": list_api_keys.list_api_keys(api_keys, settings.environment),
        "/popsigner.v1.ApiKeyService/RevokeApiKey": revoke_api_key.revoke_api_key(api_keys, settings.environment),
        "/popsigner.v1.AuditService/ListLogs": list_logs.list_logs(ledger, catalogue),
        "/popsigner.v1.AuditService/GetLog": get_log.get_log(ledger),
        "/popsigner.v1.BillingService/GetUsage": get_usage.get_usage(UsageReader(engine)),
    }
    interceptors: list[Interceptor] = [
        Telemetry(metrics, tracer),
        Errors(),
        Deadline(),
        Auth(verifier, trust_gateway=settings.trust_gateway),
    ]
    addresses = [settings.listen]
    if settings.listen_socket is not None:
        settings.listen_socket.unlink(missing_ok=True)
        addresses.append(f"unix:{settings.listen_socket}")
    server = Server(handlers, interceptors, addresses)
    listener = Listener(
        conninfo(settings),
        heard={KEY_CHANGED: key_cache.forget, API_KEY_CHANGED: verifier.forget},
        missed=[key_cache.forget_all, verifier.forget_all],
    )
    maintenance = Maintenance(engine)
    metrics.watch_queue(lambda: queues.items)
    metrics.watch_api_key_cache(hits=lambda: verifier.hits, misses=lambda: verifier.misses)

    close_metrics = serve_metrics(settings.metrics_listen, metrics)
    await server.start()
    log.info("listening", addresses=addresses)
    background = [
        asyncio.create_task(task)
        for task in (
            _watch(server, engine, vault),
            vault.keep_token(),
            listener.run(),
            _every(SWEEP, "sweep", lifecycle.sweep),
            _every(MAINTENANCE, "maintenance", maintenance.run),
        )
    ]
    await stopping.wait()
    log.info("draining")
    await server.stop(settings.drain_seconds)
    for task in background:
        task.cancel()
    await asyncio.gather(*background, return_exceptions=True)
    await batcher.close()
    await lifecycle.close()
    await gate.close()
    await vault.close()
    verifier.close()
    await engine.dispose()
    tracer.close()
    close_metrics()
    log.info("stopped")


async def _watch(server: Server, engine: AsyncEngine, vault: Vault) -> None:
    """Health says SERVING while both the database and the vault answer."""
    while True:
        database, ready = await asyncio.gather(_answers(engine), vault.is_ready())
        await server.set_serving(database and ready)
        await asyncio.sleep(READINESS)


async def _answers(engine: AsyncEngine) -> bool:
    try:
        async with asyncio.timeout(5), engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
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
