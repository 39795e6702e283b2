"""Who asks, and what they may."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum, StrEnum
from uuid import UUID


class Role(IntEnum):
    """What somebody is in an organization; a higher role may all that a lower one may (popsigner.v1.Role)."""

    # No role: an API key that has its scopes and nothing else.
    UNSPECIFIED = 0
    # Reads.
    VIEWER = 1
    # Signs, and reads keys.
    OPERATOR = 2
    # Manages keys, API keys and people, and reads the bill.
    ADMIN = 3
    # Everything.
    OWNER = 4


class Scope(StrEnum):
    """What an API key may do."""

    KEYS_READ = "api:keys:read"
    KEYS_WRITE = "api:keys:write"
    KEYS_SIGN = "api:keys:sign"
    KEYS_EXPORT = "api:keys:export"
    AUDIT_READ = "api:audit:read"
    BILLING_READ = "api:billing:read"
    BILLING_WRITE = "api:billing:write"


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who was authenticated (`actor_kind` is `api_key`), in which organization, and what it may until `expires_at`."""

    # Only the actor is hashed: the batcher groups by caller, and one actor has one organization.
    organization_id: UUID = field(hash=False)
    actor_id: UUID
    actor_kind: str = field(hash=False)
    scopes: frozenset[Scope] = field(hash=False)
    role: Role = field(hash=False)
    expires_at: datetime | None = field(hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """A principal at the end of one connection, as the audit trail names it."""

    principal: Principal
    ip_address: str | None
    user_agent: str | None
