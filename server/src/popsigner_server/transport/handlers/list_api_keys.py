"""ApiKeyService.ListApiKeys."""

from popsigner_server.gen.popsigner.v1 import api_key_pb2
from popsigner_server.identity import prefix_of
from popsigner_server.identity.api_keys import ApiKeys
from popsigner_server.transport import convert
from popsigner_server.transport.interceptors.base import Call, Handler


def list_api_keys(api_keys: ApiKeys, environment: str) -> Handler:
    async def handle(call: Call, request: api_key_pb2.ListApiKeysRequest) -> api_key_pb2.ListApiKeysResponse:
        found, following = await api_keys.list(
            call.caller.principal.organization_id, limit=convert.page_size(request.page_size), cursor=request.cursor
        )
        return api_key_pb2.ListApiKeysResponse(
            api_keys=[convert.api_key_to_proto(key, prefix_of(environment, key.id)) for key in found],
            next_cursor=following,
        )

    return handle
