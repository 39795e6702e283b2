"""A quota is exact to the signature, however many ask at once and whichever server process they ask."""

import asyncio
import os
from collections import Counter

import grpc
import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from popsigner_server.gen.popsigner.v1 import key_pb2, sign_pb2
from popsigner_server.storage.tables import ledger_heads
from tests.integration.promises.site import Tenant
from tests.integration.promises.trail import Trail
from tests.support.load import Client, Item, Load, Signed, Wire, quota_of, reason_of

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
    # A retry of what was counted costs nothing, from whichever server.
    assert (await second.signing.Sign(last, metadata=second.metadata, timeout=10)).signature == signature

    await set_quota(database, tenant, 2)
    assert (await second.signing.Sign(another, metadata=second.metadata, timeout=10)).signature
    trail = await Trail.read(first)
    trail.assert_unbroken()
    assert sum(map(len, trail.signatures.values())) == 2


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
