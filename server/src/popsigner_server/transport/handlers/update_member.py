"""OrganizationService.UpdateMember."""

from popsigner_server import errors
from popsigner_server.domain.ids import Prefix
from popsigner_server.gen.popsigner.v1 import organization_pb2
from popsigner_server.tenancy.members import Members
from popsigner_server.transport import convert, convert_people
from popsigner_server.transport.interceptors.base import Call, Handler


def update_member(members: Members) -> Handler:
    async def handle(
        call: Call, request: organization_pb2.UpdateMemberRequest
    ) -> organization_pb2.UpdateMemberResponse:
        role = convert_people.role_of_person(request.role)
        user_id = convert.identifier(Prefix.USER, request.user_id, errors.UserNotFound)
        changed = await members.update(call.caller, user_id, role=role)
        return organization_pb2.UpdateMemberResponse(member=convert_people.member_to_proto(changed))

    return handle
