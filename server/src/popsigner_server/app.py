"""The composition root: every adapter is named here once, top to bottom, and nowhere else."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import Any
from uuid import UUID

import structlog

from popsigner_server import heap
from popsigner_server.domain.plans import Plans, read_plans
from popsigner_server.errors import SignerError
from popsigner_server.identity.api_keys import ApiKeys
from popsigner_server.identity.reception import Reception
from popsigner_server.identity.records import ApiKeyRecords
from popsigner_server.identity.sealing import Sealing, read_secret
from popsigner_server.identity.verification import Verifier
from popsigner_server.keys.cache import KeyCache
from popsigner_server.keys.catalogue import Catalogue
from popsigner_server.keys.copies import Copies
from popsigner_server.keys.creation import Creation
from popsigner_server.keys.export import Export
from popsigner_server.keys.importing import Importing
from popsigner_server.keys.lifecycle import Lifecycle
from popsigner_server.keys.recovery import RecoverySettings
from popsigner_server.keys.resealing import Resealing
from popsigner_server.keys.reservations import Reservations
from popsigner_server.keys.rotation import Rotation
from popsigner_server.keys.wrapping import WrappingKeys
from popsigner_server.ledger.gate import PostgresGate
from popsigner_server.ledger.maintenance import Maintenance
from popsigner_server.ledger.postgres import PostgresLedger
from popsigner_server.ledger.quotas import Quotas
from popsigner_server.ledger.usage import UsageReader
from popsigner_server.limits import Limiter
from popsigner_server.limits.calls import CallLimits
from popsigner_server.limits.memory import MemoryLimiter
from popsigner_server.limits.pace import Pace
from popsigner_server.limits.shared import SharedLimiter
from popsigner_server.rooms import Rooms
from popsigner_server.rpcs import handlers_of
from popsigner_server.settings import DatabaseSettings, Settings
from popsigner_server.signing.batcher import Batcher
from popsigner_server.signing.queues import Queues
from popsigner_server.signing.signer import Signer
from popsigner_server.storage import UNAVAILABLE
from popsigner_server.storage.engine import Database, conninfo
from popsigner_server.storage.notices import API_KEY_CHANGED, KEY_CHANGED, ORGANIZATION_CHANGED, Listener
from popsigner_server.telemetry.metrics import Metrics, serve_metrics
from popsigner_server.telemetry.traces import open_tracer
from popsigner_server.tenancy.account import Accounts
from popsigner_server.tenancy.erasure import Erasure
from popsigner_server.tenancy.export import Exports
from popsigner_server.tenancy.invitations import Invitations, invited
from popsigner_server.tenancy.members import Members
from popsigner_server.tenancy.namespaces import Namespaces
from popsigner_server.tenancy.organizations import Organizations
from popsigner_server.transport.interceptors.auth import Auth
from popsigner_server.transport.interceptors.base import Interceptor
from popsigner_server.transport.interceptors.deadline import Deadline
from popsigner_server.transport.interceptors.draining import Draining
from popsigner_server.transport.interceptors.errors import Errors
from popsigner_server.transport.interceptors.limits import Limits
from popsigner_server.transport.interceptors.pressure import Pressure
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


def plans_of(settings: DatabaseSettings) -> Plans:
    """The plan catalogue. Raises ValueError with a sentence for a mistake in it."""
    if settings.plans_file is not None:
        return read_plans(settings.plans_file.read_text())
    return read_plans(files("popsigner_server").joinpath("plans.toml").read_text())


def limits_of(settings: Settings, plans: Plans, metrics: Metrics) -> CallLimits:
    """The rate limits, counted in the store of the settings or else in this process. Raises ValueError for a URL that
    cannot be one."""
    limiter: Limiter = MemoryLimiter()
    if settings.rate_limit_store_file is not None:
        limiter = SharedLimiter(settings.secret(settings.rate_limit_store_file), clock=time.monotonic)
    return CallLimits(limiter, plans, caller_rate=settings.api_key_rate, observer=metrics)


def gateway_secret_of(settings: Settings) -> bytes:
    """What the gateway's web application proves itself with. Raises ValueError with a sentence."""
    secret = settings.secret(settings.gateway_secret_file)
    read_secret(secret, "POPSIGNER_GATEWAY_SECRET_FILE")
    return secret.encode()


def furnish(settings: Settings) -> Rooms:
    """Build every room; nothing is connected yet."""
    plans = plans_of(settings)
    metrics = Metrics()
    tracer = open_tracer(settings.otlp_endpoint)
    database = Database.opened(settings)
    vault = OpenBao(settings)
    # One more than trips: the small one beside them.
    gate = PostgresGate(conninfo(settings), prompt=settings.trips + 1, late=LATE)
    ledger = PostgresLedger(database)
    quotas = Quotas(plans)
    catalogue = Catalogue(database)
    pace = Pace()
    key_cache = KeyCache(catalogue, pace)
    reservations = Reservations(database, ledger, vault, quotas, pace)
    wrapping_keys = WrappingKeys(vault, clock=time.monotonic)
    recovery = RecoverySettings(database, ledger, wait=timedelta(seconds=settings.recovery_wait))
    api_keys = ApiKeys(database, ledger, environment=settings.environment)
    verifier = Verifier(
        ApiKeyRecords(database, ledger),
        environment=settings.environment,
        clock=time.monotonic,
        verified=metrics.argon2_verified,
        note_lost=metrics.api_key_note_lost,
    )
    queues = Queues(limit=settings.queue_limit, plan_of=lambda principal: plans.of(principal.plan))
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
        reservations=reservations,
        creation=Creation(reservations, vault),
        wrapping_keys=wrapping_keys,
        importing=Importing(reservations, vault, wrapping_keys),
        export=Export(ledger, vault, catalogue),
        lifecycle=Lifecycle(database, ledger, vault, catalogue, reservations),
        rotation=Rotation(ledger, vault, catalogue, key_cache),
        recovery=recovery,
        resealing=Resealing(database, recovery, vault),
        copies=Copies(database, ledger, vault),
        api_keys=api_keys,
        verifier=verifier,
        reception=Reception.opened(
            database,
            ledger,
            Sealing.of(settings.secret(settings.sealing_key_file)),
            invited=invited,
            sign_up=settings.sign_up == "open",
            clock=lambda: datetime.now(UTC),
        ),
        namespaces=Namespaces(database, ledger, quotas),
        organizations=Organizations(database, ledger, plans, sign_up=settings.sign_up == "open"),
        members=Members(database, ledger),
        invitations=Invitations(database, ledger, quotas, clock=lambda: datetime.now(UTC)),
        accounts=Accounts(database),
        exports=Exports(database),
        erasure=Erasure(database, vault, plans),
        usage=UsageReader(database, plans),
        maintenance=Maintenance(database, plans),
        limits=limits_of(settings, plans, metrics),
        pace=pace,
        batcher=batcher,
        signer=Signer(key_cache, batcher, tracer),
    )


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
        Auth(
            rooms.verifier,
            rooms.reception.visitors,
            gateway_secret=gateway_secret_of(settings),
            trust_gateway=settings.trust_gateway,
        ),
        Limits(rooms.limits),
        Pressure(rooms.signer),
    ]
    addresses = [settings.listen]
    if settings.listen_socket is not None:
        settings.listen_socket.unlink(missing_ok=True)
        addresses.append(f"unix:{settings.listen_socket}")
    server = Server(handlers_of(rooms, settings.environment), interceptors, addresses, rooms.pace)
    turns = server.turns
    rooms.metrics.watch_calls_waiting(read=lambda: turns.reads.waiting, change=lambda: turns.changes.waiting)
    close_metrics = serve_metrics(settings.metrics_listen, rooms.metrics)
    await server.start()
    log.info("listening", addresses=addresses)
    heap.settle()
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


def _background(server: Server, rooms: Rooms, settings: Settings) -> list[Coroutine[Any, Any, None]]:
    def organization_changed(organization_id: UUID) -> None:
        rooms.reception.visitors.forget_organization(organization_id)
        rooms.verifier.forget_organization(organization_id)

    listener = Listener(
        conninfo(settings),
        heard={
            KEY_CHANGED: rooms.key_cache.forget,
            API_KEY_CHANGED: rooms.verifier.forget,
            **rooms.reception.heard(),
            ORGANIZATION_CHANGED: organization_changed,
        },
        missed=[rooms.key_cache.forget_all, rooms.verifier.forget_all, rooms.reception.visitors.forget_all],
    )
    return [
        _watch(server, rooms.database, rooms.vault),
        rooms.vault.keep_token(),
        listener.run(),
        _every(SWEEP, "sweep", rooms.lifecycle.sweep),
        _every(SWEEP, "recovery copies", rooms.resealing.run),
        _every(SWEEP, "keys of access tokens", rooms.reception.tokens.turn),
        _every(SWEEP, "sessions that are over", rooms.reception.sweep),
        _every(SWEEP, "erasure", rooms.erasure.run),
        _every(MAINTENANCE, "maintenance", rooms.maintenance.run),
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
