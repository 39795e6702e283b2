"""What an API key's bounds leave of an organization, in SQL, so that pages are whole. What is outside does not exist
for the key: it is not found, whatever it is asked for."""

from typing import Any, TypeVar

from sqlalchemy import Select, select

from popsigner_server.domain.principals import Bounds
from popsigner_server.storage.tables import keys, namespaces

Query = TypeVar("Query", bound=Select[Any])


def keys_within(query: Query, bounds: Bounds) -> Query:
    """The query over `keys` for those within the bounds."""
    if bounds.namespace_ids:
        query = query.where(keys.c.namespace_id.in_(bounds.namespace_ids))
    if bounds.key_ids:
        query = query.where(keys.c.id.in_(bounds.key_ids))
    return query


def namespaces_within(query: Query, bounds: Bounds) -> Query:
    """The query over `namespaces` for those within the bounds. A key that is limited to keys knows the namespaces that
    those are in, and no other."""
    if bounds.namespace_ids:
        query = query.where(namespaces.c.id.in_(bounds.namespace_ids))
    if bounds.key_ids:
        theirs = select(keys.c.namespace_id).where(keys.c.org_id == namespaces.c.org_id, keys.c.id.in_(bounds.key_ids))
        query = query.where(namespaces.c.id.in_(theirs.correlate(namespaces)))
    return query
