"""Organizations and their namespaces."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

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
