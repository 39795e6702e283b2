"""The first organization of a POP, and its owner API key."""

import asyncio
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import insert, select, text

from popsigner_server.domain.ids import new_id
from popsigner_server.domain.plans import SELF_HOSTED
from popsigner_server.domain.principals import Role, Scope
from popsigner_server.identity import PresentedKey
from popsigner_server.identity.api_keys import insert_api_key
from popsigner_server.identity.hashing import hash_secret, new_secret
from popsigner_server.ledger.postgres import change_on
from popsigner_server.storage.engine import Database
from popsigner_server.storage.tables import ledger_heads, namespaces, organizations
from popsigner_server.tenancy import DEFAULT_ADDRESS_PREFIX, DEFAULT_NAMESPACE


@dataclass(frozen=True, slots=True, kw_only=True)
class Founded:
    """The first organization; its owner API key only if it was founded just now."""

    organization_id: UUID
    api_key: str | None = field(repr=False)


async def bootstrap(database: Database, *, name: str, environment: str) -> Founded:
    """Found the first organization, with namespace `production` and an owner API key, unless there is one already."""
    secret = new_secret()
    key_hash = await asyncio.to_thread(hash_secret, secret)
    organization_id = new_id()
    async with database.jobs() as connection:
        # Two bootstraps at once found one organization.
        await connection.execute(text("LOCK TABLE organizations IN SHARE ROW EXCLUSIVE MODE"))
        first = select(organizations.c.id).order_by(organizations.c.created_at, organizations.c.id).limit(1)
        existing = (await connection.execute(first)).scalar()
        if existing is not None:
            return Founded(organization_id=existing, api_key=None)
        await connection.execute(
            insert(organizations).values(id=organization_id, name=name, slug="default", plan=SELF_HOSTED)
        )
        await connection.execute(insert(ledger_heads).values(org_id=organization_id, signature_quota=None))
        await connection.execute(
            insert(namespaces).values(
                id=new_id(),
                org_id=organization_id,
                name=DEFAULT_NAMESPACE,
                address_prefix=DEFAULT_ADDRESS_PREFIX,
            )
        )
        async with change_on(connection, organization_id) as change:
            key = await insert_api_key(
                connection,
                organization_id,
                name="owner",
                scopes=frozenset(Scope),
                role=Role.OWNER,
                expires_at=None,
                key_hash=key_hash,
            )
            change.record(
                "organization.created", caller=None, resource_type="organization", resource_id=organization_id
            )
            change.record(
                "api_key.created",
                caller=None,
                resource_type="api_key",
                resource_id=key.id,
                metadata={"name": "owner", "scopes": " ".join(sorted(Scope)), "role": Role.OWNER.name},
            )
    text_of_key = PresentedKey(environment=environment, id=key.id, secret=secret).text
    return Founded(organization_id=organization_id, api_key=text_of_key)
