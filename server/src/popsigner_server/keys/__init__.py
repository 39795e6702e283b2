"""Which key: the catalogue and its life cycle. The rows are here, the private keys in the vault."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A key to come."""

    name: str
    namespace: str
    exportable: bool
    metadata: dict[str, str]
