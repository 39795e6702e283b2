"""ApiKeyService.ListApiKeys."""

from functools import partial

from popsigner_server.gen.popsigner.v1 import api_key_pb2
from popsigner_server.identity import prefix_of
from popsigner_server.identity.api_keys import ApiKey, ApiKeys
from popsigner_server.transport import convert
from popsigner_server.transport.interceptors.base import Call, Handler
from popsigner_server.transport.pages import page


def list_api_keys(api_keys: ApiKeys, environment: str) -> Handler:
    def write(key: ApiKey) -> api_key_pb2.ApiKey:
        return convert.api_key_to_proto(key, prefix_of(environment, key.id))

    async def handle(call: Call, request: api_key_pb2.ListApiKeysRequest) -> api_key_pb2.ListApiKeysResponse:
        read = partial(api_keys.list, call.caller.principal.organization_id)
        found, following = await page(request.page_size, request.cursor, read, write)
        return api_key_pb2.ListApiKeysResponse(api_keys=found, next_cursor=following)

    return handle
