"""Who may not: without a key, with a wrong, expired or revoked one, without the scope or role, from next door."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from popsigner_server.gen.popsigner.v1 import (
    api_key_pb2,
    audit_pb2,
    billing_pb2,
    errors_pb2,
    key_pb2,
    namespace_pb2,
    sign_pb2,
)
from tests.integration.pop.wire import Wire

pytestmark = pytest.mark.usefixtures("unharmed")

EVERY_SCOPE = [
    "api:keys:read",
    "api:keys:write",
    "api:keys:sign",
    "api:keys:export",
    "api:audit:read",
    "api:billing:read",
    "api:billing:write",
]


async def made(owner: Wire, *, scopes: list[str] | None = None, role: int = 0, seconds: float | None = None) -> Wire:
    """A wire with an API key of its own."""
    expires_at = None
    if seconds is not None:
        expires_at = Timestamp()
        expires_at.FromDatetime(datetime.now(UTC) + timedelta(seconds=seconds))
    created = await owner(
        api_key_pb2.CreateApiKeyRequest(
            name="test",
            scopes=scopes or [],
            role=api_key_pb2.Role.ValueType(role),
            expires_at=expires_at,
        )
    )
    return Wire(owner.channel, created.key)


def id_of(wire: Wire) -> str:
    return "ak_" + wire.api_key.split("_")[2]


def wrong_keys(right: str) -> dict[str, str]:
    start, secret = right.rsplit("_", 1)
    other = ("0" if secret[0] != "0" else "1") + secret[1:]
    return {
        "another secret": f"{start}_{other}",
        "unknown id": "psk_live_01J00000000000000000000000_" + secret,
        "of the test environment": right.replace("psk_live_", "psk_test_"),
        "cut off": right[:-1],
        "longer": right + "0",
        "upper case": right.upper(),
        "only its id": start,
        "nonsense": "let me in",
        "empty": "",
        "very long": "psk_live_" + "A" * 8000,
    }


@pytest.mark.parametrize("case", wrong_keys("psk_live_x_00"))
async def test_a_wrong_api_key_is_refused(owner: Wire, key: key_pb2.Key, case: str) -> None:
    wrong = wrong_keys(owner.api_key)[case]

    for metadata in ((("authorization", f"Bearer {wrong}"),), (("x-api-key", wrong),)):
        refusal = await owner.refused(sign_pb2.SignRequest(key_id=key.id, data=b"x"), metadata=metadata)
        assert (refusal.code, refusal.reason) == ("UNAUTHENTICATED", "CREDENTIALS_INVALID")
        assert not wrong or wrong not in refusal.message


@pytest.mark.parametrize("metadata", [(), (("authorization", "Basic dXNlcjpwYXNz"),), (("authorization", "Bearer"),)])
async def test_a_call_without_an_api_key_is_refused(owner: Wire, metadata: Any) -> None:
    for request in (sign_pb2.SignRequest(), key_pb2.ListKeysRequest(), api_key_pb2.CreateApiKeyRequest()):
        refusal = await owner.refused(request, metadata=metadata)
        assert (refusal.code, refusal.reason) == ("UNAUTHENTICATED", "CREDENTIALS_MISSING")


async def test_an_expired_api_key_is_refused_from_its_moment_on_also_on_an_open_stream(
    owner: Wire, key: key_pb2.Key
) -> None:
    brief = await made(owner, scopes=["api:keys:sign", "api:keys:read"], seconds=2.5)
    request = sign_pb2.SignRequest(key_id=key.id, data=b"x")
    message = sign_pb2.SignStreamRequest(requests=[sign_pb2.SignItem(key_id=key.id, data=b"x")])
    assert (await brief(request)).signature
    stream = brief.stream()
    await stream.write(message)
    assert (await stream.read()).signatures[0].signature

    await asyncio.sleep(2.6)

    for late in (request, key_pb2.GetKeyRequest(key_id=key.id)):
        refusal = await brief.refused(late)
        assert (refusal.code, refusal.reason) == ("UNAUTHENTICATED", "API_KEY_EXPIRED")
    await stream.write(message)
    (result,) = (await stream.read()).signatures
    assert (result.signature, result.error.reason) == (b"", errors_pb2.API_KEY_EXPIRED)
    await stream.done_writing()
    assert len([row for row in await owner.rows(key_id=key.id) if row.event == "key.signed"]) == 2


async def test_a_revoked_api_key_signs_no_more_also_on_an_open_stream(owner: Wire, key: key_pb2.Key) -> None:
    lost = await made(owner, scopes=["api:keys:sign"])
    message = sign_pb2.SignStreamRequest(requests=[sign_pb2.SignItem(key_id=key.id, data=b"x")])
    stream = lost.stream()
    await stream.write(message)
    assert (await stream.read()).signatures[0].signature

    revoked = await owner(api_key_pb2.RevokeApiKeyRequest(api_key_id=id_of(lost)))

    assert revoked.api_key.HasField("revoked_at")
    await stream.write(message)
    (result,) = (await stream.read()).signatures
    assert (result.signature, result.error.reason) == (b"", errors_pb2.API_KEY_REVOKED)
    await stream.done_writing()
    refusal = await lost.refused(sign_pb2.SignRequest(key_id=key.id, data=b"x"))
    assert (refusal.code, refusal.reason) == ("UNAUTHENTICATED", "API_KEY_REVOKED")
    assert [row.actor for row in await owner.rows(key_id=key.id) if row.event == "key.signed"] == [id_of(lost)]


async def test_each_scope_opens_its_own_rpcs_and_no_other(owner: Wire, key: key_pb2.Key) -> None:
    needs: dict[str, list[Any]] = {
        "api:keys:read": [
            key_pb2.GetKeyRequest(key_id=key.id),
            key_pb2.ListKeysRequest(page_size=1),
            namespace_pb2.ListNamespacesRequest(),
            sign_pb2.VerifyRequest(key_id=key.id, data=b"x", signature=bytes(64)),
        ],
        "api:keys:write": [
            key_pb2.UpdateKeyRequest(key_id=key.id, metadata={"a": "b"}),
            # Refused, but not for the scope: nothing is made.
            key_pb2.CreateKeyRequest(),
            key_pb2.BatchCreateKeysRequest(),
            key_pb2.DeleteKeyRequest(),
            namespace_pb2.CreateNamespaceRequest(),
            namespace_pb2.DeleteNamespaceRequest(),
        ],
        "api:keys:sign": [
            sign_pb2.SignRequest(key_id=key.id, data=b"x"),
            sign_pb2.BatchSignRequest(requests=[sign_pb2.SignItem(key_id=key.id)]),
        ],
        "api:audit:read": [audit_pb2.ListLogsRequest(page_size=1), audit_pb2.GetLogRequest()],
        "api:billing:read": [billing_pb2.GetUsageRequest()],
    }
    for scope in EVERY_SCOPE:
        narrow = await made(owner, scopes=[scope])
        for needed, requests in needs.items():
            for request in requests:
                try:
                    await narrow(request)
                    reason = "none"
                except Exception:
                    refusal = await narrow.refused(request)
                    reason = refusal.reason
                    assert (refusal.code == "PERMISSION_DENIED") == (reason == "SCOPE_MISSING")
                assert (reason != "SCOPE_MISSING") == (scope == needed), (scope, request)


async def test_a_stream_without_the_scope_is_refused(owner: Wire) -> None:
    reader = await made(owner, scopes=["api:keys:read"])
    stream = reader.stream()
    await stream.done_writing()

    assert (await stream.code()).name == "PERMISSION_DENIED"


async def test_scopes_alone_do_not_manage_api_keys_and_a_role_does(owner: Wire) -> None:
    scoped = await made(owner, scopes=EVERY_SCOPE)
    operator = await made(owner, scopes=EVERY_SCOPE, role=api_key_pb2.OPERATOR)
    admin = await made(owner, role=api_key_pb2.ADMIN)

    for wire in (scoped, operator):
        for request in (
            api_key_pb2.ListApiKeysRequest(),
            api_key_pb2.CreateApiKeyRequest(name="a", scopes=["api:keys:read"]),
            api_key_pb2.RevokeApiKeyRequest(api_key_id=id_of(admin)),
        ):
            refusal = await wire.refused(request)
            assert (refusal.code, refusal.reason) == ("PERMISSION_DENIED", "ROLE_MISSING")
    assert len((await admin(api_key_pb2.ListApiKeysRequest(page_size=2))).api_keys) == 2


async def test_nobody_gives_away_more_than_they_have(owner: Wire) -> None:
    admin = await made(owner, scopes=["api:keys:read"], role=api_key_pb2.ADMIN)

    refusals = [
        await admin.refused(request)
        for request in (
            api_key_pb2.CreateApiKeyRequest(name="a", scopes=["api:keys:sign"]),
            api_key_pb2.CreateApiKeyRequest(name="a", role=api_key_pb2.OWNER),
            api_key_pb2.RevokeApiKeyRequest(api_key_id=id_of(owner)),
        )
    ]

    assert [refusal.code for refusal in refusals] == ["PERMISSION_DENIED"] * 3
    assert [refusal.reason for refusal in refusals] == ["SCOPE_MISSING", "ROLE_MISSING", "ROLE_MISSING"]


async def test_another_organizations_things_are_not_found(owner: Wire, neighbour: Wire, key: key_pb2.Key) -> None:
    row = (await owner.rows(key_id=key.id))[0]
    namespace = (await owner(namespace_pb2.CreateNamespaceRequest(name="ours"))).namespace
    narrow = await made(owner, scopes=["api:keys:read"])
    rows = len(await owner.doings())

    for request, reason in (
        (sign_pb2.SignRequest(key_id=key.id, data=b"x"), "KEY_NOT_FOUND"),
        (sign_pb2.SignRequest(key_id=f"production/{key.name}", data=b"x"), "KEY_NOT_FOUND"),
        (sign_pb2.VerifyRequest(key_id=key.id, data=b"x", signature=bytes(64)), "KEY_NOT_FOUND"),
        (key_pb2.GetKeyRequest(key_id=key.id), "KEY_NOT_FOUND"),
        (key_pb2.UpdateKeyRequest(key_id=key.id, name="stolen"), "KEY_NOT_FOUND"),
        (key_pb2.DeleteKeyRequest(key_id=key.id, force=True), "KEY_NOT_FOUND"),
        (audit_pb2.ListLogsRequest(key_id=key.id), "KEY_NOT_FOUND"),
        (audit_pb2.GetLogRequest(log_id=row.id), "AUDIT_LOG_NOT_FOUND"),
        (api_key_pb2.RevokeApiKeyRequest(api_key_id=id_of(narrow)), "API_KEY_NOT_FOUND"),
        (namespace_pb2.DeleteNamespaceRequest(namespace_id=namespace.id), "NAMESPACE_NOT_FOUND"),
        (key_pb2.CreateKeyRequest(name="a", namespace="ours"), "NAMESPACE_NOT_FOUND"),
    ):
        refusal = await neighbour.refused(request)
        assert (refusal.code, refusal.reason) == ("NOT_FOUND", reason), request
    items = [sign_pb2.SignItem(key_id=key.id, data=b"x")]
    (result,) = (await neighbour(sign_pb2.BatchSignRequest(requests=items))).signatures
    assert (result.signature, result.error.reason) == (b"", errors_pb2.KEY_NOT_FOUND)
    assert not (await neighbour(key_pb2.ListKeysRequest())).keys
    assert not await neighbour.doings()
    assert await neighbour.signatures_used() == 0
    # And nothing happened here.
    assert len(await owner.doings()) == rows
    assert (await narrow(key_pb2.GetKeyRequest(key_id=key.id))).key == key


async def test_two_organizations_use_the_same_names_and_request_ids(owner: Wire, neighbour: Wire) -> None:
    signatures = []
    for wire in (owner, neighbour):
        await wire(key_pb2.CreateKeyRequest(name="shared-name"))
        request = sign_pb2.SignRequest(key_id="production/shared-name", data=b"x", request_id="shared-request")
        signatures.append((await wire(request)).signature)

    assert signatures[0] != signatures[1]
    await neighbour(key_pb2.DeleteKeyRequest(key_id="production/shared-name", force=True))
    request = sign_pb2.SignRequest(key_id="production/shared-name", data=b"x")
    assert (await owner(request)).signature == signatures[0]
    assert (await neighbour.refused(request)).reason == "KEY_NOT_FOUND"
