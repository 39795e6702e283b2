"""KeyService.DisableKey."""

from popsigner_server.gen.popsigner.v1 import key_pb2
from popsigner_server.keys.lifecycle import Lifecycle
from popsigner_server.transport import convert
from popsigner_server.transport.interceptors.base import Call, Handler


def disable_key(lifecycle: Lifecycle) -> Handler:
    async def handle(call: Call, request: key_pb2.DisableKeyRequest) -> key_pb2.DisableKeyResponse:
        key = await lifecycle.disable(call.caller, request.key_id)
        return key_pb2.DisableKeyResponse(key=convert.key_to_proto(key))

    return handle
