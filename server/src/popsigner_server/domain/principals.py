"""Who asks, and what they may."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum, StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_address
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


class ActorKind(StrEnum):
    """What sort of caller; the audit trail's `actor_type`."""

    API_KEY = "api_key"
    USER = "user"


_VIEWER = frozenset({Scope.KEYS_READ, Scope.AUDIT_READ})
_OPERATOR = _VIEWER | {Scope.KEYS_SIGN}
_ADMIN = _OPERATOR | {Scope.KEYS_WRITE, Scope.KEYS_EXPORT, Scope.BILLING_READ}
# What a person may by their role (PRD 2.1.3); an API key has its scopes written down.
SCOPES_OF: Mapping[Role, frozenset[Scope]] = {
    Role.UNSPECIFIED: frozenset(),
    Role.VIEWER: _VIEWER,
    Role.OPERATOR: _OPERATOR,
    Role.ADMIN: _ADMIN,
    Role.OWNER: frozenset(Scope),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What an API key is limited to beyond its scopes; empty for no limit. They never change: a narrower key is a new
    one."""

    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    namespace_ids: frozenset[UUID] = frozenset()
    key_ids: frozenset[UUID] = frozenset()

    @property
    def limits_keys(self) -> bool:
        """Whether there are keys that it does not reach."""
        return bool(self.namespace_ids or self.key_ids)

    def reach(self, *, namespace_id: UUID, key_id: UUID) -> bool:
        """Whether this key is within them."""
        return (not self.namespace_ids or namespace_id in self.namespace_ids) and (
            not self.key_ids or key_id in self.key_ids
        )

    def admit(self, address: str | None) -> bool:
        """Whether a caller at this address may use it; an unknown address may not where there is a limit."""
        if not self.networks:
            return True
        if address is None:
            return False
        place = ip_address(address)
        # An IPv4 caller of a dual-stack listener.
        place = getattr(place, "ipv4_mapped", None) or place
        return any(place in network for network in self.networks)


UNBOUND = Bounds()


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who was authenticated, in which organization, and what it may until `expires_at`.

    `generation` is that of the API key's secret that was shown; `session_id` is a person's session, None for an API
    key. `plan` is the organization's.
    """

    # Only the actor is hashed: the batcher groups by caller, and one actor has few organizations.
    organization_id: UUID = field(hash=False)
    actor_id: UUID
    actor_kind: ActorKind = field(hash=False)
    scopes: frozenset[Scope] = field(hash=False)
    role: Role = field(hash=False)
    expires_at: datetime | None = field(hash=False)
    plan: str = field(hash=False)
    generation: int = field(default=1, hash=False)
    session_id: UUID | None = field(default=None, hash=False)
    bounds: Bounds = field(default=UNBOUND, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """A principal at the end of one connection, as the audit trail names it."""

    principal: Principal
    ip_address: str | None
    user_agent: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody who has logged in, whatever their organizations; `provider_org` is the organization whose own identity
    provider vouches for them, None for one of the POP's."""

    user_id: UUID
    session_id: UUID
    email: str = field(repr=False)
    name: str = field(repr=False)
    provider_org: UUID | None
    ip_address: str | None
    user_agent: str | None
