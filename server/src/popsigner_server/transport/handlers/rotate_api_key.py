"""ApiKeyService.RotateApiKey."""

from datetime import timedelta

from popsigner_server import errors
from popsigner_server.domain.ids import Prefix
from popsigner_server.gen.popsigner.v1 import api_key_pb2
from popsigner_server.identity import prefix_of
from popsigner_server.identity.api_keys import ApiKeys
from popsigner_server.transport import convert
from popsigner_server.transport.interceptors.base import Call, Handler

MAX_OVERLAP = timedelta(days=30)


def rotate_api_key(api_keys: ApiKeys, environment: str) -> Handler:
    async def handle(call: Call, request: api_key_pb2.RotateApiKeyRequest) -> api_key_pb2.RotateApiKeyResponse:
        overlap = timedelta(seconds=request.overlap_seconds)
        if overlap > MAX_OVERLAP:
            raise errors.InvalidField("overlap_seconds", "must be at most 2592000 (30 days).")
        api_key_id = convert.identifier(Prefix.API_KEY, request.api_key_id, errors.ApiKeyNotFound)
        key, text = await api_keys.rotate(call.caller, api_key_id, overlap=overlap)
        shown = convert.api_key_to_proto(key, prefix_of(environment, key.id))
        return api_key_pb2.RotateApiKeyResponse(api_key=shown, key=text)

    return handle
