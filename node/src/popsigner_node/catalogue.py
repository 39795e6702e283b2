"""What a database says about keys and ledgers, asked alike when a backup is made and when it is checked."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from uuid import UUID

import psycopg

from popsigner_node.manifest import Head

_ROWS = 1000


class State(IntEnum):
    """The column `keys.state`; docs/keys.md has the moves. A test holds it equal to the server's."""

    CREATING = 0
    ENABLED = 1
    DISABLED = 2
    DELETED = 3
    DESTROYED = 4
    ABANDONED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRow:
    """A key. leaving: its destruction may have begun in the vault. public_keys: by version; 33 bytes each."""

    id: UUID
    state: State
    leaving: bool
    public_keys: dict[int, bytes]

    @property
    def lives(self) -> bool:
        """Whether the vault must have it."""
        return self.state in (State.ENABLED, State.DISABLED, State.DELETED) and not self.leaving


class Digest:
    """SHA-256 over the keys of `rows`, as the manifest has it."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, key: KeyRow) -> None:
        self._digest.update(b"%s %d %d\n" % (key.id.hex.encode(), key.state, key.leaving))
        for number, public_key in key.public_keys.items():
            self._digest.update(b"%d %s\n" % (number, public_key.hex().encode()))

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


# Who destroys a key says so first, and commits it: on the key, or on the organization that is erased with all its keys.
_LEAVING = "(k.destruction_began_at IS NOT NULL OR o.erased_at IS NOT NULL)"
_KEYS = f"""
    SELECT k.id, k.state, {_LEAVING},
           coalesce(array_agg(v.version ORDER BY v.version) FILTER (WHERE v.version IS NOT NULL), '{{}}'),
           coalesce(array_agg(v.public_key ORDER BY v.version) FILTER (WHERE v.version IS NOT NULL), '{{}}')
    FROM keys k JOIN organizations o ON o.id = k.org_id LEFT JOIN key_versions v ON v.key_id = k.id
    GROUP BY k.id, o.erased_at ORDER BY k.id
"""  # noqa: S608 - a constant of this module
_LIVING = f"""
    SELECT k.id, k.state IN (1, 2, 3) AND NOT {_LEAVING} FROM keys k JOIN organizations o ON o.id = k.org_id
"""  # noqa: S608 - as above
_HEADS = """
    SELECT h.org_id, h.size, count(a.seq), coalesce(min(a.seq), 0), coalesce(max(a.seq), 0)
    FROM ledger_heads h LEFT JOIN audit_logs a ON a.org_id = h.org_id GROUP BY h.org_id, h.size
"""


def keys(connection: psycopg.Connection) -> Iterator[KeyRow]:
    """All keys in the order of their ids, read in pieces. Needs a transaction."""
    with connection.cursor(name="keys") as cursor:
        cursor.itersize = _ROWS
        for key_id, state, leaving, numbers, public_keys in cursor.execute(_KEYS):
            pairs = dict(zip(numbers, map(bytes, public_keys), strict=True))
            yield KeyRow(id=key_id, state=State(state), leaving=leaving, public_keys=pairs)


def living(connection: psycopg.Connection) -> dict[UUID, bool]:
    """Every key, and whether the vault must have it."""
    return dict(connection.execute(_LIVING).fetchall())


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledgers:
    """heads: by organization. broken: organizations whose rows have a gap, or do not end at the head."""

    heads: dict[str, Head]
    broken: tuple[str, ...]


def ledgers(connection: psycopg.Connection) -> Ledgers:
    """Where each ledger stands. Old rows may be gone as their plan says, so a trail need not begin with 1."""
    heads, broken = {}, []
    for organization, size, rows, first, last in connection.execute(_HEADS):
        heads[str(organization)] = Head(size=size, rows=rows)
        if rows and (last != size or rows != last - first + 1):
            broken.append(str(organization))
    return Ledgers(heads=heads, broken=tuple(broken))
