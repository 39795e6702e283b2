"""AuthService.RevokeSession."""

from popsigner_server import errors
from popsigner_server.domain.ids import Prefix
from popsigner_server.gen.popsigner.v1 import auth_pb2
from popsigner_server.identity.sessions import Sessions
from popsigner_server.transport import convert, convert_identity
from popsigner_server.transport.interceptors.base import Call, Handler


def revoke_session(sessions: Sessions) -> Handler:
    async def handle(call: Call, request: auth_pb2.RevokeSessionRequest) -> auth_pb2.RevokeSessionResponse:
        session_id = convert.identifier(Prefix.SESSION, request.session_id, errors.SessionNotFound)
        await sessions.revoke(call.person.user_id, session_id, convert_identity.origin_of(call.person))
        return auth_pb2.RevokeSessionResponse()

    return handle
