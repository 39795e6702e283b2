"""KeyService.GetKey."""

from popsigner_server.gen.popsigner.v1 import key_pb2
from popsigner_server.keys.catalogue import Catalogue
from popsigner_server.transport import convert
from popsigner_server.transport.interceptors.base import Call, Handler


def get_key(catalogue: Catalogue) -> Handler:
    async def handle(call: Call, request: key_pb2.GetKeyRequest) -> key_pb2.GetKeyResponse:
        principal = call.caller.principal
        key = await catalogue.get(principal.organization_id, request.key_id, bounds=principal.bounds)
        return key_pb2.GetKeyResponse(key=convert.key_to_proto(key))

    return handle
