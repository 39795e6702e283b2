"""OrganizationService.ListInvitations."""

from functools import partial

from popsigner_server.gen.popsigner.v1 import organization_pb2
from popsigner_server.tenancy.invitations import Invitations
from popsigner_server.transport import convert_people
from popsigner_server.transport.interceptors.base import Call, Handler
from popsigner_server.transport.pages import page


def list_invitations(invitations: Invitations) -> Handler:
    async def handle(
        call: Call, request: organization_pb2.ListInvitationsRequest
    ) -> organization_pb2.ListInvitationsResponse:
        read = partial(invitations.list, call.caller.principal.organization_id)
        found, following = await page(request.page_size, request.cursor, read, convert_people.invitation_to_proto)
        return organization_pb2.ListInvitationsResponse(invitations=found, next_cursor=following)

    return handle
