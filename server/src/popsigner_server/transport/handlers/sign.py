"""SignService.Sign."""

from popsigner_server.gen.popsigner.v1 import sign_pb2
from popsigner_server.signing.signer import Signer
from popsigner_server.transport import convert
from popsigner_server.transport.interceptors.base import Call, Handler


def sign(signer: Signer) -> Handler:
    async def handle(call: Call, request: sign_pb2.SignRequest) -> sign_pb2.SignResponse:
        (outcome,) = await signer.sign(call.caller, (convert.ask(request),), call.deadline)
        response = sign_pb2.SignResponse()
        convert.write_outcome(outcome, response)
        return response

    return handle
