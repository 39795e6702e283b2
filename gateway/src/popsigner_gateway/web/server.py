"""The server as this application sees it: log-in, people and their organizations, over one channel.

Every call has a deadline, and every refusal becomes a Fault with the server's own reason and sentence.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from popsigner_gateway.gen.popsigner.internal.v1 import login_pb2 as login
from popsigner_gateway.gen.popsigner.internal.v1 import login_pb2_grpc
from popsigner_gateway.gen.popsigner.v1 import auth_pb2, auth_pb2_grpc, organization_pb2, organization_pb2_grpc
from popsigner_gateway.web.faults import Fault

TIMEOUT = 5.0
"""Seconds that a call may take."""
_BEGIN_AGAIN = "Begin the log-in again."
_HTTP = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.FAILED_PRECONDITION: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
_ADVICE = {
    "ALREADY_MEMBER": "There is nothing left to do.",
    "DEVICE_NOT_FOUND": "Look at the code that the program shows, or start the program's log-in again.",
    "EMAIL_UNVERIFIED": "Verify your e-mail address at the identity provider, then log in again.",
    "IDENTITY_PROVIDER_NOT_FOUND": "Choose another identity provider.",
    "INVITATION_EXPIRED": "Ask who invited you for a new invitation.",
    "INVITATION_NOT_FOUND": "Log in with the address that was invited, or ask for a new invitation.",
    "LOGIN_REPLAYED": _BEGIN_AGAIN,
    "NOT_INVITED": "Ask an administrator of your organization for an invitation to this e-mail address.",
    "QUOTA_EXCEEDED": "Ask an owner of the organization to change its plan.",
    "REFRESH_TOKEN_REUSED": "Log in again. If you did not do this yourself, somebody may have copied your session.",
    "SESSION_ENDED": "Log in again.",
}
# What a session that is no longer one says of itself.
ENDED = frozenset({"CREDENTIALS_INVALID", "SESSION_ENDED", "REFRESH_TOKEN_REUSED", "TOKEN_EXPIRED"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Where a request comes from. address: empty where nothing is known."""

    address: str
    user_agent: str

    @property
    def origin(self) -> login.Origin:
        return login.Origin(ip_address=self.address, user_agent=self.user_agent)


class Server:
    """Every method raises Fault."""

    def __init__(self, channel: grpc.aio.Channel, secret: str) -> None:
        self._login = login_pb2_grpc.LoginServiceStub(channel)
        self._auth = auth_pb2_grpc.AuthServiceStub(channel)
        self._organizations = organization_pb2_grpc.OrganizationServiceStub(channel)
        self._credential = (("authorization", f"Bearer {secret}"),)

    async def _ask(self, call: Callable[..., Any], request: Any, timeout: float = TIMEOUT) -> Any:
        return await _answer(call, request, self._credential, timeout)

    async def providers(self, organization: str) -> list[login.Provider]:
        answer = await self._ask(self._login.ListProviders, login.ListProvidersRequest(organization=organization))
        return list(answer.providers)

    async def provider(self, provider_id: str) -> login.GetProviderResponse:
        request = login.GetProviderRequest(provider_id=provider_id)
        answer: login.GetProviderResponse = await self._ask(self._login.GetProvider, request)
        return answer

    async def complete_login(self, request: login.CompleteLoginRequest) -> login.Tokens:
        answer: login.CompleteLoginResponse = await self._ask(self._login.CompleteLogin, request)
        return answer.tokens

    async def refresh(self, refresh_token: str, caller: Caller) -> login.Tokens:
        request = login.RefreshSessionRequest(refresh_token=refresh_token, origin=caller.origin)
        answer: login.RefreshSessionResponse = await self._ask(self._login.RefreshSession, request)
        return answer.tokens

    async def end_session(self, refresh_token: str) -> None:
        await self._ask(self._login.EndSession, login.EndSessionRequest(refresh_token=refresh_token))

    async def start_device(self, client_name: str, caller: Caller) -> login.StartDeviceResponse:
        request = login.StartDeviceRequest(client_name=client_name, origin=caller.origin)
        answer: login.StartDeviceResponse = await self._ask(self._login.StartDevice, request)
        return answer

    async def device(self, user_code: str) -> login.GetDeviceResponse:
        request = login.GetDeviceRequest(user_code=user_code)
        answer: login.GetDeviceResponse = await self._ask(self._login.GetDevice, request)
        return answer

    async def decide_device(self, user_code: str, access_token: str, *, approve: bool) -> None:
        request = login.DecideDeviceRequest(user_code=user_code, access_token=access_token, approve=approve)
        await self._ask(self._login.DecideDevice, request)

    async def poll_device(self, device_code: str, caller: Caller) -> login.PollDeviceResponse:
        request = login.PollDeviceRequest(device_code=device_code, origin=caller.origin)
        answer: login.PollDeviceResponse = await self._ask(self._login.PollDevice, request)
        return answer

    async def invitation(self, token: str) -> login.PreviewInvitationResponse:
        request = login.PreviewInvitationRequest(token=token)
        answer: login.PreviewInvitationResponse = await self._ask(self._login.PreviewInvitation, request)
        return answer

    async def verification_keys(self, timeout: float = TIMEOUT) -> str:
        """The JWK Set, as JSON."""
        request = login.GetVerificationKeysRequest()
        answer: login.GetVerificationKeysResponse = await self._ask(self._login.GetVerificationKeys, request, timeout)
        return answer.jwks

    async def whoami(self, access_token: str, caller: Caller) -> auth_pb2.WhoamiResponse:
        request = auth_pb2.WhoamiRequest()
        answer: auth_pb2.WhoamiResponse = await _answer(self._auth.Whoami, request, _person(access_token, caller))
        return answer

    async def revoke_all_sessions(self, access_token: str, caller: Caller) -> None:
        request = auth_pb2.RevokeAllSessionsRequest()
        await _answer(self._auth.RevokeAllSessions, request, _person(access_token, caller))

    async def accept_invitation(self, token: str, access_token: str, caller: Caller) -> organization_pb2.Organization:
        request = organization_pb2.AcceptInvitationRequest(token=token)
        call = self._organizations.AcceptInvitation
        answer: organization_pb2.AcceptInvitationResponse = await _answer(call, request, _person(access_token, caller))
        return answer.organization


def _person(access_token: str, caller: Caller) -> tuple[tuple[str, str], ...]:
    # The server believes this header from its gateway, as it does for the calls that Envoy brings.
    where = (("x-envoy-external-address", caller.address),) if caller.address else ()
    return (("authorization", f"Bearer {access_token}"), *where)


async def _answer(
    call: Callable[..., Any], request: Any, metadata: tuple[tuple[str, str], ...], timeout: float = TIMEOUT
) -> Any:
    try:
        return await call(request, timeout=timeout, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        # What gRPC says of itself may quote addresses; the reason is enough.
        fault = _fault(error)
    raise fault


def _fault(error: grpc.aio.AioRpcError) -> Fault:
    status = _status(error)
    reason, retry_after = "", 0
    for detail in status.details:
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(retry):
            retry_after = max(1, retry.retry_delay.seconds)
    http = _HTTP.get(error.code(), 500)
    if not reason:
        return _unexplained(http)
    return Fault(
        status=http,
        reason=reason,
        sentence=status.message or "The server refused.",
        advice=_ADVICE.get(reason, "Try again in a moment." if http in (429, 503, 504) else "Go back and try again."),
        retry_after=retry_after or (1 if http in (429, 503) else 0),
    )


def _status(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    """What grpc-status-details-bin carries; empty for what gRPC itself said."""
    packed = (error.trailing_metadata() or {}).get("grpc-status-details-bin", b"")
    try:
        return status_pb2.Status.FromString(packed if isinstance(packed, bytes) else b"")
    except DecodeError:
        return status_pb2.Status()


def _unexplained(http: int) -> Fault:
    if http in (503, 504):
        return Fault(
            status=503,
            reason="SERVER_UNAVAILABLE",
            sentence="The server of this POP does not answer.",
            advice="Try again in a moment.",
            retry_after=1,
        )
    return Fault(
        status=500,
        reason="INTERNAL_FAULT",
        sentence="The server of this POP could not answer.",
        advice="Try again. If it happens again, tell your operator.",
    )
