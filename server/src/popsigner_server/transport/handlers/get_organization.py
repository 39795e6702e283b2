"""OrganizationService.GetOrganization."""

from popsigner_server.gen.popsigner.v1 import organization_pb2
from popsigner_server.tenancy.organizations import Organizations
from popsigner_server.transport import convert_people
from popsigner_server.transport.interceptors.base import Call, Handler


def get_organization(organizations: Organizations) -> Handler:
    async def handle(
        call: Call, request: organization_pb2.GetOrganizationRequest
    ) -> organization_pb2.GetOrganizationResponse:
        found = await organizations.get(call.caller.principal.organization_id)
        return organization_pb2.GetOrganizationResponse(organization=convert_people.organization_to_proto(found))

    return handle
