"""KeyService.RotateKey."""

from popsigner_server.gen.popsigner.v1 import key_pb2
from popsigner_server.keys.rotation import Rotation
from popsigner_server.transport import convert
from popsigner_server.transport.interceptors.base import Call, Handler


def rotate_key(rotation: Rotation) -> Handler:
    async def handle(call: Call, request: key_pb2.RotateKeyRequest) -> key_pb2.RotateKeyResponse:
        key, previous = await rotation.rotate(call.caller, request.key_id, expected=request.expected_version)
        return key_pb2.RotateKeyResponse(key=convert.key_to_proto(key), previous=convert.key_version_to_proto(previous))

    return handle
