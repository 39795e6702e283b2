"""Organizations, invitations and narrow API keys: the SDK and a real POP, asked by its owner's API key."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from popsigner import (
    AddressNotAllowed,
    ApiKeyRestricted,
    ApiKeyRevoked,
    Client,
    CredentialsInvalid,
    IdentityProviderExists,
    IdentityProviderKind,
    InvalidField,
    InvitationExists,
    InvitationNotFound,
    Key,
    KeyNotFound,
    PersonRequired,
    Role,
)
from tests.support.pop import Pop


@pytest.fixture
def key(client: Client) -> Iterator[Key]:
    namespace = client.namespaces.create(name=f"narrow-{uuid4().hex[:12]}")
    key = client.keys.create(name="signer", namespace=namespace.name)
    yield key
    client.keys.delete(key, force=True)
    client.namespaces.delete(namespace)


def test_the_owners_api_key_knows_who_it_is(client: Client) -> None:
    me = client.whoami()

    assert me.id.startswith("ak_")
    assert (me.role, me.email, me.session_id) == (Role.OWNER, "", "")
    assert me.organization is not None
    assert me.organization == client.organization.get()
    assert [each.organization for each in me.memberships] == [me.organization]


def test_the_organization_is_renamed(client: Client) -> None:
    before = client.organization.get()

    assert client.organization.update(name="Another Name").name == "Another Name"
    renamed = client.organization.update(name=before.name)

    assert (renamed.id, renamed.slug, renamed.name) == (before.id, before.slug, before.name)


def test_the_organization_is_not_deleted_by_a_wrong_name(client: Client) -> None:
    with pytest.raises(InvalidField):
        client.organization.delete(name="Not Its Name")

    assert client.organization.get().deleted_at is None
    assert client.organization.restore().deleted_at is None


def test_an_invitation_is_made_once_and_taken_back(client: Client) -> None:
    email = f"{uuid4().hex}@example.com"
    invited = client.invitations.create(
        email=email, role=Role.OPERATOR, expires_at=datetime.now(UTC) + timedelta(hours=1)
    )

    assert invited.token.startswith("inv_")
    with pytest.raises(InvitationExists):
        client.invitations.create(email=email, role=Role.VIEWER)
    assert [each.role for each in client.invitations.list() if each.email == email] == [Role.OPERATOR]
    client.invitations.revoke(invited.invitation)
    assert [each for each in client.invitations.list() if each.email == email] == []
    with pytest.raises(InvitationNotFound):
        client.invitations.revoke(invited.invitation)


def test_an_identity_provider_is_connected_without_showing_its_secret(client: Client) -> None:
    issuer = f"https://{uuid4().hex}.example.com"
    connected = client.identity_providers.connect(issuer=issuer, client_id="popsigner", client_secret="s3cret-s3cret")

    assert (connected.kind, connected.issuer) == (IdentityProviderKind.OIDC, issuer)
    with pytest.raises(IdentityProviderExists):
        client.identity_providers.connect(issuer=issuer, client_id="popsigner")
    listed = client.identity_providers.list()
    assert connected.id in [each.id for each in listed]
    assert "s3cret" not in repr(listed)
    client.identity_providers.disconnect(connected)
    assert connected.id not in [each.id for each in client.identity_providers.list()]


def test_an_api_key_is_used_from_its_addresses_only(client: Client, pop: Pop, key: Key) -> None:
    near = client.api_keys.create(name="near", scopes=["api:keys:sign"], ip_allow_list=["127.0.0.0/8", "::1"])
    far = client.api_keys.create(name="far", scopes=["api:keys:sign"], ip_allow_list=["203.0.113.0/24"])

    with Client(api_key=near.key, endpoint=pop.http) as here:
        here.sign(key, b"message")
    with Client(api_key=far.key, endpoint=pop.http) as elsewhere, pytest.raises(AddressNotAllowed):
        elsewhere.sign(key, b"message")


def test_an_api_key_reaches_its_namespaces_and_keys_only(client: Client, pop: Pop, key: Key) -> None:
    other = client.keys.create(name="other", namespace=key.namespace)
    one = client.api_keys.create(name="one key", scopes=["api:keys:sign", "api:keys:read"], keys=[key])
    elsewhere = client.api_keys.create(name="elsewhere", scopes=["api:keys:sign"], namespaces=["production"])

    with Client(api_key=one.key, endpoint=pop.http) as narrow:
        narrow.sign(key, b"message")
        with pytest.raises((KeyNotFound, ApiKeyRestricted)):
            narrow.sign(other, b"message")
        assert [each.id for each in narrow.keys.list()] == [key.id]
    with Client(api_key=elsewhere.key, endpoint=pop.http) as narrow, pytest.raises((KeyNotFound, ApiKeyRestricted)):
        narrow.sign(key, b"message")
    client.keys.delete(other, force=True)


def test_a_rotated_api_key_has_two_secrets_for_the_overlap_and_one_after(client: Client, pop: Pop, key: Key) -> None:
    def signs(secret: str) -> bool:
        with Client(api_key=secret, endpoint=pop.http) as program:
            try:
                return bool(program.sign(key, b"message"))
            except (ApiKeyRevoked, CredentialsInvalid):
                return False

    first = client.api_keys.create(name="rotated", scopes=["api:keys:sign"])
    assert signs(first.key)

    second = client.api_keys.rotate(first.api_key, overlap=timedelta(hours=1))
    assert second.api_key.id == first.api_key.id
    assert second.api_key.previous_secret_expires_at is not None
    assert (signs(first.key), signs(second.key)) == (True, True)

    third = client.api_keys.rotate(first.api_key)
    assert third.api_key.previous_secret_expires_at is None
    assert (signs(first.key), signs(second.key), signs(third.key)) == (False, False, True)


def test_what_is_for_people_is_refused_to_an_api_key(client: Client) -> None:
    for ask in (
        client.sessions.list,
        client.sessions.revoke_all,
        lambda: client.account.delete(email="a@example.com"),
        lambda: list(client.account.export()),
        lambda: client.invitations.accept("inv_01J00000000000000000000000_" + "0" * 64),
        lambda: client.organization.create(name="Mine"),
    ):
        with pytest.raises(PersonRequired):
            ask()
