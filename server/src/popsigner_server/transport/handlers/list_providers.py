"""LoginService.ListProviders."""

from popsigner_server.gen.popsigner.internal.v1 import login_pb2
from popsigner_server.identity.providers import Providers
from popsigner_server.transport import convert_identity
from popsigner_server.transport.interceptors.base import Call, Handler


def list_providers(providers: Providers) -> Handler:
    async def handle(call: Call, request: login_pb2.ListProvidersRequest) -> login_pb2.ListProvidersResponse:
        offered = await providers.offered(request.organization)
        return login_pb2.ListProvidersResponse(
            providers=[convert_identity.provider_to_proto(provider) for provider in offered]
        )

    return handle
