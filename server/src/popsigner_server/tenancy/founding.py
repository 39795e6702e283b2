"""The rows that an organization begins with, and API keys of its owner for the operator to hand over."""

import asyncio
from dataclasses import dataclass, field
from typing import Self
from uuid import UUID

from sqlalchemy import insert
from sqlalchemy.dialects.postgresql import insert as insert_or
from sqlalchemy.ext.asyncio import AsyncConnection

from popsigner_server.domain.ids import new_id
from popsigner_server.domain.people import another_slug
from popsigner_server.domain.plans import Plan
from popsigner_server.domain.principals import Role, Scope
from popsigner_server.identity import PresentedKey
from popsigner_server.identity.api_keys import insert_api_key
from popsigner_server.identity.hashing import check_of, hash_secret, new_secret
from popsigner_server.ledger.changes import Change
from popsigner_server.storage.tables import ledger_heads, namespaces, organizations
from popsigner_server.tenancy import DEFAULT_ADDRESS_PREFIX, DEFAULT_NAMESPACE

# Endings that are tried; each has 32 random bits.
_TRIES = 8


async def found(
    connection: AsyncConnection, organization_id: UUID, *, name: str, slug: str, plan: Plan, exactly: bool = False
) -> None:
    """Write an organization with its ledger and namespace `production`. A slug that is taken gets an ending; with
    `exactly` that is a ValueError."""
    tried = slug
    for _ in range(_TRIES):
        query = (
            insert_or(organizations)
            .values(id=organization_id, name=name, slug=tried, plan=plan.name)
            .on_conflict_do_nothing(index_elements=["slug"])
            .returning(organizations.c.id)
        )
        if (await connection.execute(query)).scalar() is not None:
            break
        if exactly:
            raise ValueError(f"the slug {slug} is taken; choose another one.")
        tried = another_slug(slug)
    else:
        raise ValueError("no free slug was found; choose another name.")
    await connection.execute(
        insert(ledger_heads).values(org_id=organization_id, signature_quota=plan.signatures_per_month)
    )
    await connection.execute(
        insert(namespaces).values(
            id=new_id(), org_id=organization_id, name=DEFAULT_NAMESPACE, address_prefix=DEFAULT_ADDRESS_PREFIX
        )
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerSecret:
    """The secret of an owner API key that is to be made. Hashing it takes tens of milliseconds: it is done before any
    lock."""

    text: str = field(repr=False)
    hash: str = field(repr=False)

    @classmethod
    async def new(cls) -> Self:
        """256 random bits."""
        text = new_secret()
        return cls(text=text, hash=await asyncio.to_thread(hash_secret, text))


async def add_owner_key(change: Change, secret: OwnerSecret, *, environment: str) -> str:
    """Write an API key that may everything, with its audit row, and return its text."""
    key = await insert_api_key(
        change.connection,
        change.organization_id,
        name="owner",
        scopes=frozenset(Scope),
        role=Role.OWNER,
        expires_at=None,
        key_hash=secret.hash,
        key_check=check_of(secret.text),
    )
    change.record(
        "api_key.created",
        caller=None,
        resource_type="api_key",
        resource_id=key.id,
        metadata={"name": "owner", "scopes": " ".join(sorted(Scope)), "role": Role.OWNER.name},
    )
    return PresentedKey(environment=environment, id=key.id, secret=secret.text).text
