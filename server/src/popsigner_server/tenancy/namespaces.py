"""Namespaces on PostgreSQL."""

from uuid import UUID

from sqlalchemy import delete, insert, select
from sqlalchemy.engine import RowMapping
from sqlalchemy.exc import IntegrityError

from popsigner_server import errors
from popsigner_server.domain.ids import Prefix, new_id, parse
from popsigner_server.domain.keys import KeyState
from popsigner_server.domain.principals import Caller
from popsigner_server.ledger.changes import Ledger
from popsigner_server.storage import pages
from popsigner_server.storage.engine import Database
from popsigner_server.storage.tables import key_versions, keys, namespaces
from popsigner_server.tenancy import Namespace


class Namespaces:
    """Makes, lists and deletes namespaces."""

    def __init__(self, database: Database, ledger: Ledger) -> None:
        self._database = database
        self._ledger = ledger

    async def create(self, caller: Caller, *, name: str, address_prefix: str) -> Namespace:
        """Raises NamespaceNameTaken."""
        organization_id = caller.principal.organization_id
        try:
            async with self._ledger.change(organization_id) as change:
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

    async def list(self, organization_id: UUID, *, limit: int, cursor: str) -> tuple[list[Namespace], str]:
        """A page, oldest first, and the cursor of the next (empty on the last). Raises InvalidCursor."""
        query = (
            select(namespaces).where(namespaces.c.org_id == organization_id).order_by(namespaces.c.id).limit(limit + 1)
        )
        if cursor:
            query = query.where(namespaces.c.id > pages.read_id("namespaces", cursor))
        async with self._database.tenant(organization_id) as connection:
            found = [_namespace(row) for row in (await connection.execute(query)).mappings()]
        return found[:limit], pages.write("namespaces", found[limit - 1].id) if len(found) > limit else ""

    async def delete(self, caller: Caller, reference: str) -> None:
        """Delete an empty namespace, by id or name. Raises NamespaceNotFound, NamespaceNotEmpty."""
        organization_id = caller.principal.organization_id
        try:
            named = namespaces.c.id == parse(Prefix.NAMESPACE, reference)
        except ValueError:
            named = namespaces.c.name == reference
        mine = (named, namespaces.c.org_id == organization_id)
        try:
            async with self._ledger.change(organization_id) as change:
                query = select(namespaces).where(*mine).with_for_update()
                row = (await change.connection.execute(query)).mappings().first()
                if row is None:
                    raise errors.NamespaceNotFound
                # What is left of destroyed keys goes with their namespace; the audit trail remembers them.
                gone = select(keys.c.id).where(
                    keys.c.namespace_id == row["id"], keys.c.state == KeyState.DESTROYED.value
                )
                await change.connection.execute(delete(key_versions).where(key_versions.c.key_id.in_(gone)))
                await change.connection.execute(delete(keys).where(keys.c.id.in_(gone)))
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


def _namespace(row: RowMapping) -> Namespace:
    return Namespace(id=row["id"], name=row["name"], address_prefix=row["address_prefix"], created_at=row["created_at"])
