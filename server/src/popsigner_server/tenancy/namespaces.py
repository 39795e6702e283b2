"""Namespaces on PostgreSQL."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import ColumnElement, delete, insert, or_, select
from sqlalchemy.engine import RowMapping
from sqlalchemy.exc import IntegrityError

from popsigner_server import errors
from popsigner_server.domain.ids import Prefix, new_id, parse, show
from popsigner_server.domain.keys import KeyState
from popsigner_server.domain.principals import Bounds, Caller, Scope
from popsigner_server.identity.standing import still_may
from popsigner_server.keys.reach import namespaces_within
from popsigner_server.ledger.changes import Ledger
from popsigner_server.ledger.quotas import Quotas
from popsigner_server.storage import pages
from popsigner_server.storage.engine import Database
from popsigner_server.storage.tables import key_versions, keys, namespaces
from popsigner_server.tenancy import Namespace


class Namespaces:
    """Makes, lists and deletes namespaces."""

    def __init__(self, database: Database, ledger: Ledger, quotas: Quotas) -> None:
        self._database = database
        self._ledger = ledger
        self._quotas = quotas

    async def create(self, caller: Caller, *, name: str, address_prefix: str) -> Namespace:
        """Raises NamespaceNameTaken, QuotaExceeded, ApiKeyRestricted."""
        _refuse_limited(caller)
        organization_id = caller.principal.organization_id
        try:
            async with self._ledger.change(organization_id) as change:
                await still_may(change, caller.principal, Scope.KEYS_WRITE)
                await self._quotas.claim(change, "namespaces")
                query = (
                    insert(namespaces)
                    .values(id=new_id(), org_id=organization_id, name=name, address_prefix=address_prefix)
                    .returning(namespaces)
                )
                made = _namespace((await change.connection.execute(query)).mappings().one())
                change.record(
                    "namespace.created",
                    caller=caller,
                    resource_type="namespace",
                    resource_id=made.id,
                    metadata={"name": name, "address_prefix": address_prefix},
                )
        except IntegrityError as error:
            raise errors.NamespaceNameTaken(name) from error
        return made

    async def ids_of(self, organization_id: UUID, references: Sequence[str]) -> frozenset[UUID]:
        """The ids of namespaces that are named by id or name. Raises NamespaceNotFound."""
        if not references:
            return frozenset()
        query = select(namespaces.c.id, namespaces.c.name).where(
            namespaces.c.org_id == organization_id, or_(*(_named(reference) for reference in set(references)))
        )
        async with self._database.tenant(organization_id) as connection:
            rows = (await connection.execute(query)).all()
        there = {row.name for row in rows} | {show(Prefix.NAMESPACE, row.id) for row in rows}
        if not there.issuperset(references):
            raise errors.NamespaceNotFound
        return frozenset(row.id for row in rows)

    async def list(
        self, organization_id: UUID, *, bounds: Bounds, limit: int, cursor: str
    ) -> tuple[list[Namespace], str]:
        """A page, oldest first, and the cursor of the next (empty on the last). Raises InvalidCursor."""
        query = (
            select(namespaces).where(namespaces.c.org_id == organization_id).order_by(namespaces.c.id).limit(limit + 1)
        )
        query = namespaces_within(query, bounds)
        if cursor:
            query = query.where(namespaces.c.id > pages.read_id("namespaces", cursor))
        async with self._database.tenant(organization_id) as connection:
            found = [_namespace(row) for row in (await connection.execute(query)).mappings()]
        return found[:limit], pages.write("namespaces", found[limit - 1].id) if len(found) > limit else ""

    async def delete(self, caller: Caller, reference: str) -> None:
        """Delete an empty namespace, by id or name. Raises NamespaceNotFound, NamespaceNotEmpty, ApiKeyRestricted."""
        _refuse_limited(caller)
        organization_id = caller.principal.organization_id
        mine = (_named(reference), namespaces.c.org_id == organization_id)
        try:
            async with self._ledger.change(organization_id) as change:
                await still_may(change, caller.principal, Scope.KEYS_WRITE)
                query = select(namespaces).where(*mine).with_for_update()
                row = (await change.connection.execute(query)).mappings().first()
                if row is None:
                    raise errors.NamespaceNotFound
                # What is left of destroyed keys goes with their namespace; the audit trail remembers them.
                gone = select(keys.c.id).where(
                    keys.c.org_id == organization_id,
                    keys.c.namespace_id == row["id"],
                    keys.c.state == KeyState.DESTROYED.value,
                )
                for table, key_id in ((key_versions, key_versions.c.key_id), (keys, keys.c.id)):
                    await change.connection.execute(
                        delete(table).where(table.c.org_id == organization_id, key_id.in_(gone))
                    )
                await change.connection.execute(delete(namespaces).where(*mine))
                change.record(
                    "namespace.deleted",
                    caller=caller,
                    resource_type="namespace",
                    resource_id=row["id"],
                    metadata={"name": row["name"]},
                )
        except IntegrityError as error:
            raise errors.NamespaceNotEmpty from error


def _refuse_limited(caller: Caller) -> None:
    """An API key that is limited to namespaces or keys neither makes nor deletes a namespace, its own included."""
    if caller.principal.bounds.limits_keys:
        raise errors.ApiKeyRestricted


def _named(reference: str) -> ColumnElement[bool]:
    try:
        return namespaces.c.id == parse(Prefix.NAMESPACE, reference)
    except ValueError:
        return namespaces.c.name == reference


def _namespace(row: RowMapping) -> Namespace:
    return Namespace(id=row["id"], name=row["name"], address_prefix=row["address_prefix"], created_at=row["created_at"])
