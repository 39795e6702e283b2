"""The RPCs of organizations and people on the wire: what each takes, answers and refuses."""

import gc
import io
import zipfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from popsigner_server.domain.ids import Prefix, new_id, parse, show
from popsigner_server.domain.principals import Caller, Person, Role
from popsigner_server.gen.popsigner.internal.v1 import login_pb2, login_pb2_grpc
from popsigner_server.gen.popsigner.v1 import (
    api_key_pb2,
    auth_pb2,
    auth_pb2_grpc,
    organization_pb2,
    organization_pb2_grpc,
)
from popsigner_server.limits.pace import Pace
from popsigner_server.rooms import Rooms
from popsigner_server.rpcs import handlers_of_people
from popsigner_server.transport.contract import rpcs
from popsigner_server.transport.interceptors.base import Call, Handler, Rpc
from popsigner_server.transport.interceptors.draining import Draining
from popsigner_server.transport.interceptors.errors import Errors
from popsigner_server.transport.server import Server
from tests.integration.tenancy.house import House
from tests.support.load import reason_of


@dataclass(slots=True)
class Door:
    """Lets in whom the test says, instead of asking for credentials; and the stubs behind it."""

    caller: Caller | None = None
    person: Person | None = None
    organizations: Any = field(default=None)
    auth: Any = field(default=None)
    login: Any = field(default=None)

    def wrap(self, rpc: Rpc, proceed: Handler) -> Handler:
        async def handle(call: Call, request: Any) -> Any:
            if self.caller is not None:
                call.caller = self.caller
            if self.person is not None:
                call.person = self.person
            return await proceed(call, request)

        return handle


async def _never(call: Call, request: object) -> object:
    raise AssertionError("not an RPC of this test")


@pytest.fixture
async def door(house: House, tmp_path: Path) -> AsyncIterator[Door]:
    opened = Door()
    handlers = dict.fromkeys(rpcs(), _never) | handlers_of_people(cast(Rooms, house))
    address = f"unix:{tmp_path}/s"
    server = Server(handlers, [Errors(), opened], [address], Pace())
    await server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        opened.organizations = organization_pb2_grpc.OrganizationServiceStub(channel)
        opened.auth = auth_pb2_grpc.AuthServiceStub(channel)
        opened.login = login_pb2_grpc.LoginServiceStub(channel)
        yield opened
    await server.stop(0, Draining())
    # gRPC's server ends itself once more when it is collected, and needs a running loop for it.
    del server
    gc.collect()


async def _refusal(call: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return reason_of(refused.value)


async def test_an_organization_is_founded_read_renamed_deleted_and_restored(house: House, door: Door) -> None:
    mary = await house.person(await house.organization(), None)
    door.person = mary.person

    answer = await door.organizations.CreateOrganization(
        organization_pb2.CreateOrganizationRequest(name="  Rollups & Sons ")
    )
    founded = answer.organization
    assert (founded.name, founded.plan) == ("Rollups & Sons", "free")
    assert founded.id.startswith("org_")
    assert not founded.HasField("deleted_at")

    door.caller = mary.in_(parse(Prefix.ORGANIZATION, founded.id), Role.OWNER)
    read = await door.organizations.GetOrganization(organization_pb2.GetOrganizationRequest())
    assert read.organization == founded
    renamed = await door.organizations.UpdateOrganization(organization_pb2.UpdateOrganizationRequest(name="R"))
    assert renamed.organization.name == "R"
    delete = organization_pb2.DeleteOrganizationRequest
    assert await _refusal(door.organizations.DeleteOrganization(delete(name="r"))) == "INVALID_FIELD"
    deleted = await door.organizations.DeleteOrganization(delete(name="R"))
    assert deleted.organization.erase_at.ToDatetime() > datetime.now() + timedelta(days=6)  # noqa: DTZ005
    assert await _refusal(door.organizations.DeleteOrganization(delete(name="R"))) == "ORGANIZATION_DELETED"
    restored = await door.organizations.RestoreOrganization(organization_pb2.RestoreOrganizationRequest())
    assert restored.organization == renamed.organization


@pytest.mark.parametrize("name", ["", "   ", "x" * 101, "a\nb", "a\u202eb"])
async def test_a_name_is_1_to_100_printable_characters(house: House, door: Door, name: str) -> None:
    ours = await house.organization()
    door.caller, door.person = ours.caller, (await house.person(ours, Role.OWNER)).person

    update = organization_pb2.UpdateOrganizationRequest(name=name)
    assert await _refusal(door.organizations.UpdateOrganization(update)) == "INVALID_FIELD"
    create = organization_pb2.CreateOrganizationRequest(name=name)
    assert await _refusal(door.organizations.CreateOrganization(create)) == "INVALID_FIELD"


async def test_members_are_listed_changed_and_removed(house: House, door: Door) -> None:
    ours = await house.organization()
    door.caller = ours.caller
    mary, john = await house.person(ours, Role.OWNER), await house.person(ours, Role.VIEWER)

    first = await door.organizations.ListMembers(organization_pb2.ListMembersRequest(page_size=1))
    second = await door.organizations.ListMembers(organization_pb2.ListMembersRequest(cursor=first.next_cursor))
    (one,), (two,) = first.members, second.members
    assert (one.user_id, one.email, one.name, one.role) == (mary.row.id, mary.row.email, mary.row.name, 4)
    assert (two.user_id, second.next_cursor) == (john.row.id, "")

    update = organization_pb2.UpdateMemberRequest(user_id=john.row.id, role=api_key_pb2.ADMIN)
    assert (await door.organizations.UpdateMember(update)).member.role == Role.ADMIN.value
    gone = await door.organizations.RemoveMember(
        organization_pb2.RemoveMemberRequest(user_id=john.row.id, revoke_api_keys=True)
    )
    assert list(gone.revoked_api_key_ids) == []
    last = organization_pb2.RemoveMemberRequest(user_id=mary.row.id)
    assert await _refusal(door.organizations.RemoveMember(last)) == "LAST_OWNER"


@pytest.mark.parametrize("user_id", ["", "x", "user_", "org_01JD3ZQ5RX8V0Q6K1M2N3P4R5S", "stranger"])
async def test_who_is_no_member_is_not_found(house: House, door: Door, user_id: str) -> None:
    ours = await house.organization()
    door.caller = ours.caller
    if user_id == "stranger":
        user_id = (await house.person(await house.organization(), Role.VIEWER)).row.id

    update = organization_pb2.UpdateMemberRequest(user_id=user_id, role=api_key_pb2.VIEWER)
    assert await _refusal(door.organizations.UpdateMember(update)) == "USER_NOT_FOUND"
    remove = organization_pb2.RemoveMemberRequest(user_id=user_id)
    assert await _refusal(door.organizations.RemoveMember(remove)) == "USER_NOT_FOUND"


@pytest.mark.parametrize("role", [0, 5, -1])
async def test_a_person_has_one_of_the_four_roles(house: House, door: Door, role: int) -> None:
    ours = await house.organization()
    door.caller = ours.caller
    update = organization_pb2.UpdateMemberRequest(user_id=show(Prefix.USER, new_id()))
    update.MergeFromString(b"\x10" + role.to_bytes(1, "big") if role >= 0 else b"\x10" + b"\xff" * 9 + b"\x01")
    assert update.role == role
    assert await _refusal(door.organizations.UpdateMember(update)) == "INVALID_FIELD"
    invite = organization_pb2.CreateInvitationRequest(email="a@example.com")
    assert await _refusal(door.organizations.CreateInvitation(invite)) == "INVALID_FIELD"


async def test_an_invitation_is_made_listed_previewed_accepted(house: House, door: Door) -> None:
    ours = await house.organization()
    mary = await house.person(ours, None)
    door.caller, door.person = ours.caller, mary.person
    until = Timestamp()
    until.FromDatetime(datetime.now(UTC) + timedelta(days=2))

    made = await door.organizations.CreateInvitation(
        organization_pb2.CreateInvitationRequest(
            email=f" {mary.row.email.upper()} ", role=api_key_pb2.OPERATOR, expires_at=until
        )
    )
    listed = await door.organizations.ListInvitations(organization_pb2.ListInvitationsRequest())
    preview = await door.login.PreviewInvitation(login_pb2.PreviewInvitationRequest(token=made.token))
    accepted = await door.organizations.AcceptInvitation(organization_pb2.AcceptInvitationRequest(token=made.token))

    assert (made.invitation.email, made.invitation.role) == (mary.row.email, 2)
    assert made.invitation.expires_at == until
    assert list(listed.invitations) == [made.invitation]
    assert (preview.organization, preview.slug) == (accepted.organization.name, accepted.organization.slug)
    assert (preview.email, preview.role) == (mary.row.email, "OPERATOR")
    assert (accepted.member.user_id, accepted.member.role) == (mary.row.id, 2)
    again = door.organizations.CreateInvitation(
        organization_pb2.CreateInvitationRequest(email=mary.row.email, role=api_key_pb2.VIEWER)
    )
    assert await _refusal(again) == "ALREADY_MEMBER"


async def test_an_invitation_is_revoked(house: House, door: Door) -> None:
    ours = await house.organization()
    door.caller = ours.caller
    made = await door.organizations.CreateInvitation(
        organization_pb2.CreateInvitationRequest(email="a@example.com", role=api_key_pb2.VIEWER)
    )
    revoke = organization_pb2.RevokeInvitationRequest(invitation_id=made.invitation.id)

    await door.organizations.RevokeInvitation(revoke)

    assert await _refusal(door.organizations.RevokeInvitation(revoke)) == "INVITATION_NOT_FOUND"
    revoke.invitation_id = "nothing"
    assert await _refusal(door.organizations.RevokeInvitation(revoke)) == "INVITATION_NOT_FOUND"
    preview = login_pb2.PreviewInvitationRequest(token=made.token)
    assert await _refusal(door.login.PreviewInvitation(preview)) == "INVITATION_EXPIRED"


@pytest.mark.parametrize("email", ["", "a", "@b", "a@", "a b@c", "a@b@c", "a@b,c@d", "\u212a@example.com", "a" * 255])
async def test_what_is_no_address_is_not_invited(house: House, door: Door, email: str) -> None:
    door.caller = (await house.organization()).caller
    invite = organization_pb2.CreateInvitationRequest(email=email, role=api_key_pb2.VIEWER)
    assert await _refusal(door.organizations.CreateInvitation(invite)) == "INVALID_FIELD"


async def test_a_page_is_at_most_1000(house: House, door: Door) -> None:
    door.caller = (await house.organization()).caller
    members = organization_pb2.ListMembersRequest(page_size=1001)
    assert await _refusal(door.organizations.ListMembers(members)) == "INVALID_FIELD"
    invitations = organization_pb2.ListInvitationsRequest(cursor="x")
    assert await _refusal(door.organizations.ListInvitations(invitations)) == "INVALID_CURSOR"


async def test_an_account_is_exported_in_pieces_and_ended(house: House, door: Door) -> None:
    ours = await house.organization()
    mary = await house.person(ours, Role.VIEWER)
    door.person = mary.person

    pieces = [piece.chunk async for piece in door.auth.ExportAccount(auth_pb2.ExportAccountRequest())]
    archive = zipfile.ZipFile(io.BytesIO(b"".join(pieces)))
    assert mary.row.email.encode() in archive.read("profile.json")

    delete = auth_pb2.DeleteAccountRequest(email="somebody@example.com")
    assert await _refusal(door.auth.DeleteAccount(delete)) == "INVALID_FIELD"
    delete.email = mary.row.email
    await door.auth.DeleteAccount(delete)
    assert await _refusal(door.auth.DeleteAccount(delete)) == "SESSION_ENDED"
