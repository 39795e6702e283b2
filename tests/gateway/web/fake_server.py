"""A small server behind the gateway: LoginService, and of the public services what a browser's pages ask.

It is stateful, so that what must happen once happens once: log-ins, refresh tokens, device codes, invitations. Time is
its own (`now`), so that tests need not wait.
"""

import json
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import grpc
from google.protobuf import duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import aio
from grpc_status import rpc_status

from popsigner_gateway.gen.popsigner.internal.v1 import login_pb2 as login
from popsigner_gateway.gen.popsigner.internal.v1 import login_pb2_grpc
from popsigner_gateway.gen.popsigner.v1 import (
    api_key_pb2,
    auth_pb2,
    auth_pb2_grpc,
    organization_pb2,
    organization_pb2_grpc,
)

SECRET = "5e" * 32
# Ours at the providers.
CLIENT_SECRET = "s3cret"
INTERVAL = 5
Context = Any


@dataclass(slots=True)
class User:
    id: str
    email: str
    name: str
    organizations: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Session:
    """One family of refresh tokens. used: those that were traded."""

    id: str
    user: User
    refresh_token: str = ""
    used: set[str] = field(default_factory=set)
    access: dict[str, float] = field(default_factory=dict)
    ended: bool = False


@dataclass(slots=True)
class Device:
    user_code: str
    origin: login.Origin
    client_name: str
    began: float
    polled: float = 0.0
    outcome: login.DeviceOutcome.ValueType = login.PENDING
    session: Session | None = None


@dataclass(slots=True)
class State:
    """What the server holds, and what it was asked: `calls` are (method, request, metadata)."""

    address: str = ""
    now: float = 1_800_000_000.0
    expires_in: int = 600
    away: bool = False
    providers: dict[str, tuple[login.Provider, str]] = field(default_factory=dict)
    invitations: dict[str, login.PreviewInvitationResponse] = field(default_factory=dict)
    users: dict[tuple[str, str], User] = field(default_factory=dict)
    login_ids: set[str] = field(default_factory=set)
    sessions: list[Session] = field(default_factory=list)
    devices: dict[str, Device] = field(default_factory=dict)
    calls: list[tuple[str, Any, dict[str, str]]] = field(default_factory=list)

    def provider(self, kind: str, issuer: str, *, organization: str = "", secret: str = CLIENT_SECRET) -> str:
        """Connect one; returns its id."""
        provider_id = f"idp_{len(self.providers) + 1:026}"
        client_id = "popsigner"
        made = login.Provider(
            id=provider_id,
            kind=kind,
            name=f"{kind} {len(self.providers) + 1}",
            issuer=issuer,
            client_id=client_id,
            organization=organization,
        )
        self.providers[provider_id] = (made, secret)
        return provider_id

    def asked(self, method: str) -> list[Any]:
        return [request for name, request, _ in self.calls if name == method]

    def tokens(self, session: Session) -> login.Tokens:
        session.used.add(session.refresh_token)
        session.refresh_token = "psr_" + secrets.token_hex(32)
        access = "at_" + secrets.token_hex(32)
        session.access[access] = self.now + self.expires_in
        tokens = login.Tokens(
            access_token=access,
            refresh_token=session.refresh_token,
            expires_in=self.expires_in,
            session_id=session.id,
            user_id=session.user.id,
        )
        tokens.session_expires_at.FromSeconds(4_000_000_000)
        return tokens

    def begun(self, user: User) -> Session:
        session = Session(id=f"sess_{len(self.sessions) + 1:026}", user=user)
        self.sessions.append(session)
        return session

    def of_access(self, token: str) -> Session | None:
        return next((each for each in self.sessions if token in each.access), None)


async def refuse(context: Context, code: int, reason: str, sentence: str, wait: int = 0) -> NoReturn:
    status = status_pb2.Status(code=code, message=sentence)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain="popsigner.com"))
    if wait:
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=wait)))
    await context.abort_with_status(rpc_status.to_status(status))
    raise AssertionError("abort_with_status raises")


class _Base:
    def __init__(self, state: State) -> None:
        self.state = state

    async def admit(self, method: str, request: Any, context: Context) -> dict[str, str]:
        metadata = {name: value for name, value in context.invocation_metadata() if isinstance(value, str)}
        self.state.calls.append((method, request, metadata))
        if self.state.away:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "connection refused at 10.1.2.3")
        return metadata

    async def person(self, token: str, context: Context) -> Session:
        session = self.state.of_access(token)
        if session is None:
            await refuse(context, code_pb2.UNAUTHENTICATED, "CREDENTIALS_INVALID", "This token is unknown.")
        if session.ended:
            await refuse(context, code_pb2.UNAUTHENTICATED, "SESSION_ENDED", "This session was ended.")
        if session.access[token] <= self.state.now:
            await refuse(context, code_pb2.UNAUTHENTICATED, "TOKEN_EXPIRED", "This token is over.")
        return session


class LoginService(_Base, login_pb2_grpc.LoginServiceServicer):
    async def admit(self, method: str, request: Any, context: Context) -> dict[str, str]:
        metadata = await super().admit(method, request, context)
        if metadata.get("authorization") != f"Bearer {SECRET}":
            await refuse(context, code_pb2.UNAUTHENTICATED, "CREDENTIALS_INVALID", "This is not the gateway.")
        return metadata

    async def ListProviders(self, request: Any, context: Context) -> login.ListProvidersResponse:
        await self.admit("ListProviders", request, context)
        listed = [each for each, _ in self.state.providers.values() if each.organization in ("", request.organization)]
        return login.ListProvidersResponse(providers=listed)

    async def GetProvider(self, request: Any, context: Context) -> login.GetProviderResponse:
        await self.admit("GetProvider", request, context)
        if request.provider_id not in self.state.providers:
            await refuse(context, code_pb2.NOT_FOUND, "IDENTITY_PROVIDER_NOT_FOUND", "There is no such provider.")
        provider, secret = self.state.providers[request.provider_id]
        return login.GetProviderResponse(provider=provider, client_secret=secret)

    async def CompleteLogin(self, request: Any, context: Context) -> login.CompleteLoginResponse:
        await self.admit("CompleteLogin", request, context)
        if len(request.login_id) < 32 or request.login_id in self.state.login_ids:
            await refuse(context, code_pb2.UNAUTHENTICATED, "LOGIN_REPLAYED", "This log-in was completed before.")
        self.state.login_ids.add(request.login_id)
        if not request.email_verified:
            await refuse(context, code_pb2.PERMISSION_DENIED, "EMAIL_UNVERIFIED", "The e-mail is not verified.")
        identity = (request.provider_id, request.subject)
        if identity not in self.state.users and request.email.endswith("@stranger.example"):
            await refuse(context, code_pb2.PERMISSION_DENIED, "NOT_INVITED", "Nobody has invited this address.")
        number = len(self.state.users) + 1
        user = self.state.users.setdefault(identity, User(f"user_{number:026}", request.email, request.name))
        return login.CompleteLoginResponse(tokens=self.state.tokens(self.state.begun(user)))

    async def RefreshSession(self, request: Any, context: Context) -> login.RefreshSessionResponse:
        await self.admit("RefreshSession", request, context)
        for session in self.state.sessions:
            if request.refresh_token in session.used:
                session.ended = True
                await refuse(context, code_pb2.UNAUTHENTICATED, "REFRESH_TOKEN_REUSED", "It was traded before.")
            if request.refresh_token == session.refresh_token:
                if session.ended:
                    await refuse(context, code_pb2.UNAUTHENTICATED, "SESSION_ENDED", "This session was ended.")
                return login.RefreshSessionResponse(tokens=self.state.tokens(session))
        return await refuse(context, code_pb2.UNAUTHENTICATED, "CREDENTIALS_INVALID", "This token is unknown.")

    async def EndSession(self, request: Any, context: Context) -> login.EndSessionResponse:
        await self.admit("EndSession", request, context)
        for session in self.state.sessions:
            if request.refresh_token in (session.refresh_token, *session.used):
                session.ended = True
        return login.EndSessionResponse()

    async def StartDevice(self, request: Any, context: Context) -> login.StartDeviceResponse:
        await self.admit("StartDevice", request, context)
        code = f"DEVC-{len(self.state.devices):04}"
        device_code = secrets.token_hex(32)
        self.state.devices[device_code] = Device(code, request.origin, request.client_name, self.state.now)
        return login.StartDeviceResponse(device_code=device_code, user_code=code, expires_in=600, interval=INTERVAL)

    async def _waiting(self, user_code: str, context: Context) -> Device:
        typed = user_code.upper().replace("-", "")
        for device in self.state.devices.values():
            if device.user_code.replace("-", "") == typed and device.outcome == login.PENDING:
                return device
        return await refuse(context, code_pb2.NOT_FOUND, "DEVICE_NOT_FOUND", "No device waits under this code.")

    async def GetDevice(self, request: Any, context: Context) -> login.GetDeviceResponse:
        await self.admit("GetDevice", request, context)
        device = await self._waiting(request.user_code, context)
        answer = login.GetDeviceResponse(client_name=device.client_name, origin=device.origin)
        answer.created_at.FromSeconds(int(device.began))
        return answer

    async def DecideDevice(self, request: Any, context: Context) -> login.DecideDeviceResponse:
        await self.admit("DecideDevice", request, context)
        person = await self.person(request.access_token, context)
        device = await self._waiting(request.user_code, context)
        device.outcome = login.APPROVED if request.approve else login.DENIED
        device.session = self.state.begun(person.user) if request.approve else None
        return login.DecideDeviceResponse()

    async def PollDevice(self, request: Any, context: Context) -> login.PollDeviceResponse:
        await self.admit("PollDevice", request, context)
        device = self.state.devices.get(request.device_code)
        if device is None or self.state.now >= device.began + 600:
            return login.PollDeviceResponse(outcome=login.EXPIRED)
        early, device.polled = self.state.now < device.polled + INTERVAL, self.state.now
        if device.outcome == login.PENDING and early:
            return login.PollDeviceResponse(outcome=login.SLOW_DOWN)
        if device.session is None:
            return login.PollDeviceResponse(outcome=device.outcome)
        tokens, device.session, device.outcome = self.state.tokens(device.session), None, login.EXPIRED
        return login.PollDeviceResponse(outcome=login.APPROVED, tokens=tokens)

    async def PreviewInvitation(self, request: Any, context: Context) -> login.PreviewInvitationResponse:
        await self.admit("PreviewInvitation", request, context)
        found = self.state.invitations.get(request.token)
        if found is None:
            await refuse(context, code_pb2.NOT_FOUND, "INVITATION_NOT_FOUND", "There is no such invitation.")
        return found

    async def GetVerificationKeys(self, request: Any, context: Context) -> login.GetVerificationKeysResponse:
        await self.admit("GetVerificationKeys", request, context)
        key = {"kty": "OKP", "crv": "Ed25519", "x": "A" * 43, "kid": "k1", "use": "sig", "alg": "EdDSA"}
        return login.GetVerificationKeysResponse(jwks=json.dumps({"keys": [key]}))


def _bearer(metadata: dict[str, str]) -> str:
    return metadata.get("authorization", "").removeprefix("Bearer ")


class AuthService(_Base, auth_pb2_grpc.AuthServiceServicer):
    async def Whoami(self, request: Any, context: Context) -> auth_pb2.WhoamiResponse:
        metadata = await self.admit("Whoami", request, context)
        session = await self.person(_bearer(metadata), context)
        answer = auth_pb2.WhoamiResponse(id=session.user.id, email=session.user.email, name=session.user.name)
        answer.session_id = session.id
        for slug in session.user.organizations:
            each = answer.memberships.add(role=api_key_pb2.OPERATOR)
            each.organization.name, each.organization.slug = slug.title(), slug
        return answer

    async def RevokeAllSessions(self, request: Any, context: Context) -> auth_pb2.RevokeAllSessionsResponse:
        metadata = await self.admit("RevokeAllSessions", request, context)
        person = await self.person(_bearer(metadata), context)
        live = [each for each in self.state.sessions if each.user is person.user and not each.ended]
        for each in live:
            each.ended = True
        return auth_pb2.RevokeAllSessionsResponse(ended=len(live))


class OrganizationService(_Base, organization_pb2_grpc.OrganizationServiceServicer):
    async def AcceptInvitation(self, request: Any, context: Context) -> organization_pb2.AcceptInvitationResponse:
        metadata = await self.admit("AcceptInvitation", request, context)
        session = await self.person(_bearer(metadata), context)
        found = self.state.invitations.get(request.token)
        if found is None or found.email != session.user.email:
            await refuse(context, code_pb2.NOT_FOUND, "INVITATION_NOT_FOUND", "There is no invitation for you.")
        del self.state.invitations[request.token]
        session.user.organizations.append(found.slug)
        organization = organization_pb2.Organization(id="org_" + "0" * 26, name=found.organization, slug=found.slug)
        return organization_pb2.AcceptInvitationResponse(organization=organization)


# What a page does not ask is not there: each of them answers UNIMPLEMENTED.
ADD: tuple[tuple[Callable[[Any, Any], object], Callable[[State], object]], ...] = (
    (login_pb2_grpc.add_LoginServiceServicer_to_server, LoginService),
    (auth_pb2_grpc.add_AuthServiceServicer_to_server, AuthService),
    (organization_pb2_grpc.add_OrganizationServiceServicer_to_server, OrganizationService),
)


@asynccontextmanager
async def serving(listen: str = "127.0.0.1:0", *, health: bool = False) -> AsyncIterator[State]:
    """A running server. listen: host:port (0 chooses one) or unix:///path. health: Envoy asks for it."""
    server, state = grpc.aio.server(), State()
    port = server.add_insecure_port(listen)
    state.address = listen if listen.startswith("unix:") else f"127.0.0.1:{port}"
    for add, servicer in ADD:
        add(servicer(state), server)
    if health:
        health_pb2_grpc.add_HealthServicer_to_server(aio.HealthServicer(), server)
    await server.start()
    try:
        yield state
    finally:
        await server.stop(None)
