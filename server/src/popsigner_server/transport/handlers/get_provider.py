"""LoginService.GetProvider."""

from popsigner_server.gen.popsigner.internal.v1 import login_pb2
from popsigner_server.identity.providers import Providers
from popsigner_server.transport import convert_identity
from popsigner_server.transport.interceptors.base import Call, Handler


def get_provider(providers: Providers) -> Handler:
    async def handle(call: Call, request: login_pb2.GetProviderRequest) -> login_pb2.GetProviderResponse:
        provider, secret = await providers.get(convert_identity.provider_id(request.provider_id))
        return login_pb2.GetProviderResponse(
            provider=convert_identity.provider_to_proto(provider), client_secret=secret
        )

    return handle
