"""Stored API keys on PostgreSQL, as verification needs them: read before an organization is known, and told of uses."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any
from uuid import UUID

from sqlalchemy import func, or_, select, update
from sqlalchemy.engine import RowMapping

from popsigner_server.domain.principals import UNBOUND, ActorKind, Bounds, Caller, Principal, Role, Scope
from popsigner_server.identity import KeyRecord, StoredSecret
from popsigner_server.ledger.changes import Ledger
from popsigner_server.storage.engine import Database
from popsigner_server.storage.tables import api_keys, organizations

# Between two notes of a key's use, over all processes.
NOTED_EVERY = timedelta(minutes=1)


class ApiKeyRecords:
    """Reads API keys by their id, and writes down when they were used."""

    def __init__(self, database: Database, ledger: Ledger) -> None:
        self._database = database
        self._ledger = ledger

    async def load(self, api_key_id: UUID) -> KeyRecord | None:
        """The key; None for an unknown id."""
        query = (
            select(api_keys, organizations.c.plan)
            .join(organizations, api_keys.c.org_id == organizations.c.id)
            .where(api_keys.c.id == api_key_id)
        )
        async with self._database.identity() as connection:
            row = (await connection.execute(query)).mappings().first()
        return None if row is None else _record(row)

    async def keep_check(self, api_key_id: UUID, secret: StoredSecret, check: bytes) -> None:
        """Store the check of a secret that was verified without one. Its hash says that it is still the same secret: a
        rotation may have come between."""
        key = api_keys.c
        async with self._database.identity() as connection:
            for hash_column, check_column in ((key.key_hash, key.key_check), (key.previous_hash, key.previous_check)):
                await connection.execute(
                    update(api_keys)
                    .where(key.id == api_key_id, hash_column == secret.hash, check_column.is_(None))
                    .values({check_column: check})
                )

    async def note_use(self, caller: Caller) -> float:
        """Write that the key was used, with its audit row, unless a process did so within the last minute. Returns the
        seconds until it may be noted again."""
        organization_id, api_key_id = caller.principal.organization_id, caller.principal.actor_id
        key = api_keys.c
        mine = (key.id == api_key_id, key.org_id == organization_id)
        left = func.extract("epoch", key.last_used_at + NOTED_EVERY - func.now())
        async with self._database.tenant(organization_id) as connection:
            seconds = (await connection.execute(select(left).where(*mine))).scalar()
        if seconds is not None and seconds > 0:
            # Seen without the head: with many processes most notes end here, and hold back no signature.
            return float(seconds)
        stale = or_(key.last_used_at.is_(None), key.last_used_at <= func.now() - NOTED_EVERY)
        # The trail of a deleted organization goes on: who still knocks is worth knowing.
        async with self._ledger.change(organization_id, closed=True) as change:
            query = update(api_keys).where(*mine, stale).values(last_used_at=func.now()).returning(key.id)
            if (await change.connection.execute(query)).scalar() is not None:
                change.record("auth.api_key_used", caller=caller, resource_type="api_key", resource_id=api_key_id)
        return NOTED_EVERY.total_seconds()


def bounds_of(row: RowMapping) -> Bounds:
    """What a row of api_keys is limited to; UNBOUND itself where it is not, so that the hot path sees that at once."""
    networks, namespace_ids, key_ids = row["ip_allow_list"], row["namespace_ids"], row["key_ids"]
    if not (networks or namespace_ids or key_ids):
        return UNBOUND
    return Bounds(
        networks=tuple(ip_network(network) for network in networks),
        namespace_ids=frozenset(namespace_ids),
        key_ids=frozenset(key_ids),
    )


def _record(row: RowMapping) -> KeyRecord:
    values: dict[str, Any] = dict(row)
    secrets = [StoredSecret(hash=values["key_hash"], check=values["key_check"], generation=values["generation"])]
    over_at = values["previous_expires_at"]
    # A replaced secret is known for what it is for ever, but never at the price of Argon2id for each wrong one.
    if over_at is not None and (values["previous_check"] is not None or over_at > datetime.now(UTC)):
        secrets.append(
            StoredSecret(
                hash=values["previous_hash"],
                check=values["previous_check"],
                generation=values["generation"] - 1,
                over_at=over_at,
            )
        )
    principal = Principal(
        organization_id=values["org_id"],
        actor_id=values["id"],
        actor_kind=ActorKind.API_KEY,
        scopes=frozenset(Scope(scope) for scope in values["scopes"]),
        role=Role(values["role"]),
        expires_at=values["expires_at"],
        plan=values["plan"],
        generation=values["generation"],
        bounds=bounds_of(row),
    )
    return KeyRecord(principal=principal, secrets=tuple(secrets), revoked_at=values["revoked_at"])
