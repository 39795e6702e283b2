"""The commands around organizations, people and API keys: what they send, what they print, what they refuse."""

import os
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from popsigner_server.gen.popsigner.v1 import api_key_pb2, auth_pb2, organization_pb2

from .command import Popsigner, on_a_terminal
from .conftest import ME, ORGANIZATION, Person
from .scripted_pop import API_KEY, Context, refuse

ALICE = organization_pb2.Member(user_id="user_1", email="Alice@example.com", name="Alice", role=api_key_pb2.OWNER)
BOB = organization_pb2.Member(user_id="user_2", email="bob@example.com", name="Bob", role=api_key_pb2.VIEWER)
INVITATION = organization_pb2.Invitation(id="inv_1", email="carol@example.com", role=api_key_pb2.OPERATOR)
TOKEN = "inv_01J00000000000000000000001_" + "ab" * 32
PROVIDER = organization_pb2.IdentityProvider(
    id="idp_1", kind=organization_pb2.OIDC, name="Login", issuer="https://login.example.com", client_id="popsigner"
)
PROVE = api_key_pb2.ApiKey(id="ak_9", name="prover", ip_allow_list=["203.0.113.0/24"], namespaces=["staging"])
NEW_KEY = "psk_test_01J00000000000000000000009_" + "77" * 32
SESSION = auth_pb2.Session(id="sess_1", ip_address="198.51.100.7", user_agent="Mozilla\x1b[2J\tX", current=True)


@pytest.fixture
def popsigner(person: Person) -> Popsigner:
    person.logged_in()
    answers: dict[str, Message] = {
        **{
            f"OrganizationService/{rpc}Organization": getattr(organization_pb2, f"{rpc}OrganizationResponse")(
                organization=ORGANIZATION
            )
            for rpc in ("Get", "Update", "Delete", "Restore", "Create")
        },
        "OrganizationService/ListMembers": organization_pb2.ListMembersResponse(members=[ALICE, BOB]),
        "OrganizationService/UpdateMember": organization_pb2.UpdateMemberResponse(member=BOB),
        "OrganizationService/RemoveMember": organization_pb2.RemoveMemberResponse(revoked_api_key_ids=["ak_1"]),
        "OrganizationService/CreateInvitation": organization_pb2.CreateInvitationResponse(
            invitation=INVITATION, token=TOKEN
        ),
        "OrganizationService/ListInvitations": organization_pb2.ListInvitationsResponse(invitations=[INVITATION]),
        "OrganizationService/RevokeInvitation": organization_pb2.RevokeInvitationResponse(),
        "OrganizationService/AcceptInvitation": organization_pb2.AcceptInvitationResponse(
            organization=ORGANIZATION, member=BOB
        ),
        "OrganizationService/ConnectIdentityProvider": organization_pb2.ConnectIdentityProviderResponse(
            identity_provider=PROVIDER
        ),
        "OrganizationService/ListIdentityProviders": organization_pb2.ListIdentityProvidersResponse(
            identity_providers=[PROVIDER]
        ),
        "OrganizationService/DisconnectIdentityProvider": organization_pb2.DisconnectIdentityProviderResponse(),
        "AuthService/ListSessions": auth_pb2.ListSessionsResponse(sessions=[SESSION]),
        "AuthService/RevokeSession": auth_pb2.RevokeSessionResponse(),
        "AuthService/DeleteAccount": auth_pb2.DeleteAccountResponse(),
        "ApiKeyService/CreateApiKey": api_key_pb2.CreateApiKeyResponse(api_key=PROVE, key=NEW_KEY),
        "ApiKeyService/ListApiKeys": api_key_pb2.ListApiKeysResponse(api_keys=[PROVE]),
        "ApiKeyService/RotateApiKey": api_key_pb2.RotateApiKeyResponse(api_key=PROVE, key=NEW_KEY),
    }
    for method, message in answers.items():
        person.answer(method, message)
    return person.command()


def test_the_organization_is_shown_renamed_restored_and_founded(popsigner: Popsigner) -> None:
    assert popsigner.json("org", "show")["slug"] == "celestia-labs"
    assert "name: Celestia Labs\n" in popsigner("org", "rename", "Celestia Labs").stdout
    assert popsigner("org", "restore").exit_code == 0
    assert "popsigner org use celestia-labs" in popsigner("org", "create", "Celestia Labs").stderr
    assert popsigner.sent("OrganizationService/UpdateOrganization").name == "Celestia Labs"
    assert popsigner.sent("OrganizationService/CreateOrganization").name == "Celestia Labs"


def test_deleting_the_organization_needs_its_name(popsigner: Popsigner) -> None:
    refused = popsigner("org", "delete")
    assert (refused.exit_code, popsigner.pop.seen) == (2, [])
    assert "--confirm" in refused.stderr

    assert popsigner("org", "delete", "--confirm", "Celestia Labs").exit_code == 0
    assert popsigner.sent("OrganizationService/DeleteOrganization").name == "Celestia Labs"


@pytest.mark.parametrize(("typed", "code", "sent"), [(b"Celestia Labs\n", 0, ["Celestia Labs"]), (b"\n", 1, [])])
def test_deleting_the_organization_asks_for_its_name_at_a_terminal(
    popsigner: Popsigner, typed: bytes, code: int, sent: list[str]
) -> None:
    ended, shown = on_a_terminal(popsigner, typed, "org", "delete")

    assert "Delete Celestia Labs (org_01J00000000000000000000001)" in shown
    assert ended == code
    assert [each.request.name for each in popsigner.pop.called("OrganizationService/DeleteOrganization")] == sent


@pytest.mark.parametrize("way", ["file", "stdin"])
def test_an_identity_provider_is_connected_with_a_secret_from_elsewhere(
    popsigner: Popsigner, tmp_path: Path, way: str
) -> None:
    (tmp_path / "secret").write_text("s3cret\n")
    option = ["--client-secret-stdin"] if way == "stdin" else ["--client-secret-file", str(tmp_path / "secret")]
    where = ["--issuer", "https://login.example.com", "--client-id", "popsigner", "--name", "Login"]

    result = popsigner("org", "connect-oidc", *where, *option, stdin=b"s3cret\n")

    assert result.exit_code == 0, result.output
    assert "s3cret" not in result.output
    assert popsigner.sent("OrganizationService/ConnectIdentityProvider") == (
        organization_pb2.ConnectIdentityProviderRequest(
            kind=organization_pb2.OIDC,
            name="Login",
            issuer="https://login.example.com",
            client_id="popsigner",
            client_secret="s3cret",
        )
    )


def test_github_needs_no_issuer_and_a_public_client_no_secret(popsigner: Popsigner) -> None:
    assert popsigner("org", "connect-oidc", "--kind", "github", "--client-id", "Iv1.01").exit_code == 0

    sent = popsigner.sent("OrganizationService/ConnectIdentityProvider")
    assert (sent.kind, sent.issuer, sent.client_secret) == (organization_pb2.GITHUB, "", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--client-id", "a"], "--issuer"),
        (["--issuer", "https://a"], "--client-id"),
        (["--client-id", "a", "--issuer", "https://a", "--client-secret-file", "/nowhere"], "cannot be read"),
        (["--client-id", "a", "--issuer", "https://a", "--client-secret-file", os.devnull], "does not hold"),
        (
            ["--client-id", "a", "--issuer", "https://a", "--client-secret-stdin", "--client-secret-file", "x"],
            "choose one",
        ),
        (["--client-id", "a", "--issuer", "https://a", "--client-secret", "s3cret"], "--client-secret"),
        (["--client-id", "a", "--kind", "saml"], "saml"),
    ],
)
def test_an_identity_provider_that_cannot_be_meant_is_not_connected(
    popsigner: Popsigner, arguments: list[str], said: str
) -> None:
    result = popsigner("org", "connect-oidc", *arguments)

    assert result.exit_code == 2
    assert said in result.stderr
    assert "s3cret" not in result.output
    assert popsigner.pop.seen == []


def test_identity_providers_are_listed_and_disconnected(popsigner: Popsigner) -> None:
    line = popsigner("org", "providers").stdout.splitlines()[1]
    assert line.split("\t")[:5] == ["idp_1", "OIDC", "Login", "https://login.example.com", "popsigner"]
    assert popsigner("org", "disconnect-oidc", "idp_1").exit_code == 2
    assert popsigner.json("org", "disconnect-oidc", "idp_1", "--yes") == {"disconnected": "idp_1"}
    assert popsigner.sent("OrganizationService/DisconnectIdentityProvider").identity_provider_id == "idp_1"


def test_members_are_listed(popsigner: Popsigner) -> None:
    assert popsigner("members", "list").stdout.splitlines()[2].split("\t")[:4] == [
        "user_2",
        "bob@example.com",
        "Bob",
        "VIEWER",
    ]
    assert [each["role"] for each in popsigner.json("members", "list")["members"]] == ["OWNER", "VIEWER"]


@pytest.mark.parametrize("person_named", ["user_2", "BOB@example.com"])
def test_a_role_is_given_by_id_or_address(popsigner: Popsigner, person_named: str) -> None:
    assert popsigner("members", "set-role", person_named, "admin").exit_code == 0

    sent = popsigner.sent("OrganizationService/UpdateMember")
    assert (sent.user_id, sent.role) == ("user_2", api_key_pb2.ADMIN)


def test_a_member_is_removed_with_the_keys_that_they_made(popsigner: Popsigner) -> None:
    assert popsigner("members", "remove", "user_2").exit_code == 2

    result = popsigner("members", "remove", "bob@example.com", "--revoke-api-keys", "--yes")

    assert result.stdout == "removed bob@example.com\nrevoked ak_1\n"
    sent = popsigner.sent("OrganizationService/RemoveMember")
    assert (sent.user_id, sent.revoke_api_keys) == ("user_2", True)


def test_an_address_of_nobody_is_not_found(popsigner: Popsigner) -> None:
    result = popsigner("members", "remove", "nobody@example.com", "--yes")

    assert result.exit_code == 4
    assert "popsigner members list" in result.stderr
    assert popsigner.pop.called("OrganizationService/RemoveMember") == []


def test_a_person_leaves(popsigner: Popsigner) -> None:
    assert popsigner("members", "leave", "--yes").exit_code == 0
    assert popsigner.sent("OrganizationService/RemoveMember").user_id == ME.id


def test_nobody_leaves_without_saying_what(person: Person, popsigner: Popsigner) -> None:
    person.answer("AuthService/Whoami", auth_pb2.WhoamiResponse(id=ME.id))

    assert popsigner("members", "leave", "--yes").exit_code == 2
    assert popsigner("members", "leave", "--yes", POPSIGNER_API_KEY=API_KEY).exit_code == 2
    assert popsigner.pop.called("OrganizationService/RemoveMember") == []


def test_the_last_owner_is_told_what_to_do(person: Person, popsigner: Popsigner) -> None:
    async def behaviour(_request: Any, context: Context) -> Message:
        return await refuse(context, grpc.StatusCode.FAILED_PRECONDITION, "LAST_OWNER", "the last owner cannot leave")

    person.pop.on("OrganizationService/RemoveMember", behaviour)

    result = popsigner("members", "leave", "--yes")

    assert result.exit_code == 5
    assert "popsigner members set-role" in result.stderr


def test_an_invitation_is_shown_once_with_its_link(person: Person, popsigner: Popsigner) -> None:
    invite = ["invitations", "create", "carol@example.com", "--role", "operator", "--expires-in", "3d"]

    shown = popsigner(*invite)
    document = popsigner.json(*invite)

    link = f"http://{person.endpoint}/invitation?token={TOKEN}"
    assert f"link: {link}\ntoken: {TOKEN}\n" in shown.stdout
    assert (document["link"], document["token"], document["invitation"]["id"]) == (link, TOKEN, "inv_1")
    first = popsigner.pop.called("OrganizationService/CreateInvitation")[0].request
    assert (first.email, first.role) == ("carol@example.com", api_key_pb2.OPERATOR)
    assert 2 * 86400 < first.expires_at.seconds - time.time() < 4 * 86400


def test_invitations_are_listed_and_taken_back(popsigner: Popsigner) -> None:
    assert [each["email"] for each in popsigner.json("invitations", "list")["invitations"]] == ["carol@example.com"]
    assert popsigner("invitations", "revoke", "inv_1").exit_code == 2
    assert popsigner("invitations", "revoke", "inv_1", "--yes").stdout == "revoked inv_1\n"


@pytest.mark.parametrize("way", ["file", "stdin"])
def test_an_invitation_is_accepted_with_a_token_from_elsewhere(popsigner: Popsigner, tmp_path: Path, way: str) -> None:
    (tmp_path / "token").write_text(TOKEN)
    option = [] if way == "stdin" else ["--token-file", str(tmp_path / "token")]

    result = popsigner("invitations", "accept", *option, stdin=TOKEN.encode() + b"\n")

    assert result.exit_code == 0, result.output
    assert "slug: celestia-labs\n" in result.stdout
    assert "role: VIEWER\n" in result.stdout
    assert TOKEN not in result.output
    assert popsigner.sent("OrganizationService/AcceptInvitation").token == TOKEN


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", b"a\x00b"])
def test_what_is_no_token_is_not_sent(popsigner: Popsigner, content: bytes) -> None:
    result = popsigner("invitations", "accept", stdin=content)

    assert result.exit_code == 2
    assert popsigner.pop.seen == []


def test_a_token_typed_at_a_terminal_is_not_shown(popsigner: Popsigner) -> None:
    code, shown = on_a_terminal(
        popsigner, TOKEN.encode() + b"\n", "invitations", "accept", after=b"invitation's token: "
    )

    assert code == 0, shown
    assert TOKEN not in shown
    assert popsigner.sent("OrganizationService/AcceptInvitation").token == TOKEN


def test_an_api_key_is_limited_to_addresses_namespaces_and_keys(popsigner: Popsigner) -> None:
    limits = ["--ip", "203.0.113.0/24", "--ip", "2001:db8::1", "--namespace", "staging", "--key", "staging/worker"]

    assert popsigner("api-keys", "create", "prover", "--scope", "api:keys:sign", *limits).exit_code == 0

    sent = popsigner.sent("ApiKeyService/CreateApiKey")
    assert list(sent.ip_allow_list) == ["203.0.113.0/24", "2001:db8::1"]
    assert (list(sent.namespaces), list(sent.keys)) == (["staging"], ["staging/worker"])


def test_the_list_of_api_keys_shows_their_limits(popsigner: Popsigner) -> None:
    header, line = popsigner("api-keys", "list").stdout.splitlines()

    assert header.split("\t")[-3:] == ["ip_allow_list", "namespaces", "key_ids"]
    assert line.split("\t")[-3:] == ["203.0.113.0/24", "staging", "-"]


def test_an_api_key_is_rotated_with_an_overlap_into_a_new_file(popsigner: Popsigner, tmp_path: Path) -> None:
    out = tmp_path / "new.key"

    result = popsigner("api-keys", "rotate", "ak_9", "--overlap", "24h", "--key-out", str(out))

    assert result.exit_code == 0, result.output
    assert NEW_KEY not in result.output
    assert (out.read_text(), stat.S_IMODE(out.stat().st_mode)) == (NEW_KEY + "\n", 0o600)
    sent = popsigner.sent("ApiKeyService/RotateApiKey")
    assert (sent.api_key_id, sent.overlap_seconds) == ("ak_9", 86400)


def test_a_rotation_without_overlap_asks_first(popsigner: Popsigner) -> None:
    assert popsigner("api-keys", "rotate", "ak_9").exit_code == 2
    assert popsigner.pop.seen == []

    assert popsigner.json("api-keys", "rotate", "ak_9", "--yes")["key"] == NEW_KEY
    assert popsigner.sent("ApiKeyService/RotateApiKey").overlap_seconds == 0


@pytest.mark.parametrize("overlap", ["31d", "1y", "-1h", "99999999999999d", "24"])
def test_an_overlap_that_cannot_be_is_a_mistake_in_usage(popsigner: Popsigner, overlap: str) -> None:
    assert popsigner("api-keys", "rotate", "ak_9", f"--overlap={overlap}").exit_code == 2
    assert popsigner.pop.seen == []


def test_a_life_longer_than_the_calendar_is_a_mistake_in_usage(popsigner: Popsigner) -> None:
    assert popsigner("invitations", "create", "a@example.com", "--expires-in", "999999999d").exit_code == 2
    assert popsigner.pop.seen == []


def test_a_key_is_not_rotated_into_a_file_that_cannot_be(popsigner: Popsigner, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.write_text("kept")

    for out in (there, tmp_path / "no" / "key"):
        assert popsigner("api-keys", "rotate", "ak_9", "--overlap", "1h", "--key-out", str(out)).exit_code == 2
    assert there.read_text() == "kept"
    assert popsigner.pop.seen == []


def test_a_refused_rotation_leaves_no_file(person: Person, popsigner: Popsigner, tmp_path: Path) -> None:
    async def behaviour(_request: Any, context: Context) -> Message:
        return await refuse(context, grpc.StatusCode.UNAUTHENTICATED, "API_KEY_REVOKED")

    person.pop.on("ApiKeyService/RotateApiKey", behaviour)

    assert popsigner("api-keys", "rotate", "ak_9", "--yes", "--key-out", str(tmp_path / "new")).exit_code == 3
    assert not (tmp_path / "new").exists()


def test_sessions_are_listed_and_ended(popsigner: Popsigner) -> None:
    line = popsigner("sessions", "list").stdout.splitlines()[1].split("\t")
    assert (line[0], line[4], line[6]) == ("sess_1", "198.51.100.7", "yes")
    assert "\x1b" not in line[5]
    assert popsigner("sessions", "revoke", "sess_1").exit_code == 2
    assert popsigner.json("sessions", "revoke", "sess_1", "--yes") == {"revoked": "sess_1"}


def archive(*chunks: bytes, then: str = "") -> Any:
    async def download(_request: Any, context: Context) -> AsyncIterator[Message]:
        for chunk in chunks:
            yield auth_pb2.ExportAccountResponse(chunk=chunk)
        if then:
            await refuse(context, grpc.StatusCode.UNAVAILABLE, then)

    return download


def test_an_account_is_exported_to_a_new_file(person: Person, popsigner: Popsigner, tmp_path: Path) -> None:
    person.pop.download = archive(b"PK\x03\x04", b"rest")
    out = tmp_path / "me.zip"

    assert popsigner.json("account", "export", "-o", str(out)) == {"file": str(out), "bytes": 8}
    assert (out.read_bytes(), stat.S_IMODE(out.stat().st_mode)) == (b"PK\x03\x04rest", 0o600)
    assert popsigner("account", "export", "-o", str(out)).exit_code == 2


def test_half_an_archive_is_not_left(person: Person, popsigner: Popsigner, tmp_path: Path) -> None:
    person.pop.download = archive(b"PK\x03\x04", then="DRAINING")

    assert popsigner("account", "export", "-o", str(tmp_path / "me.zip")).exit_code == 7
    assert not (tmp_path / "me.zip").exists()


def test_deleting_the_account_needs_its_address_and_forgets_the_login(person: Person, popsigner: Popsigner) -> None:
    assert popsigner("account", "delete").exit_code == 2
    assert popsigner.pop.seen == []

    assert popsigner.json("account", "delete", "--confirm", "alice@example.com") == {"deleted": "alice@example.com"}
    assert popsigner.sent("AuthService/DeleteAccount").email == "alice@example.com"
    assert not person.file.exists()


def test_what_is_for_people_tells_an_api_key_so(person: Person, popsigner: Popsigner) -> None:
    async def behaviour(_request: Any, context: Context) -> Message:
        return await refuse(context, grpc.StatusCode.PERMISSION_DENIED, "PERSON_REQUIRED", "this is for people")

    person.pop.on("AuthService/ListSessions", behaviour)

    result = popsigner("sessions", "list", POPSIGNER_API_KEY=API_KEY)

    assert result.exit_code == 3
    assert "popsigner login" in result.stderr
