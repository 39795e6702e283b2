"""A real gRPC server with the contract's own stubs, that keeps keys in memory and remembers what it was asked."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import grpc
from coincurve import PrivateKey
from google.protobuf import duration_pb2, message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

from popsigner_server.gen.popsigner.v1 import (
    api_key_pb2,
    api_key_pb2_grpc,
    audit_pb2,
    audit_pb2_grpc,
    auth_pb2,
    auth_pb2_grpc,
    errors_pb2,
    key_pb2,
    key_pb2_grpc,
    namespace_pb2,
    namespace_pb2_grpc,
    organization_pb2,
    organization_pb2_grpc,
    recovery_pb2,
    recovery_pb2_grpc,
    sign_pb2,
    sign_pb2_grpc,
)

API_KEY = "psk_test_" + "0" * 26 + "_" + "5e" * 32
DATA_LIMIT = 1 << 20
# A public key, and ciphertext that is no text.
PUBLIC_KEY = "02" + "0" * 62 + "01"
SEALED = bytes(range(256))
ARCHIVE = hashlib.shake_256(b"an account").digest(40 * 65536)
Context = Any


@dataclass(slots=True)
class Upstream:
    """What the server holds, and what arrived there."""

    address: str
    health: health.aio.HealthServicer
    keys: dict[str, key_pb2.Key] = field(default_factory=dict)
    requests: list[message.Message] = field(default_factory=list)
    metadata: list[dict[str, str]] = field(default_factory=list)

    async def serving(self, state: bool) -> None:
        status = health_pb2.HealthCheckResponse
        await self.health.set("", status.SERVING if state else status.NOT_SERVING)

    def last(self) -> Any:
        return self.requests[-1]


async def refuse(context: Context, code: int, reason: str, sentence: str, *more: message.Message) -> NoReturn:
    status = status_pb2.Status(code=code, message=sentence)
    for detail in (error_details_pb2.ErrorInfo(reason=reason, domain="popsigner.com"), *more):
        status.details.add().Pack(detail)
    await context.abort_with_status(rpc_status.to_status(status))
    raise AssertionError("abort_with_status raises")


class _Base:
    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream

    async def admit(self, request: message.Message, context: Context) -> None:
        self.upstream.requests.append(request)
        metadata = {name: value for name, value in context.invocation_metadata() if isinstance(value, str)}
        self.upstream.metadata.append(metadata)
        given = metadata.get("x-api-key", metadata.get("authorization", "").removeprefix("Bearer "))
        if given != API_KEY:
            await refuse(context, code_pb2.UNAUTHENTICATED, "CREDENTIALS_MISSING", "Send an API key.")

    async def key(self, name: str, context: Context) -> key_pb2.Key:
        for key in self.upstream.keys.values():
            if name in (key.id, f"{key.namespace}/{key.name}"):
                return key
        return await refuse(context, code_pb2.NOT_FOUND, "KEY_NOT_FOUND", f"There is no key {name!r}.")

    def create(self, name: str, request: Any) -> key_pb2.Key:
        number = len(self.upstream.keys) + 1
        key = key_pb2.Key(
            id=f"key_{number:026}",
            name=name,
            namespace=request.namespace or "production",
            algorithm="secp256k1",
            public_key=private_key(name).public_key.format().hex(),
            address="celestia1" + "q" * 38,
            eth_address="0x" + "0" * 40,
            version=1,
            min_version=1,
            state=key_pb2.Key.ENABLED,
            exportable=request.exportable,
            metadata=request.metadata,
        )
        key.created_at.FromJsonString("2026-01-10T12:00:00Z")
        self.upstream.keys[key.id] = key
        return key


def private_key(name: str) -> PrivateKey:
    return PrivateKey(hashlib.sha256(name.encode()).digest())


def version_of(key: key_pb2.Key, number: int) -> key_pb2.KeyVersion:
    return key_pb2.KeyVersion(
        version=number,
        public_key=key.public_key,
        address=key.address,
        eth_address=key.eth_address,
        created_at=key.created_at,
        signs=True,
    )


def signature(key: key_pb2.Key, data: bytes) -> bytes:
    """64 bytes, R ‖ S."""
    signed: bytes = private_key(key.name).sign_recoverable(data)[:64]
    return signed


class Keys(_Base, key_pb2_grpc.KeyServiceServicer):
    async def CreateKey(self, request: key_pb2.CreateKeyRequest, context: Context) -> key_pb2.CreateKeyResponse:
        await self.admit(request, context)
        if any(key.name == request.name for key in self.upstream.keys.values()):
            await refuse(context, code_pb2.ALREADY_EXISTS, "KEY_NAME_TAKEN", "Choose another name.")
        return key_pb2.CreateKeyResponse(key=self.create(request.name, request))

    async def BatchCreateKeys(
        self, request: key_pb2.BatchCreateKeysRequest, context: Context
    ) -> key_pb2.BatchCreateKeysResponse:
        await self.admit(request, context)
        return key_pb2.BatchCreateKeysResponse(keys=[self.create(named.name, request) for named in request.keys])

    async def GetKey(self, request: key_pb2.GetKeyRequest, context: Context) -> key_pb2.GetKeyResponse:
        await self.admit(request, context)
        return key_pb2.GetKeyResponse(key=await self.key(request.key_id, context))

    async def ListKeys(self, request: key_pb2.ListKeysRequest, context: Context) -> key_pb2.ListKeysResponse:
        await self.admit(request, context)
        return key_pb2.ListKeysResponse(keys=list(self.upstream.keys.values())[: request.page_size or 100])

    async def UpdateKey(self, request: key_pb2.UpdateKeyRequest, context: Context) -> key_pb2.UpdateKeyResponse:
        await self.admit(request, context)
        key = await self.key(request.key_id, context)
        key.metadata.update(request.metadata)
        return key_pb2.UpdateKeyResponse(key=key)

    async def DeleteKey(self, request: key_pb2.DeleteKeyRequest, context: Context) -> key_pb2.DeleteKeyResponse:
        await self.admit(request, context)
        key = await self.key(request.key_id, context)
        key.state = key_pb2.Key.DESTROYED if request.force else key_pb2.Key.DELETED
        return key_pb2.DeleteKeyResponse(key=key)

    async def UndeleteKey(self, request: key_pb2.UndeleteKeyRequest, context: Context) -> key_pb2.UndeleteKeyResponse:
        return key_pb2.UndeleteKeyResponse(key=await self.turned(request, key_pb2.Key.ENABLED, context))

    async def EnableKey(self, request: key_pb2.EnableKeyRequest, context: Context) -> key_pb2.EnableKeyResponse:
        return key_pb2.EnableKeyResponse(key=await self.turned(request, key_pb2.Key.ENABLED, context))

    async def DisableKey(self, request: key_pb2.DisableKeyRequest, context: Context) -> key_pb2.DisableKeyResponse:
        return key_pb2.DisableKeyResponse(key=await self.turned(request, key_pb2.Key.DISABLED, context))

    async def turned(self, request: Any, state: key_pb2.Key.State.ValueType, context: Context) -> key_pb2.Key:
        await self.admit(request, context)
        key = await self.key(request.key_id, context)
        key.state = state
        return key

    async def RotateKey(self, request: key_pb2.RotateKeyRequest, context: Context) -> key_pb2.RotateKeyResponse:
        await self.admit(request, context)
        key = await self.key(request.key_id, context)
        key.version += 1
        return key_pb2.RotateKeyResponse(key=key, previous=version_of(key, key.version - 1))

    async def ListKeyVersions(
        self, request: key_pb2.ListKeyVersionsRequest, context: Context
    ) -> key_pb2.ListKeyVersionsResponse:
        await self.admit(request, context)
        key = await self.key(request.key_id, context)
        versions = [version_of(key, number) for number in range(key.version, 0, -1)]
        return key_pb2.ListKeyVersionsResponse(versions=versions)

    async def GetWrappingKey(
        self, request: key_pb2.GetWrappingKeyRequest, context: Context
    ) -> key_pb2.GetWrappingKeyResponse:
        await self.admit(request, context)
        return key_pb2.GetWrappingKeyResponse(id="0" * 64, wrapping="RSA-OAEP-SHA256+AES-KWP")

    async def ImportKey(self, request: key_pb2.ImportKeyRequest, context: Context) -> key_pb2.ImportKeyResponse:
        await self.admit(request, context)
        return key_pb2.ImportKeyResponse(key=self.create(request.name, request))

    async def ExportKey(self, request: key_pb2.ExportKeyRequest, context: Context) -> key_pb2.ExportKeyResponse:
        await self.admit(request, context)
        key = await self.key(request.key_id, context)
        sealed = key_pb2.ExportedVersion(version=key.version, public_key=key.public_key, ciphertext=b"sealed")
        return key_pb2.ExportKeyResponse(wrapping="age", versions=[sealed])


class Signing(_Base, sign_pb2_grpc.SignServiceServicer):
    async def Sign(self, request: sign_pb2.SignRequest, context: Context) -> sign_pb2.SignResponse:
        await self.admit(request, context)
        if request.key_id == "production/slow":
            await asyncio.sleep(60)
        if request.encoding not in ("", "base64"):
            fault = error_details_pb2.BadRequest.FieldViolation(field="encoding", description="base64")
            violations = error_details_pb2.BadRequest(field_violations=[fault])
            await refuse(context, code_pb2.INVALID_ARGUMENT, "INVALID_FIELD", "No such encoding.", violations)
        if len(request.data) > DATA_LIMIT:
            await refuse(context, code_pb2.INVALID_ARGUMENT, "DATA_TOO_LARGE", "At most 1 MiB.")
        if request.sign_mode == "BUSY":
            wait = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=2))
            await refuse(context, code_pb2.RESOURCE_EXHAUSTED, "QUEUE_FULL", "Too many are waiting.", wait)
        key = await self.key(request.key_id, context)
        return sign_pb2.SignResponse(
            signature=signature(key, request.data), public_key=key.public_key, key_version=key.version
        )

    async def BatchSign(self, request: sign_pb2.BatchSignRequest, context: Context) -> sign_pb2.BatchSignResponse:
        await self.admit(request, context)
        if request.encoding not in ("", "base64"):
            await refuse(context, code_pb2.INVALID_ARGUMENT, "INVALID_FIELD", "No such encoding.")
        return sign_pb2.BatchSignResponse(signatures=[self.result(item) for item in request.requests])

    def result(self, item: sign_pb2.SignItem) -> sign_pb2.SignResult:
        key = self.upstream.keys.get(item.key_id)
        if key is None:
            error = errors_pb2.ItemError(
                code=code_pb2.NOT_FOUND, reason=errors_pb2.KEY_NOT_FOUND, message="Unknown key."
            )
            return sign_pb2.SignResult(key_id=item.key_id, error=error)
        return sign_pb2.SignResult(
            key_id=item.key_id, signature=signature(key, item.data), public_key=key.public_key, key_version=key.version
        )

    async def SignStream(
        self, request_iterator: AsyncIterator[sign_pb2.SignStreamRequest], context: Context
    ) -> AsyncIterator[sign_pb2.SignStreamResponse]:
        async for request in request_iterator:
            self.upstream.requests.append(request)
            yield sign_pb2.SignStreamResponse(
                correlation_id=request.correlation_id, signatures=[self.result(item) for item in request.requests]
            )

    async def Verify(self, request: sign_pb2.VerifyRequest, context: Context) -> sign_pb2.VerifyResponse:
        await self.admit(request, context)
        return sign_pb2.VerifyResponse(valid=bool(request.signature))


class Namespaces(_Base, namespace_pb2_grpc.NamespaceServiceServicer):
    async def CreateNamespace(
        self, request: namespace_pb2.CreateNamespaceRequest, context: Context
    ) -> namespace_pb2.CreateNamespaceResponse:
        await self.admit(request, context)
        made = namespace_pb2.Namespace(id="ns_" + "0" * 26, name=request.name, address_prefix="celestia")
        return namespace_pb2.CreateNamespaceResponse(namespace=made)


class ApiKeys(_Base, api_key_pb2_grpc.ApiKeyServiceServicer):
    async def RevokeApiKey(
        self, request: api_key_pb2.RevokeApiKeyRequest, context: Context
    ) -> api_key_pb2.RevokeApiKeyResponse:
        await self.admit(request, context)
        return api_key_pb2.RevokeApiKeyResponse(api_key=api_key_pb2.ApiKey(id=request.api_key_id))


class Audit(_Base, audit_pb2_grpc.AuditServiceServicer):
    async def ListLogs(self, request: audit_pb2.ListLogsRequest, context: Context) -> audit_pb2.ListLogsResponse:
        await self.admit(request, context)
        return audit_pb2.ListLogsResponse(next_cursor="cursor")

    async def GetLog(self, request: audit_pb2.GetLogRequest, context: Context) -> audit_pb2.GetLogResponse:
        await self.admit(request, context)
        return audit_pb2.GetLogResponse(log=audit_pb2.AuditLog(id=request.log_id, event="key.signed"))


class Accounts(_Base, auth_pb2_grpc.AuthServiceServicer):
    async def ExportAccount(
        self, request: auth_pb2.ExportAccountRequest, context: Context
    ) -> AsyncIterator[auth_pb2.ExportAccountResponse]:
        await self.admit(request, context)
        for start in range(0, len(ARCHIVE), 65536):
            yield auth_pb2.ExportAccountResponse(chunk=ARCHIVE[start : start + 65536])


class Organizations(_Base, organization_pb2_grpc.OrganizationServiceServicer):
    """Answers with one organization, whatever it is asked."""

    ours = organization_pb2.Organization(id="org_" + "0" * 26, name="Acme", slug="acme", plan="free")

    async def GetOrganization(
        self, request: organization_pb2.GetOrganizationRequest, context: Context
    ) -> organization_pb2.GetOrganizationResponse:
        await self.admit(request, context)
        return organization_pb2.GetOrganizationResponse(organization=self.ours)

    async def UpdateOrganization(
        self, request: organization_pb2.UpdateOrganizationRequest, context: Context
    ) -> organization_pb2.UpdateOrganizationResponse:
        await self.admit(request, context)
        return organization_pb2.UpdateOrganizationResponse(organization=self.ours)

    async def DeleteOrganization(
        self, request: organization_pb2.DeleteOrganizationRequest, context: Context
    ) -> organization_pb2.DeleteOrganizationResponse:
        await self.admit(request, context)
        return organization_pb2.DeleteOrganizationResponse(organization=self.ours)

    async def RestoreOrganization(
        self, request: organization_pb2.RestoreOrganizationRequest, context: Context
    ) -> organization_pb2.RestoreOrganizationResponse:
        await self.admit(request, context)
        return organization_pb2.RestoreOrganizationResponse(organization=self.ours)

    async def CreateOrganization(
        self, request: organization_pb2.CreateOrganizationRequest, context: Context
    ) -> organization_pb2.CreateOrganizationResponse:
        await self.admit(request, context)
        return organization_pb2.CreateOrganizationResponse(organization=self.ours)

    async def UpdateMember(
        self, request: organization_pb2.UpdateMemberRequest, context: Context
    ) -> organization_pb2.UpdateMemberResponse:
        await self.admit(request, context)
        member = organization_pb2.Member(user_id=request.user_id, role=request.role)
        return organization_pb2.UpdateMemberResponse(member=member)

    async def ConnectIdentityProvider(
        self, request: organization_pb2.ConnectIdentityProviderRequest, context: Context
    ) -> organization_pb2.ConnectIdentityProviderResponse:
        await self.admit(request, context)
        made = organization_pb2.IdentityProvider(id="idp_" + "0" * 26, issuer=request.issuer)
        return organization_pb2.ConnectIdentityProviderResponse(identity_provider=made)


class Recovery(_Base, recovery_pb2_grpc.RecoveryServiceServicer):
    async def GetRecovery(
        self, request: recovery_pb2.GetRecoveryRequest, context: Context
    ) -> recovery_pb2.GetRecoveryResponse:
        await self.admit(request, context)
        return recovery_pb2.GetRecoveryResponse(recovery=recovery_pb2.Recovery(keys=len(self.upstream.keys)))

    async def SetRecoveryRecipient(
        self, request: recovery_pb2.SetRecoveryRecipientRequest, context: Context
    ) -> recovery_pb2.SetRecoveryRecipientResponse:
        await self.admit(request, context)
        recovery = recovery_pb2.Recovery(recipient=request.recipient)
        return recovery_pb2.SetRecoveryRecipientResponse(recovery=recovery)

    async def CancelRecoveryChange(
        self, request: recovery_pb2.CancelRecoveryChangeRequest, context: Context
    ) -> recovery_pb2.CancelRecoveryChangeResponse:
        await self.admit(request, context)
        return recovery_pb2.CancelRecoveryChangeResponse(recovery=recovery_pb2.Recovery())

    async def ListRecoveryCopies(
        self, request: recovery_pb2.ListRecoveryCopiesRequest, context: Context
    ) -> recovery_pb2.ListRecoveryCopiesResponse:
        await self.admit(request, context)
        version = recovery_pb2.RecoveryVersion(public_key=PUBLIC_KEY, ciphertext=SEALED)
        copy = recovery_pb2.RecoveryCopy(label=SEALED, versions=[version])
        return recovery_pb2.ListRecoveryCopiesResponse(copies=[copy], next_cursor=request.cursor)


ADD: tuple[tuple[Callable[[Any, Any], object], Callable[[Upstream], object]], ...] = (
    (key_pb2_grpc.add_KeyServiceServicer_to_server, Keys),
    (sign_pb2_grpc.add_SignServiceServicer_to_server, Signing),
    (namespace_pb2_grpc.add_NamespaceServiceServicer_to_server, Namespaces),
    (api_key_pb2_grpc.add_ApiKeyServiceServicer_to_server, ApiKeys),
    (audit_pb2_grpc.add_AuditServiceServicer_to_server, Audit),
    (auth_pb2_grpc.add_AuthServiceServicer_to_server, Accounts),
    (organization_pb2_grpc.add_OrganizationServiceServicer_to_server, Organizations),
    (recovery_pb2_grpc.add_RecoveryServiceServicer_to_server, Recovery),
)


@asynccontextmanager
async def serving(listen: str = "127.0.0.1:0") -> AsyncIterator[tuple[Upstream, Callable[[], Awaitable[None]]]]:
    """A running server, and what stops it at once. listen: host:port (0 chooses one) or unix:///path."""
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", 4 << 20)])
    port = server.add_insecure_port(listen)
    checks = health.aio.HealthServicer()
    upstream = Upstream(address=listen if listen.startswith("unix:") else f"127.0.0.1:{port}", health=checks)
    for add, servicer in ADD:
        add(servicer(upstream), server)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection(("popsigner.v1.SignService", reflection.SERVICE_NAME), server)
    await upstream.serving(True)
    await server.start()

    async def stop() -> None:
        await server.stop(None)

    try:
        yield upstream, stop
    finally:
        await stop()
