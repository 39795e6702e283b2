"""LoginService.RefreshSession."""

from popsigner_server.gen.popsigner.internal.v1 import login_pb2
from popsigner_server.identity.sessions import Sessions
from popsigner_server.transport import convert_identity
from popsigner_server.transport.interceptors.base import Call, Handler


def refresh_session(sessions: Sessions) -> Handler:
    async def handle(call: Call, request: login_pb2.RefreshSessionRequest) -> login_pb2.RefreshSessionResponse:
        issued = await sessions.refresh(request.refresh_token, convert_identity.origin(request.origin))
        return login_pb2.RefreshSessionResponse(tokens=convert_identity.tokens_to_proto(issued))

    return handle
