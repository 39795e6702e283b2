"""An OpenTelemetry collector: the OTLP trace service (opentelemetry-proto) on a gRPC server, which keeps what comes."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Self

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Receives spans. `endpoint` is what an exporter is configured with."""

    def __init__(self) -> None:
        self.endpoint = ""
        self.exports: list[trace_service_pb2.ExportTraceServiceRequest] = []
        self._arrived = threading.Condition()

    @classmethod
    @contextmanager
    def started(cls) -> Iterator[Self]:
        collector = cls()
        server = grpc.server(ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]  # generated without types
        collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        try:
            yield collector
        finally:
            server.stop(None).wait()

    def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        with self._arrived:
            self.exports.append(request)
            self._arrived.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    @property
    def spans(self) -> dict[str, Span]:
        """What has arrived, by name."""
        return {
            span.name: span
            for export in self.exports
            for resource in export.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        }

    @property
    def resource(self) -> Resource:
        """Who sent the first export."""
        return self.exports[0].resource_spans[0].resource

    def wait_for(self, name: str, timeout: float) -> bool:
        """Whether a span of this name arrives within `timeout` seconds."""
        with self._arrived:
            return self._arrived.wait_for(lambda: name in self.spans, timeout)
