"""Counts and times every call, and opens its span; the outermost, so that it sees every end."""

import time
from asyncio import CancelledError
from typing import Any

import grpc

from popsigner_server.telemetry import Tracer
from popsigner_server.telemetry.metrics import Metrics
from popsigner_server.transport.interceptors.base import Call, Handler, Rpc

CANCELLED = grpc.StatusCode.CANCELLED.value[0]


class Telemetry:
    """One count, one time and one span a call."""

    def __init__(self, metrics: Metrics, tracer: Tracer) -> None:
        self._metrics = metrics
        self._tracer = tracer

    def wrap(self, rpc: Rpc, proceed: Handler) -> Handler:
        path, metrics, tracer = rpc.path, self._metrics, self._tracer

        async def handle(call: Call, request: Any) -> Any:
            began = time.perf_counter()
            metrics.rpc_began(path)
            with tracer.rpc(path, call.metadata) as span:
                try:
                    return await proceed(call, request)
                except CancelledError:
                    call.code = CANCELLED
                    raise
                finally:
                    span.finish(call.code)
                    metrics.rpc_done(path, call.code, time.perf_counter() - began)

        return handle
