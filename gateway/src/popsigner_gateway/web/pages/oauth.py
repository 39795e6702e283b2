"""`/oauth/…`: what programs ask: device authorization (RFC 8628), tokens (RFC 6749), revocation (RFC 7009)."""

import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from popsigner_gateway.gen.popsigner.internal.v1 import login_pb2 as login
from popsigner_gateway.web.edge import oauth_code, oauth_error
from popsigner_gateway.web.faults import Fault
from popsigner_gateway.web.gateway import Gateway, read_form

DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"
# Public clients (RFC 6749 2.1): anybody may say such a name, so it is shown to the person who decides, and gives no
# right.
CLIENTS = {"popsigner-cli": "popsigner (command line)"}
_UNDECIDED = {
    login.PENDING: ("authorization_pending", "Nobody has decided yet; ask again after the interval."),
    login.SLOW_DOWN: ("slow_down", "Add 5 seconds to the interval."),
    login.DENIED: ("access_denied", "The person said no."),
    login.EXPIRED: ("expired_token", "The code is over or was answered before; begin again."),
}
# What a grant that is worth nothing any more is refused with.
_INVALID_GRANT = frozenset({"CREDENTIALS_INVALID", "SESSION_ENDED", "REFRESH_TOKEN_REUSED", "MEMBERSHIP_MISSING"})
_log = structlog.get_logger(__name__)


class _Refused(Exception):
    """An error code of the RFCs with its Fault."""

    def __init__(self, code: str, reason: str, sentence: str, status: int = 400) -> None:
        super().__init__(code)
        self.code = code
        self.fault = Fault(status=status, reason=reason, sentence=sentence, advice="")


class OAuth:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def routes(self) -> list[Route]:
        return [
            Route("/oauth/device_authorization", self.start_device, methods=["POST"]),
            Route("/oauth/token", self.token, methods=["POST"]),
            Route("/oauth/revoke", self.revoke, methods=["POST"]),
        ]

    async def start_device(self, request: Request) -> Response:
        try:
            fields = await _client_form(request)
        except _Refused as refused:
            return oauth_error(refused.code, refused.fault)
        started = await self._gateway.server.start_device(CLIENTS[fields["client_id"]], self._gateway.caller(request))
        page = f"{self._gateway.public_url}/device"
        return _answer(
            {
                "device_code": started.device_code,
                "user_code": started.user_code,
                "verification_uri": page,
                "verification_uri_complete": f"{page}?user_code={started.user_code}",
                "expires_in": started.expires_in,
                "interval": started.interval,
            }
        )

    async def token(self, request: Request) -> Response:
        try:
            tokens = await self._granted(await _client_form(request), request)
        except _Refused as refused:
            return oauth_error(refused.code, refused.fault)
        return _answer(
            {
                "access_token": tokens.access_token,
                "token_type": "Bearer",
                "expires_in": tokens.expires_in,
                "refresh_token": tokens.refresh_token,
            }
        )

    async def _granted(self, fields: dict[str, str], request: Request) -> login.Tokens:
        grant = _needed(fields, "grant_type")
        if grant == DEVICE_CODE:
            return await self._polled(_needed(fields, "device_code"), request)
        if grant == "refresh_token":
            return await self._refreshed(_needed(fields, "refresh_token"), request)
        raise _Refused("unsupported_grant_type", "MALFORMED_REQUEST", "This POP does not know this grant_type.")

    async def _polled(self, device_code: str, request: Request) -> login.Tokens:
        answer = await self._gateway.server.poll_device(device_code, self._gateway.caller(request))
        if answer.outcome in _UNDECIDED:
            code, sentence = _UNDECIDED[answer.outcome]
            raise _Refused(code, code.upper(), sentence)
        if answer.outcome != login.APPROVED or not answer.tokens.access_token:
            raise Fault(status=500, reason="INTERNAL_FAULT", sentence="The server's answer has no tokens.", advice="")
        _log.info("device.completed", user_id=answer.tokens.user_id, session_id=answer.tokens.session_id)
        return answer.tokens

    async def _refreshed(self, refresh_token: str, request: Request) -> login.Tokens:
        try:
            return await self._gateway.server.refresh(refresh_token, self._gateway.caller(request))
        except Fault as fault:
            if fault.reason not in _INVALID_GRANT:
                raise
            _log.warning("refresh.refused", reason=fault.reason)
            raise _Refused("invalid_grant", fault.reason, fault.sentence) from None

    async def revoke(self, request: Request) -> Response:
        """A token that is worth nothing any more, or never was, is revoked already (RFC 7009 2.2)."""
        try:
            fields = await _client_form(request)
            await self._gateway.server.end_session(_needed(fields, "token"))
        except _Refused as refused:
            return oauth_error(refused.code, refused.fault)
        return _answer({})


async def _client_form(request: Request) -> dict[str, str]:
    try:
        fields = await read_form(request)
    except Fault as fault:
        raise _Refused(oauth_code(fault), fault.reason, fault.sentence, fault.status) from None
    if "authorization" in request.headers:
        # RFC 6749 5.2: whoever tries to prove itself by a header is answered with 401.
        raise _Refused("invalid_client", "CREDENTIALS_INVALID", "This POP knows public clients only.", 401)
    if _needed(fields, "client_id") not in CLIENTS:
        raise _Refused("invalid_client", "CREDENTIALS_INVALID", "This POP does not know this client_id.", 401)
    return fields


def _needed(fields: dict[str, str], name: str) -> str:
    if not fields.get(name):
        raise _Refused("invalid_request", "MALFORMED_REQUEST", f"The parameter {name} is missing.")
    return fields[name]


def _answer(content: dict[str, object]) -> JSONResponse:
    return JSONResponse(content, headers={"cache-control": "no-store", "pragma": "no-cache"})
