"""KeyService.EnableKey."""

from popsigner_server.gen.popsigner.v1 import key_pb2
from popsigner_server.keys.lifecycle import Lifecycle
from popsigner_server.transport import convert
from popsigner_server.transport.interceptors.base import Call, Handler


def enable_key(lifecycle: Lifecycle) -> Handler:
    async def handle(call: Call, request: key_pb2.EnableKeyRequest) -> key_pb2.EnableKeyResponse:
        key = await lifecycle.enable(call.caller, request.key_id)
        return key_pb2.EnableKeyResponse(key=convert.key_to_proto(key))

    return handle
