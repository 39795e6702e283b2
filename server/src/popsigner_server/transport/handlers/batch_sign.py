"""SignService.BatchSign."""

from popsigner_server.domain.digests import HashAlgorithm
from popsigner_server.domain.signatures import SignatureFormat
from popsigner_server.gen.popsigner.v1 import sign_pb2
from popsigner_server.signing.signer import Signer
from popsigner_server.transport import convert
from popsigner_server.transport.interceptors.base import Call, Handler
from popsigner_server.transport.sign_items import Defaults, answer_items, sign_items


def batch_sign(signer: Signer) -> Handler:
    async def handle(call: Call, request: sign_pb2.BatchSignRequest) -> sign_pb2.BatchSignResponse:
        convert.encoding(request.encoding)
        defaults = Defaults(
            prehashed=request.prehashed,
            hash=convert.hash_algorithm(request.hash) or HashAlgorithm.SHA256,
            format=convert.signature_format(request.format) or SignatureFormat.COMPACT,
            sign_mode=request.sign_mode,
        )
        outcomes = await sign_items(signer, call.caller, request.requests, defaults, call.deadline)
        response = sign_pb2.BatchSignResponse()
        answer_items(request.requests, outcomes, response.signatures)
        return response

    return handle
