"""KeyService.CreateKey."""

from popsigner_server.gen.popsigner.v1 import key_pb2
from popsigner_server.keys import Wish
from popsigner_server.keys.creation import Creation
from popsigner_server.tenancy import DEFAULT_NAMESPACE
from popsigner_server.transport import convert
from popsigner_server.transport.interceptors.base import Call, Handler


def create_key(creation: Creation) -> Handler:
    async def handle(call: Call, request: key_pb2.CreateKeyRequest) -> key_pb2.CreateKeyResponse:
        convert.algorithm(request.algorithm)
        wish = Wish(
            name=convert.key_name("name", request.name),
            namespace=request.namespace or DEFAULT_NAMESPACE,
            exportable=request.exportable,
            metadata=convert.metadata(request.metadata),
        )
        (key,) = await creation.create(call.caller, [wish])
        return key_pb2.CreateKeyResponse(key=convert.key_to_proto(key))

    return handle
