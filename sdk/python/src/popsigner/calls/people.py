"""OrganizationService: members and invitations."""

from dataclasses import dataclass, field
from datetime import datetime

from ..gen.popsigner.v1 import (
    AcceptInvitationRequest,
    AcceptInvitationResponse,
    CreateInvitationRequest,
    CreateInvitationResponse,
    Invitation,
    ListInvitationsRequest,
    ListInvitationsResponse,
    ListMembersRequest,
    ListMembersResponse,
    Member,
    Organization,
    RemoveMemberRequest,
    RemoveMemberResponse,
    RevokeInvitationRequest,
    RevokeInvitationResponse,
    Role,
    UpdateMemberRequest,
    UpdateMemberResponse,
)
from . import Call, Page, Repeat, Rpc, aware, call, present
from .organization import SERVICE

LIST_MEMBERS = Rpc(SERVICE + "ListMembers", ListMembersRequest, ListMembersResponse, Repeat.ALWAYS)
UPDATE_MEMBER = Rpc(SERVICE + "UpdateMember", UpdateMemberRequest, UpdateMemberResponse, Repeat.NEVER)
REMOVE_MEMBER = Rpc(SERVICE + "RemoveMember", RemoveMemberRequest, RemoveMemberResponse, Repeat.NEVER)
CREATE_INVITATION = Rpc(SERVICE + "CreateInvitation", CreateInvitationRequest, CreateInvitationResponse, Repeat.NEVER)
LIST_INVITATIONS = Rpc(SERVICE + "ListInvitations", ListInvitationsRequest, ListInvitationsResponse, Repeat.ALWAYS)
REVOKE_INVITATION = Rpc(SERVICE + "RevokeInvitation", RevokeInvitationRequest, RevokeInvitationResponse, Repeat.NEVER)
ACCEPT_INVITATION = Rpc(SERVICE + "AcceptInvitation", AcceptInvitationRequest, AcceptInvitationResponse, Repeat.NEVER)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewInvitation:
    """A made invitation: what is kept of it, and its `token`, which is shown this once and left out of the repr. The
    POP sends no mail: hand the token over yourself."""

    invitation: Invitation
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """What somebody belongs to who has accepted an invitation, and as what."""

    organization: Organization
    member: Member


def _id(user: str | Member) -> str:
    return user.user_id if isinstance(user, Member) else user


def members(cursor: str, /, *, page_size: int = 0, timeout: float | None = None) -> Call[Page[Member]]:
    """The members, in the order of their joining."""
    return call(
        LIST_MEMBERS,
        ListMembersRequest(page_size=page_size, cursor=cursor),
        lambda answer: Page(entries=tuple(answer.members), next_cursor=answer.next_cursor),
        timeout,
    )


def set_role(user: str | Member, role: Role, *, timeout: float | None = None) -> Call[Member]:
    """Give a member (`user_…`) another role. Raises InvalidField, UserNotFound, LastOwner, RoleMissing,
    OrganizationDeleted."""
    request = UpdateMemberRequest(user_id=_id(user), role=role)
    return call(UPDATE_MEMBER, request, lambda answer: present(answer.member), timeout)


def remove(user: str | Member, *, revoke_api_keys: bool = False, timeout: float | None = None) -> Call[tuple[str, ...]]:
    """Remove a member, at once; with `revoke_api_keys` also every API key that the person made, whose ids are the
    answer. Raises UserNotFound, LastOwner, RoleMissing."""
    request = RemoveMemberRequest(user_id=_id(user), revoke_api_keys=revoke_api_keys)
    return call(REMOVE_MEMBER, request, lambda answer: tuple(answer.revoked_api_key_ids), timeout)


def invite(
    *, email: str, role: Role, expires_at: datetime | None = None, timeout: float | None = None
) -> Call[NewInvitation]:
    """Invite a person, for 7 days or until `expires_at` (an aware datetime, at most 30 days ahead).

    Raises InvalidField, AlreadyMember, InvitationExists, QuotaExceeded, RoleMissing, OrganizationDeleted.
    """
    request = CreateInvitationRequest(email=email, role=role, expires_at=aware(expires_at, "expires_at"))
    return call(
        CREATE_INVITATION,
        request,
        lambda answer: NewInvitation(invitation=present(answer.invitation), token=answer.token),
        timeout,
    )


def invitations(cursor: str, /, *, page_size: int = 0, timeout: float | None = None) -> Call[Page[Invitation]]:
    """The invitations that can still be accepted, oldest first."""
    return call(
        LIST_INVITATIONS,
        ListInvitationsRequest(page_size=page_size, cursor=cursor),
        lambda answer: Page(entries=tuple(answer.invitations), next_cursor=answer.next_cursor),
        timeout,
    )


def revoke_invitation(invitation: str | Invitation, *, timeout: float | None = None) -> Call[None]:
    """Take an invitation (`inv_…`) back. Raises InvitationNotFound."""
    name = invitation.id if isinstance(invitation, Invitation) else invitation
    return call(REVOKE_INVITATION, RevokeInvitationRequest(invitation_id=name), lambda _answer: None, timeout)


def accept_invitation(token: str, *, timeout: float | None = None) -> Call[Joined]:
    """Accept an invitation by its token, as the person who is logged in.

    Raises InvitationNotFound, InvitationExpired, AlreadyMember, QuotaExceeded, OrganizationDeleted, PersonRequired.
    """
    return call(
        ACCEPT_INVITATION,
        AcceptInvitationRequest(token=token),
        lambda answer: Joined(organization=present(answer.organization), member=present(answer.member)),
        timeout,
    )
