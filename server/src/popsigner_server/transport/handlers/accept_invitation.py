"""OrganizationService.AcceptInvitation."""

from popsigner_server.gen.popsigner.v1 import organization_pb2
from popsigner_server.tenancy.invitations import Invitations
from popsigner_server.transport import convert_people
from popsigner_server.transport.interceptors.base import Call, Handler


def accept_invitation(invitations: Invitations) -> Handler:
    async def handle(
        call: Call, request: organization_pb2.AcceptInvitationRequest
    ) -> organization_pb2.AcceptInvitationResponse:
        organization, member = await invitations.accept(call.person, request.token)
        return organization_pb2.AcceptInvitationResponse(
            organization=convert_people.organization_to_proto(organization),
            member=convert_people.member_to_proto(member),
        )

    return handle
