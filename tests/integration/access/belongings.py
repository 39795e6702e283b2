"""What an organization has, of every kind that a request can name, by every name that each can be called by."""

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import coincurve
import pyrage  # type: ignore[import-untyped]  # publishes no types
from sqlalchemy import RowMapping, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from popsigner_server.domain.ids import Prefix, new_id, show
from popsigner_server.domain.principals import Caller, Role
from popsigner_server.storage.tables import (
    audit_logs,
    invitations,
    keys,
    ledger_heads,
    metadata,
    namespaces,
    organizations,
    recovery_recipients,
    sessions,
)
from tests.support.organizations import found_organization
from tests.support.people import PersonOf, new_person, new_provider

# Whom every organization has invited.
INVITED = "invited@example.com"
# The reason that a kind is not found with.
REASONS: Mapping[str, str] = {
    "key": "KEY_NOT_FOUND",
    "namespace": "NAMESPACE_NOT_FOUND",
    "api key": "API_KEY_NOT_FOUND",
    "audit row": "AUDIT_LOG_NOT_FOUND",
    "user": "USER_NOT_FOUND",
    "invitation": "INVITATION_NOT_FOUND",
    "invitation's token": "INVITATION_NOT_FOUND",
    "identity provider": "IDENTITY_PROVIDER_NOT_FOUND",
    "session": "SESSION_NOT_FOUND",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Belongings:
    """An organization with something of every kind; `owner` is its API key, without a secret, `member` its person.
    `recipient` is its recovery's, a first one that waits."""

    id: UUID
    slug: str
    recipient: str
    owner: Caller
    member: PersonOf
    session_id: UUID
    names: Mapping[str, list[str]]


async def settled(engine: AsyncEngine) -> Belongings:
    """A new one, written into the database."""
    founded = await found_organization(engine, keys_of=1)
    member = await new_person(engine, memberships={founded.id: Role.OWNER})
    api_key_id = founded.caller.principal.actor_id
    ids = {kind: new_id() for kind in ("audit row", "invitation", "session")}
    # Its key and namespace get names that nobody else's have: what is found by its name would be found.
    name, token = f"of-{founded.id.hex}", f"inv_{secrets.token_hex(32)}"
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    recipient = str(pyrage.x25519.Identity.generate().to_public())
    async with engine.begin() as connection:
        provider_id = await new_provider(connection, organization_id=founded.id)
        await connection.execute(update(namespaces).where(namespaces.c.org_id == founded.id).values(name=name))
        public_key = coincurve.PrivateKey().public_key.format()
        await connection.execute(
            update(keys).where(keys.c.org_id == founded.id).values(name=name, public_key=public_key)
        )
        space = await connection.scalar(select(namespaces.c.id).where(namespaces.c.org_id == founded.id))
        assert space is not None
        await connection.execute(
            insert(audit_logs).values(
                org_id=founded.id, seq=1, id=ids["audit row"], event="organization.created", actor_type="system"
            )
        )
        await connection.execute(update(ledger_heads).where(ledger_heads.c.org_id == founded.id).values(size=1))
        await connection.execute(
            insert(invitations).values(
                id=ids["invitation"],
                org_id=founded.id,
                email=INVITED,
                role=Role.VIEWER.value,
                token_hash=hashlib.sha256(token.encode()).digest(),
                created_by_kind="api_key",
                created_by=api_key_id,
                expires_at=tomorrow,
            )
        )
        await connection.execute(
            insert(recovery_recipients).values(
                org_id=founded.id,
                recipient=recipient,
                since=tomorrow,
                # Its removal waits: while a first one does, no copy is handed out.
                next_recipient="",
                announced_at=tomorrow,
                effective_at=tomorrow,
                announced_by_kind="api_key",
                announced_by=api_key_id,
            )
        )
        await connection.execute(
            insert(sessions).values(id=ids["session"], user_id=member.user_id, origin="browser", expires_at=tomorrow)
        )
        slug = await connection.scalar(select(organizations.c.slug).where(organizations.c.id == founded.id))
    return Belongings(
        id=founded.id,
        slug=str(slug),
        recipient=recipient,
        owner=founded.caller,
        member=member,
        session_id=ids["session"],
        names={
            "key": [show(Prefix.KEY, founded.keys[0]), f"{name}/{name}"],
            "namespace": [show(Prefix.NAMESPACE, space), name],
            "api key": [show(Prefix.API_KEY, api_key_id)],
            "audit row": [show(Prefix.LOG, ids["audit row"])],
            "user": [member.id],
            "invitation": [show(Prefix.INVITATION, ids["invitation"])],
            "invitation's token": [token],
            "identity provider": [show(Prefix.IDENTITY_PROVIDER, provider_id)],
            "session": [show(Prefix.SESSION, ids["session"])],
        },
    )


async def everything_of(connection: AsyncConnection, belongings: Belongings) -> list[tuple[str, RowMapping]]:
    """Every row of an organization and of its person, to be compared with the same of another moment."""
    found: list[tuple[str, RowMapping]] = []
    for table in metadata.sorted_tables:
        column, mine = next(
            (
                (table.c[name], value)
                for name, value in {
                    "org_id": belongings.id,
                    "user_id": belongings.member.user_id,
                    "session_id": belongings.session_id,
                }.items()
                if name in table.c
            ),
            (table.c.id, belongings.id if table is organizations else belongings.member.user_id)
            if "id" in table.c
            else (None, None),
        )
        if column is not None:
            query = select(table).where(column == mine).order_by(*table.primary_key)
            found += [(table.name, row) for row in (await connection.execute(query)).mappings()]
    return found
