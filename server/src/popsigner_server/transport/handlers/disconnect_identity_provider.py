"""OrganizationService.DisconnectIdentityProvider."""

from popsigner_server.gen.popsigner.v1 import organization_pb2
from popsigner_server.identity.providers import Providers
from popsigner_server.transport import convert_identity
from popsigner_server.transport.interceptors.base import Call, Handler


def disconnect_identity_provider(providers: Providers) -> Handler:
    async def handle(
        call: Call, request: organization_pb2.DisconnectIdentityProviderRequest
    ) -> organization_pb2.DisconnectIdentityProviderResponse:
        await providers.disconnect(call.caller, convert_identity.provider_id(request.identity_provider_id))
        return organization_pb2.DisconnectIdentityProviderResponse()

    return handle
