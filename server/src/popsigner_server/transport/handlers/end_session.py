"""LoginService.EndSession."""

from popsigner_server.gen.popsigner.internal.v1 import login_pb2
from popsigner_server.identity.sessions import Sessions
from popsigner_server.transport.interceptors.base import Call, Handler


def end_session(sessions: Sessions) -> Handler:
    async def handle(call: Call, request: login_pb2.EndSessionRequest) -> login_pb2.EndSessionResponse:
        await sessions.end(request.refresh_token)
        return login_pb2.EndSessionResponse()

    return handle
