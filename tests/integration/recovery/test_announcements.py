"""What waits is told to every owner who asks who they are, and to nobody else."""

import re
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from popsigner_server.domain.ids import Prefix, new_id, show
from popsigner_server.domain.principals import Caller, Person, Role
from popsigner_server.gen.popsigner.v1 import auth_pb2, recovery_pb2
from popsigner_server.storage.tables import api_keys, org_members, organizations
from popsigner_server.tenancy.belongings import Belongings
from popsigner_server.transport.handlers import cancel_recovery_change, get_recovery, set_recovery_recipient
from popsigner_server.transport.handlers.whoami import whoami
from popsigner_server.transport.interceptors.base import Call
from tests.integration.isolation.house import Context
from tests.integration.recovery.kit import Kit, furnished, new_recipient

RECIPIENT = new_recipient()


@pytest.fixture
async def waiting(kit: Kit) -> Kit:
    """With a first recipient that waits."""
    await kit.key("key")
    await kit.set(RECIPIENT)
    return kit


async def told(kit: Kit, caller: Caller, *, names_one: bool = True) -> list[str]:
    """What Whoami announces; a person who belongs to several organizations may name none."""
    context: Any = Context()
    call, principal = Call(context), caller.principal
    if names_one:
        call.caller = caller
    if principal.session_id is not None:
        call.person = Person(
            user_id=principal.actor_id,
            session_id=principal.session_id,
            email="a@example.com",
            name="A",
            provider_org=None,
            ip_address=None,
            user_agent=None,
        )
    handler = whoami(Belongings(kit.database), kit.settings)
    answer: auth_pb2.WhoamiResponse = await handler(call, auth_pb2.WhoamiRequest())
    return list(answer.announcements)


async def slug_of(kit: Kit) -> str:
    async with kit.engine.connect() as connection:
        query = select(organizations.c.slug).where(organizations.c.id == kit.mine.id)
        return str(await connection.scalar(query))


async def test_every_owner_is_told_who_what_and_until_when(waiting: Kit) -> None:
    change = (await waiting.get()).change
    assert change is not None
    for owner in (waiting.owner, await waiting.person(Role.OWNER), await waiting.person(Role.OWNER)):
        (sentence,) = await told(waiting, owner)
        assert sentence == (
            f"Recovery of {await slug_of(waiting)}: from {change.effective_at:%Y-%m-%d %H:%M} UTC on all its private"
            f" keys are sealed to {RECIPIENT}, as {show(Prefix.API_KEY, waiting.owner.principal.actor_id)} asked on"
            f" {change.announced_at:%Y-%m-%d %H:%M} UTC; until then any owner can stop it, with `popsigner recovery"
            " cancel` or CancelRecoveryChange."
        )
    await waiting.settings.cancel(waiting.owner)
    assert await told(waiting, waiting.owner) == []


async def test_a_removal_is_told_too(kit: Kit) -> None:
    await kit.settle(RECIPIENT)
    assert await told(kit, kit.owner) == []
    person = await kit.person(Role.OWNER)
    await kit.settings.set(person, "")
    (sentence,) = await told(kit, kit.owner)
    assert "on no recovery copy is kept, as user_" in sentence
    await kit.pass_time(days=3, seconds=1)
    await kit.turn()
    assert await told(kit, kit.owner) == []


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR, Role.ADMIN])
async def test_nobody_else_is_told(waiting: Kit, role: Role) -> None:
    assert await told(waiting, await waiting.person(role)) == []
    # An API key of the organization with less than that role.
    principal = waiting.owner.principal
    async with waiting.engine.begin() as connection:
        mine = api_keys.c.id == principal.actor_id
        await connection.execute(update(api_keys).where(mine).values(role=role.value))
    lesser = Caller(principal=replace(principal, role=role), ip_address=None, user_agent=None)
    assert await told(waiting, lesser) == []


async def join(kit: Kit, person: Caller, role: Role) -> None:
    async with kit.engine.begin() as connection:
        values = {"org_id": kit.mine.id, "user_id": person.principal.actor_id, "role": role.value}
        await connection.execute(insert(org_members).values(values))


async def test_an_owner_of_several_is_told_of_each_that_they_own(waiting: Kit, engine: AsyncEngine) -> None:
    second, third, others = [await furnished(engine) for _ in range(3)]
    person = await waiting.person(Role.OWNER)
    for kit in (second, third, others):
        await kit.key("key")
        await kit.set(new_recipient())
    await join(second, person, Role.OWNER)
    await join(third, person, Role.ADMIN)
    assert set(await waiting.settings.waiting([second.mine.id, new_id()])) == {second.mine.id}
    for names_one in (True, False):
        sentences = await told(waiting, person, names_one=names_one)
        slugs = [found[1] for sentence in sentences if (found := re.match(r"Recovery of (\S+):", sentence))]
        assert sorted(slugs) == sorted([await slug_of(waiting), await slug_of(second)])


async def test_the_wire_says_the_same(kit: Kit) -> None:
    """The handlers: what is no recipient is refused before anything happens, and absent is absent."""
    context: Any = Context()
    call = Call(context)
    call.caller = kit.owner
    register = set_recovery_recipient.set_recovery_recipient(kit.settings)
    for wrong in ("age1", RECIPIENT.upper(), RECIPIENT[:-1] + ("q" if RECIPIENT[-1] != "q" else "p")):
        with pytest.raises(Exception, match="recipient: must be an age X25519 recipient"):
            await register(call, recovery_pb2.SetRecoveryRecipientRequest(recipient=wrong))
    assert await kit.trail() == []
    await kit.key("key")
    shown: recovery_pb2.GetRecoveryResponse = await get_recovery.get_recovery(kit.settings)(
        call, recovery_pb2.GetRecoveryRequest()
    )
    assert shown.recovery == recovery_pb2.Recovery(keys=1)
    answer: recovery_pb2.SetRecoveryRecipientResponse = await register(
        call, recovery_pb2.SetRecoveryRecipientRequest(recipient=RECIPIENT)
    )
    waits, state = answer.recovery, await kit.get()
    assert state.change is not None
    assert (waits.recipient, waits.keys, waits.covered) == (RECIPIENT, 1, 0)
    assert (waits.change.recipient, waits.change.announced_by) == (
        RECIPIENT,
        show(Prefix.API_KEY, kit.owner.principal.actor_id),
    )
    assert waits.change.effective_at.ToDatetime().replace(tzinfo=state.change.effective_at.tzinfo) == (
        state.change.effective_at
    )
    cancelled: recovery_pb2.CancelRecoveryChangeResponse = await cancel_recovery_change.cancel_recovery_change(
        kit.settings
    )(call, recovery_pb2.CancelRecoveryChangeRequest())
    assert cancelled.recovery == recovery_pb2.Recovery(keys=1)
