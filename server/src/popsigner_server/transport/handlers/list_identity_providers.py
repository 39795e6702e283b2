"""OrganizationService.ListIdentityProviders."""

from popsigner_server.gen.popsigner.v1 import organization_pb2
from popsigner_server.identity.providers import Providers
from popsigner_server.transport import convert_identity
from popsigner_server.transport.interceptors.base import Call, Handler


def list_identity_providers(providers: Providers) -> Handler:
    async def handle(
        call: Call, request: organization_pb2.ListIdentityProvidersRequest
    ) -> organization_pb2.ListIdentityProvidersResponse:
        found = await providers.list(call.caller.principal.organization_id)
        return organization_pb2.ListIdentityProvidersResponse(
            identity_providers=[convert_identity.identity_provider_to_proto(provider) for provider in found]
        )

    return handle
