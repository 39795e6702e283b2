"""OrganizationService.ListInvitations."""

from popsigner_server.gen.popsigner.v1 import organization_pb2
from popsigner_server.tenancy.invitations import Invitations
from popsigner_server.transport import convert, convert_people
from popsigner_server.transport.interceptors.base import Call, Handler


def list_invitations(invitations: Invitations) -> Handler:
    async def handle(
        call: Call, request: organization_pb2.ListInvitationsRequest
    ) -> organization_pb2.ListInvitationsResponse:
        found, following = await invitations.list(
            call.caller.principal.organization_id, limit=convert.page_size(request.page_size), cursor=request.cursor
        )
        return organization_pb2.ListInvitationsResponse(
            invitations=[convert_people.invitation_to_proto(invitation) for invitation in found],
            next_cursor=following,
        )

    return handle
