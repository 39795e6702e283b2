"""OrganizationService.CreateInvitation."""

from datetime import UTC, datetime

from popsigner_server import errors
from popsigner_server.gen.popsigner.v1 import organization_pb2
from popsigner_server.tenancy.invitations import Invitations
from popsigner_server.transport import convert_people
from popsigner_server.transport.interceptors.base import Call, Handler


def create_invitation(invitations: Invitations) -> Handler:
    async def handle(
        call: Call, request: organization_pb2.CreateInvitationRequest
    ) -> organization_pb2.CreateInvitationResponse:
        made, token = await invitations.create(
            call.caller,
            email=convert_people.email(request.email),
            role=convert_people.role_of_person(request.role),
            expires_at=_expiry(request),
        )
        return organization_pb2.CreateInvitationResponse(
            invitation=convert_people.invitation_to_proto(made), token=token
        )

    return handle


def _expiry(request: organization_pb2.CreateInvitationRequest) -> datetime | None:
    if not request.HasField("expires_at"):
        return None
    try:
        return request.expires_at.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise errors.InvalidField("expires_at", "is not a moment in time.") from error
