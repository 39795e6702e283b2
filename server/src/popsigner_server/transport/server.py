"""The gRPC server: the contract's services, health and reflection, on TCP and a unix socket."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from popsigner_server import errors
from popsigner_server.gen.popsigner.internal.v1 import login_pb2
from popsigner_server.gen.popsigner.v1 import (
    api_key_pb2,
    audit_pb2,
    auth_pb2,
    billing_pb2,
    key_pb2,
    namespace_pb2,
    organization_pb2,
    recovery_pb2,
    sign_pb2,
)
from popsigner_server.transport.interceptors.base import Call, Handler, Interceptor, Rpc, compose
from popsigner_server.transport.interceptors.draining import Draining
from popsigner_server.transport.interceptors.errors import Errors
from popsigner_server.transport.interceptors.telemetry import Telemetry
from popsigner_server.transport.reflection import add_reflection

CONTRACT = (
    api_key_pb2,
    audit_pb2,
    auth_pb2,
    billing_pb2,
    key_pb2,
    login_pb2,
    namespace_pb2,
    organization_pb2,
    recovery_pb2,
    sign_pb2,
)
SERVICES: tuple[ServiceDescriptor, ...] = tuple(
    service for module in CONTRACT for service in module.DESCRIPTOR.services_by_name.values()
)
# Of one request and one answer, in bytes; the gateway's body limit is the same. A full batch of large messages does not
# fit on purpose: 256 MiB a call would be an attack.
MAX_MESSAGE = 4 << 20
# Calls of one connection at once. Generous, because gRPC counts those too that have ended on the wire and are not taken
# apart here yet, and resets what is above: a client that keeps to a small limit would get UNAVAILABLE without a reason.
# Without that counting (`grpc.http.overload_protection`) a client that opens and resets streams stalls all others.
STREAMS = 1024
# Seconds between the last answer and the end of the connections.
LAST_WORDS = 0.25
OPTIONS = (
    ("grpc.so_reuseport", 1),
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.max_metadata_size", 16 << 10),
    ("grpc.max_concurrent_streams", STREAMS),
    # Find a peer that has gone without a word, and let idle clients ask as often as their own keep-alive does.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


def rpcs() -> dict[str, MethodDescriptor]:
    """Every RPC of the contract by its path, e.g. `/popsigner.v1.SignService/Sign`."""
    return {f"/{service.full_name}/{method.name}": method for service in SERVICES for method in service.methods}


def _public(service: str) -> bool:
    """Whether the service is of the contract with callers; the others are between the POP's own processes."""
    return not service.startswith("popsigner.internal.")


def _parsing(method: MethodDescriptor, handler: Handler) -> Handler:
    """The handler of messages as one of bytes. gRPC's own parsing would come before every interceptor: what it cannot
    read gets no reason, and fills the log of a server that has not even asked who is calling."""
    from_bytes = message_factory.GetMessageClass(method.input_type).FromString

    def parse(raw: bytes) -> Any:
        try:
            return from_bytes(raw)
        except DecodeError as error:
            raise errors.MalformedRequest from error

    async def parse_each(raws: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        async for raw in raws:
            yield parse(raw)

    async def handle(call: Call, request: Any) -> Any:
        return await handler(call, parse_each(request) if method.client_streaming else parse(request))

    return handle


def _method_handler(method: MethodDescriptor, handler: Handler) -> "grpc.RpcMethodHandler[Any, Any]":
    async def serve(request: Any, context: "grpc.aio.ServicerContext[Any, Any]") -> Any:
        return await handler(Call(context), request)

    answer = message_factory.GetMessageClass(method.output_type).SerializeToString
    if method.client_streaming and method.server_streaming:
        return grpc.stream_stream_rpc_method_handler(serve, response_serializer=answer)
    if method.server_streaming:
        return grpc.unary_stream_rpc_method_handler(serve, response_serializer=answer)
    return grpc.unary_unary_rpc_method_handler(serve, response_serializer=answer)


class _Contract(grpc.GenericRpcHandler):
    """Every RPC of the contract in one look-up: gRPC's own handlers, one a service, are asked one after the other, and
    methods that are registered with it make it wait for a call of each of them at once."""

    def __init__(self, served: "Mapping[str, grpc.RpcMethodHandler[Any, Any]]") -> None:
        self._served = served

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any] | None":
        return self._served.get(handler_call_details.method)


class _Unknown(grpc.GenericRpcHandler):
    """Answers every path that no service has, with the reason METHOD_UNKNOWN. Ask it last."""

    def __init__(self, interceptors: Sequence[Interceptor]) -> None:
        async def refuse(call: Call, request: Any) -> Any:
            raise errors.MethodUnknown

        # Neither a deadline nor a credential matters for what does not exist.
        rpc = Rpc(service="unknown", name="Unknown", streams=False)
        handler = compose(rpc, [each for each in interceptors if isinstance(each, Telemetry | Errors)], refuse)

        async def serve(messages: Any, context: "grpc.aio.ServicerContext[Any, Any]") -> Any:
            return await handler(Call(context), messages)

        # On the wire a stream in both directions is every other shape, too.
        self._handler: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(serve)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any]":
        return self._handler


class Server:
    """Serves until it is told to stop."""

    def __init__(
        self, handlers: Mapping[str, Handler], interceptors: Sequence[Interceptor], addresses: Sequence[str]
    ) -> None:
        methods = rpcs()
        if missing := methods.keys() ^ handlers.keys():
            raise ValueError(f"these RPCs have no handler, or are not in the contract: {', '.join(sorted(missing))}")
        self._server = grpc.aio.server(options=OPTIONS)
        served = {}
        for path, method in methods.items():
            rpc = Rpc(service=method.containing_service.full_name, name=method.name, streams=method.client_streaming)
            served[path] = _method_handler(method, compose(rpc, interceptors, _parsing(method, handlers[path])))
        self._server.add_generic_rpc_handlers((_Contract(served),))
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = [service.full_name for service in SERVICES]
        add_reflection([*filter(_public, names), health.SERVICE_NAME], self._server)
        self._server.add_generic_rpc_handlers((_Unknown(interceptors),))
        self._names = ["", *names]
        self._bound = list(addresses)
        self._serving: bool | None = None

    async def start(self) -> None:
        """Bind and serve, NOT_SERVING at first. Raises OSError when an address is taken."""
        for address in self._bound:
            try:
                self._server.add_insecure_port(address)
            except RuntimeError as error:
                raise OSError(f"cannot listen on {address}: is something else listening there?") from error
        await self.set_serving(False)
        await self._server.start()

    async def set_serving(self, serving: bool) -> None:
        """What health says."""
        if serving is self._serving:
            return
        self._serving = serving
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in self._names:
            await self._health.set(name, status)

    async def stop(self, grace: float, draining: Draining) -> None:
        """Refuse new calls, give those under way `grace` seconds, then end them."""
        loop = asyncio.get_running_loop()
        end = loop.time() + grace
        await self._health.enter_graceful_shutdown()
        await draining.begin(grace)
        # A moment for callers that come again to be refused by name, before gRPC does it without a reason.
        await asyncio.sleep(LAST_WORDS)
        await self._server.stop(max(0.0, end - loop.time()))
