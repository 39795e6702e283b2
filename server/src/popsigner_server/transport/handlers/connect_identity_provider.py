"""OrganizationService.ConnectIdentityProvider."""

from popsigner_server.gen.popsigner.v1 import organization_pb2
from popsigner_server.identity.issuers import Wanted
from popsigner_server.identity.providers import Providers
from popsigner_server.transport import convert_identity
from popsigner_server.transport.interceptors.base import Call, Handler


def connect_identity_provider(providers: Providers) -> Handler:
    async def handle(
        call: Call, request: organization_pb2.ConnectIdentityProviderRequest
    ) -> organization_pb2.ConnectIdentityProviderResponse:
        wanted = Wanted.of(
            convert_identity.provider_kind(request.kind),
            name=request.name,
            issuer=request.issuer,
            client_id=request.client_id,
            client_secret=request.client_secret,
        )
        provider = await providers.connect(call.caller, wanted)
        return organization_pb2.ConnectIdentityProviderResponse(
            identity_provider=convert_identity.identity_provider_to_proto(provider)
        )

    return handle
