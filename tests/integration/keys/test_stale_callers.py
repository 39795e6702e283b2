"""Callers whose right was just taken away, while the process that serves them still remembers it: none of them makes
one more change. Each is judged by what it is under the head; nothing is written, and the trail has no row of it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Table, select, update

from popsigner_server import errors
from popsigner_server.domain.keys import KeyState
from popsigner_server.domain.principals import UNBOUND, ActorKind, Caller, Principal, Role, Scope
from popsigner_server.identity.api_keys import ApiKeys
from popsigner_server.identity.bounds import Wish as ApiKeyWish
from popsigner_server.identity.session_rows import end_sessions
from popsigner_server.keys import Wish
from popsigner_server.storage.engine import Database
from popsigner_server.storage.tables import (
    api_keys,
    audit_logs,
    key_versions,
    keys,
    ledger_heads,
    namespaces,
    sessions,
)
from popsigner_server.tenancy.members import Members
from popsigner_server.tenancy.namespaces import Namespaces
from tests.integration.keys.desk import Desk
from tests.support.memory_vault import MemoryVault
from tests.support.organizations import joined
from tests.support.plans import packaged_quotas


def of(desk: Desk) -> Namespaces:
    return Namespaces(Database(desk.engine), desk.ledger, packaged_quotas())


def wish(name: str) -> Wish:
    return Wish(name=name, namespace="production", exportable=False, metadata={})


# What a caller may ask for: each with the key that it is about, one that is enabled, disabled, or deleted.
Deed = Callable[[Desk, Caller, str], Awaitable[object]]
DEEDS: dict[str, tuple[KeyState, Deed]] = {
    "rotate": (KeyState.ENABLED, lambda d, c, k: d.rotation.rotate(c, k, expected=0)),
    # A repetition: the vault is not asked, and the answer would be the key as it stands.
    "rotate again": (KeyState.ENABLED, lambda d, c, k: d.rotation.rotate(c, k, expected=1)),
    "disable": (KeyState.ENABLED, lambda d, c, k: d.lifecycle.disable(c, k)),
    "enable": (KeyState.DISABLED, lambda d, c, k: d.lifecycle.enable(c, k)),
    "update": (
        KeyState.ENABLED,
        lambda d, c, k: d.lifecycle.update(c, k, name="other", metadata={"chain": "celestia"}, check=lambda _: None),
    ),
    "raise the minimum": (
        KeyState.ENABLED,
        lambda d, c, k: d.lifecycle.update(c, k, name=None, metadata={}, check=lambda _: None, min_version=2),
    ),
    "delete": (KeyState.ENABLED, lambda d, c, k: d.lifecycle.delete(c, k, force=False)),
    "destroy": (KeyState.ENABLED, lambda d, c, k: d.lifecycle.delete(c, k, force=True)),
    "destroy a deleted one": (KeyState.DELETED, lambda d, c, k: d.lifecycle.delete(c, k, force=True)),
    "undelete": (KeyState.DELETED, lambda d, c, k: d.lifecycle.undelete(c, k)),
    "create": (KeyState.ENABLED, lambda d, c, _: d.creation.create(c, [wish("one"), wish("two")])),
    "create a namespace": (
        KeyState.ENABLED,
        lambda d, c, _: of(d).create(c, name="staging", address_prefix="celestia"),
    ),
    "delete a namespace": (KeyState.ENABLED, lambda d, c, _: of(d).delete(c, "empty")),
}


async def subject(desk: Desk, state: KeyState) -> str:
    """A key of two versions in this state, beside an empty namespace."""
    await of(desk).create(desk.mine.caller, name="empty", address_prefix="celestia")
    reference = await desk.create("subject")
    await desk.rotation.rotate(desk.mine.caller, reference, expected=1)
    if state is KeyState.DISABLED:
        await desk.lifecycle.disable(desk.mine.caller, reference)
    elif state is KeyState.DELETED:
        await desk.lifecycle.delete(desk.mine.caller, reference, force=False)
    return reference


# How a right ends: each gives back the caller as a process remembers it that has not heard of the end.
Ending = Callable[[Desk], Awaitable[Caller]]


async def api_key(desk: Desk, *, expires_at: datetime | None = None) -> Caller:
    """Another API key of the organization, with the right to change keys and nothing else."""
    wished = ApiKeyWish(
        name="writer",
        scopes=frozenset({Scope.KEYS_WRITE}),
        role=Role.UNSPECIFIED,
        expires_at=expires_at,
        bounds=UNBOUND,
    )
    key, _ = await _api_keys(desk).create(desk.mine.caller, wished)
    principal = Principal(
        organization_id=desk.mine.id,
        actor_id=key.id,
        actor_kind=ActorKind.API_KEY,
        plan="self-hosted",
        scopes=key.scopes,
        role=key.role,
        expires_at=expires_at,
    )
    return Caller(principal=principal, ip_address="192.0.2.3", user_agent="stale")


def _api_keys(desk: Desk) -> ApiKeys:
    return ApiKeys(Database(desk.engine), desk.ledger, environment="test")


async def set_columns(desk: Desk, table: Table, row: UUID, **values: object) -> None:
    async with desk.engine.begin() as connection:
        await connection.execute(update(table).where(table.c.id == row).values(**values))


async def a_revoked_api_key(desk: Desk) -> Caller:
    stale = await api_key(desk)
    await _api_keys(desk).revoke(desk.mine.caller, stale.principal.actor_id)
    return stale


async def an_expired_api_key(desk: Desk) -> Caller:
    stale = await api_key(desk, expires_at=datetime.now(UTC) + timedelta(days=1))
    await set_columns(desk, api_keys, stale.principal.actor_id, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    return stale


async def a_rotated_api_key(desk: Desk) -> Caller:
    stale = await api_key(desk)
    await _api_keys(desk).rotate(desk.mine.caller, stale.principal.actor_id, overlap=timedelta())
    return stale


async def an_api_key_of_nobody(desk: Desk) -> Caller:
    stale = await api_key(desk)
    async with desk.engine.begin() as connection:
        await connection.execute(api_keys.delete().where(api_keys.c.id == stale.principal.actor_id))
    return stale


async def somebody_demoted(desk: Desk) -> Caller:
    stale = await joined(desk.engine, desk.mine, Role.ADMIN)
    members = Members(Database(desk.engine), desk.ledger)
    await members.update(desk.mine.caller, stale.principal.actor_id, role=Role.OPERATOR)
    return stale


async def somebody_removed(desk: Desk) -> Caller:
    stale = await joined(desk.engine, desk.mine, Role.ADMIN)
    members = Members(Database(desk.engine), desk.ledger)
    await members.remove(desk.mine.caller, stale.principal.actor_id, revoke_api_keys=False)
    return stale


async def somebody_logged_out(desk: Desk) -> Caller:
    stale = await joined(desk.engine, desk.mine, Role.ADMIN)
    async with Database(desk.engine).identity() as connection:
        await end_sessions(connection, stale.principal.actor_id, stale.principal.session_id, reason="logout")
    return stale


async def somebody_whose_session_is_over(desk: Desk) -> Caller:
    stale = await joined(desk.engine, desk.mine, Role.ADMIN)
    assert stale.principal.session_id is not None
    await set_columns(desk, sessions, stale.principal.session_id, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    return stale


async def somebody_with_the_session_of_another(desk: Desk) -> Caller:
    mine, other = await joined(desk.engine, desk.mine, Role.ADMIN), await joined(desk.engine, desk.mine, Role.ADMIN)
    return replace(mine, principal=replace(mine.principal, session_id=other.principal.session_id))


ENDINGS: dict[str, tuple[Ending, type[errors.SignerError]]] = {
    "revoked": (a_revoked_api_key, errors.ApiKeyRevoked),
    "expired": (an_expired_api_key, errors.ApiKeyExpired),
    "rotated": (a_rotated_api_key, errors.ApiKeyRevoked),
    "unknown": (an_api_key_of_nobody, errors.CredentialsInvalid),
    "demoted": (somebody_demoted, errors.ScopeMissing),
    "removed": (somebody_removed, errors.MembershipMissing),
    "logged out": (somebody_logged_out, errors.SessionEnded),
    "session over": (somebody_whose_session_is_over, errors.SessionEnded),
    "another's session": (somebody_with_the_session_of_another, errors.SessionEnded),
}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that a change of a key or a namespace could have touched."""

    rows: dict[str, list[tuple[Any, ...]]]


async def snapshot(desk: Desk) -> Snapshot:
    found = {}
    async with desk.engine.connect() as connection:
        for table in (keys, key_versions, namespaces, audit_logs, ledger_heads):
            query = select(table).where(table.c.org_id == desk.mine.id)
            found[table.name] = sorted((tuple(row) for row in await connection.execute(query)), key=repr)
    return Snapshot(found)


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("ending", ENDINGS)
async def test_a_right_that_was_taken_away_makes_no_more_change(desk: Desk, deed: str, ending: str) -> None:
    state, do = DEEDS[deed]
    end, refusal = ENDINGS[ending]
    reference = await subject(desk, state)
    stale = await end(desk)
    before = await snapshot(desk)
    with pytest.raises(refusal) as refused:
        await do(desk, stale, reference)
    assert type(refused.value) is refusal
    assert await snapshot(desk) == before
    # No private key is gone, and none was made under a name that no row knows.
    assert list(desk.vault.keys) == [(await desk.key(reference)).id.hex]


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("person", [True, False], ids=["a person", "an API key"])
async def test_the_same_caller_may_while_the_right_stands(desk: Desk, deed: str, person: bool) -> None:
    """Else the refusals above could be anything's."""
    state, do = DEEDS[deed]
    reference = await subject(desk, state)
    caller = await joined(desk.engine, desk.mine, Role.ADMIN) if person else await api_key(desk)
    rows = len(await desk.trail())
    await do(desk, caller, reference)
    told = (await desk.trail())[rows:]
    assert all(row.actor_id == caller.principal.actor_id for row in told)
    assert told or deed in ("rotate again", "create")


async def test_a_secret_within_its_overlap_still_changes(desk: Desk) -> None:
    reference = await subject(desk, KeyState.ENABLED)
    stale = await api_key(desk)
    await _api_keys(desk).rotate(desk.mine.caller, stale.principal.actor_id, overlap=timedelta(hours=1))
    assert (await desk.lifecycle.disable(stale, reference)).state is KeyState.DISABLED


async def test_an_api_key_that_is_revoked_while_the_vault_works_makes_no_key(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reserved while it might, refused when it is to be enabled; the sweeper takes the private key away."""
    stale, made = await api_key(desk), MemoryVault.create

    async def revoked_meanwhile(
        vault: MemoryVault, name: str, *, exportable: bool, recovery_recipient: str = ""
    ) -> bytes:
        await _api_keys(desk).revoke(desk.mine.caller, stale.principal.actor_id)
        return await made(vault, name, exportable=exportable, recovery_recipient=recovery_recipient)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryVault, "create", revoked_meanwhile)
        with pytest.raises(errors.ApiKeyRevoked):
            await desk.creation.create(stale, [wish("late")])
    with pytest.raises(errors.KeyNotFound):
        await desk.sign("production/late")
    rows, _ = await desk.ledger.list(desk.mine.id, limit=100, cursor="")
    assert "key.created" not in [row.event for row in rows]
    await set_abandoned_long_ago(desk)
    await desk.lifecycle.sweep()
    assert desk.vault.keys == {}
    # The name is free again.
    await desk.create("late")


async def set_abandoned_long_ago(desk: Desk) -> None:
    async with desk.engine.begin() as connection:
        long_ago = datetime.now(UTC) - timedelta(days=1)
        await connection.execute(update(keys).where(keys.c.org_id == desk.mine.id).values(created_at=long_ago))


async def test_an_api_key_that_is_revoked_while_the_vault_works_rotates_nothing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The vault has a version more, which signs nothing and is the next rotation's."""
    reference = await desk.create("subject")
    stale, made = await api_key(desk), MemoryVault.rotate

    async def revoked_meanwhile(vault: MemoryVault, name: str, *, to_version: int) -> bytes:
        await _api_keys(desk).revoke(desk.mine.caller, stale.principal.actor_id)
        return await made(vault, name, to_version=to_version)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryVault, "rotate", revoked_meanwhile)
        with pytest.raises(errors.ApiKeyRevoked):
            await desk.rotation.rotate(stale, reference, expected=0)
    key = await desk.key(reference)
    assert (key.version, await desk.rows_of(key.id)) == (1, 1)
    assert "key.rotated" not in [row.event for row in await desk.trail()]
    with pytest.raises(errors.KeyVersionUnavailable):
        await desk.sign(reference, 2)
    waiting = desk.vault.versions(key.id.hex)[1].public_key.format()
    rotated, _ = await desk.rotation.rotate(desk.mine.caller, reference, expected=0)
    assert (rotated.version, rotated.public_key) == (2, waiting)


async def test_who_revokes_and_who_changes_at_once_agree_with_the_trail(desk: Desk) -> None:
    """Of a change and the end of its caller's right one has the head first: none of its rows follows that end."""
    for _ in range(10):
        reference = await desk.create(f"subject-{len(desk.vault.keys)}")
        stale = await api_key(desk)
        ends = await asyncio.gather(
            desk.lifecycle.disable(stale, reference),
            _api_keys(desk).revoke(desk.mine.caller, stale.principal.actor_id),
            desk.lifecycle.delete(stale, reference, force=False),
            return_exceptions=True,
        )
        assert all(isinstance(e, errors.ApiKeyRevoked | errors.KeyDeleted) for e in ends if isinstance(e, Exception))
        trail, writer = await desk.trail(), stale.principal.actor_id
        (end,) = [row.sequence for row in trail if row.event == "api_key.revoked" and row.resource_id == writer]
        assert all(row.sequence < end for row in trail if row.actor_id == writer)
