"""OrganizationService.RestoreOrganization."""

from popsigner_server.gen.popsigner.v1 import organization_pb2
from popsigner_server.tenancy.organizations import Organizations
from popsigner_server.transport import convert_people
from popsigner_server.transport.interceptors.base import Call, Handler


def restore_organization(organizations: Organizations) -> Handler:
    async def handle(
        call: Call, request: organization_pb2.RestoreOrganizationRequest
    ) -> organization_pb2.RestoreOrganizationResponse:
        restored = await organizations.restore(call.caller)
        return organization_pb2.RestoreOrganizationResponse(organization=convert_people.organization_to_proto(restored))

    return handle
