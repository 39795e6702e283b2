"""Between the contract's messages of organizations and people, and their values."""

from popsigner_server import errors
from popsigner_server.domain.ids import Prefix, show
from popsigner_server.domain.people import check_name, fold_email
from popsigner_server.domain.principals import Role
from popsigner_server.gen.popsigner.v1 import api_key_pb2, organization_pb2
from popsigner_server.tenancy import Invitation, Member, Organization
from popsigner_server.transport.convert import checked, timestamp


def organization_to_proto(organization: Organization) -> organization_pb2.Organization:
    return organization_pb2.Organization(
        id=show(Prefix.ORGANIZATION, organization.id),
        name=organization.name,
        slug=organization.slug,
        plan=organization.plan,
        created_at=timestamp(organization.created_at),
        deleted_at=timestamp(organization.deleted_at),
        erase_at=timestamp(organization.erase_at),
    )


def role_to_proto(role: Role) -> api_key_pb2.Role.ValueType:
    return api_key_pb2.Role.ValueType(role.value)


def member_to_proto(member: Member) -> organization_pb2.Member:
    return organization_pb2.Member(
        user_id=show(Prefix.USER, member.user_id),
        email=member.email,
        name=member.name,
        role=role_to_proto(member.role),
        joined_at=timestamp(member.joined_at),
    )


def invitation_to_proto(invitation: Invitation) -> organization_pb2.Invitation:
    return organization_pb2.Invitation(
        id=show(Prefix.INVITATION, invitation.id),
        email=invitation.email,
        role=role_to_proto(invitation.role),
        created_at=timestamp(invitation.created_at),
        expires_at=timestamp(invitation.expires_at),
    )


def organization_name(text: str) -> str:
    """Raises InvalidField."""
    name = text.strip()
    checked("name", check_name, name)
    return name


def email(text: str) -> str:
    """The address, folded. Raises InvalidField."""
    try:
        return fold_email(text.strip())
    except ValueError as error:
        raise errors.InvalidField("email", str(error)) from error


def role_of_person(code: int) -> Role:
    """Every person has a role. Raises InvalidField."""
    try:
        role = Role(code)
    except ValueError:
        role = Role.UNSPECIFIED
    if role is Role.UNSPECIFIED:
        raise errors.InvalidField("role", "must be VIEWER, OPERATOR, ADMIN or OWNER.")
    return role
