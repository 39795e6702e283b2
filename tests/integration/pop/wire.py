"""Talking to a POP as programs do: gRPC from the contract's descriptors, and JSON through Envoy. No client of ours.

owner = Wire(channel, pop.api_key)
key = (await owner(key_pb2.CreateKeyRequest(name="a"))).key
refusal = await owner.refused(sign_pb2.SignRequest(key_id="nobody"))     refusal.code, refusal.reason
"""

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

import aiohttp
import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.rpc import error_details_pb2, status_pb2
from yarl import URL

from popsigner_server.gen.popsigner.v1 import api_key_pb2, audit_pb2, billing_pb2, key_pb2, namespace_pb2, sign_pb2

MODULES = (api_key_pb2, audit_pb2, billing_pb2, key_pb2, namespace_pb2, sign_pb2)
TIMEOUT = 30.0
DOMAIN = "popsigner.com"


@cache
def _rpcs() -> dict[str, MethodDescriptor]:
    """RPCs by the full name of their request: every RPC has a request message of its own."""
    return {
        method.input_type.full_name: method
        for module in MODULES
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """How a call ended that was refused; `fields` are those that BadRequest names."""

    code: str
    reason: str
    message: str
    fields: tuple[str, ...] = ()


def refusal_of(error: grpc.aio.AioRpcError) -> Refusal:
    """The refusal in gRPC's trailers; the reason is empty where gRPC itself refused."""
    reason, fields = "", []
    for name, value in error.trailing_metadata() or ():
        if name == "grpc-status-details-bin":
            assert isinstance(value, bytes)
            status = status_pb2.Status.FromString(value)
            assert (status.code, status.message) == (error.code().value[0], error.details())
            info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
            for detail in status.details:
                if detail.Unpack(info):
                    assert info.domain == DOMAIN
                    reason = info.reason
                elif detail.Unpack(bad):
                    fields = [violation.field for violation in bad.field_violations]
    return Refusal(code=error.code().name, reason=reason, message=error.details() or "", fields=tuple(fields))


class Wire:
    """gRPC with one API key's rights. Answers are the messages of the contract."""

    def __init__(self, channel: grpc.aio.Channel, api_key: str) -> None:
        self.channel = channel
        self.api_key = api_key
        self.metadata = (("authorization", f"Bearer {api_key}"),)

    def start(self, request: Any, *, timeout: float | None = TIMEOUT, metadata: Any = None) -> Any:
        """Begin the unary RPC that takes this request."""
        method = _rpcs()[request.DESCRIPTOR.full_name]
        call = self.channel.unary_unary(
            f"/{method.containing_service.full_name}/{method.name}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
        )
        return call(request, timeout=timeout, metadata=self.metadata if metadata is None else metadata)

    async def __call__(self, request: Any, *, timeout: float | None = TIMEOUT, metadata: Any = None) -> Any:
        return await self.start(request, timeout=timeout, metadata=metadata)

    async def refused(self, request: Any, *, timeout: float | None = TIMEOUT, metadata: Any = None) -> Refusal:
        """The refusal of a request; an answer fails the test."""
        try:
            answer = await self.start(request, timeout=timeout, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            return refusal_of(error)
        raise AssertionError(f"this was not refused: {request!s:.300}\nits answer: {answer!s:.300}")

    def stream(self, *, timeout: float | None = TIMEOUT) -> Any:
        """Open a SignStream."""
        call = self.channel.stream_stream(
            "/popsigner.v1.SignService/SignStream",
            request_serializer=sign_pb2.SignStreamRequest.SerializeToString,
            response_deserializer=sign_pb2.SignStreamResponse.FromString,
        )
        return call(timeout=timeout, metadata=self.metadata)

    async def signatures_used(self) -> int:
        """GetUsage of this month."""
        usage = await self(billing_pb2.GetUsageRequest())
        return next(int(each.value) for each in usage.usage if each.metric == "signatures")

    async def rows(self, **filters: Any) -> list[audit_pb2.AuditLog]:
        """All audit rows that ListLogs finds, newest first, over all pages."""
        found: list[audit_pb2.AuditLog] = []
        cursor = ""
        while True:
            page = await self(audit_pb2.ListLogsRequest(page_size=1000, cursor=cursor, **filters))
            found += page.logs
            cursor = page.next_cursor
            if not cursor:
                return found

    async def doings(self, **filters: Any) -> list[audit_pb2.AuditLog]:
        """The rows without those that say once a minute that an API key was used: they come when they come."""
        return [row for row in await self.rows(**filters) if row.event != "auth.api_key_used"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An HTTP answer, read whole."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def reason(self) -> str:
        """The ErrorInfo reason of an error; fails for any other body."""
        (info,) = (detail for detail in self.json["details"] if detail["@type"].endswith("/google.rpc.ErrorInfo"))
        assert info["domain"] == DOMAIN
        return str(info["reason"])


class Json:
    """JSON over HTTP to a POP's public port, as `curl` sends it."""

    def __init__(self, http: str, api_key: str, session: aiohttp.ClientSession) -> None:
        self.http = http
        self.api_key = api_key
        self._session = session

    async def __call__(
        self, method: str, path: str, body: Any = None, *, headers: dict[str, str] | None = None
    ) -> Answer:
        """`body` is sent as it is if it is bytes or str. headers: besides, or instead of, the API key's."""
        data = body if body is None or isinstance(body, str | bytes) else json.dumps(body)
        sent = {"x-api-key": self.api_key, "content-type": "application/json"} | (headers or {})
        url = URL(self.http + path, encoded=True)
        async with self._session.request(method, url, data=data, headers=sent) as answer:
            kept = {name.lower(): value for name, value in answer.headers.items()}
            return Answer(status=answer.status, headers=kept, text=(await answer.read()).decode())
