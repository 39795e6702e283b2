"""A quota is exact to the signature, however many ask at once and whichever server process they ask."""

import asyncio
import os
import re
from collections import Counter

import aiohttp
import grpc
import pytest
from sqlalchemy import func, update
from sqlalchemy.ext.asyncio import AsyncEngine

from popsigner_server.gen.popsigner.v1 import key_pb2, namespace_pb2, sign_pb2
from popsigner_server.storage.tables import ledger_heads, organizations, quota_notices, usage_metrics
from tests.integration.promises.site import Tenant
from tests.integration.promises.trail import Trail
from tests.support.load import Client, Item, Load, Signed, Wire, quota_of, reason_of
from tests.support.pop import Pop

LEFT = 500
USED = 20
# Of each kind, each asking once: 600 of Sign, and 200 items each in messages of BatchSign and of SignStream.
SINGLES, MESSAGES, SIZE = 600, 20, 10
HEDGED = 100


async def set_quota(database: AsyncEngine, tenant: Tenant, quota: int) -> None:
    async with database.begin() as connection:
        await connection.execute(
            update(ledger_heads).where(ledger_heads.c.org_id == tenant.id).values(signature_quota=quota)
        )


async def give_plan(database: AsyncEngine, tenant: Tenant, plan: str) -> None:
    async with database.begin() as connection:
        await connection.execute(update(organizations).where(organizations.c.id == tenant.id).values(plan=plan))


async def create_key(tenant: Tenant, number: int) -> str:
    """Empty, or the reason and the quota of its refusal."""
    wire = tenant.owners[number % len(tenant.owners)]
    request = key_pb2.CreateKeyRequest(name=f"key-{number}")
    try:
        await wire.keys.CreateKey(request, metadata=wire.metadata, timeout=60)
    except grpc.aio.AioRpcError as error:
        return f"{reason_of(error)} {quota_of(error)}"
    return ""


async def create_namespace(tenant: Tenant, number: int) -> str:
    """As above."""
    wire = tenant.owners[number % len(tenant.owners)]
    request = namespace_pb2.CreateNamespaceRequest(name=f"room-{number}")
    try:
        await wire.namespaces.CreateNamespace(request, metadata=wire.metadata, timeout=60)
    except grpc.aio.AioRpcError as error:
        return f"{reason_of(error)} {quota_of(error)}"
    return ""


def events_of(trail: Trail, beginning: str) -> list[str]:
    """Events of the trail, in its order, which has no gap."""
    assert [row.sequence for row in trail.rows] == list(range(1, len(trail.rows) + 1))
    return [row.event for row in trail.rows if row.event.startswith(beginning)]


async def test_a_thousand_at_once_with_500_left_are_500_signatures(
    tenant: Tenant, sockets: list[str], database: AsyncEngine
) -> None:
    owner = tenant.owners[0]
    made = await owner.keys.BatchCreateKeys(
        key_pb2.BatchCreateKeysRequest(prefix="quota", count=4), metadata=owner.metadata, timeout=30
    )
    keys = [key.id for key in made.keys]
    before = Load(seconds=30)
    before.start(Client(owner.sign_batch, keys=keys, messages=1, size=USED))
    assert await before.ended(within=30)
    assert len(before.answered) == USED
    await set_quota(database, tenant, USED + LEFT)

    load = Load(seconds=60)
    wires = [Wire(socket, tenant.api_key) for socket in sockets]
    streams = [Wire(sockets[number % len(sockets)], tenant.api_key) for number in range(MESSAGES)]
    for number in range(SINGLES):
        load.start(Client(wires[number % len(wires)].sign_one, keys=keys, messages=1, named=number % 2 == 0))
    for number in range(MESSAGES):
        load.start(Client(wires[number % len(wires)].sign_batch, keys=keys, messages=1, size=SIZE))
        load.start(Client(streams[number].sign_stream, keys=keys, messages=1, size=SIZE, named=True))
    assert await load.ended(within=60)

    assert len(load.asked) == 2 * LEFT
    assert len(load.answered) == LEFT
    assert Counter(refused.reason for refused in load.refused) == {"QUOTA_EXCEEDED": LEFT}
    trail = await Trail.read(owner)
    trail.assert_unbroken()
    trail.assert_accounts_for(before.answered + load.answered, asked=before.asked + load.asked)
    assert sum(map(len, trail.signatures.values())) == USED + LEFT
    used = {usage.metric: usage for usage in trail.usage.usage}["signatures"]
    assert (used.value, used.quota) == (USED + LEFT, USED + LEFT)
    assert events_of(trail, "quota.") == ["quota.warning", "quota.exceeded"]
    for wire in (*wires, *streams):
        await wire.close()


async def test_a_used_up_quota_names_itself_and_still_repeats_what_it_gave(
    tenant: Tenant, database: AsyncEngine
) -> None:
    first, second, _ = tenant.owners
    made = await first.keys.CreateKey(key_pb2.CreateKeyRequest(name="last"), metadata=first.metadata, timeout=30)
    await set_quota(database, tenant, 1)
    last = sign_pb2.SignRequest(key_id=made.key.id, data=b"the last one", request_id="once")
    signature = (await first.signing.Sign(last, metadata=first.metadata, timeout=10)).signature

    for owner in tenant.owners:
        another = sign_pb2.SignRequest(key_id=made.key.id, data=b"one too many")
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await owner.signing.Sign(another, metadata=owner.metadata, timeout=10)
        assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (reason_of(refusal.value), quota_of(refusal.value)) == ("QUOTA_EXCEEDED", "signatures")
        assert re.search(r"this calendar month .* again from \d{4}-\d\d-01 00:00 UTC", refusal.value.details() or "")
    # A retry of what was counted costs nothing, from whichever server.
    assert (await second.signing.Sign(last, metadata=second.metadata, timeout=10)).signature == signature

    await set_quota(database, tenant, 2)
    assert (await second.signing.Sign(another, metadata=second.metadata, timeout=10)).signature
    trail = await Trail.read(first)
    trail.assert_unbroken()
    assert sum(map(len, trail.signatures.values())) == 2


async def test_the_warning_comes_with_the_signature_that_reaches_80_percent_and_a_new_month_begins_anew(
    tenant: Tenant, database: AsyncEngine
) -> None:
    owner = tenant.owners[0]
    made = await owner.keys.CreateKey(key_pb2.CreateKeyRequest(name="month"), metadata=owner.metadata, timeout=30)
    await set_quota(database, tenant, 10)

    async def sign(count: int) -> int:
        wires = [tenant.owners[number % len(tenant.owners)] for number in range(count)]
        items = [Item(key_id=made.key.id, data=os.urandom(32)) for _ in wires]
        answers = await asyncio.gather(*(wire.sign_one([item]) for wire, item in zip(wires, items, strict=True)))
        return sum(isinstance(outcome, Signed) for (outcome,) in answers)

    assert await sign(7) == 7
    assert events_of(await Trail.read(owner), "quota.") == []
    assert await sign(1) == 1
    assert events_of(await Trail.read(owner), "quota.") == ["quota.warning"]
    assert await sign(30) == 2
    # As if all of it had been a month ago.
    async with database.begin() as connection:
        for table in (usage_metrics, quota_notices):
            month_ago = table.c.period_start - func.make_interval(0, 1)
            await connection.execute(update(table).where(table.c.org_id == tenant.id).values(period_start=month_ago))
    assert await sign(30) == 10
    assert events_of(await Trail.read(owner), "quota.") == ["quota.warning", "quota.exceeded"] * 2


async def test_keys_and_namespaces_are_exact_over_every_server(tenant: Tenant, database: AsyncEngine) -> None:
    await give_plan(database, tenant, "free")
    free = await asyncio.gather(*(create_key(tenant, number) for number in range(60)))
    assert Counter(free) == {"": 3, "QUOTA_EXCEEDED keys": 57}
    assert await create_namespace(tenant, 0) == "QUOTA_EXCEEDED namespaces"

    await give_plan(database, tenant, "pro")
    pro = await asyncio.gather(*(create_namespace(tenant, number) for number in range(30)))
    assert Counter(pro) == {"": 4, "QUOTA_EXCEEDED namespaces": 26}
    assert await create_key(tenant, 100) == ""

    trail = await Trail.read(tenant.owners[0])
    trail.assert_unbroken()
    assert Counter(row.event for row in trail.rows) == {
        "key.created": 4,
        "namespace.created": 4,
        "quota.warning": 2,
        "quota.exceeded": 2,
    } | Counter(row.event for row in trail.rows if row.event.startswith("auth."))
    used = {usage.metric: (usage.value, usage.quota) for usage in trail.usage.usage}
    assert (used["keys"], used["namespaces"], used["members"]) == ((4, 25), (5, 5), (0, 10))


async def test_json_callers_are_told_which_quota(tenant: Tenant, database: AsyncEngine, trio: Pop) -> None:
    await give_plan(database, tenant, "free")
    async with (
        aiohttp.ClientSession(headers={"x-api-key": tenant.api_key}) as session,
        session.post(f"{trio.http}/v1/namespaces", json={"name": "second"}) as answer,
    ):
        body = await answer.json()
    assert answer.status == 429
    assert "retry-after" not in answer.headers
    details = {detail["@type"].rpartition(".")[2]: detail for detail in body["details"]}
    assert details["ErrorInfo"]["reason"] == "QUOTA_EXCEEDED"
    (violation,) = details["QuotaFailure"]["violations"]
    assert violation["subject"] == "namespaces"
    assert "The plan free allows 1 namespace, and the organization has 1" in violation["description"] == body["message"]


async def test_one_request_id_asked_of_every_server_at_once_counts_once(tenant: Tenant) -> None:
    owner = tenant.owners[0]
    made = await owner.keys.CreateKey(key_pb2.CreateKeyRequest(name="hedged"), metadata=owner.metadata, timeout=30)
    items = [Item(key_id=made.key.id, data=os.urandom(32), request_id=f"hedged-{number}") for number in range(HEDGED)]
    answers = await asyncio.gather(*(wire.sign_one([item]) for item in items for wire in tenant.owners))

    signed = [outcome for (outcome,) in answers if isinstance(outcome, Signed)]
    assert len(signed) == len(answers)
    assert len({outcome.signature for outcome in signed}) == HEDGED
    trail = await Trail.read(owner)
    trail.assert_unbroken()
    assert [len(trail.of(item)) for item in items] == [1] * HEDGED
