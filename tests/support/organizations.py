"""Organizations in a test's database, without a server: what the release gate's and the ledger's tests stand on."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from popsigner_server.domain.ids import new_id
from popsigner_server.domain.keys import KeyState
from popsigner_server.domain.principals import SCOPES_OF, ActorKind, Caller, Principal, Role, Scope
from popsigner_server.storage.tables import (
    api_keys,
    identity_providers,
    keys,
    ledger_heads,
    namespaces,
    org_members,
    organizations,
    sessions,
    users,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Organization:
    """One organization with some keys that sign and one API key."""

    id: UUID
    caller: Caller
    keys: list[UUID] = field(default_factory=list)


async def found_organization(engine: AsyncEngine, *, keys_of: int = 2, quota: int | None = None) -> Organization:
    """Write the rows of a new organization."""
    org_id, namespace_id, api_key_id = new_id(), new_id(), new_id()
    key_ids = [new_id() for _ in range(keys_of)]
    async with engine.begin() as connection:
        await connection.execute(
            insert(organizations).values(id=org_id, name="test", slug=org_id.hex, plan="self-hosted")
        )
        await connection.execute(insert(ledger_heads).values(org_id=org_id, signature_quota=quota))
        await connection.execute(
            insert(namespaces).values(id=namespace_id, org_id=org_id, name="production", address_prefix="celestia")
        )
        await connection.execute(
            insert(api_keys).values(
                id=api_key_id, org_id=org_id, name="test", key_hash="-", scopes=sorted(Scope), role=Role.OWNER.value
            )
        )
        for key_id in key_ids:
            await connection.execute(
                insert(keys).values(
                    id=key_id,
                    org_id=org_id,
                    namespace_id=namespace_id,
                    name=key_id.hex,
                    algorithm="secp256k1",
                    state=KeyState.ENABLED.value,
                    public_key=b"\x02" + key_id.bytes * 2,
                    exportable=False,
                )
            )
    principal = Principal(
        organization_id=org_id,
        actor_id=api_key_id,
        actor_kind=ActorKind.API_KEY,
        plan="self-hosted",
        scopes=frozenset(Scope),
        role=Role.OWNER,
        expires_at=None,
    )
    return Organization(
        id=org_id, caller=Caller(principal=principal, ip_address="192.0.2.1", user_agent="test"), keys=key_ids
    )


async def joined(engine: AsyncEngine, organization: Organization, role: Role) -> Caller:
    """A person with a session, a member with this role."""
    provider, user, session = new_id(), new_id(), new_id()
    async with engine.begin() as connection:
        await connection.execute(
            insert(identity_providers).values(
                id=provider, kind="oidc", name="test", issuer=f"https://{provider.hex}.example", client_id="test"
            )
        )
        await connection.execute(
            insert(users).values(id=user, provider_id=provider, subject="1", email="a@example.com", name="A")
        )
        await connection.execute(insert(org_members).values(org_id=organization.id, user_id=user, role=role.value))
        await connection.execute(
            insert(sessions).values(
                id=session, user_id=user, origin="browser", expires_at=datetime.now(UTC) + timedelta(days=1)
            )
        )
    principal = Principal(
        organization_id=organization.id,
        actor_id=user,
        actor_kind=ActorKind.USER,
        scopes=SCOPES_OF[role],
        role=role,
        expires_at=None,
        plan="self-hosted",
        session_id=session,
    )
    return Caller(principal=principal, ip_address="192.0.2.2", user_agent="test")
