"""OrganizationService.CreateOrganization."""

from popsigner_server.gen.popsigner.v1 import organization_pb2
from popsigner_server.tenancy.organizations import Organizations
from popsigner_server.transport import convert_people
from popsigner_server.transport.interceptors.base import Call, Handler


def create_organization(organizations: Organizations) -> Handler:
    async def handle(
        call: Call, request: organization_pb2.CreateOrganizationRequest
    ) -> organization_pb2.CreateOrganizationResponse:
        founded = await organizations.create(call.person, name=convert_people.organization_name(request.name))
        return organization_pb2.CreateOrganizationResponse(organization=convert_people.organization_to_proto(founded))

    return handle
