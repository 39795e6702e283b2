"""ApiKeyService.RevokeApiKey."""

from popsigner_server import errors
from popsigner_server.domain.ids import Prefix
from popsigner_server.gen.popsigner.v1 import api_key_pb2
from popsigner_server.identity import prefix_of
from popsigner_server.identity.api_keys import ApiKeys
from popsigner_server.transport import convert
from popsigner_server.transport.interceptors.base import Call, Handler


def revoke_api_key(api_keys: ApiKeys, environment: str) -> Handler:
    async def handle(call: Call, request: api_key_pb2.RevokeApiKeyRequest) -> api_key_pb2.RevokeApiKeyResponse:
        api_key_id = convert.identifier(Prefix.API_KEY, request.api_key_id, errors.ApiKeyNotFound)
        key = await api_keys.revoke(call.caller, api_key_id)
        return api_key_pb2.RevokeApiKeyResponse(api_key=convert.api_key_to_proto(key, prefix_of(environment, key.id)))

    return handle
