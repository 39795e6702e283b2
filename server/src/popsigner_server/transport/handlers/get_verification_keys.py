"""LoginService.GetVerificationKeys."""

from popsigner_server.gen.popsigner.internal.v1 import login_pb2
from popsigner_server.identity.tokens import Tokens
from popsigner_server.transport.interceptors.base import Call, Handler


def get_verification_keys(tokens: Tokens) -> Handler:
    async def handle(
        call: Call, request: login_pb2.GetVerificationKeysRequest
    ) -> login_pb2.GetVerificationKeysResponse:
        return login_pb2.GetVerificationKeysResponse(jwks=await tokens.key_set())

    return handle
