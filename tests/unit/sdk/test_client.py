"""Both clients: one implementation of every call, and what it sends and reads."""

import asyncio
import inspect
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.message import Message

import popsigner
from popsigner import (
    AsyncClient,
    Client,
    ConfigurationError,
    DeadlineExceeded,
    HashAlgorithm,
    InternalError,
    Key,
    KeyDeleted,
    KeyState,
    Namespace,
    Role,
    Signature,
    SignatureFormat,
    SignItem,
)
from popsigner.methods import Part
from popsigner_server.gen.popsigner.v1 import (
    api_key_pb2,
    audit_pb2,
    auth_pb2,
    billing_pb2,
    errors_pb2,
    key_pb2,
    namespace_pb2,
    organization_pb2,
    recovery_pb2,
    sign_pb2,
)

from .scripted_pop import API_KEY, METHODS, Context, ScriptedPop

PUBLIC_KEY = "02" + "ab" * 32


@pytest.fixture(params=["Client", "AsyncClient"])
def either(request: pytest.FixtureRequest, client: Client, async_client: AsyncClient) -> Any:
    return {"Client": client, "AsyncClient": async_client}[request.param]


async def done(value: Any) -> Any:
    """The result of a call of either client."""
    return await value if inspect.isawaitable(value) else value


async def entries(pager: Any) -> list[Any]:
    """All entries of a list of either client."""
    return list(pager) if hasattr(pager, "__iter__") else [entry async for entry in pager]


def key(name: str = "sequencer", **fields: Any) -> key_pb2.Key:
    return key_pb2.Key(id=f"key_{name}", name=name, namespace="production", state=key_pb2.Key.ENABLED, **fields)


ORGANIZATION = organization_pb2.Organization(id="org_1", name="One", slug="one")
MEMBER = organization_pb2.Member(user_id="user_1", role=api_key_pb2.ADMIN)
CALLS: dict[str, tuple[Callable[[Any], Any], Message]] = {
    "KeyService/CreateKey": (lambda c: c.keys.create(name="a"), key_pb2.CreateKeyResponse(key=key())),
    "KeyService/BatchCreateKeys": (lambda c: c.keys.create_batch(names=["a"]), key_pb2.BatchCreateKeysResponse()),
    "KeyService/GetKey": (lambda c: c.keys.get("a"), key_pb2.GetKeyResponse(key=key())),
    "KeyService/ListKeys": (lambda c: entries(c.keys.list()), key_pb2.ListKeysResponse()),
    "KeyService/UpdateKey": (lambda c: c.keys.update("a"), key_pb2.UpdateKeyResponse(key=key())),
    "KeyService/DeleteKey": (lambda c: c.keys.delete("a"), key_pb2.DeleteKeyResponse(key=key())),
    **{
        f"KeyService/{rpc}Key": (call, getattr(key_pb2, f"{rpc}KeyResponse")(key=key()))
        for rpc, call in {
            "Undelete": lambda c: c.keys.undelete("a"),
            "Enable": lambda c: c.keys.enable("a"),
            "Disable": lambda c: c.keys.disable("a"),
        }.items()
    },
    "KeyService/RotateKey": (
        lambda c: c.keys.rotate("a"),
        key_pb2.RotateKeyResponse(key=key(), previous=key_pb2.KeyVersion(version=1)),
    ),
    "KeyService/ListKeyVersions": (lambda c: c.keys.versions("a"), key_pb2.ListKeyVersionsResponse()),
    "KeyService/GetWrappingKey": (lambda c: c.keys.wrapping_key(), key_pb2.GetWrappingKeyResponse(id="ab" * 32)),
    "KeyService/ImportKey": (
        lambda c: c.keys.import_wrapped(b"a", wrapping_key_id="", name="a"),
        key_pb2.ImportKeyResponse(key=key()),
    ),
    "KeyService/ExportKey": (
        lambda c: c.keys.export("a", recipient="age1"),
        key_pb2.ExportKeyResponse(wrapping="age"),
    ),
    "SignService/Sign": (lambda c: c.sign("a", b""), sign_pb2.SignResponse()),
    "SignService/BatchSign": (lambda c: c.sign_batch([]), sign_pb2.BatchSignResponse()),
    "SignService/Verify": (lambda c: c.verify("a", b"", b""), sign_pb2.VerifyResponse()),
    "NamespaceService/CreateNamespace": (
        lambda c: c.namespaces.create(name="a"),
        namespace_pb2.CreateNamespaceResponse(namespace=namespace_pb2.Namespace(id="ns_1")),
    ),
    "NamespaceService/ListNamespaces": (
        lambda c: entries(c.namespaces.list()),
        namespace_pb2.ListNamespacesResponse(),
    ),
    "NamespaceService/DeleteNamespace": (
        lambda c: c.namespaces.delete("a"),
        namespace_pb2.DeleteNamespaceResponse(),
    ),
    "ApiKeyService/CreateApiKey": (
        lambda c: c.api_keys.create(name="a"),
        api_key_pb2.CreateApiKeyResponse(api_key=api_key_pb2.ApiKey(id="ak_1"), key=API_KEY),
    ),
    "ApiKeyService/ListApiKeys": (lambda c: entries(c.api_keys.list()), api_key_pb2.ListApiKeysResponse()),
    "ApiKeyService/RevokeApiKey": (
        lambda c: c.api_keys.revoke("a"),
        api_key_pb2.RevokeApiKeyResponse(api_key=api_key_pb2.ApiKey(id="ak_1")),
    ),
    "ApiKeyService/RotateApiKey": (
        lambda c: c.api_keys.rotate("a"),
        api_key_pb2.RotateApiKeyResponse(api_key=api_key_pb2.ApiKey(id="ak_1"), key=API_KEY),
    ),
    **{
        f"OrganizationService/{rpc}Organization": (
            call,
            getattr(organization_pb2, f"{rpc}OrganizationResponse")(organization=ORGANIZATION),
        )
        for rpc, call in {
            "Get": lambda c: c.organization.get(),
            "Update": lambda c: c.organization.update(name="a"),
            "Delete": lambda c: c.organization.delete(name="a"),
            "Restore": lambda c: c.organization.restore(),
            "Create": lambda c: c.organization.create(name="a"),
        }.items()
    },
    "OrganizationService/ListMembers": (
        lambda c: entries(c.members.list()),
        organization_pb2.ListMembersResponse(),
    ),
    "OrganizationService/UpdateMember": (
        lambda c: c.members.set_role("user_1", Role.ADMIN),
        organization_pb2.UpdateMemberResponse(member=MEMBER),
    ),
    "OrganizationService/RemoveMember": (
        lambda c: c.members.remove("user_1"),
        organization_pb2.RemoveMemberResponse(),
    ),
    "OrganizationService/CreateInvitation": (
        lambda c: c.invitations.create(email="a@example.com", role=Role.VIEWER),
        organization_pb2.CreateInvitationResponse(invitation=organization_pb2.Invitation(id="inv_1"), token="inv_t"),
    ),
    "OrganizationService/ListInvitations": (
        lambda c: entries(c.invitations.list()),
        organization_pb2.ListInvitationsResponse(),
    ),
    "OrganizationService/RevokeInvitation": (
        lambda c: c.invitations.revoke("inv_1"),
        organization_pb2.RevokeInvitationResponse(),
    ),
    "OrganizationService/AcceptInvitation": (
        lambda c: c.invitations.accept("inv_t"),
        organization_pb2.AcceptInvitationResponse(organization=ORGANIZATION, member=MEMBER),
    ),
    "OrganizationService/ConnectIdentityProvider": (
        lambda c: c.identity_providers.connect(client_id="a"),
        organization_pb2.ConnectIdentityProviderResponse(
            identity_provider=organization_pb2.IdentityProvider(id="idp_1")
        ),
    ),
    "OrganizationService/ListIdentityProviders": (
        lambda c: c.identity_providers.list(),
        organization_pb2.ListIdentityProvidersResponse(),
    ),
    "OrganizationService/DisconnectIdentityProvider": (
        lambda c: c.identity_providers.disconnect("idp_1"),
        organization_pb2.DisconnectIdentityProviderResponse(),
    ),
    "AuthService/Whoami": (lambda c: c.whoami(), auth_pb2.WhoamiResponse(id="user_1")),
    "AuthService/ListSessions": (lambda c: c.sessions.list(), auth_pb2.ListSessionsResponse()),
    "AuthService/RevokeSession": (lambda c: c.sessions.revoke("sess_1"), auth_pb2.RevokeSessionResponse()),
    "AuthService/RevokeAllSessions": (lambda c: c.sessions.revoke_all(), auth_pb2.RevokeAllSessionsResponse(ended=2)),
    "AuthService/DeleteAccount": (lambda c: c.account.delete(email="a"), auth_pb2.DeleteAccountResponse()),
    "AuditService/ListLogs": (lambda c: entries(c.audit.list()), audit_pb2.ListLogsResponse()),
    "AuditService/GetLog": (
        lambda c: c.audit.get("a"),
        audit_pb2.GetLogResponse(log=audit_pb2.AuditLog(id="log_1")),
    ),
    "RecoveryService/GetRecovery": (
        lambda c: c.recovery.get(),
        recovery_pb2.GetRecoveryResponse(recovery=recovery_pb2.Recovery(keys=1)),
    ),
    "RecoveryService/SetRecoveryRecipient": (
        lambda c: c.recovery.set("age1"),
        recovery_pb2.SetRecoveryRecipientResponse(recovery=recovery_pb2.Recovery(keys=1)),
    ),
    "RecoveryService/CancelRecoveryChange": (
        lambda c: c.recovery.cancel(),
        recovery_pb2.CancelRecoveryChangeResponse(recovery=recovery_pb2.Recovery(keys=1)),
    ),
    "RecoveryService/ListRecoveryCopies": (
        lambda c: entries(c.recovery.copies()),
        recovery_pb2.ListRecoveryCopiesResponse(),
    ),
    "BillingService/GetUsage": (lambda c: c.usage(), billing_pb2.GetUsageResponse()),
}


def test_every_unary_rpc_of_the_contract_is_offered() -> None:
    streams = {name for name, method in METHODS.items() if method.server_streaming}

    assert {f"/popsigner.v1.{method}" for method in CALLS} == set(METHODS) - streams
    assert streams == {"/popsigner.v1.SignService/SignStream", "/popsigner.v1.AuthService/ExportAccount"}


@pytest.mark.parametrize("method", CALLS)
async def test_every_call_says_who_asks_and_how_long_it_waits(either: Any, pop: ScriptedPop, method: str) -> None:
    call, answer = CALLS[method]
    pop.answer(method, answer)

    await done(call(either))

    (seen,) = pop.called(method)
    assert seen.metadata["authorization"] == f"Bearer {API_KEY}"
    assert seen.metadata["user-agent"].startswith(f"popsigner-python/{popsigner.__version__} ")
    # gRPC rounds a timeout up on the wire.
    assert 5 < seen.time_remaining < 11


def test_both_clients_offer_the_same_calls() -> None:
    def calls(owner: object) -> set[str]:
        return {name for name in dir(owner) if not name.startswith("_")}

    one, other = Client(api_key=API_KEY), AsyncClient(api_key=API_KEY)

    assert calls(other) - calls(one) == {"sign_stream"}
    assert calls(one) <= calls(other)
    parts = {name for name in calls(one) if isinstance(getattr(one, name), Part)}
    assert {"keys", "organization", "members", "sessions", "account"} <= parts
    for part in parts:
        assert calls(getattr(one, part)) == calls(getattr(other, part))
    one.close()


async def test_a_key_is_created_and_read(either: Any, pop: ScriptedPop) -> None:
    made = key(public_key=PUBLIC_KEY, address="celestia1xyz", metadata={"chain": "celestia"}, version=1)
    made.created_at.FromJsonString("2026-01-10T12:00:00.25Z")
    pop.answer("KeyService/CreateKey", key_pb2.CreateKeyResponse(key=made))

    created = await done(
        either.keys.create(name="sequencer", namespace="production", exportable=True, metadata={"chain": "celestia"})
    )

    (seen,) = pop.called("KeyService/CreateKey")
    assert seen.request == key_pb2.CreateKeyRequest(
        name="sequencer", namespace="production", exportable=True, metadata={"chain": "celestia"}
    )
    assert isinstance(created, Key)
    assert created.created_at == datetime(2026, 1, 10, 12, 0, 0, 250000, tzinfo=UTC)
    assert (created.id, created.state, created.metadata) == ("key_sequencer", KeyState.ENABLED, {"chain": "celestia"})


async def test_worker_keys_are_created_together(either: Any, pop: ScriptedPop) -> None:
    pop.answer("KeyService/BatchCreateKeys", key_pb2.BatchCreateKeysResponse(keys=[key("w-1"), key("w-2")]))

    workers = await done(either.keys.create_batch(prefix="w", count=2, namespace="production"))
    await done(either.keys.create_batch(names=["a", "b"]))

    by_prefix, by_name = (seen.request for seen in pop.called("KeyService/BatchCreateKeys"))
    assert [worker.name for worker in workers] == ["w-1", "w-2"]
    assert (by_prefix.prefix, by_prefix.count, by_prefix.namespace) == ("w", 2, "production")
    assert [each.name for each in by_name.keys] == ["a", "b"]


async def test_a_list_goes_on_to_the_last_page(either: Any, pop: ScriptedPop) -> None:
    pages = {"": (["a", "b"], "2"), "2": ([], "3"), "3": (["c"], "")}

    async def behaviour(request: Any, _context: Context) -> Message:
        names, next_cursor = pages[request.cursor]
        return key_pb2.ListKeysResponse(keys=[key(name) for name in names], next_cursor=next_cursor)

    pop.on("KeyService/ListKeys", behaviour)

    found = await entries(either.keys.list(namespace="production", labels={"chain": "celestia"}, page_size=2))

    assert [each.name for each in found] == ["a", "b", "c"]
    seen = [each.request for each in pop.called("KeyService/ListKeys")]
    assert [each.cursor for each in seen] == ["", "2", "3"]
    assert {(each.namespace, tuple(each.labels), each.page_size) for each in seen} == {
        ("production", ("chain=celestia",), 2)
    }


async def test_pages_are_asked_for_when_they_are_needed(either: Any, pop: ScriptedPop) -> None:
    pop.answer("KeyService/ListKeys", key_pb2.ListKeysResponse(keys=[key()], next_cursor="more"))
    pages = either.keys.list().pages()

    page = next(pages) if hasattr(pages, "__next__") else await anext(pages)

    assert [each.name for each in page] == ["sequencer"]
    assert len(pop.called("KeyService/ListKeys")) == 1


async def test_a_signature_is_a_small_value(either: Any, pop: ScriptedPop) -> None:
    pop.answer(
        "SignService/Sign",
        sign_pb2.SignResponse(signature=b"s" * 65, public_key=PUBLIC_KEY, key_version=2, recovery_id=0),
    )

    signature = await done(
        either.sign(
            Key(id="key_1"),
            bytearray(b"d" * 32),
            prehashed=True,
            hash=HashAlgorithm.KECCAK256,
            format=SignatureFormat.RECOVERABLE,
            sign_mode="SIGN_MODE_DIRECT",
            request_id="mine",
            key_version=2,
        )
    )

    assert signature == Signature(
        signature=b"s" * 65, public_key=PUBLIC_KEY, key_version=2, recovery_id=0, request_id="mine"
    )
    assert bytes(signature) == b"s" * 65
    (seen,) = pop.called("SignService/Sign")
    assert seen.request == sign_pb2.SignRequest(
        key_id="key_1",
        data=b"d" * 32,
        prehashed=True,
        hash=sign_pb2.KECCAK256,
        format=sign_pb2.RECOVERABLE,
        sign_mode="SIGN_MODE_DIRECT",
        request_id="mine",
        key_version=2,
    )


async def test_a_signature_without_recovery_id_says_so(either: Any, pop: ScriptedPop) -> None:
    pop.answer("SignService/Sign", sign_pb2.SignResponse(signature=b"s" * 64, key_version=1))

    assert (await done(either.sign("k", b"data"))).recovery_id is None


@pytest.mark.parametrize("data", ["9c22ff5f21f0b81b113e63f7db6da94fedef11b2", 5, None])
async def test_text_is_not_taken_for_bytes_to_sign(either: Any, pop: ScriptedPop, data: Any) -> None:
    with pytest.raises(TypeError, match="data is bytes"):
        await done(either.sign("k", data))

    assert not pop.seen


async def test_a_bad_item_of_a_batch_fails_alone(either: Any, pop: ScriptedPop) -> None:
    deleted = errors_pb2.ItemError(code=9, reason=errors_pb2.KEY_DELETED, message="the key is deleted")
    pop.answer(
        "SignService/BatchSign",
        sign_pb2.BatchSignResponse(
            signatures=[
                sign_pb2.SignResult(key_id="a", signature=b"s" * 64, key_version=1),
                sign_pb2.SignResult(key_id="b", error=deleted),
            ]
        ),
    )

    good, bad = await done(either.sign_batch([SignItem("a", b"1"), SignItem("b", b"2", prehashed=True)]))

    assert good.unwrap().signature == b"s" * 64
    assert (good.key_id, good.error) == ("a", None)
    assert (bad.key_id, bad.signature) == ("b", None)
    assert isinstance(bad.error, KeyDeleted)
    with pytest.raises(KeyDeleted, match="the key is deleted"):
        bad.unwrap()
    (seen,) = pop.called("SignService/BatchSign")
    first, second = seen.request.requests
    assert (first.key_id, first.data, first.HasField("prehashed")) == ("a", b"1", False)
    assert (second.key_id, second.data, second.prehashed) == ("b", b"2", True)


async def test_a_batch_that_is_answered_short_is_a_fault(either: Any, pop: ScriptedPop) -> None:
    pop.answer("SignService/BatchSign", sign_pb2.BatchSignResponse())

    with pytest.raises(InternalError, match="0 of 1"):
        await done(either.sign_batch([SignItem("a", b"1")]))


async def test_a_signature_is_verified_by_key_or_by_public_key(either: Any, pop: ScriptedPop) -> None:
    pop.answer("SignService/Verify", sign_pb2.VerifyResponse(valid=True))
    signature = Signature(signature=b"s" * 64, public_key="", key_version=1, recovery_id=None, request_id="")

    assert await done(either.verify("production/sequencer", b"data", signature)) is True
    assert await done(either.verify(bytes.fromhex(PUBLIC_KEY), b"data", b"s" * 64)) is True

    by_key, bare = (seen.request for seen in pop.called("SignService/Verify"))
    assert (by_key.key_id, by_key.public_key, by_key.signature) == ("production/sequencer", "", b"s" * 64)
    assert (bare.key_id, bare.public_key, bare.signature) == ("", PUBLIC_KEY, b"s" * 64)


async def test_a_new_api_key_is_kept_out_of_its_repr(either: Any, pop: ScriptedPop) -> None:
    pop.answer(
        "ApiKeyService/CreateApiKey",
        api_key_pb2.CreateApiKeyResponse(api_key=api_key_pb2.ApiKey(id="ak_1"), key=API_KEY),
    )
    expires = datetime(2027, 1, 1, tzinfo=UTC)

    created = await done(
        either.api_keys.create(name="prover", scopes=["api:keys:sign"], role=Role.OPERATOR, expires_at=expires)
    )

    assert created.key == API_KEY
    assert API_KEY not in repr(created)
    (seen,) = pop.called("ApiKeyService/CreateApiKey")
    assert (seen.request.name, list(seen.request.scopes), seen.request.role) == ("prover", ["api:keys:sign"], 2)
    assert seen.request.expires_at.ToDatetime(UTC) == expires


async def test_an_api_key_is_limited_and_rotated(either: Any, pop: ScriptedPop) -> None:
    made = api_key_pb2.ApiKey(id="ak_1")
    pop.answer("ApiKeyService/CreateApiKey", api_key_pb2.CreateApiKeyResponse(api_key=made, key=API_KEY))
    pop.answer("ApiKeyService/RotateApiKey", api_key_pb2.RotateApiKeyResponse(api_key=made, key=API_KEY))

    created = await done(
        either.api_keys.create(
            name="prover",
            scopes=["api:keys:sign"],
            ip_allow_list=["203.0.113.0/24"],
            namespaces=[Namespace(id="ns_1"), "staging"],
            keys=[Key(id="key_1"), "production/sequencer"],
        )
    )
    rotated = await done(either.api_keys.rotate(created.api_key, overlap=timedelta(hours=24)))

    assert API_KEY not in repr(rotated)
    create, rotate = (seen.request for seen in pop.seen)
    assert list(create.ip_allow_list) == ["203.0.113.0/24"]
    assert (list(create.namespaces), list(create.keys)) == (["ns_1", "staging"], ["key_1", "production/sequencer"])
    assert rotate == api_key_pb2.RotateApiKeyRequest(api_key_id="ak_1", overlap_seconds=86400)


@pytest.mark.parametrize("overlap", [timedelta(seconds=-1), timedelta(days=31)])
async def test_an_overlap_that_cannot_be_is_refused(either: Any, pop: ScriptedPop, overlap: timedelta) -> None:
    with pytest.raises(ValueError, match="30 days"):
        await done(either.api_keys.rotate("ak_1", overlap=overlap))

    assert not pop.seen


async def test_people_are_invited_and_given_roles(either: Any, pop: ScriptedPop) -> None:
    service = "OrganizationService"
    invitation = organization_pb2.Invitation(id="inv_1", email="a@example.com")
    pop.answer(
        f"{service}/CreateInvitation",
        organization_pb2.CreateInvitationResponse(invitation=invitation, token="inv_token"),
    )
    pop.answer(
        f"{service}/AcceptInvitation",
        organization_pb2.AcceptInvitationResponse(organization=ORGANIZATION, member=MEMBER),
    )
    pop.answer(f"{service}/UpdateMember", organization_pb2.UpdateMemberResponse(member=MEMBER))
    pop.answer(f"{service}/RemoveMember", organization_pb2.RemoveMemberResponse(revoked_api_key_ids=["ak_1"]))

    invited = await done(either.invitations.create(email="a@example.com", role=Role.OPERATOR))
    joined = await done(either.invitations.accept(invited.token))
    changed = await done(either.members.set_role(joined.member, Role.ADMIN))
    revoked = await done(either.members.remove(changed, revoke_api_keys=True))

    assert "inv_token" not in repr(invited)
    assert (joined.organization.slug, changed.role, revoked) == ("one", Role.ADMIN, ("ak_1",))
    create, accept, update, remove = (seen.request for seen in pop.seen)
    assert (create.email, create.role, create.HasField("expires_at")) == ("a@example.com", 2, False)
    assert (accept.token, update.user_id, update.role) == ("inv_token", "user_1", 3)
    assert (remove.user_id, remove.revoke_api_keys) == ("user_1", True)


async def test_the_organization_that_is_meant_goes_with_every_call(pop: ScriptedPop) -> None:
    pop.answer("BillingService/GetUsage", billing_pb2.GetUsageResponse())

    with Client(api_key=API_KEY, endpoint=pop.endpoint, organization="org_2") as client:
        client.usage()
    async with AsyncClient(api_key=API_KEY, endpoint=pop.endpoint, organization="org_2") as other:
        await other.usage()

    assert [seen.metadata["x-popsigner-organization"] for seen in pop.seen] == ["org_2", "org_2"]


async def test_a_time_without_a_zone_is_refused(either: Any) -> None:
    with pytest.raises(ValueError, match="time zone"):
        await done(either.api_keys.create(name="prover", expires_at=datetime(2027, 1, 1)))  # noqa: DTZ001 - what is refused
    with pytest.raises(ValueError, match="time zone"):
        await entries(either.audit.list(start_time=datetime(2027, 1, 1)))  # noqa: DTZ001 - what is refused


async def test_an_answer_without_its_content_is_a_fault(either: Any, pop: ScriptedPop) -> None:
    pop.answer("KeyService/GetKey", key_pb2.GetKeyResponse())

    with pytest.raises(InternalError, match="incomplete"):
        await done(either.keys.get("a"))


async def test_a_call_ends_at_its_timeout(either: Any, pop: ScriptedPop) -> None:
    released = threading.Event()

    async def behaviour(_request: Any, _context: Context) -> Message:
        await asyncio.to_thread(released.wait, 5)
        return key_pb2.GetKeyResponse()

    pop.on("KeyService/GetKey", behaviour)
    began = time.monotonic()

    try:
        with pytest.raises(DeadlineExceeded, match=r"within 0\.2 s"):
            await done(either.keys.get("a", timeout=0.2))
    finally:
        released.set()

    # Long before the answer would have come.
    assert time.monotonic() - began < 4.5


@pytest.mark.parametrize("timeout", [0, -1])
async def test_a_timeout_that_leaves_no_time_is_refused(either: Any, timeout: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        await done(either.keys.get("a", timeout=timeout))
    with pytest.raises(ConfigurationError, match="above 0"):
        Client(api_key=API_KEY, timeout=timeout)


async def test_an_asynchronous_client_belongs_to_one_event_loop(async_client: AsyncClient, pop: ScriptedPop) -> None:
    pop.answer("BillingService/GetUsage", billing_pb2.GetUsageResponse())
    await async_client.usage()

    with pytest.raises(ConfigurationError, match="another event loop"):
        await asyncio.to_thread(lambda: asyncio.run(async_client.usage()))


async def test_a_client_that_was_made_outside_of_an_event_loop_works_inside(pop: ScriptedPop) -> None:
    pop.answer("BillingService/GetUsage", billing_pb2.GetUsageResponse())
    made = await asyncio.to_thread(AsyncClient, api_key=API_KEY, endpoint=pop.endpoint)
    await made.usage()
    await made.close()

    assert len(pop.called("BillingService/GetUsage")) == 1


def test_threads_share_a_client(client: Client, pop: ScriptedPop) -> None:
    pop.answer("SignService/Sign", sign_pb2.SignResponse(signature=b"s" * 64))
    signed: list[bytes] = []
    threads = [threading.Thread(target=lambda: signed.append(bytes(client.sign("k", b"d")))) for _ in range(8)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert signed == [b"s" * 64] * 8


def test_a_proxy_from_the_environment_is_not_asked_for_this_machine(
    pop: ScriptedPop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    pop.answer("BillingService/GetUsage", billing_pb2.GetUsageResponse())

    with Client(api_key=API_KEY, endpoint=pop.endpoint, retry=None) as client:
        client.usage()

    assert len(pop.called("BillingService/GetUsage")) == 1


def test_the_package_names_what_it_offers() -> None:
    assert popsigner.Client is Client
    with pytest.raises(AttributeError, match="no attribute 'StatusCode'"):
        popsigner.StatusCode  # noqa: B018 - the access is what fails
