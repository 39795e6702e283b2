"""LoginService.PreviewInvitation."""

from popsigner_server.gen.popsigner.internal.v1 import login_pb2
from popsigner_server.tenancy.invitations import Invitations
from popsigner_server.transport.interceptors.base import Call, Handler


def preview_invitation(invitations: Invitations) -> Handler:
    async def handle(call: Call, request: login_pb2.PreviewInvitationRequest) -> login_pb2.PreviewInvitationResponse:
        preview = await invitations.preview(request.token)
        return login_pb2.PreviewInvitationResponse(
            organization=preview.organization, slug=preview.slug, email=preview.email, role=preview.role.name
        )

    return handle
