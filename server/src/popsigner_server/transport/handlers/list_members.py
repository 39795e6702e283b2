"""OrganizationService.ListMembers."""

from popsigner_server.gen.popsigner.v1 import organization_pb2
from popsigner_server.tenancy.members import Members
from popsigner_server.transport import convert, convert_people
from popsigner_server.transport.interceptors.base import Call, Handler


def list_members(members: Members) -> Handler:
    async def handle(call: Call, request: organization_pb2.ListMembersRequest) -> organization_pb2.ListMembersResponse:
        found, following = await members.list(
            call.caller.principal.organization_id, limit=convert.page_size(request.page_size), cursor=request.cursor
        )
        return organization_pb2.ListMembersResponse(
            members=[convert_people.member_to_proto(member) for member in found], next_cursor=following
        )

    return handle
