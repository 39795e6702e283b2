"""OrganizationService.DeleteOrganization."""

from popsigner_server.gen.popsigner.v1 import organization_pb2
from popsigner_server.tenancy.organizations import Organizations
from popsigner_server.transport import convert_people
from popsigner_server.transport.interceptors.base import Call, Handler


def delete_organization(organizations: Organizations) -> Handler:
    async def handle(
        call: Call, request: organization_pb2.DeleteOrganizationRequest
    ) -> organization_pb2.DeleteOrganizationResponse:
        deleted = await organizations.delete(call.caller, name=request.name)
        return organization_pb2.DeleteOrganizationResponse(organization=convert_people.organization_to_proto(deleted))

    return handle
