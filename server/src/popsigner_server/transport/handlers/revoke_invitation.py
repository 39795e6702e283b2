"""OrganizationService.RevokeInvitation."""

from popsigner_server import errors
from popsigner_server.domain.ids import Prefix
from popsigner_server.gen.popsigner.v1 import organization_pb2
from popsigner_server.tenancy.invitations import Invitations
from popsigner_server.transport import convert
from popsigner_server.transport.interceptors.base import Call, Handler


def revoke_invitation(invitations: Invitations) -> Handler:
    async def handle(
        call: Call, request: organization_pb2.RevokeInvitationRequest
    ) -> organization_pb2.RevokeInvitationResponse:
        invitation_id = convert.identifier(Prefix.INVITATION, request.invitation_id, errors.InvitationNotFound)
        await invitations.revoke(call.caller, invitation_id)
        return organization_pb2.RevokeInvitationResponse()

    return handle
