"""One RPC over both of its wires: gRPC to the server, and its google.api.http routes through Envoy."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aiohttp
import grpc
from google.api import annotations_pb2
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from yarl import URL

from tests.integration.access.calls import RPCS
from tests.integration.pop.wire import refusal_of

TIMEOUT = 30.0
CODES = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 501: "UNIMPLEMENTED", 500: "INTERNAL"}
Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a call ended: the gRPC code's name (of HTTP what it stands for, or its number), the reason where there is
    one, and the answer as text."""

    code: str
    reason: str = ""
    answer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One JSON route of an RPC."""

    rpc: str
    verb: str
    template: str
    body: str

    def url(self, request: Message) -> str:
        """The path, with the request's own values in it, and what neither path nor body takes as a query."""
        left = MessageToDict(request, preserving_proto_field_name=True)
        path = re.sub(r"\{([a-z_]+)\}", lambda match: quote(str(left.pop(match[1], "none")), safe=""), self.template)
        if self.body or not left:
            return path
        pairs = [(n, str(v)) for n, vs in left.items() for v in (vs if isinstance(vs, list) else [vs])]
        return path + "?" + "&".join(f"{quote(name)}={quote(value, safe='')}" for name, value in pairs)

    def json(self, request: Message) -> str | None:
        if not self.body:
            return None
        values = MessageToDict(request, preserving_proto_field_name=True)
        return json.dumps({name: value for name, value in values.items() if f"{{{name}}}" not in self.template})


def routes() -> list[Route]:
    """Every route of the descriptors."""
    return [route for rpc, method in RPCS.items() for route in _routes_of(rpc, method)]


def _routes_of(rpc: str, method: MethodDescriptor) -> Iterator[Route]:
    rule = method.GetOptions().Extensions[annotations_pb2.http]
    for each in (rule, *rule.additional_bindings):
        verb = each.WhichOneof("pattern")
        if verb is not None:
            yield Route(rpc=rpc, verb=verb.upper(), template=getattr(each, verb), body=each.body)


async def by_grpc(channel: grpc.aio.Channel, rpc: str, request: Message, metadata: Metadata) -> Outcome:
    """Of a stream: its first answer."""
    method = RPCS[rpc]
    shapes = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, False): channel.stream_unary,
        (True, True): channel.stream_stream,
    }
    shape: Any = shapes[method.client_streaming, method.server_streaming]
    call = shape(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
    )(_messages(request) if method.client_streaming else request, metadata=metadata, timeout=TIMEOUT)
    try:
        if method.server_streaming:
            answers = [answer async for answer in call]
            return Outcome(code="OK", answer="\n".join(map(str, answers)))
        return Outcome(code="OK", answer=str(await call))
    except grpc.aio.AioRpcError as error:
        refusal = refusal_of(error)
        return Outcome(code=refusal.code, reason=refusal.reason, answer=refusal.message)


def _messages(request: Message) -> Iterator[Message]:
    """A stream's. An empty one is none: gRPC's client loses the status of a stream that ends while it writes."""
    return iter([request] if request.ByteSize() else [])


async def by_json(
    session: aiohttp.ClientSession, http: str, route: Route, request: Message, metadata: Metadata
) -> Outcome:
    """Through Envoy, as `curl` would."""
    headers = [*metadata, ("content-type", "application/json")]
    url = URL(http + route.url(request), encoded=True)
    async with session.request(route.verb, url, data=route.json(request), headers=headers) as answer:
        text = (await answer.read()).decode(errors="replace")
    if answer.status < 400:
        return Outcome(code="OK", answer=text)
    details = json.loads(text).get("details", ()) if text.startswith("{") else ()
    reasons = [each["reason"] for each in details if each.get("@type", "").endswith("/google.rpc.ErrorInfo")]
    return Outcome(code=CODES.get(answer.status, str(answer.status)), reason=reasons[0] if reasons else "", answer=text)
