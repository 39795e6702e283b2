"""Organizations: their namespaces, their people, and their end."""

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from popsigner_server.domain.principals import Role

# Every organization has it from the start; a key without a namespace goes there.
DEFAULT_NAMESPACE = "production"
DEFAULT_ADDRESS_PREFIX = "celestia"


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    """An environment of an organization; its prefix is that of its keys' bech32 addresses."""

    id: UUID
    name: str
    address_prefix: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Organization:
    """An organization; `deleted_at` and `erase_at` are None for a live one."""

    id: UUID
    name: str
    slug: str
    plan: str
    created_at: datetime
    deleted_at: datetime | None
    erase_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A person in an organization."""

    user_id: UUID
    email: str = field(repr=False)
    name: str = field(repr=False)
    role: Role
    joined_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """An invitation, without its token."""

    id: UUID
    email: str = field(repr=False)
    role: Role
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What an invitation is for, as the log-in page tells who was invited."""

    organization: str
    slug: str
    email: str = field(repr=False)
    role: Role
