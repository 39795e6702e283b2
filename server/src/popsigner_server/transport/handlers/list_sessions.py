"""AuthService.ListSessions."""

from popsigner_server.gen.popsigner.v1 import auth_pb2
from popsigner_server.identity.sessions import Sessions
from popsigner_server.transport import convert_identity
from popsigner_server.transport.interceptors.base import Call, Handler


def list_sessions(sessions: Sessions) -> Handler:
    async def handle(call: Call, request: auth_pb2.ListSessionsRequest) -> auth_pb2.ListSessionsResponse:
        current = call.person.session_id
        return auth_pb2.ListSessionsResponse(
            sessions=[
                convert_identity.session_to_proto(session, current=current)
                for session in await sessions.list(call.person.user_id)
            ]
        )

    return handle
