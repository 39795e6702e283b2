"""Prometheus metrics, by its naming conventions. The labels that the hot path needs are resolved once and kept."""

import platform
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from importlib.metadata import version
from pkgutil import iter_modules

import grpc
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector

from popsigner_server.errors import SignerError
from popsigner_server.gen.popsigner import v1
from popsigner_server.gen.popsigner.internal import v1 as internal

OTHER = "other"
# A metrics address that serves none.
OFF = "off"
_CODES: dict[int, str] = {code.value[0]: code.name for code in grpc.StatusCode}
_REASONS = frozenset(kind.reason for kind in SignerError.__subclasses__())
_SECONDS = (0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def _contract() -> Iterator[str]:
    """Every RPC of the contract, e.g. `/popsigner.v1.SignService/Sign`, and of the gateway's own service."""
    for package in (v1, internal):
        for module in iter_modules(package.__path__):
            if module.name.endswith("_pb2"):
                for service in import_module(f"{package.__name__}.{module.name}").DESCRIPTOR.services_by_name.values():
                    yield from (f"/{service.full_name}/{method.name}" for method in service.methods)


class _ApiKeyCache(Collector):
    """Reads the verifier's own counts when somebody asks, so that counting costs a call nothing more."""

    def __init__(self, hits: Callable[[], int], misses: Callable[[], int]) -> None:
        self._read = {"hit": hits, "miss": misses}

    def collect(self) -> Iterable[CounterMetricFamily]:
        family = CounterMetricFamily(
            "popsigner_api_key_cache_lookups",
            "Presented API keys looked up in the cache, by result.",
            labels=["result"],
        )
        for result, count in self._read.items():
            family.add_metric([result], count())
        return [family]


class Metrics:
    """This process's metrics, in a registry of their own. It is the batcher's observer too.

    Label values are bounded: an RPC that is not in the contract, and an unknown reason, count as `other`.
    """

    def __init__(self) -> None:
        # Else every series has a second one that says since when it counts; process_start_time_seconds says it once.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library gives it no types
        self.registry = CollectorRegistry()
        self._calls()
        self._signing()
        ProcessCollector(registry=self.registry)
        info = Info("popsigner_build", "The running build.", registry=self.registry)
        info.info({"version": version("popsigner-server"), "python": platform.python_version()})

    def _calls(self) -> None:
        finished = Counter("popsigner_rpcs", "RPCs that ended.", ["method", "code"], registry=self.registry)
        seconds = Histogram(
            "popsigner_rpc_duration_seconds",
            "From the start of an RPC to its status; for a stream all of its life.",
            ["method"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        in_flight = Gauge("popsigner_rpcs_in_flight", "RPCs under way.", ["method"], registry=self.registry)
        methods = (*_contract(), OTHER)
        self._in_flight = {method: in_flight.labels(method) for method in methods}
        self._rpc_seconds = {method: seconds.labels(method) for method in methods}
        self._finished = finished
        self._finished_children: dict[tuple[str, int], Counter] = {}
        self._rate_limited = Counter(
            "popsigner_rate_limited", "Calls and stream messages above a rate limit.", ["limit"], registry=self.registry
        )
        self._rate_unlimited = Counter(
            "popsigner_rate_limit_store_misses",
            "Counts that the rate limit store did not take: their calls were let through.",
            registry=self.registry,
        )
        self._argon2 = Histogram(
            "popsigner_argon2_verification_duration_seconds",
            "Argon2id verifications of API keys.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._calls_waiting = Gauge(
            "popsigner_calls_waiting",
            "Calls that wait until others of their organization are done, by what they do.",
            ["kind"],
            registry=self.registry,
        )
        self._notes_lost = Counter(
            "popsigner_api_key_notes_lost", "Uses of API keys that could not be noted.", registry=self.registry
        )

    def _signing(self) -> None:
        self._released = Counter(
            "popsigner_signatures_released", "Signatures that left, each after its audit row.", registry=self.registry
        )
        self._refused = Counter(
            "popsigner_signatures_refused", "Items that the release gate refused.", ["reason"], registry=self.registry
        )
        self._failed = Counter(
            "popsigner_batches_failed", "Batches that failed as a whole.", ["reason"], registry=self.registry
        )
        self._batch_items = Histogram(
            "popsigner_batch_items", "Items in one trip to the vault.", buckets=_ITEMS, registry=self.registry
        )
        self._vault_seconds = Histogram(
            "popsigner_vault_trip_duration_seconds",
            "One signing trip to the vault.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._ledger_seconds = Histogram(
            "popsigner_ledger_commit_duration_seconds",
            "One release: audit rows, usage and commit.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._queue_length = Gauge(
            "popsigner_queue_items", "Items that wait for a trip to the vault.", registry=self.registry
        )

    def rpc_began(self, method: str) -> None:
        """An RPC (`/popsigner.v1.SignService/Sign`) began; `rpc_done` follows for each."""
        self._in_flight.get(method, self._in_flight[OTHER]).inc()

    def rpc_done(self, method: str, code: int, seconds: float) -> None:
        """An RPC ended with this gRPC status code after so many seconds."""
        if method not in self._in_flight:
            method = OTHER
        self._in_flight[method].dec()
        self._rpc_seconds[method].observe(seconds)
        child = self._finished_children.get((method, code))
        if child is None:
            child = self._finished.labels(method, _CODES.get(code, OTHER))
            self._finished_children[method, code] = child
        child.inc()

    def rate_limited(self, limit: str) -> None:
        """A call was above the limit of its `caller` or of its `organization`."""
        self._rate_limited.labels(limit).inc()

    def rate_unlimited(self) -> None:
        """A call was let through because the rate limit store is away."""
        self._rate_unlimited.inc()

    def batch(self, items: int) -> None:
        """A trip of so many items sets out."""
        self._batch_items.observe(items)

    def vault_trip(self, seconds: float) -> None:
        """A trip to the vault came back."""
        self._vault_seconds.observe(seconds)

    def ledger_commit(self, seconds: float) -> None:
        """A release committed."""
        self._ledger_seconds.observe(seconds)

    def released(self, count: int) -> None:
        """So many signatures left."""
        self._released.inc(count)

    def refused(self, reason: str, count: int) -> None:
        """The release gate refused so many items."""
        self._refused.labels(reason if reason in _REASONS else OTHER).inc(count)

    def failed(self, error: BaseException) -> None:
        """A batch failed as a whole."""
        self._failed.labels(error.reason if isinstance(error, SignerError) else OTHER).inc()

    def argon2_verified(self, seconds: float) -> None:
        """An API key was verified with Argon2id."""
        self._argon2.observe(seconds)

    def api_key_note_lost(self) -> None:
        """The use of an API key could not be noted."""
        self._notes_lost.inc()

    def watch_queue(self, length: Callable[[], int]) -> None:
        """Show what `length` says at the moment of a scrape."""
        self._queue_length.set_function(length)

    def watch_calls_waiting(self, *, read: Callable[[], int], change: Callable[[], int]) -> None:
        """Show what these say at the moment of a scrape."""
        self._calls_waiting.labels("read").set_function(read)
        self._calls_waiting.labels("change").set_function(change)

    def watch_api_key_cache(self, *, hits: Callable[[], int], misses: Callable[[], int]) -> None:
        """Show what the verifier has counted at the moment of a scrape."""
        self.registry.register(_ApiKeyCache(hits, misses))


def serve_metrics(address: str, metrics: Metrics) -> Callable[[], None]:
    """Serve `GET /metrics` over HTTP from threads of its own; returns what ends that.

    `address` is `host:port` (an IPv6 host in brackets), or `off`. Raises ValueError for another form, OSError when it
    cannot listen there.
    """
    if address == OFF:
        return lambda: None
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError("The metrics address must be host:port, or off.")
    try:
        server, thread = start_http_server(int(port), host.strip("[]"), metrics.registry)
    except OSError as error:
        raise OSError(f"cannot serve metrics on {address}: {error.strerror or error}") from error

    def close() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return close
