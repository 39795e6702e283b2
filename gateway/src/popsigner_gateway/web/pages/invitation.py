"""`/invitation`: what a person is invited to, and how to accept it."""

from urllib.parse import urlencode

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from popsigner_gateway.web.faults import Fault
from popsigner_gateway.web.gateway import Gateway, see

_log = structlog.get_logger(__name__)


class Invitation:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def routes(self) -> list[Route]:
        return [
            Route("/invitation", self.show, methods=["GET"]),
            Route("/invitation", self.accept, methods=["POST"]),
        ]

    async def show(self, request: Request) -> Response:
        gateway, token = self._gateway, request.query_params.get("token", "")
        if not token:
            raise _no_token()
        invitation = await gateway.server.invitation(token)
        found = await gateway.person(request)
        return gateway.page(
            "invitation",
            invitation=invitation,
            invitation_token=token,
            email=found[1].email if found else "",
            seal=gateway.token(found[0], "invitation") if found else "",
            login="/login?" + urlencode({"invitation": token}),
        )

    async def accept(self, request: Request) -> Response:
        gateway = self._gateway
        fields = await gateway.form(request)
        session = await gateway.own_session(request, fields, "invitation")
        token = fields.get("invitation", "")
        if not token:
            raise _no_token()
        joined = await gateway.server.accept_invitation(token, session.access_token, gateway.caller(request))
        _log.info("invitation.accepted", organization_id=joined.id, session_id=session.session_id)
        return see("/")


def _no_token() -> Fault:
    return Fault(
        status=404,
        reason="INVITATION_NOT_FOUND",
        sentence="This address does not name an invitation.",
        advice="Open the whole address that you were sent, or ask for a new invitation.",
    )
