"""The first schema: organizations, keys, API keys, the ledger and the release gate."""

from alembic import op

revision = "0001"
down_revision = None

TABLES = """
CREATE TABLE organizations (
    id UUID CONSTRAINT organizations_pkey PRIMARY KEY,
    name TEXT NOT NULL,
    slug TEXT NOT NULL CONSTRAINT organizations_slug_key UNIQUE,
    plan TEXT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now()
);

CREATE TABLE namespaces (
    id UUID CONSTRAINT namespaces_pkey PRIMARY KEY,
    org_id UUID NOT NULL CONSTRAINT namespaces_org_id_fkey REFERENCES organizations (id),
    name TEXT NOT NULL,
    address_prefix TEXT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    CONSTRAINT namespaces_org_id_name_key UNIQUE (org_id, name)
);

CREATE TABLE api_keys (
    id UUID CONSTRAINT api_keys_pkey PRIMARY KEY,
    org_id UUID NOT NULL CONSTRAINT api_keys_org_id_fkey REFERENCES organizations (id),
    name TEXT NOT NULL,
    key_hash TEXT NOT NULL,
    scopes TEXT[] NOT NULL,
    role SMALLINT NOT NULL,
    expires_at TIMESTAMPTZ,
    revoked_at TIMESTAMPTZ,
    last_used_at TIMESTAMPTZ,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE INDEX api_keys_org_id_idx ON api_keys (org_id);

CREATE TABLE keys (
    id UUID CONSTRAINT keys_pkey PRIMARY KEY,
    org_id UUID NOT NULL CONSTRAINT keys_org_id_fkey REFERENCES organizations (id),
    namespace_id UUID NOT NULL CONSTRAINT keys_namespace_id_fkey REFERENCES namespaces (id),
    name TEXT NOT NULL,
    algorithm TEXT NOT NULL,
    state SMALLINT NOT NULL,
    public_key BYTEA CONSTRAINT keys_public_key_check CHECK (public_key IS NULL OR octet_length(public_key) = 33),
    current_version INTEGER NOT NULL DEFAULT 1,
    min_version INTEGER NOT NULL DEFAULT 1,
    exportable BOOLEAN NOT NULL,
    metadata JSONB NOT NULL DEFAULT '{}'::jsonb,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    deleted_at TIMESTAMPTZ,
    destroy_at TIMESTAMPTZ
);
CREATE UNIQUE INDEX keys_org_id_namespace_id_name_key ON keys (org_id, namespace_id, name) WHERE state NOT IN (4, 5);
CREATE INDEX keys_org_id_id_idx ON keys (org_id, id);
CREATE INDEX keys_namespace_id_idx ON keys (namespace_id);
CREATE INDEX keys_unfinished_idx ON keys (state, destroy_at) WHERE state IN (0, 3, 5);

CREATE TABLE key_versions (
    key_id UUID CONSTRAINT key_versions_key_id_fkey REFERENCES keys (id),
    version INTEGER,
    org_id UUID NOT NULL,
    public_key BYTEA NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    CONSTRAINT key_versions_pkey PRIMARY KEY (key_id, version)
);

CREATE TABLE ledger_heads (
    org_id UUID CONSTRAINT ledger_heads_pkey PRIMARY KEY
        CONSTRAINT ledger_heads_org_id_fkey REFERENCES organizations (id),
    size BIGINT NOT NULL DEFAULT 0,
    signature_quota BIGINT
) WITH (fillfactor = 50);

CREATE TABLE audit_logs (
    org_id UUID,
    seq BIGINT,
    created_at TIMESTAMPTZ DEFAULT now(),
    id UUID NOT NULL,
    event TEXT NOT NULL,
    actor_type TEXT NOT NULL,
    actor_id UUID,
    resource_type TEXT,
    resource_id UUID,
    key_version INTEGER,
    digest BYTEA,
    hash SMALLINT,
    sign_mode TEXT,
    request_id TEXT,
    ip_address INET,
    user_agent TEXT,
    metadata JSONB,
    CONSTRAINT audit_logs_pkey PRIMARY KEY (org_id, seq, created_at)
) PARTITION BY RANGE (created_at);
CREATE INDEX audit_logs_id_idx ON audit_logs (id);
CREATE INDEX audit_logs_resource_idx ON audit_logs (org_id, resource_id, seq);
CREATE INDEX audit_logs_event_idx ON audit_logs (org_id, event, seq) WHERE event <> 'key.signed';
-- A clock that jumps must not stop the ledger: rows outside of every month's partition land here.
CREATE TABLE audit_logs_default PARTITION OF audit_logs DEFAULT;

CREATE TABLE usage_metrics (
    org_id UUID CONSTRAINT usage_metrics_org_id_fkey REFERENCES organizations (id),
    metric TEXT,
    period_start DATE,
    period_end DATE NOT NULL,
    value BIGINT NOT NULL,
    CONSTRAINT usage_metrics_pkey PRIMARY KEY (org_id, metric, period_start)
) WITH (fillfactor = 50);

CREATE TABLE sign_requests (
    org_id UUID,
    request_id TEXT,
    key_id UUID NOT NULL,
    key_version INTEGER NOT NULL,
    digest BYTEA NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    CONSTRAINT sign_requests_pkey PRIMARY KEY (org_id, request_id)
);
CREATE INDEX sign_requests_created_at_idx ON sign_requests (created_at);
"""

UUIDV7 = """
-- A UUIDv7 (RFC 9562) by the wall clock; older servers than PostgreSQL 18 have none of their own.
CREATE FUNCTION popsigner_uuidv7() RETURNS UUID LANGUAGE sql VOLATILE PARALLEL SAFE AS $$
    SELECT encode(
        set_bit(set_bit(
            overlay(uuid_send(gen_random_uuid())
                PLACING substring(int8send(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3)
                FROM 1 FOR 6),
            52, 1), 53, 1), 'hex')::uuid
$$;
"""

PARTITIONS = """
-- Make the partitions of the current month and the next `ahead` months. A month that the default partition already
-- holds rows of stays there: moving them is an operator's decision.
CREATE FUNCTION popsigner_make_audit_partitions(ahead INTEGER) RETURNS INTEGER LANGUAGE plpgsql AS $$
DECLARE
    month DATE;
    made INTEGER := 0;
BEGIN
    FOR i IN 0..ahead LOOP
        month := (date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => i))::date;
        IF to_regclass('audit_logs_' || to_char(month, 'YYYY_MM')) IS NULL AND NOT EXISTS (
            SELECT FROM audit_logs_default
            WHERE created_at >= month::timestamp AT TIME ZONE 'UTC'
              AND created_at < (month + interval '1 month') AT TIME ZONE 'UTC'
        ) THEN
            EXECUTE format(
                'CREATE TABLE IF NOT EXISTS %I PARTITION OF audit_logs FOR VALUES FROM (%L) TO (%L)',
                'audit_logs_' || to_char(month, 'YYYY_MM'),
                month::timestamp AT TIME ZONE 'UTC',
                (month + interval '1 month') AT TIME ZONE 'UTC');
            made := made + 1;
        END IF;
    END LOOP;
    RETURN made;
END
$$;
"""

GATE = """
-- The release gate. One call is one transaction: it locks the ledger heads of the callers' organizations (in the
-- order of their ids, so that two calls never deadlock), then reads again what entitles each item, writes the audit
-- rows, adds the usage and moves the heads. Under READ COMMITTED every statement of this function takes its snapshot
-- after the locks were granted, and whoever takes a right away holds the same lock: that is what makes it exact.
--
-- Callers and keys are tables of the batch's distinct ones; items point into them (from 1). `digests` holds 32 bytes an
-- item. `modes` and `requests` are null where no item has one. With `wait` false, heads that somebody else holds are
-- skipped, and their items answered HELD.
--
-- Answers the number of released items, and the refused ones with their reason. An item whose request_id was seen
-- within 24 hours for the same key, version and digest is released without a second row (`replayed`).
CREATE FUNCTION popsigner_release_1(
    caller_org UUID[], caller_actor UUID[], caller_ip TEXT[], caller_agent TEXT[],
    sign_key UUID[], sign_version INTEGER[],
    item_caller INTEGER[], item_key INTEGER[], item_hash INTEGER[], digests BYTEA, modes TEXT[], requests TEXT[],
    wait BOOLEAN,
    OUT released INTEGER, OUT replayed INTEGER, OUT refused INTEGER[], OUT reasons TEXT[]
) LANGUAGE plpgsql AS $$
DECLARE
    heads UUID[];
    caller_refusal TEXT[];
    key_org UUID[];
    key_refusal TEXT[];
    month DATE := date_trunc('month', now() AT TIME ZONE 'UTC')::date;
BEGIN
    IF wait THEN
        heads := ARRAY(SELECT h.org_id FROM ledger_heads h WHERE h.org_id = ANY (caller_org) ORDER BY h.org_id
                       FOR UPDATE);
    ELSE
        heads := ARRAY(SELECT h.org_id FROM ledger_heads h WHERE h.org_id = ANY (caller_org) ORDER BY h.org_id
                       FOR UPDATE SKIP LOCKED);
    END IF;

    SELECT array_agg(CASE
            WHEN NOT c.org = ANY (heads) THEN 'HELD'
            WHEN a.id IS NULL THEN 'CREDENTIALS_INVALID'
            WHEN a.revoked_at IS NOT NULL THEN 'API_KEY_REVOKED'
            WHEN a.expires_at <= clock_timestamp() THEN 'API_KEY_EXPIRED'
        END ORDER BY c.n)
    INTO caller_refusal
    FROM unnest(caller_org, caller_actor) WITH ORDINALITY AS c (org, actor, n)
    LEFT JOIN api_keys a ON a.id = c.actor AND a.org_id = c.org;

    SELECT array_agg(k.org_id ORDER BY w.n), array_agg(CASE
            WHEN k.id IS NULL OR k.state IN (0, 4, 5) THEN 'KEY_NOT_FOUND'
            WHEN k.state = 3 THEN 'KEY_DELETED'
            WHEN k.state <> 1 THEN 'KEY_DISABLED'
            WHEN w.version NOT BETWEEN k.min_version AND k.current_version THEN 'KEY_VERSION_UNAVAILABLE'
        END ORDER BY w.n)
    INTO key_org, key_refusal
    FROM unnest(sign_key, sign_version) WITH ORDINALITY AS w (id, version, n)
    LEFT JOIN keys k ON k.id = w.id;

    WITH offered AS (
        SELECT i.n, i.caller, i.key, i.hash, i.mode, i.request, caller_org[i.caller] AS org,
               substring(digests FROM (i.n::int - 1) * 32 + 1 FOR 32) AS digest,
               CASE WHEN caller_refusal[i.caller] IS NOT NULL THEN caller_refusal[i.caller]
                    WHEN key_org[i.key] IS DISTINCT FROM caller_org[i.caller] THEN 'KEY_NOT_FOUND'
                    ELSE key_refusal[i.key] END AS refusal
        FROM unnest(item_caller, item_key, item_hash, modes, requests) WITH ORDINALITY
             AS i (caller, key, hash, mode, request, n)
    ), known AS (
        SELECT o.n, r.key_id = sign_key[o.key] AND r.key_version = sign_version[o.key] AND r.digest = o.digest AS same
        FROM offered o JOIN sign_requests r ON r.org_id = o.org AND r.request_id = o.request
        WHERE requests IS NOT NULL AND o.request IS NOT NULL AND r.created_at > now() - interval '24 hours'
    ), judged AS (
        SELECT o.*, k.same IS TRUE AS replay,
               CASE WHEN o.refusal IS NULL AND NOT k.same THEN 'REQUEST_ID_REUSED' ELSE o.refusal END AS verdict
        FROM offered o LEFT JOIN known k USING (n)
    ), numbered AS (
        SELECT j.*, row_number() OVER (PARTITION BY j.org ORDER BY j.n) AS ordinal
        FROM judged j WHERE j.verdict IS NULL AND NOT j.replay
    ), accepted AS (
        SELECT o.*, h.size + o.ordinal AS seq
        FROM numbered o JOIN ledger_heads h ON h.org_id = o.org
        LEFT JOIN usage_metrics u ON u.org_id = o.org AND u.metric = 'signatures' AND u.period_start = month
        WHERE h.signature_quota IS NULL OR coalesce(u.value, 0) + o.ordinal <= h.signature_quota
    ), written AS (
        INSERT INTO audit_logs (org_id, seq, created_at, id, event, actor_type, actor_id, resource_type, resource_id,
                                key_version, digest, hash, sign_mode, request_id, ip_address, user_agent)
        SELECT a.org, a.seq, now(), popsigner_uuidv7(), 'key.signed', 'api_key', caller_actor[a.caller], 'key',
               sign_key[a.key], sign_version[a.key], a.digest, a.hash, a.mode, a.request, caller_ip[a.caller]::inet,
               caller_agent[a.caller]
        FROM accepted a
    ), grown AS (
        SELECT a.org, count(*) AS n FROM accepted a GROUP BY a.org
    ), moved AS (
        UPDATE ledger_heads h SET size = h.size + g.n FROM grown g WHERE h.org_id = g.org
    ), counted AS (
        INSERT INTO usage_metrics AS u (org_id, metric, period_start, period_end, value)
        SELECT g.org, 'signatures', month, (month + interval '1 month')::date, g.n FROM grown g
        ON CONFLICT (org_id, metric, period_start) DO UPDATE SET value = u.value + excluded.value
    ), remembered AS (
        INSERT INTO sign_requests AS r (org_id, request_id, key_id, key_version, digest, created_at)
        SELECT a.org, a.request, sign_key[a.key], sign_version[a.key], a.digest, now()
        FROM accepted a WHERE requests IS NOT NULL AND a.request IS NOT NULL
        ON CONFLICT (org_id, request_id) DO UPDATE SET key_id = excluded.key_id, key_version = excluded.key_version,
            digest = excluded.digest, created_at = excluded.created_at
    )
    SELECT count(*) FILTER (WHERE a.n IS NOT NULL), count(*) FILTER (WHERE j.verdict IS NULL AND j.replay),
           array_agg(j.n::int ORDER BY j.n) FILTER (WHERE a.n IS NULL AND NOT (j.verdict IS NULL AND j.replay)),
           array_agg(coalesce(j.verdict, 'QUOTA_EXCEEDED') ORDER BY j.n)
               FILTER (WHERE a.n IS NULL AND NOT (j.verdict IS NULL AND j.replay))
    INTO released, replayed, refused, reasons
    FROM judged j LEFT JOIN accepted a USING (n);
END
$$;
"""


def upgrade() -> None:
    for statements in (TABLES, UUIDV7, PARTITIONS, GATE):
        # The driver itself: these scripts hold several statements and `%`, and no parameters.
        op.get_bind().connection.cursor().execute(statements)
