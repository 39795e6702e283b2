"""API keys over three server processes: rotations are exact, uses are one row a minute, bounds hold on every RPC."""

import asyncio
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import grpc
import pytest

from popsigner_server.domain.principals import Scope
from popsigner_server.gen.popsigner.v1 import api_key_pb2, audit_pb2, key_pb2, namespace_pb2, sign_pb2
from tests.integration.promises.site import Tenant
from tests.integration.promises.trail import Trail
from tests.support.load import PATIENCE, Client, Item, Load, Refused, Signed, Wire, reason_of

KEY_SCOPES = [Scope.KEYS_READ, Scope.KEYS_WRITE, Scope.KEYS_SIGN]
# A change is told to every process within this, in seconds.
HEARD = 1.0


async def made(owner: Wire, **request: Any) -> api_key_pb2.CreateApiKeyResponse:
    asked = api_key_pb2.CreateApiKeyRequest(name="worker", **request)
    return await owner.api_keys.CreateApiKey(asked, metadata=owner.metadata, timeout=PATIENCE)


async def rotated(owner: Wire, api_key_id: str, overlap: timedelta) -> str:
    request = api_key_pb2.RotateApiKeyRequest(api_key_id=api_key_id, overlap_seconds=int(overlap.total_seconds()))
    return (await owner.api_keys.RotateApiKey(request, metadata=owner.metadata, timeout=PATIENCE)).key


async def new_key(owner: Wire, name: str, namespace: str = "") -> str:
    request = key_pb2.CreateKeyRequest(name=name, namespace=namespace)
    return (await owner.keys.CreateKey(request, metadata=owner.metadata, timeout=PATIENCE)).key.id


async def refusal(call: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return reason_of(refused.value)


async def test_no_signature_by_an_old_secret_follows_a_rotation_without_an_overlap(
    tenant: Tenant, sockets: list[str]
) -> None:
    owner = tenant.owners[0]
    key_id, key = await new_key(owner, "rotated"), await made(owner, scopes=KEY_SCOPES)
    load, wires = Load(seconds=60), [Wire(socket, key.key) for socket in sockets for _ in range(2)]
    clients = [Client(wire.sign_one, keys=[key_id], messages=5_000, mortal=True) for wire in wires]
    load.start(*clients)
    deadline = time.monotonic() + PATIENCE
    while any(len(client.answered) < 3 for client in clients):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)
    new = await rotated(tenant.owners[1], key.api_key.id, timedelta(0))
    # Everybody takes the new one at once, the process that has not heard of it too.
    fresh = [Wire(socket, new) for socket in sockets]
    for wire in fresh:
        (signed,) = await wire.sign_one([Item(key_id=key_id, data=b"by the new one")])
        assert isinstance(signed, Signed)
    assert await load.ended(within=PATIENCE)
    assert {refused.reason for refused in load.refused} == {"API_KEY_REVOKED"}
    assert all(client.refused for client in clients)

    trail = await Trail.read(owner)
    trail.assert_unbroken()
    end = trail.place("api_key.rotated", key.api_key.id)
    assert all(trail.of(signed.item)[0].sequence < end for signed in load.answered)
    for wire in (*wires, *fresh):
        await wire.close()


async def test_reads_by_a_replaced_secret_end_in_every_process_within_a_second(
    tenant: Tenant, sockets: list[str]
) -> None:
    owner = tenant.owners[0]
    key = await made(owner, scopes=KEY_SCOPES)
    wires = [Wire(socket, key.key) for socket in sockets]

    def reading(wire: Wire) -> Any:
        return wire.namespaces.ListNamespaces(
            namespace_pb2.ListNamespacesRequest(), metadata=wire.metadata, timeout=PATIENCE
        )

    await asyncio.gather(*(reading(wire) for wire in wires))
    await rotated(owner, key.api_key.id, timedelta(0))
    await asyncio.sleep(HEARD)
    for wire in wires:
        assert await refusal(reading(wire)) == "API_KEY_REVOKED"
        await wire.close()


async def test_both_secrets_sign_everywhere_while_they_overlap(tenant: Tenant, sockets: list[str]) -> None:
    owner = tenant.owners[0]
    key_id, key = await new_key(owner, "overlapping"), await made(owner, scopes=KEY_SCOPES)
    texts = [key.key, await rotated(owner, key.api_key.id, timedelta(hours=1))]
    for text in texts * 2:
        for socket in sockets:
            async with Wire(socket, text) as wire:
                (signed,) = await wire.sign_one([Item(key_id=key_id, data=b"x")])
                assert isinstance(signed, Signed)


async def test_uses_in_every_process_are_one_row(tenant: Tenant, sockets: list[str]) -> None:
    owner = tenant.owners[0]
    key_id, key = await new_key(owner, "used"), await made(owner, scopes=KEY_SCOPES)
    wires = [Wire(socket, key.key) for socket in sockets]
    for _ in range(5):
        await asyncio.gather(*(wire.sign_one([Item(key_id=key_id, data=b"x")]) for wire in wires))

    async def rows() -> Sequence[audit_pb2.AuditLog]:
        request = audit_pb2.ListLogsRequest(event_type="auth.api_key_used")
        found = await owner.audit.ListLogs(request, metadata=owner.metadata, timeout=PATIENCE)
        return [row for row in found.logs if row.actor == key.api_key.id]

    deadline = time.monotonic() + PATIENCE
    while not (found := await rows()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    assert (found[0].resource_id, found[0].user_agent[:5]) == (key.api_key.id, "grpc-")
    listed = await owner.api_keys.ListApiKeys(api_key_pb2.ListApiKeysRequest(), metadata=owner.metadata)
    (mine,) = [each for each in listed.api_keys if each.id == key.api_key.id]
    assert mine.last_used_at == found[0].timestamp
    # Each process has had its turn by now, and one of them wrote.
    await asyncio.sleep(HEARD)
    assert len(await rows()) == 1
    for wire in wires:
        await wire.close()


@pytest.mark.parametrize("by_name", [True, False])
async def test_a_limited_key_finds_nothing_beyond_its_bounds(tenant: Tenant, sockets: list[str], by_name: bool) -> None:
    owner = tenant.owners[0]
    request = namespace_pb2.CreateNamespaceRequest(name="staging")
    await owner.namespaces.CreateNamespace(request, metadata=owner.metadata)
    inside, outside = await new_key(owner, "inside", "staging"), await new_key(owner, "outside")
    # Every process has them in its memory, by every name.
    names = {"inside": ["staging/inside", inside], "outside": ["production/outside", outside]}
    for wire in tenant.owners:
        await wire.sign_batch([Item(key_id=name, data=b"x") for each in names.values() for name in each])
    bounds: dict[str, Any] = {"namespaces": ["staging"]} if by_name else {"keys": [inside]}
    key = await made(owner, scopes=KEY_SCOPES, **bounds)
    for socket in sockets:
        async with Wire(socket, key.key) as limited:
            await stays_within(limited, names)
            created = limited.keys.CreateKey(
                key_pb2.CreateKeyRequest(name="new"), metadata=limited.metadata, timeout=PATIENCE
            )
            assert await refusal(created) == ("NAMESPACE_NOT_FOUND" if by_name else "API_KEY_RESTRICTED")
    trail = await Trail.read(owner)
    assert [row for row in trail.rows if row.actor == key.api_key.id and row.key_id == outside] == []


async def stays_within(limited: Wire, names: dict[str, list[str]]) -> None:
    told: dict[str, Any] = {"metadata": limited.metadata, "timeout": PATIENCE}
    items = [Item(key_id=name, data=b"x") for each in names.values() for name in each]
    for ask in (limited.sign_batch, limited.sign_stream):
        outcomes = await ask(items)
        assert [isinstance(outcome, Signed) for outcome in outcomes] == [True, True, False, False]
        assert {refused.reason for refused in outcomes if isinstance(refused, Refused)} == {"KEY_NOT_FOUND"}
    for name in names["outside"]:
        (alone,) = await limited.sign_one([Item(key_id=name, data=b"x")])
        assert isinstance(alone, Refused)
        for call in (
            limited.keys.GetKey(key_pb2.GetKeyRequest(key_id=name), **told),
            limited.keys.UpdateKey(key_pb2.UpdateKeyRequest(key_id=name, name="mine"), **told),
            limited.keys.DeleteKey(key_pb2.DeleteKeyRequest(key_id=name, force=True), **told),
            limited.signing.Verify(sign_pb2.VerifyRequest(key_id=name, data=b"x", signature=bytes(64)), **told),
        ):
            assert await refusal(call) == "KEY_NOT_FOUND"
    listed = await limited.keys.ListKeys(key_pb2.ListKeysRequest(), **told)
    assert [key.name for key in listed.keys] == ["inside"]
    spaces = await limited.namespaces.ListNamespaces(namespace_pb2.ListNamespacesRequest(), **told)
    assert [space.name for space in spaces.namespaces] == ["staging"]
    beyond = limited.keys.ListKeys(key_pb2.ListKeysRequest(namespace="production"), **told)
    assert await refusal(beyond) == "NAMESPACE_NOT_FOUND"
    for change in (
        limited.namespaces.CreateNamespace(namespace_pb2.CreateNamespaceRequest(name="more"), **told),
        limited.namespaces.DeleteNamespace(namespace_pb2.DeleteNamespaceRequest(namespace_id="staging"), **told),
    ):
        assert await refusal(change) == "API_KEY_RESTRICTED"


async def test_bounds_are_checked_where_a_key_is_made(tenant: Tenant) -> None:
    owner = tenant.owners[0]
    for request, reason in (
        ({"scopes": KEY_SCOPES, "namespaces": ["nowhere"]}, "NAMESPACE_NOT_FOUND"),
        ({"scopes": KEY_SCOPES, "keys": ["production/nothing"]}, "KEY_NOT_FOUND"),
        ({"scopes": KEY_SCOPES, "ip_allow_list": ["203.0.113.7/24"]}, "INVALID_FIELD"),
        ({"scopes": KEY_SCOPES, "ip_allow_list": ["203.0.113.7"] * 65}, "INVALID_FIELD"),
        ({"scopes": KEY_SCOPES, "namespaces": ["production"] * 65}, "INVALID_FIELD"),
        ({"scopes": KEY_SCOPES, "keys": ["production/a"] * 257}, "INVALID_FIELD"),
        ({"role": api_key_pb2.ADMIN, "namespaces": ["production"]}, "INVALID_FIELD"),
    ):
        assert await refusal(made(owner, **request)) == reason
    shown = (await made(owner, scopes=KEY_SCOPES, namespaces=["production"], ip_allow_list=["192.0.2.1"])).api_key
    assert (list(shown.namespaces), list(shown.ip_allow_list)) == (["production"], ["192.0.2.1/32"])
    assert shown.created_by == owner.actor


async def test_a_key_is_refused_beyond_its_networks_and_its_use_is_not_noted(
    tenant: Tenant, sockets: list[str]
) -> None:
    owner = tenant.owners[0]
    key = await made(owner, scopes=KEY_SCOPES, ip_allow_list=["203.0.113.0/24"])
    for socket in sockets:
        async with Wire(socket, key.key) as wire:
            request = namespace_pb2.ListNamespacesRequest()
            # Over a unix socket only the gateway knows an address, and without one there is none to allow.
            assert (
                await refusal(wire.namespaces.ListNamespaces(request, metadata=wire.metadata)) == "ADDRESS_NOT_ALLOWED"
            )
            for address, allowed in (("203.0.113.9", True), ("::ffff:203.0.113.9", True), ("198.51.100.7", False)):
                told = (*wire.metadata, ("x-envoy-external-address", address))
                call = wire.namespaces.ListNamespaces(request, metadata=told)
                if allowed:
                    await call
                else:
                    assert await refusal(call) == "ADDRESS_NOT_ALLOWED"
    trail = await Trail.read(owner)
    assert "198.51.100.7" not in {row.ip_address for row in trail.rows}
