"""LoginService.CompleteLogin."""

from popsigner_server.gen.popsigner.internal.v1 import login_pb2
from popsigner_server.identity.logins import Logins, Vouched
from popsigner_server.transport import convert_identity
from popsigner_server.transport.interceptors.base import Call, Handler


def complete_login(logins: Logins) -> Handler:
    async def handle(call: Call, request: login_pb2.CompleteLoginRequest) -> login_pb2.CompleteLoginResponse:
        vouched = Vouched(
            provider_id=convert_identity.provider_id(request.provider_id),
            login_id=request.login_id,
            subject=request.subject,
            email=request.email,
            email_verified=request.email_verified,
            name=request.name,
        )
        issued = await logins.complete(vouched, convert_identity.origin(request.origin))
        return login_pb2.CompleteLoginResponse(tokens=convert_identity.tokens_to_proto(issued))

    return handle
