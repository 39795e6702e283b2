"""The tables. `migrations/` makes them; a test holds the two equal.

`org_id` is in every table and every query: it is the tenant. Times are `timestamptz`, by the database's clock.
"""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import INET, JSONB, UUID

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "ck": "%(table_name)s_%(constraint_name)s_check",
    }
)


def _created() -> Column[object]:
    return Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now())


organizations = Table(
    "organizations",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("name", Text, nullable=False),
    Column("slug", Text, nullable=False, unique=True),
    Column("plan", Text, nullable=False),
    _created(),
)

namespaces = Table(
    "namespaces",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("org_id", UUID, ForeignKey("organizations.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("address_prefix", Text, nullable=False),
    _created(),
    UniqueConstraint("org_id", "name"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("org_id", UUID, ForeignKey("organizations.id"), nullable=False, index=True),
    Column("name", Text, nullable=False),
    # Argon2id, in PHC string format.
    Column("key_hash", Text, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("role", SmallInteger, nullable=False),
    Column("expires_at", DateTime(timezone=True)),
    Column("revoked_at", DateTime(timezone=True)),
    Column("last_used_at", DateTime(timezone=True)),
    _created(),
)

keys = Table(
    "keys",
    metadata,
    # Its hexadecimal form is the key's name in OpenBao.
    Column("id", UUID, primary_key=True),
    Column("org_id", UUID, ForeignKey("organizations.id"), nullable=False),
    Column("namespace_id", UUID, ForeignKey("namespaces.id"), nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("algorithm", Text, nullable=False),
    # popsigner_server.domain.keys.KeyState
    Column("state", SmallInteger, nullable=False),
    # 33 bytes, of the current version; null while the key is being created.
    Column("public_key", LargeBinary),
    Column("current_version", Integer, nullable=False, server_default=text("1")),
    Column("min_version", Integer, nullable=False, server_default=text("1")),
    Column("exportable", Boolean, nullable=False),
    Column("metadata", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    _created(),
    Column("deleted_at", DateTime(timezone=True)),
    Column("destroy_at", DateTime(timezone=True)),
    CheckConstraint("public_key IS NULL OR octet_length(public_key) = 33", name="public_key"),
    # A name is free again once its key is destroyed (4) or its creation was abandoned (5).
    Index(
        "keys_org_id_namespace_id_name_key",
        "org_id",
        "namespace_id",
        "name",
        unique=True,
        postgresql_where=text("state NOT IN (4, 5)"),
    ),
    Index("keys_org_id_id_idx", "org_id", "id"),
    # What the sweeper looks for: creations that never ended (0, 5) and deleted keys whose time has come (3).
    Index("keys_unfinished_idx", "state", "destroy_at", postgresql_where=text("state IN (0, 3, 5)")),
)

key_versions = Table(
    "key_versions",
    metadata,
    Column("key_id", UUID, ForeignKey("keys.id"), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("org_id", UUID, nullable=False),
    Column("public_key", LargeBinary, nullable=False),
    _created(),
)

# One row an organization: whoever appends to its audit trail, or takes a right away, holds this row's lock.
ledger_heads = Table(
    "ledger_heads",
    metadata,
    Column("org_id", UUID, ForeignKey("organizations.id"), primary_key=True),
    # The sequence number of the newest audit row.
    Column("size", BigInteger, nullable=False, server_default=text("0")),
    # Signatures a month that the plan includes; null for no limit.
    Column("signature_quota", BigInteger),
)

# Partitioned by month of created_at.
audit_logs = Table(
    "audit_logs",
    metadata,
    Column("org_id", UUID, primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("created_at", DateTime(timezone=True), primary_key=True, server_default=func.now()),
    Column("id", UUID, nullable=False),
    Column("event", Text, nullable=False),
    Column("actor_type", Text, nullable=False),
    Column("actor_id", UUID),
    Column("resource_type", Text),
    Column("resource_id", UUID),
    Column("key_version", Integer),
    # For key.signed: the 32 bytes that were signed, and how they came about (domain.digests.HashAlgorithm; 0
    # prehashed).
    Column("digest", LargeBinary),
    Column("hash", SmallInteger),
    Column("sign_mode", Text),
    Column("request_id", Text),
    Column("ip_address", INET),
    Column("user_agent", Text),
    Column("metadata", JSONB),
    Index("audit_logs_id_idx", "id"),
    Index("audit_logs_resource_idx", "org_id", "resource_id", "seq"),
    # Signatures are nearly all rows; the others are few and must be found among them.
    Index("audit_logs_event_idx", "org_id", "event", "seq", postgresql_where=text("event <> 'key.signed'")),
    postgresql_partition_by="RANGE (created_at)",
)

usage_metrics = Table(
    "usage_metrics",
    metadata,
    Column("org_id", UUID, ForeignKey("organizations.id"), primary_key=True),
    Column("metric", Text, primary_key=True),
    Column("period_start", Date, primary_key=True),
    Column("period_end", Date, nullable=False),
    Column("value", BigInteger, nullable=False),
)

# Idempotency keys of the last 24 hours.
sign_requests = Table(
    "sign_requests",
    metadata,
    Column("org_id", UUID, primary_key=True),
    Column("request_id", Text, primary_key=True),
    Column("key_id", UUID, nullable=False),
    Column("key_version", Integer, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now(), index=True),
)
