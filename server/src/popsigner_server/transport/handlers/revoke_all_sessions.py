"""AuthService.RevokeAllSessions."""

from popsigner_server.gen.popsigner.v1 import auth_pb2
from popsigner_server.identity.sessions import Sessions
from popsigner_server.transport import convert_identity
from popsigner_server.transport.interceptors.base import Call, Handler


def revoke_all_sessions(sessions: Sessions) -> Handler:
    async def handle(call: Call, request: auth_pb2.RevokeAllSessionsRequest) -> auth_pb2.RevokeAllSessionsResponse:
        ended = await sessions.revoke_all(call.person.user_id, convert_identity.origin_of(call.person))
        return auth_pb2.RevokeAllSessionsResponse(ended=ended)

    return handle
