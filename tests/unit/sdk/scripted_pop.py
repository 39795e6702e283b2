"""A gRPC server that speaks the contract's bytes and answers as a test tells it to.

It stands in for the answers that a real POP cannot be made to give on request: refusals of every kind, lost
connections, answers out of order. Its messages are made by protobuf, so that the SDK's own codec is checked by another
one.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import any_pb2, message_factory
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc import aio
from grpc_status import rpc_status

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

METHODS = {
    f"/{service.full_name}/{method.name}": method
    for file in (
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
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
API_KEY = "psk_test_01J00000000000000000000000_" + "5e" * 32

Context = aio.ServicerContext[Any, Any]
Unary = Callable[[Any, Context], Awaitable[Message]]
Stream = Callable[[AsyncIterator[Any], Context], AsyncIterator[Message]]
Download = Callable[[Any, Context], AsyncIterator[Message]]


@dataclass(frozen=True, slots=True)
class Seen:
    """One call as it arrived."""

    method: str
    request: Any
    metadata: dict[str, Any]
    time_remaining: float


async def refuse(
    context: Context,
    code: grpc.StatusCode,
    reason: str,
    message: str = "refused",
    *,
    retry_after: float | None = None,
    violations: Iterable[tuple[str, str]] = (),
    domain: str = "popsigner.com",
) -> Message:
    """End the call with the rich status that POPSigner sends. Does not return."""
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=reason, domain=domain)]
    if retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(retry_after * 1e9))
        details.append(retry)
    for field, description in violations:
        violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    status = status_pb2.Status(code=code.value[0], message=message, details=packed)
    await context.abort_with_status(rpc_status.to_status(status))
    raise AssertionError("abort_with_status raises")


class ScriptedPop(grpc.GenericRpcHandler):
    """The server, in a thread and event loop of its own, so that blocking clients can be tested too."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.unary: dict[str, Unary] = {}
        self.stream: Stream | None = None
        self.download: Download | None = None
        self.endpoint = ""
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def on(self, method: str, behaviour: Unary) -> None:
        """Answer `Service/Method` like this from now on."""
        self.unary[f"/popsigner.v1.{method}"] = behaviour

    def answer(self, method: str, message: Message) -> None:
        """Answer `Service/Method` with this message from now on."""

        async def behaviour(_request: Any, _context: Context) -> Message:
            return message

        self.on(method, behaviour)

    def called(self, method: str) -> list[Seen]:
        """The calls of `Service/Method`, in order."""
        return [seen for seen in self.seen if seen.method == f"/popsigner.v1.{method}"]

    def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any] | None":
        method = METHODS[details.method]
        decode = message_factory.GetMessageClass(method.input_type).FromString
        encode = message_factory.GetMessageClass(method.output_type).SerializeToString
        if details.method.endswith("/SignStream"):
            return grpc.stream_stream_rpc_method_handler(self._stream, decode, encode)
        if method.server_streaming:

            async def download(request: Any, context: Context) -> AsyncIterator[Message]:
                self._note(details.method, request, context)
                assert self.download is not None
                async for answer in self.download(request, context):
                    yield answer

            return grpc.unary_stream_rpc_method_handler(download, decode, encode)

        async def unary(request: Any, context: Context) -> Message:
            self._note(details.method, request, context)
            return await self.unary[details.method](request, context)

        return grpc.unary_unary_rpc_method_handler(unary, decode, encode)

    def _note(self, method: str, request: Any, context: Context) -> None:
        metadata = dict(context.invocation_metadata() or ())
        self.seen.append(Seen(method, request, metadata, context.time_remaining() or 0.0))

    async def _stream(self, requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Message]:
        assert self.stream is not None
        async for answer in self.stream(requests, context):
            yield answer

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        self._server = aio.server()
        self._server.add_generic_rpc_handlers((self,))
        self.endpoint = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        self._stopping = asyncio.Event()
        self._ready.set()
        await self._stopping.wait()
        await self._server.stop(None)

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(10)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(10)
        self._loop.close()
