"""KeyService.GetWrappingKey."""

from google.protobuf.timestamp_pb2 import Timestamp

from popsigner_server.gen.popsigner.v1 import key_pb2
from popsigner_server.keys.wrapping import WrappingKeys
from popsigner_server.transport.interceptors.base import Call, Handler


def get_wrapping_key(wrapping_keys: WrappingKeys) -> Handler:
    async def handle(call: Call, request: key_pb2.GetWrappingKeyRequest) -> key_pb2.GetWrappingKeyResponse:
        key = await wrapping_keys.current()
        made = Timestamp()
        made.FromMilliseconds(key.created_at_ms)
        return key_pb2.GetWrappingKeyResponse(
            id=key.id, public_key=key.public_key, wrapping=key.wrapping, created_at=made
        )

    return handle
