"""`/device`: a person lets a program on another screen in (RFC 8628 3.3)."""

from urllib.parse import urlencode

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from popsigner_gateway.web.faults import Fault, malformed
from popsigner_gateway.web.gateway import Gateway, login_first

_LONGEST_CODE = 32
_log = structlog.get_logger(__name__)


class Device:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def routes(self) -> list[Route]:
        return [
            Route("/device", self.show, methods=["GET"]),
            Route("/device", self.decide, methods=["POST"]),
        ]

    async def show(self, request: Request) -> Response:
        gateway, code = self._gateway, _code(request.query_params.get("user_code", ""))
        found = await gateway.person(request)
        if found is None:
            return login_first("/device?" + urlencode({"user_code": code}) if code else "/device")
        if not code:
            return gateway.page("device_code")
        try:
            device = await gateway.server.device(code)
        except Fault as fault:
            if fault.reason == "DEVICE_NOT_FOUND":
                return gateway.page("device_code", status=404, unknown=code)
            raise
        return gateway.page(
            "device",
            code=code,
            device=device,
            began=device.created_at.ToDatetime().strftime("%Y-%m-%d %H:%M:%S UTC"),
            email=found[1].email,
            seal=gateway.token(found[0], f"device {code}"),
        )

    async def decide(self, request: Request) -> Response:
        gateway = self._gateway
        # The token is for this very code: a page that shows one program cannot be made to let another one in.
        fields = await gateway.form(request)
        code, decision = _code(fields.get("user_code", "")), fields.get("decision", "")
        session = await gateway.own_session(request, fields, f"device {code}")
        if decision not in ("approve", "deny"):
            raise malformed("The form says neither yes nor no.")
        await gateway.server.decide_device(code, session.access_token, approve=decision == "approve")
        _log.info("device.decided", approved=decision == "approve", session_id=session.session_id)
        return gateway.page("device_done", approved=decision == "approve")


def _code(typed: str) -> str:
    """As it was typed, without what cannot belong to it."""
    return "".join(each for each in typed if each.isascii() and (each.isalnum() or each == "-"))[:_LONGEST_CODE]
