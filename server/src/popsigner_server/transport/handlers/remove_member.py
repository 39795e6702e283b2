"""OrganizationService.RemoveMember."""

from popsigner_server import errors
from popsigner_server.domain.ids import Prefix, show
from popsigner_server.gen.popsigner.v1 import organization_pb2
from popsigner_server.tenancy.members import Members
from popsigner_server.transport import convert
from popsigner_server.transport.interceptors.base import Call, Handler


def remove_member(members: Members) -> Handler:
    async def handle(
        call: Call, request: organization_pb2.RemoveMemberRequest
    ) -> organization_pb2.RemoveMemberResponse:
        user_id = convert.identifier(Prefix.USER, request.user_id, errors.UserNotFound)
        revoked = await members.remove(call.caller, user_id, revoke_api_keys=request.revoke_api_keys)
        return organization_pb2.RemoveMemberResponse(
            revoked_api_key_ids=[show(Prefix.API_KEY, key_id) for key_id in revoked]
        )

    return handle
