"""What each path leads to: the contract's RPCs behind their interceptors, health, reflection, and a reason for the
rest."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from google.api import annotations_pb2
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health, health_pb2

from popsigner_server import errors
from popsigner_server.errors import SignerError
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
from popsigner_server.limits.pace import Pace
from popsigner_server.limits.turns import Turns
from popsigner_server.transport.body import Body, Room
from popsigner_server.transport.exchange import Exchange, Method
from popsigner_server.transport.interceptors.base import Call, Ended, Handler, Interceptor, Rpc, compose
from popsigner_server.transport.interceptors.errors import CODES, Errors
from popsigner_server.transport.interceptors.pressure import ITEMS
from popsigner_server.transport.interceptors.telemetry import Telemetry
from popsigner_server.transport.reflection import reflected

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
# Bytes of a question to health or reflection. Nobody vouches for who asks, so it takes no room of those who sign.
QUESTION = 4 << 10
# Calls of one organization that are at work at once in this process, of those that only read and of those that change
# something: these may wait for the vault, and reading must not wait for them. Two, so that one can use the processor
# while the other waits for the database; four do twice as much to a neighbour's signatures, for two fifths more calls.
READS = 2
CHANGES = 2
SERVICES: tuple[ServiceDescriptor, ...] = tuple(
    service for module in CONTRACT for service in module.DESCRIPTOR.services_by_name.values()
)


def rpcs() -> dict[str, MethodDescriptor]:
    """Every RPC of the contract by its path, e.g. `/popsigner.v1.SignService/Sign`."""
    return {f"/{service.full_name}/{method.name}": method for service in SERVICES for method in service.methods}


class CallTurns:
    """The turns of calls that do not sign: who reads waits for others who read, who changes for others who change."""

    def __init__(self) -> None:
        self.reads, self.changes = Turns(READS), Turns(CHANGES)

    def of(self, method: MethodDescriptor) -> Turns:
        return self.reads if _only_reads(method) else self.changes


def methods_of(
    handlers: Mapping[str, Handler],
    interceptors: Sequence[Interceptor],
    turns: CallTurns,
    pace: Pace,
    checks: health.aio.HealthServicer,
) -> dict[bytes, Method]:
    """The methods by their path. handlers: by the contract's. turns, pace: of those that do not sign. Raises ValueError
    where an RPC has no handler, or a handler no RPC."""
    contract = rpcs()
    if missing := contract.keys() ^ handlers.keys():
        raise ValueError(f"these RPCs have no handler, or are not in the contract: {', '.join(sorted(missing))}")
    served = {}
    for path, method in contract.items():
        rpc = Rpc(service=method.containing_service.full_name, name=method.name, streams=method.client_streaming)
        handler = _reading(method, handlers[path], turns.of(method), pace)
        served[path.encode()] = _method(compose(rpc, interceptors, handler))
    public = [service.full_name for service in SERVICES if _public(service.full_name)]
    for_anybody = _checked(checks) | reflected([*public, health.SERVICE_NAME])
    return served | {path: _forgiving(method) for path, method in for_anybody.items()}


def unknown(interceptors: Iterable[Interceptor]) -> Method:
    """Answers every path that no service has, with the reason METHOD_UNKNOWN."""

    async def refuse(call: Call, request: Any) -> Any:
        raise errors.MethodUnknown

    # Neither a deadline nor a credential matters for what does not exist.
    rpc = Rpc(service="unknown", name="Unknown", streams=False)
    return _method(compose(rpc, [each for each in interceptors if isinstance(each, Telemetry | Errors)], refuse))


def _public(service: str) -> bool:
    """Whether the service is of the contract with callers; the others are between the POP's own processes."""
    return not service.startswith("popsigner.internal.")


def _only_reads(method: MethodDescriptor) -> bool:
    """Whether HTTP has it as GET, or would if its question were not too long for that."""
    return method.name == "Verify" or bool(method.GetOptions().Extensions[annotations_pb2.http].get)


def _reading(method: MethodDescriptor, handler: Handler, turns: Turns, pace: Pace) -> Handler:
    """The handler of messages as one of what will give their bytes: none is read or parsed before every interceptor has
    had its say, and what cannot be read is refused with a reason.

    A call waits for its turn, but for signatures, which have queues of their own. Until then its request is counted
    among those that are not taken (body.Room), and who sends one slowly holds no turn.
    """
    from_bytes = message_factory.GetMessageClass(method.input_type).FromString

    def parse(raw: bytes) -> Any:
        try:
            return from_bytes(raw)
        except DecodeError as error:
            raise errors.MalformedRequest from error

    async def parse_each(raws: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        async for raw in raws:
            yield parse(raw)

    async def handle_stream(call: Call, raws: AsyncIterator[bytes]) -> Any:
        _claim(call)
        return await handler(call, parse_each(raws))

    async def handle(call: Call, body: Body) -> Any:
        # What is there as a whole is about to be taken.
        if not body.ended:
            _claim(call)
        return await handler(call, parse(await body.whole()))

    async def handle_in_turn(call: Call, body: Body) -> Any:
        owner = _claim(call)
        if owner is None:
            # The gateway's own, for everybody.
            return await pace.run(handle(call, body))
        await body.arrived()
        async with turns.of(owner):
            return await pace.run(handle(call, body))

    if method.client_streaming:
        return handle_stream
    return handle if f"/{method.containing_service.full_name}/{method.name}" in ITEMS else handle_in_turn


def _claim(call: Call) -> UUID | None:
    """Whose call it is, an organization's or a person's; its bytes count as theirs from here on."""
    if (caller := call.known_caller) is not None:
        owner = caller.principal.organization_id
    elif (person := call.known_person) is not None:
        owner = person.user_id
    else:
        return None
    call.context.claim(owner)
    return owner


def _method(handler: Handler) -> Method:
    async def serve(exchange: Exchange) -> bytes | None:
        answer = await handler(Call(exchange), exchange.body)
        return None if answer is None else answer.SerializeToString()

    return Method(serve)


def _forgiving(method: Method) -> Method:
    """A method without interceptors, for whoever reaches the port. A question that it cannot read is no fault of this
    server's, or they could fill the log; and what they send and do not finish is theirs alone, or they could use up the
    room of all callers."""

    async def serve(exchange: Exchange) -> bytes | None:
        exchange.body.claim(Room(QUESTION))
        try:
            return await method.serve(exchange)
        except DecodeError:
            failure: SignerError = errors.MalformedRequest()
        except SignerError as error:
            failure = errors.untraced(error)
        raise Ended(CODES[failure.kind], failure.detail, ())

    return Method(serve)


class _Watcher:
    """A call of Watch, as the library writes to it: under a lock for which all other watchers wait, and whoever changes
    what health says. One that does not read must not keep it."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    async def write(self, message: Message) -> None:
        self._exchange.say(message)


def _checked(checks: health.aio.HealthServicer) -> dict[bytes, Method]:
    # An exchange is no context of gRPC's, and has all of it that the library asks for.
    from_bytes = health_pb2.HealthCheckRequest.FromString

    async def check(exchange: Exchange) -> bytes:
        answer = await checks.Check(from_bytes(await exchange.body.whole()), exchange)  # type: ignore[arg-type]
        return answer.SerializeToString()

    async def watch(exchange: Exchange) -> None:
        await checks.Watch(from_bytes(await exchange.body.whole()), _Watcher(exchange))  # type: ignore[arg-type]

    path = f"/{health.SERVICE_NAME}/".encode()
    return {path + b"Check": Method(check), path + b"Watch": Method(watch)}
