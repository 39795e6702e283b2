"""Two organizations of one POP: neither sees, changes or uses what is the other's, nor stands in its way."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import pyrage  # type: ignore[import-untyped]  # publishes no types
import pytest
from google.protobuf.message import Message

from popsigner_server.domain.principals import Scope
from popsigner_server.gen.popsigner.v1 import (
    api_key_pb2,
    audit_pb2,
    billing_pb2,
    key_pb2,
    namespace_pb2,
    sign_pb2,
)
from popsigner_server.transport.contract import rpcs
from tests.integration.promises.site import Tenant
from tests.integration.promises.trail import Trail, assert_verifies
from tests.support.load import Client, Item, Load, Refused, Signed, Wire, reason_of
from tests.support.pop import Pop

STREAMS = 64
FLOOD_ITEMS = 64
FLOOD_SECONDS = 60.0
# Of each call of the organization beside the flood.
CALLS = 15
ANSWERS_WITHIN = 5.0
DATA = b"intrusion"
RECIPIENT = str(pyrage.x25519.Identity.generate().to_public())


@dataclass(frozen=True, slots=True, kw_only=True)
class Belongings:
    """What the first organization has, by everything that it can be called."""

    wire: Wire
    key: key_pb2.Key
    namespace: namespace_pb2.Namespace
    api_key_id: str
    log_ids: list[str]
    cursors: dict[str, str]

    @property
    def key_names(self) -> list[str]:
        return [self.key.id, f"{self.key.namespace}/{self.key.name}"]


@pytest.fixture(scope="module")
async def theirs(trio: Pop, sockets: list[str]) -> AsyncIterator[Belongings]:
    """The things of the organization that the first start founded."""
    async with Wire(sockets[0], trio.api_key) as wire:
        yield await settle_in(wire)


async def settle_in(wire: Wire) -> Belongings:
    told = wire.metadata
    space = await wire.namespaces.CreateNamespace(
        namespace_pb2.CreateNamespaceRequest(name="bridge-of-the-first"), metadata=told
    )
    made = await wire.keys.BatchCreateKeys(
        key_pb2.BatchCreateKeysRequest(prefix="sequencer-of-the-first", count=2, namespace=space.namespace.name),
        metadata=told,
    )
    signer = await wire.api_keys.CreateApiKey(
        api_key_pb2.CreateApiKeyRequest(name="worker-of-the-first", scopes=[Scope.KEYS_SIGN]), metadata=told
    )
    request = sign_pb2.SignRequest(key_id=made.keys[0].id, data=b"ours", request_id="one-and-the-same")
    await wire.signing.Sign(request, metadata=told)
    logs = await wire.audit.ListLogs(audit_pb2.ListLogsRequest(page_size=2), metadata=told)
    listed = await wire.keys.ListKeys(key_pb2.ListKeysRequest(page_size=1), metadata=told)
    return Belongings(
        wire=wire,
        key=made.keys[0],
        namespace=space.namespace,
        api_key_id=signer.api_key.id,
        log_ids=[log.id for log in logs.logs],
        cursors={"ListLogs": logs.next_cursor, "ListKeys": listed.next_cursor},
    )


def intrusions(theirs: Belongings) -> dict[str, list[tuple[Message, str]]]:
    """For each RPC that names something: requests that name what is theirs, and the reason to refuse them with."""
    names, spaces = theirs.key_names, [theirs.namespace.name, theirs.namespace.id]
    no_key, no_space = "KEY_NOT_FOUND", "NAMESPACE_NOT_FOUND"
    items = [sign_pb2.SignItem(key_id=name, data=DATA) for name in names]
    return {
        "KeyService/GetKey": [(key_pb2.GetKeyRequest(key_id=name), no_key) for name in names],
        "KeyService/UpdateKey": [(key_pb2.UpdateKeyRequest(key_id=name, name="mine"), no_key) for name in names],
        "KeyService/DeleteKey": [
            (key_pb2.DeleteKeyRequest(key_id=name, force=force), no_key) for name in names for force in (False, True)
        ],
        "KeyService/UndeleteKey": [(key_pb2.UndeleteKeyRequest(key_id=name), no_key) for name in names],
        "KeyService/EnableKey": [(key_pb2.EnableKeyRequest(key_id=name), no_key) for name in names],
        "KeyService/DisableKey": [(key_pb2.DisableKeyRequest(key_id=name), no_key) for name in names],
        "KeyService/RotateKey": [
            (key_pb2.RotateKeyRequest(key_id=name, expected_version=version), no_key)
            for name in names
            for version in (0, 1)
        ],
        "KeyService/ListKeyVersions": [(key_pb2.ListKeyVersionsRequest(key_id=name), no_key) for name in names],
        "KeyService/CreateKey": [(key_pb2.CreateKeyRequest(name="mine", namespace=s), no_space) for s in spaces],
        "KeyService/BatchCreateKeys": [
            (key_pb2.BatchCreateKeysRequest(prefix="mine", count=2, namespace=space), no_space) for space in spaces
        ],
        "KeyService/ListKeys": [(key_pb2.ListKeysRequest(namespace=space), no_space) for space in spaces],
        "KeyService/ImportKey": [
            (key_pb2.ImportKeyRequest(name="mine", namespace=space, ciphertext=bytes(552)), no_space)
            for space in spaces
        ],
        "KeyService/ExportKey": [
            (key_pb2.ExportKeyRequest(key_id=name, recipient=RECIPIENT), no_key) for name in names
        ],
        "SignService/Sign": [(sign_pb2.SignRequest(key_id=name, data=DATA), no_key) for name in names],
        "SignService/BatchSign": [(sign_pb2.BatchSignRequest(requests=items), no_key)],
        "SignService/SignStream": [(sign_pb2.SignStreamRequest(requests=items), no_key)],
        "SignService/Verify": [
            (sign_pb2.VerifyRequest(key_id=name, signature=bytes(64), data=DATA), no_key) for name in names
        ],
        "NamespaceService/DeleteNamespace": [
            (namespace_pb2.DeleteNamespaceRequest(namespace_id=space), no_space) for space in spaces
        ],
        "ApiKeyService/RevokeApiKey": [
            (api_key_pb2.RevokeApiKeyRequest(api_key_id=theirs.api_key_id), "API_KEY_NOT_FOUND"),
            (api_key_pb2.RevokeApiKeyRequest(api_key_id=theirs.wire.actor), "API_KEY_NOT_FOUND"),
        ],
        "ApiKeyService/RotateApiKey": [
            (api_key_pb2.RotateApiKeyRequest(api_key_id=theirs.api_key_id), "API_KEY_NOT_FOUND"),
            (api_key_pb2.RotateApiKeyRequest(api_key_id=theirs.wire.actor), "API_KEY_NOT_FOUND"),
        ],
        "AuditService/ListLogs": [(audit_pb2.ListLogsRequest(key_id=name), no_key) for name in names],
        "AuditService/GetLog": [(audit_pb2.GetLogRequest(log_id=log), "AUDIT_LOG_NOT_FOUND") for log in theirs.log_ids],
    }


def own_business(theirs: Belongings) -> dict[str, list[Message]]:
    """For each RPC that answers without naming anything: requests that are fine, some with cursors that are theirs."""
    return {
        "NamespaceService/CreateNamespace": [namespace_pb2.CreateNamespaceRequest(name="own-space")],
        "NamespaceService/ListNamespaces": [namespace_pb2.ListNamespacesRequest()],
        "KeyService/CreateKey": [key_pb2.CreateKeyRequest(name="own-key")],
        "KeyService/GetWrappingKey": [key_pb2.GetWrappingKeyRequest()],
        "KeyService/ListKeys": [key_pb2.ListKeysRequest(), key_pb2.ListKeysRequest(cursor=theirs.cursors["ListKeys"])],
        "ApiKeyService/CreateApiKey": [api_key_pb2.CreateApiKeyRequest(name="own", scopes=[Scope.KEYS_SIGN])],
        "ApiKeyService/ListApiKeys": [api_key_pb2.ListApiKeysRequest()],
        "AuditService/ListLogs": [
            audit_pb2.ListLogsRequest(),
            audit_pb2.ListLogsRequest(cursor=theirs.cursors["ListLogs"]),
        ],
        "BillingService/GetUsage": [billing_pb2.GetUsageRequest()],
    }


async def call(wire: Wire, rpc: str, request: Message) -> Any:
    """The answer of `Service/Method`."""
    service, method = rpc.split("/")
    stub: Any = {
        "KeyService": wire.keys,
        "SignService": wire.signing,
        "NamespaceService": wire.namespaces,
        "ApiKeyService": wire.api_keys,
        "AuditService": wire.audit,
        "BillingService": wire.billing,
    }[service]
    return await getattr(stub, method)(request, metadata=wire.metadata, timeout=ANSWERS_WITHIN)


async def refusals(wire: Wire, rpc: str, request: Message) -> set[str]:
    """The reasons that the call, or its items, were refused with."""
    if isinstance(request, sign_pb2.BatchSignRequest | sign_pb2.SignStreamRequest):
        ask = wire.sign_batch if isinstance(request, sign_pb2.BatchSignRequest) else wire.sign_stream
        outcomes = await ask([Item(key_id=item.key_id, data=item.data) for item in request.requests])
        return {outcome.reason if isinstance(outcome, Refused) else "SIGNED" for outcome in outcomes}
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await call(wire, rpc, request)
    assert refusal.value.code() is grpc.StatusCode.NOT_FOUND
    return {reason_of(refusal.value)}


def but_uses(trail: Trail) -> list[audit_pb2.AuditLog]:
    """The rows, less the notes that an API key was used: reading the trail is a use itself. Their places count on."""
    rows = [audit_pb2.AuditLog.FromString(row.SerializeToString()) for row in trail.rows]
    for row in rows:
        row.ClearField("sequence")
    return [row for row in rows if row.event != "auth.api_key_used"]


def test_every_rpc_of_programs_is_tried(theirs: Belongings) -> None:
    """Those of people, and all of them with every sort of credential, are tried beside here, in access/."""
    tried = {f"/popsigner.v1.{rpc}" for rpc in {*intrusions(theirs), *own_business(theirs)}}
    services = {rpc.rpartition("/")[0] for rpc in tried}
    assert tried == {rpc for rpc in rpcs() if rpc.rpartition("/")[0] in services}


async def test_what_is_anothers_is_not_found_and_not_touched(theirs: Belongings, tenant: Tenant) -> None:
    before = await Trail.read(theirs.wire)
    for rpc, attempts in intrusions(theirs).items():
        for number, (request, reason) in enumerate(attempts):
            assert await refusals(tenant.owners[number % 3], rpc, request) == {reason}, f"{rpc} {request}"

    after = await Trail.read(theirs.wire)
    assert (but_uses(after), after.usage) == (but_uses(before), before.usage)
    key = await theirs.wire.keys.GetKey(key_pb2.GetKeyRequest(key_id=theirs.key.id), metadata=theirs.wire.metadata)
    assert key.key == theirs.key
    # Nor did the attempts leave a row, a key or a signature with whoever made them.
    trail = await Trail.read(tenant.owners[0])
    assert but_uses(trail) == []
    used = {usage.metric: usage.value for usage in trail.usage.usage}
    assert used["signatures"] == used["keys"] == 0


async def test_lists_hold_nothing_of_anothers(theirs: Belongings, tenant: Tenant) -> None:
    secret_words = [*theirs.key_names, theirs.key.name, theirs.key.public_key, theirs.key.address, theirs.namespace.id]
    secret_words += [theirs.namespace.name, theirs.api_key_id, theirs.wire.actor, *theirs.log_ids]
    for rpc, requests in own_business(theirs).items():
        for request in requests:
            answer = str(await call(tenant.owners[0], rpc, request))
            assert not [word for word in secret_words if word in answer], f"{rpc} {request}"


async def test_the_same_names_and_request_ids_are_different_things(theirs: Belongings, tenant: Tenant) -> None:
    mine = tenant.owners[0]
    space = namespace_pb2.CreateNamespaceRequest(name=theirs.namespace.name)
    await mine.namespaces.CreateNamespace(space, metadata=mine.metadata)
    request = key_pb2.CreateKeyRequest(name=theirs.key.name, namespace=theirs.namespace.name)
    made = (await mine.keys.CreateKey(request, metadata=mine.metadata)).key
    assert made.public_key != theirs.key.public_key

    item = Item(key_id=theirs.key_names[1], data=b"ours", request_id="one-and-the-same")
    (outcome,) = await mine.sign_one([item])
    assert isinstance(outcome, Signed)
    assert_verifies(outcome, made.public_key)
    trail = await Trail.read(mine)
    (row,) = trail.of(item)
    assert (row.key_id, row.actor) == (made.id, mine.actor)


async def test_a_flood_of_one_leaves_the_calls_of_another_working(
    theirs: Belongings, tenant: Tenant, trio: Pop, sockets: list[str]
) -> None:
    made = await call(tenant.owners[0], "KeyService/CreateKey", key_pb2.CreateKeyRequest(name="beside-the-flood"))
    flood = Load(seconds=FLOOD_SECONDS)
    wires = [Wire(sockets[number % len(sockets)], trio.api_key) for number in range(STREAMS)]
    flood.start(*(Client(wire.sign_stream, keys=[theirs.key.id], messages=1_000, size=FLOOD_ITEMS) for wire in wires))
    try:
        while not all(client.answered for client in flood.clients):
            assert not flood.refused
            await asyncio.sleep(0.05)
        signed_before = len(flood.answered)
        for number in range(CALLS):
            await all_calls(tenant.owners[number % len(sockets)], made.key, number)
        assert len(flood.answered) > signed_before
    finally:
        await flood.stop()
        for wire in wires:
            await wire.close()
    assert not flood.refused


async def all_calls(wire: Wire, key: key_pb2.Key, number: int) -> None:
    """One of each sort; raises if one is not answered in time."""
    data = number.to_bytes(32, "big")
    requests: Mapping[str, Message] = {
        "SignService/Sign": sign_pb2.SignRequest(key_id=key.id, data=data),
        "SignService/BatchSign": sign_pb2.BatchSignRequest(requests=[sign_pb2.SignItem(key_id=key.id, data=data)]),
        "KeyService/GetKey": key_pb2.GetKeyRequest(key_id=key.id),
        "KeyService/CreateKey": key_pb2.CreateKeyRequest(name=f"beside-the-flood-{number}"),
        "AuditService/ListLogs": audit_pb2.ListLogsRequest(),
        "BillingService/GetUsage": billing_pb2.GetUsageRequest(),
    }
    answers = [await call(wire, rpc, request) for rpc, request in requests.items()]
    assert answers[0].signature == answers[1].signatures[0].signature != b""
