"""KeyService.UpdateKey."""

from popsigner_server.gen.popsigner.v1 import key_pb2
from popsigner_server.keys.lifecycle import Lifecycle
from popsigner_server.transport import convert
from popsigner_server.transport.interceptors.base import Call, Handler


def update_key(lifecycle: Lifecycle) -> Handler:
    async def handle(call: Call, request: key_pb2.UpdateKeyRequest) -> key_pb2.UpdateKeyResponse:
        key = await lifecycle.update(
            call.caller,
            request.key_id,
            name=convert.key_name("name", request.name) if request.HasField("name") else None,
            metadata=dict(request.metadata),
            check=convert.metadata,
            min_version=request.min_version,
        )
        return key_pb2.UpdateKeyResponse(key=convert.key_to_proto(key))

    return handle
