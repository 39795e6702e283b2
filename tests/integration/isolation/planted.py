"""A row in every table for each of two organizations, made from the tables themselves: a new table is covered as soon
as it exists."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Date,
    DateTime,
    Integer,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    Uuid,
    and_,
    insert,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from popsigner_server.storage.tables import metadata, organizations

# In the order of their references.
TABLES: tuple[Table, ...] = tuple(metadata.sorted_tables)


# The tables of which an organization has rows, and the others: what belongs to people, and to the POP.
TENANT_TABLES: tuple[Table, ...] = tuple(table for table in TABLES if table is organizations or "org_id" in table.c)
OTHER_TABLES: tuple[Table, ...] = tuple(table for table in TABLES if table not in TENANT_TABLES)


def tenant_column(table: Table) -> Column[Any]:
    """The column of a tenant's table that says whose a row is."""
    return table.c.id if table is organizations else table.c.org_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """One organization's rows, by their table's name: the values that were written."""

    id: UUID
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)

    def row(self, table: Table) -> ColumnElement[bool]:
        """Which row of the table it is."""
        values = self.rows[table.name]
        return and_(*(column == values[column.name] for column in table.primary_key))


def _value(column: Column[Any]) -> Any:
    kind = column.type
    # JSONB and the arrays first: they are more than their base classes.
    values: list[tuple[type[Any] | tuple[type[Any], ...], Any]] = [
        (JSONB, {}),
        (ARRAY, []),
        (Uuid, uuid4()),
        (Text, f"planted-{uuid4().hex}"),
        (LargeBinary, b"\x02" + uuid4().bytes * 2),
        (Boolean, False),
        ((SmallInteger, Integer, BigInteger), 1),
        (DateTime, datetime.now(UTC) + timedelta(days=1)),
        (Date, date.today()),  # noqa: DTZ011 - any day will do
    ]
    for types, value in values:
        if isinstance(kind, types):
            return value
    raise AssertionError(f"no value is known for {column}: teach this function its type")


def row_of(table: Table, organization_id: UUID, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Values for a new row of the organization; what it refers to is taken from `rows`."""
    values: dict[str, Any] = {}
    for column in table.columns:
        if table in TENANT_TABLES and column is tenant_column(table):
            values[column.name] = organization_id
        elif column.foreign_keys:
            (reference,) = column.foreign_keys
            values[column.name] = rows[reference.column.table.name][reference.column.name]
        elif column.primary_key or (not column.nullable and column.server_default is None):
            values[column.name] = _value(column)
    return values


async def planted(connection: AsyncConnection) -> Planted:
    """A new organization with a row in every table."""
    made = Planted(id=uuid4())
    for table in TABLES:
        made.rows[table.name] = row_of(table, made.id, made.rows)
        await connection.execute(insert(table).values(made.rows[table.name]))
    return made
