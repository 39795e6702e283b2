"""OpenTelemetry traces over OTLP/gRPC. Without an endpoint nothing of OpenTelemetry is imported: spans cost nothing."""

from collections.abc import Sequence
from importlib.metadata import version
from types import TracebackType
from typing import TYPE_CHECKING, Self

import grpc

from popsigner_server.telemetry import Span, Tracer

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as OtelSpan

_CODES: dict[int, str] = {code.value[0]: code.name for code in grpc.StatusCode}
# Headers of the W3C Trace Context recommendation; gRPC metadata names are lower case.
_TRACE_CONTEXT = ("traceparent", "tracestate")
# Seconds that one export may take, and the last one at the end.
EXPORT_TIMEOUT = 5.0


class _NullSpan:
    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        return None

    def finish(self, code: int) -> None:
        return None


_NULL_SPAN = _NullSpan()


class _NullTracer:
    __slots__ = ()

    def rpc(self, path: str, metadata: Sequence[tuple[str, str | bytes]]) -> Span:
        return _NULL_SPAN

    def step(self, name: str, *, items: int, links: Sequence[object]) -> Span:
        return _NULL_SPAN

    def link(self) -> object | None:
        return None

    def close(self) -> None:
        return None


class _OtelSpan:
    """An OpenTelemetry span as ours: current in its task while it is open."""

    __slots__ = ("_finished", "_span", "_token")

    def __init__(self, span: "OtelSpan") -> None:
        self._span = span
        self._finished = False

    def __enter__(self) -> Self:
        from opentelemetry import context, trace

        self._token = context.attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        from opentelemetry import context

        if kind is not None and not self._finished:
            # The kind alone: a message may hold what the caller sent.
            self._fail(kind.__name__)
        context.detach(self._token)
        self._span.end()

    def finish(self, code: int) -> None:
        name = _CODES.get(code, "UNKNOWN")
        self._finished = True
        self._span.set_attribute("rpc.response.status_code", name)
        if code != 0:
            self._fail(name)

    def _fail(self, reason: str) -> None:
        from opentelemetry.trace import Status, StatusCode

        self._span.set_attribute("error.type", reason)
        self._span.set_status(Status(StatusCode.ERROR, reason))


class _OtelTracer:
    """Spans by the semantic conventions for RPC, in batches to the collector from a thread of its own."""

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("popsigner_server")
        self._propagator = TraceContextTextMapPropagator()

    def rpc(self, path: str, metadata: Sequence[tuple[str, str | bytes]]) -> Span:
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind

        carrier = {name: value for name, value in metadata if name in _TRACE_CONTEXT and isinstance(value, str)}
        span = self._tracer.start_span(
            path[1:],
            context=self._propagator.extract(carrier, context=Context()),
            kind=SpanKind.SERVER,
            attributes={"rpc.system.name": "grpc", "rpc.method": path[1:]},
        )
        return _OtelSpan(span)

    def step(self, name: str, *, items: int, links: Sequence[object]) -> Span:
        from opentelemetry.context import Context
        from opentelemetry.trace import Link, SpanContext, SpanKind

        span = self._tracer.start_span(
            name,
            context=Context(),
            kind=SpanKind.CLIENT,
            attributes={"popsigner.batch.items": items},
            links=[Link(link) for link in links if isinstance(link, SpanContext)],
        )
        return _OtelSpan(span)

    def link(self) -> object | None:
        from opentelemetry.trace import get_current_span

        current = get_current_span().get_span_context()
        return current if current.is_valid and current.trace_flags.sampled else None

    def close(self) -> None:
        self._provider.shutdown()


def open_tracer(endpoint: str | None) -> Tracer:
    """A tracer that exports to an OTLP/gRPC collector (`http://…:4317`, or `https://…` for TLS); None for no traces.

    The OTEL_… variables of OpenTelemetry's specification choose the sampler, batch sizes and more resource attributes.
    """
    if endpoint is None:
        return _NullTracer()
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.name": "popsigner-server", "service.version": version("popsigner-server")})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_TIMEOUT)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return _OtelTracer(provider)
