"""OrganizationService.ListMembers."""

from functools import partial

from popsigner_server.gen.popsigner.v1 import organization_pb2
from popsigner_server.tenancy.members import Members
from popsigner_server.transport import convert_people
from popsigner_server.transport.interceptors.base import Call, Handler
from popsigner_server.transport.pages import page


def list_members(members: Members) -> Handler:
    async def handle(call: Call, request: organization_pb2.ListMembersRequest) -> organization_pb2.ListMembersResponse:
        read = partial(members.list, call.caller.principal.organization_id)
        found, following = await page(request.page_size, request.cursor, read, convert_people.member_to_proto)
        return organization_pb2.ListMembersResponse(members=found, next_cursor=following)

    return handle
