"""OrganizationService.UpdateOrganization."""

from popsigner_server.gen.popsigner.v1 import organization_pb2
from popsigner_server.tenancy.organizations import Organizations
from popsigner_server.transport import convert_people
from popsigner_server.transport.interceptors.base import Call, Handler


def update_organization(organizations: Organizations) -> Handler:
    async def handle(
        call: Call, request: organization_pb2.UpdateOrganizationRequest
    ) -> organization_pb2.UpdateOrganizationResponse:
        changed = await organizations.update(call.caller, name=convert_people.organization_name(request.name))
        return organization_pb2.UpdateOrganizationResponse(organization=convert_people.organization_to_proto(changed))

    return handle
