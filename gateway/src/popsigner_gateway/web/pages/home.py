"""`/`: who you are. `/logout`, `/logout/everywhere`: no longer."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from popsigner_gateway.gen.popsigner.v1 import api_key_pb2
from popsigner_gateway.web.faults import Fault
from popsigner_gateway.web.gateway import Gateway, logged_out, see
from popsigner_gateway.web.server import ENDED


class Home:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def routes(self) -> list[Route]:
        return [
            Route("/", self.show, methods=["GET"]),
            Route("/logout", self.log_out, methods=["POST"]),
            Route("/logout/everywhere", self.log_out_everywhere, methods=["POST"]),
        ]

    async def show(self, request: Request) -> Response:
        gateway = self._gateway
        found = await gateway.person(request)
        if found is None:
            return gateway.page("welcome")
        session, person = found
        memberships = [
            (each.organization.name, each.organization.slug, api_key_pb2.Role.Name(each.role).lower())
            for each in person.memberships
        ]
        return gateway.page(
            "home",
            person=person,
            memberships=memberships,
            logout=gateway.token(session, "logout"),
            everywhere=gateway.token(session, "logout everywhere"),
        )

    async def log_out(self, request: Request) -> Response:
        """Ends the session at the server first: a cookie that is only forgotten here could still be used elsewhere."""
        gateway = self._gateway
        fields = await gateway.form(request)
        held = gateway.sessions.held(request)
        if held is None:
            return see("/")
        gateway.check(fields, held, "logout")
        await gateway.server.end_session(held.refresh_token)
        gateway.sessions.forget(request)
        return see("/")

    async def log_out_everywhere(self, request: Request) -> Response:
        gateway = self._gateway
        session = await gateway.own_session(request, await gateway.form(request), "logout everywhere")
        try:
            await gateway.server.revoke_all_sessions(session.access_token, gateway.caller(request))
        except Fault as fault:
            if fault.reason in ENDED:
                gateway.sessions.forget(request)
                raise logged_out() from None
            raise
        gateway.sessions.forget(request)
        return see("/")
