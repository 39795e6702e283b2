"""Revocation is exact, whichever of three server processes revokes and whichever signs: no signature by what was
revoked has a row after the revocation's own, and none was answered without a row before it."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from popsigner_server.domain.principals import Scope
from popsigner_server.gen.popsigner.v1 import api_key_pb2, key_pb2
from popsigner_server.storage.tables import ledger_heads
from tests.integration.promises.site import Tenant
from tests.integration.promises.trail import Trail
from tests.support.load import PATIENCE, Client, Load, Wire

ROUNDS = 8
# Answers that each client of a victim has before the victim is revoked.
WARM = 3
# A client of a victim ends by its first refusal; one that is not refused, so many messages after the revocation.
MORE = 50
MESSAGES = 2_000
BATCH = 8

_names = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Victim:
    """What was revoked (`ak_…`, `key_…`, `user_…` or `sess_…`), the event that its row must have, and the clients that
    signed by it; `by` is whom their rows name, where that is another."""

    subject: str
    event: str
    load: Load
    by: str = ""


async def new_api_key(owner: Wire) -> tuple[str, str]:
    """The id and the text of an API key that may sign and nothing else."""
    request = api_key_pb2.CreateApiKeyRequest(name=f"signer-{next(_names)}", scopes=[Scope.KEYS_SIGN])
    made = await owner.api_keys.CreateApiKey(request, metadata=owner.metadata, timeout=PATIENCE)
    return made.api_key.id, made.key


async def new_keys(owner: Wire, count: int) -> list[str]:
    """The ids of new keys."""
    request = key_pb2.BatchCreateKeysRequest(prefix=f"signer-{next(_names)}", count=count)
    made = await owner.keys.BatchCreateKeys(request, metadata=owner.metadata, timeout=PATIENCE)
    return [key.id for key in made.keys]


async def revoke_api_key(owner: Wire, api_key_id: str) -> None:
    request = api_key_pb2.RevokeApiKeyRequest(api_key_id=api_key_id)
    await owner.api_keys.RevokeApiKey(request, metadata=owner.metadata, timeout=PATIENCE)


async def delete_key(owner: Wire, key_id: str) -> None:
    await owner.keys.DeleteKey(key_pb2.DeleteKeyRequest(key_id=key_id), metadata=owner.metadata, timeout=PATIENCE)


async def disable_key(owner: Wire, key_id: str) -> None:
    await owner.keys.DisableKey(key_pb2.DisableKeyRequest(key_id=key_id), metadata=owner.metadata, timeout=PATIENCE)


async def destroy_key(owner: Wire, key_id: str) -> None:
    request = key_pb2.DeleteKeyRequest(key_id=key_id, force=True)
    await owner.keys.DeleteKey(request, metadata=owner.metadata, timeout=PATIENCE)


@asynccontextmanager
async def signing(
    sockets: Sequence[str], credential: str, keys: Sequence[str], *, mortal: bool, actor: str = "", pause: float = 0.0
) -> AsyncIterator[Load]:
    """Nine clients: of each server one of Sign, one of BatchSign and one of SignStream."""
    load = Load(seconds=3 * PATIENCE)
    wires = [Wire(socket, credential, actor=actor) for socket in sockets for _ in range(3)]
    for one, batch, stream in zip(wires[::3], wires[1::3], wires[2::3], strict=True):
        for ask, size in ((one.sign_one, 1), (batch.sign_batch, BATCH), (stream.sign_stream, BATCH)):
            load.start(Client(ask, keys=keys, messages=MESSAGES, size=size, mortal=mortal, pause=pause))
    try:
        yield load
    finally:
        await load.stop()
        for wire in wires:
            await wire.close()


async def revoked_under_load(
    sockets: Sequence[str],
    credential: str,
    keys: Sequence[str],
    revoke: Callable[[], Awaitable[object]],
    *,
    actor: str = "",
) -> Load:
    """The nine clients' load: revoked once each of them was answered, and then ended by refusals."""
    async with signing(sockets, credential, keys, mortal=True, actor=actor) as load:
        deadline = time.monotonic() + PATIENCE
        while any(len(client.answered) < WARM for client in load.clients):
            assert time.monotonic() < deadline, [refused.reason for refused in load.refused]
            await asyncio.sleep(0.005)
        await revoke()
        for client in load.clients:
            client.stop_after(MORE)
        await load.ended(within=PATIENCE)
    return load


async def judge(owner: Wire, victims: Sequence[Victim], others: Sequence[Load]) -> None:
    """Hold the ledger against everything that was answered."""
    loads = [*others, *(victim.load for victim in victims)]
    trail = await Trail.read(owner)
    trail.assert_unbroken()
    trail.assert_accounts_for(
        [signed for load in loads for signed in load.answered], asked=[item for load in loads for item in load.asked]
    )
    for victim in victims:
        end, by = trail.place(victim.event, victim.subject), victim.by or victim.subject
        late = [sequence for sequence in trail.signed_by(by) if sequence > end]
        assert not late, f"{len(late)} signatures by {victim.subject} have a row after row {end}, its {victim.event}"
        for signed in victim.load.answered:
            if by in (signed.actor, signed.item.key_id):
                assert trail.of(signed.item)[0].sequence < end


async def test_no_signature_by_an_api_key_follows_its_revocation(tenant: Tenant, sockets: list[str]) -> None:
    owners, victims = tenant.owners, []
    keys = await new_keys(owners[0], 4)
    async with signing(sockets, tenant.api_key, keys, mortal=False, pause=0.02) as others:
        for number in range(ROUNDS):
            subject, api_key = await new_api_key(owners[number % 3])
            revoke = partial(revoke_api_key, owners[(number + 1) % 3], subject)
            load = await revoked_under_load(sockets, api_key, keys, revoke)
            victims.append(Victim(subject=subject, event="api_key.revoked", load=load))
    await judge(owners[0], victims, [others])
    assert {refused.reason for victim in victims for refused in victim.load.refused} == {"API_KEY_REVOKED"}
    assert all(client.refused for victim in victims for client in victim.load.clients)
    assert not others.refused


async def test_no_signature_by_a_key_follows_its_deletion(tenant: Tenant, sockets: list[str]) -> None:
    owners, victims = tenant.owners, []
    lasting = await new_keys(owners[0], 3)
    signers = [await new_api_key(owners[0]) for _ in range(2)]
    async with signing(sockets, tenant.api_key, lasting, mortal=False, pause=0.02) as others:
        for number in range(ROUNDS):
            (subject,) = await new_keys(owners[number % 3], 1)
            revoke = partial((delete_key, destroy_key)[number % 2], owners[(number + 1) % 3], subject)
            # Of a batch only the items of the deleted key are refused.
            load = await revoked_under_load(sockets, signers[number % 2][1], [subject, lasting[0]], revoke)
            victims.append(Victim(subject=subject, event="key.deleted", load=load))
    await judge(owners[0], victims, [others])
    refused = [refused for victim in victims for refused in victim.load.refused]
    assert {refusal.reason for refusal in refused} <= {"KEY_DELETED", "KEY_NOT_FOUND"}
    assert {refusal.item.key_id for refusal in refused} == {victim.subject for victim in victims}
    assert all(client.refused for victim in victims for client in victim.load.clients)
    assert not others.refused


async def test_no_signature_by_a_key_follows_its_disabling(tenant: Tenant, sockets: list[str]) -> None:
    owners, victims = tenant.owners, []
    lasting = await new_keys(owners[0], 3)
    _, api_key = await new_api_key(owners[0])
    async with signing(sockets, tenant.api_key, lasting, mortal=False, pause=0.02) as others:
        for number in range(ROUNDS):
            (subject,) = await new_keys(owners[number % 3], 1)
            revoke = partial(disable_key, owners[(number + 1) % 3], subject)
            load = await revoked_under_load(sockets, api_key, [subject, lasting[0]], revoke)
            victims.append(Victim(subject=subject, event="key.disabled", load=load))
    await judge(owners[0], victims, [others])
    refused = [refused for victim in victims for refused in victim.load.refused]
    assert {refusal.reason for refusal in refused} == {"KEY_DISABLED"}
    assert {refusal.item.key_id for refusal in refused} == {victim.subject for victim in victims}
    assert all(client.refused for victim in victims for client in victim.load.clients)
    assert not others.refused


async def in_line(database: AsyncEngine, application: str, count: int) -> None:
    """Wait until so many sessions of the application wait for a lock."""
    query = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = :name AND wait_event_type = 'Lock'"
    )
    deadline = time.monotonic() + PATIENCE
    async with database.connect() as connection:
        while (await connection.execute(query, {"name": application})).scalar_one() < count:
            await connection.rollback()
            assert time.monotonic() < deadline, f"fewer than {count} sessions of {application} wait for the head"
            await asyncio.sleep(0.01)


async def held_in_line(
    database: AsyncEngine, tenant: Tenant, wires: Sequence[Wire], key_id: str, revoke: Callable[[], Awaitable[object]]
) -> list[Load]:
    """While somebody holds the organization's head: signatures that wait for it on every server, the revocation behind
    them, and more signatures behind that; then the head is let go. The loads of both, ended."""
    loads = [Load(seconds=PATIENCE), Load(seconds=PATIENCE)]
    ahead, behind = ([Client(wire.sign_one, keys=[key_id], messages=1) for wire in wires[n::2]] for n in range(2))
    head = select(ledger_heads).where(ledger_heads.c.org_id == tenant.id).with_for_update()
    async with database.begin() as holder:
        await holder.execute(head)
        loads[0].start(*ahead)
        await in_line(database, "popsigner-gate", len(tenant.owners))
        revoking = asyncio.ensure_future(revoke())
        await in_line(database, "popsigner-server", 1)
        loads[1].start(*behind)
    await revoking
    for load in loads:
        assert await load.ended(within=PATIENCE)
    return loads


@pytest.mark.parametrize(
    ("event", "reason"),
    [("api_key.revoked", "API_KEY_REVOKED"), ("key.deleted", "KEY_DELETED"), ("key.disabled", "KEY_DISABLED")],
)
async def test_signatures_that_stand_in_line_with_their_revocation_stay_exact(
    tenant: Tenant, sockets: list[str], database: AsyncEngine, event: str, reason: str
) -> None:
    owners, victims = tenant.owners, []
    for number in range(ROUNDS):
        api_key_id, api_key = await new_api_key(owners[0])
        (key_id,) = await new_keys(owners[0], 1)
        subject, revoke = {
            "api_key.revoked": (api_key_id, revoke_api_key),
            "key.deleted": (key_id, delete_key),
            "key.disabled": (key_id, disable_key),
        }[event]
        wires = [Wire(socket, api_key) for socket in sockets for _ in range(4)]
        # Every server knows the API key and the key before the head is held: from then on only the gate can refuse.
        early = Load(seconds=PATIENCE)
        early.start(*(Client(wire.sign_one, keys=[key_id], messages=1) for wire in wires))
        assert await early.ended(within=PATIENCE)
        assert len(early.answered) == len(wires)
        loads = await held_in_line(database, tenant, wires, key_id, partial(revoke, owners[number % 3], subject))
        victims += [Victim(subject=subject, event=event, load=load) for load in (early, *loads)]
        for wire in wires:
            await wire.close()
    await judge(owners[0], victims, [])
    assert {refused.reason for victim in victims for refused in victim.load.refused} <= {reason}
