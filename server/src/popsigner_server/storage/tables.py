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
from sqlalchemy.dialects.postgresql import CIDR, INET, JSONB, UUID

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
    # Deleted: nothing signs. At `erase_at` its keys are destroyed and its data is erased; what is left then is this
    # row, without a name, for as long as its audit trail is kept.
    Column("deleted_at", DateTime(timezone=True)),
    Column("erase_at", DateTime(timezone=True)),
    Column("erased_at", DateTime(timezone=True)),
    Index("organizations_erase_at_idx", "erase_at", postgresql_where=text("erase_at IS NOT NULL")),
    Index("organizations_erased_idx", "id", postgresql_where=text("erased_at IS NOT NULL AND erase_at IS NULL")),
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
    Column("org_id", UUID, ForeignKey("organizations.id"), nullable=False),
    Column("name", Text, nullable=False),
    # Argon2id, in PHC string format.
    Column("key_hash", Text, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("role", SmallInteger, nullable=False),
    Column("expires_at", DateTime(timezone=True)),
    Column("revoked_at", DateTime(timezone=True)),
    Column("last_used_at", DateTime(timezone=True)),
    _created(),
    # 4 bytes that only the right secret has: refuses the others without Argon2id. Null for keys of before, until used.
    Column("key_check", LargeBinary),
    # Counts the rotations; the secret before the last one is valid until `previous_expires_at`.
    Column("generation", Integer, nullable=False, server_default=text("1")),
    Column("previous_hash", Text),
    Column("previous_check", LargeBinary),
    Column("previous_expires_at", DateTime(timezone=True)),
    # What it is limited to; empty for no limit.
    Column("ip_allow_list", ARRAY(CIDR), nullable=False, server_default=text("'{}'::cidr[]")),
    Column("namespace_ids", ARRAY(UUID), nullable=False, server_default=text("'{}'::uuid[]")),
    Column("key_ids", ARRAY(UUID), nullable=False, server_default=text("'{}'::uuid[]")),
    # api_key, user or system
    Column("created_by_kind", Text, nullable=False, server_default=text("'system'::text")),
    Column("created_by", UUID),
    Index("api_keys_org_id_id_idx", "org_id", "id"),
    Index("api_keys_created_by_idx", "created_by", postgresql_where=text("created_by IS NOT NULL")),
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
    # The state that a restoration brings back: ENABLED or DISABLED; null for a live key.
    Column("deleted_from", SmallInteger),
    # From here on there is no restoring: the vault may have begun to overwrite it.
    Column("destruction_began_at", DateTime(timezone=True)),
    # Whether its private key was made elsewhere and brought in.
    Column("imported", Boolean, nullable=False, server_default=text("false")),
    # The age recipient of the recovery copies that the vault holds of it; null for none, empty while it is not known: a
    # server is sealing them (since `recovery_claimed_at`), or ended while it did.
    Column("recovery_recipient", Text),
    Column("recovery_claimed_at", DateTime(timezone=True)),
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
    # Pages of an organization's keys. No other index has this order: from that of the ids alone the planner would walk
    # through everybody's keys, where it takes an organization for large and its keys lie at the end.
    Index("keys_page_idx", "org_id", text("uuid_send(id)")),
    # What the sweeper looks for: creations that never ended (0, 5) and deleted keys whose time has come (3).
    Index("keys_unfinished_idx", "state", "destroy_at", postgresql_where=text("state IN (0, 3, 5)")),
    # Keys that are sealed to another recipient than their organization's, and those of which it is not known.
    Index(
        "keys_recovery_idx",
        "org_id",
        "recovery_recipient",
        postgresql_where=text("state IN (1, 2, 3) AND destruction_began_at IS NULL"),
    ),
    Index("keys_recovery_unknown_idx", "recovery_claimed_at", postgresql_where=text("recovery_recipient = ''")),
)

# Whom an organization's private keys are sealed to, for its recovery; no row means nobody.
recovery_recipients = Table(
    "recovery_recipients",
    metadata,
    Column("org_id", UUID, ForeignKey("organizations.id"), primary_key=True),
    # age X25519 (`age1…`); null where there is none, and perhaps one to come.
    Column("recipient", Text),
    Column("since", DateTime(timezone=True)),
    # What waits: the recipient for all keys, empty for none; null where nothing waits. A first one waits here while it
    # is in `recipient` already: for new keys it holds at once.
    Column("next_recipient", Text),
    Column("announced_at", DateTime(timezone=True)),
    Column("effective_at", DateTime(timezone=True)),
    # api_key or user, and which
    Column("announced_by_kind", Text),
    Column("announced_by", UUID),
    Index("recovery_recipients_effective_at_idx", "effective_at", postgresql_where=text("next_recipient IS NOT NULL")),
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
    # The organization is deleted: nothing signs and nothing changes.
    Column("closed_at", DateTime(timezone=True)),
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
    # What one person did, for their export and their erasure.
    Index("audit_logs_actor_idx", "actor_id", "org_id", "seq", postgresql_where=text("actor_type = 'user'")),
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

# POP-wide where `org_id` is null. A disconnected one keeps its row: its people's identities hang on it.
identity_providers = Table(
    "identity_providers",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("org_id", UUID, ForeignKey("organizations.id")),
    # github, google or oidc
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("issuer", Text, nullable=False),
    Column("client_id", Text, nullable=False),
    # Sealed (identity.sealing); null for a public client.
    Column("client_secret", LargeBinary),
    _created(),
    Column("disconnected_at", DateTime(timezone=True)),
    Index(
        "identity_providers_org_id_issuer_key",
        "org_id",
        "kind",
        "issuer",
        unique=True,
        postgresql_where=text("org_id IS NOT NULL"),
    ),
    Index("identity_providers_issuer_key", "kind", "issuer", unique=True, postgresql_where=text("org_id IS NULL")),
)

# A person is (provider, subject), and nothing else.
users = Table(
    "users",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("provider_id", UUID, ForeignKey("identity_providers.id"), nullable=False),
    Column("subject", Text, nullable=False),
    # Verified by the provider at the last log-in; lower case.
    Column("email", Text, nullable=False),
    Column("name", Text, nullable=False),
    _created(),
    Column("last_login_at", DateTime(timezone=True)),
    UniqueConstraint("provider_id", "subject"),
)

org_members = Table(
    "org_members",
    metadata,
    Column("org_id", UUID, ForeignKey("organizations.id"), primary_key=True),
    Column("user_id", UUID, ForeignKey("users.id"), primary_key=True, index=True),
    Column("role", SmallInteger, nullable=False),
    _created(),
)

invitations = Table(
    "invitations",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("org_id", UUID, ForeignKey("organizations.id"), nullable=False),
    # Lower case.
    Column("email", Text, nullable=False),
    Column("role", SmallInteger, nullable=False),
    # SHA-256 of the token.
    Column("token_hash", LargeBinary, nullable=False, unique=True),
    Column("created_by_kind", Text, nullable=False),
    Column("created_by", UUID, nullable=False),
    _created(),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("accepted_at", DateTime(timezone=True)),
    Column("accepted_by", UUID),
    Column("revoked_at", DateTime(timezone=True)),
    Index(
        "invitations_open_key",
        "org_id",
        "email",
        unique=True,
        postgresql_where=text("accepted_at IS NULL AND revoked_at IS NULL"),
    ),
    # When it was over, or will be.
    Index("invitations_over_idx", text("COALESCE(accepted_at, revoked_at, expires_at)")),
    Index("invitations_email_idx", "email", postgresql_where=text("accepted_at IS NULL AND revoked_at IS NULL")),
)

# One log-in on one device; its refresh tokens are a family.
sessions = Table(
    "sessions",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("user_id", UUID, ForeignKey("users.id"), nullable=False, index=True),
    # browser or device
    Column("origin", Text, nullable=False),
    _created(),
    Column("expires_at", DateTime(timezone=True), nullable=False, index=True),
    Column("last_used_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("ip_address", INET),
    Column("user_agent", Text),
    Column("ended_at", DateTime(timezone=True)),
    # logout, reuse, disconnected, …
    Column("end_reason", Text),
    Index("sessions_ended_at_idx", "ended_at", postgresql_where=text("ended_at IS NOT NULL")),
)

refresh_tokens = Table(
    "refresh_tokens",
    metadata,
    # SHA-256 of the token.
    Column("token_hash", LargeBinary, primary_key=True),
    Column("session_id", UUID, ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False, index=True),
    _created(),
    Column("used_at", DateTime(timezone=True)),
)

# SHA-256 of the log-ins that were completed, for as long as one could be replayed.
used_logins = Table(
    "used_logins",
    metadata,
    Column("login_hash", LargeBinary, primary_key=True),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now(), index=True),
)

# RFC 8628.
device_logins = Table(
    "device_logins",
    metadata,
    # SHA-256 of the device code.
    Column("device_hash", LargeBinary, primary_key=True),
    # Upper case, without the hyphen.
    Column("user_code", Text, nullable=False, unique=True),
    Column("client_name", Text, nullable=False),
    Column("ip_address", INET),
    Column("user_agent", Text),
    _created(),
    Column("expires_at", DateTime(timezone=True), nullable=False, index=True),
    Column("polled_at", DateTime(timezone=True)),
    # Seconds between two polls; grows for a device that polls too often.
    Column("poll_interval", SmallInteger, nullable=False, server_default=text("5")),
    Column("decided_at", DateTime(timezone=True)),
    Column("approved", Boolean),
    Column("user_id", UUID, ForeignKey("users.id")),
    # When the tokens were given out.
    Column("answered_at", DateTime(timezone=True)),
)

# Ed25519 keys of access tokens; the private part is sealed (identity.sealing).
token_keys = Table(
    "token_keys",
    metadata,
    Column("id", UUID, primary_key=True),
    # 32 bytes
    Column("public_key", LargeBinary, nullable=False),
    Column("private_key", LargeBinary, nullable=False),
    _created(),
    Column("signs_from", DateTime(timezone=True), nullable=False),
    Column("signs_until", DateTime(timezone=True), nullable=False),
)

# Which quota was told of in which period: `warning` at 80 %, `exceeded` at the first refusal.
quota_notices = Table(
    "quota_notices",
    metadata,
    Column("org_id", UUID, ForeignKey("organizations.id"), primary_key=True),
    Column("metric", Text, primary_key=True),
    Column("period_start", Date, primary_key=True),
    Column("level", Text, primary_key=True),
    _created(),
)
