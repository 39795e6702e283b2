"""KeyService.DeleteKey."""

from popsigner_server.gen.popsigner.v1 import key_pb2
from popsigner_server.keys.lifecycle import Lifecycle
from popsigner_server.transport import convert
from popsigner_server.transport.interceptors.base import Call, Handler


def delete_key(lifecycle: Lifecycle) -> Handler:
    async def handle(call: Call, request: key_pb2.DeleteKeyRequest) -> key_pb2.DeleteKeyResponse:
        key = await lifecycle.delete(call.caller, request.key_id, force=request.force)
        return key_pb2.DeleteKeyResponse(key=convert.key_to_proto(key))

    return handle
