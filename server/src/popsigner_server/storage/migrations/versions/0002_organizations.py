"""Organizations and their people: users, members, invitations, identity providers, sessions, API keys complete;
row-level security and the roles behind it; the second release gate.

The roles belong to the whole cluster, so another POP's database beside this one may have made them already.
"""

from alembic import op

revision = "0002"
down_revision = "0001"

ROLES = """
DO $$
DECLARE
    wanted TEXT;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['popsigner_tenant', 'popsigner_identity', 'popsigner_jobs', 'popsigner_gate'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;
            END;
        END IF;
        -- One that an operator made by hand must not take the second lock away, e.g. by a GRANT the wrong way round.
        IF EXISTS (SELECT FROM pg_roles r WHERE r.rolname = wanted AND (
            r.rolsuper OR r.rolbypassrls OR r.rolcreaterole
            OR EXISTS (SELECT FROM pg_auth_members m WHERE m.member = r.oid))) THEN
            RAISE EXCEPTION 'The role % must be an ordinary one: no superuser, neither BYPASSRLS nor CREATEROLE, and'
                ' a member of no other role.', wanted;
        END IF;
        -- Whoever migrates also serves, and must be able to become each of them. A superuser can.
        BEGIN
            EXECUTE format('SET LOCAL ROLE %I', wanted);
            RESET ROLE;
        EXCEPTION WHEN insufficient_privilege THEN
            EXECUTE format('GRANT %I TO CURRENT_USER', wanted);
        END;
        EXECUTE format('GRANT USAGE ON SCHEMA public TO %I', wanted);
    END LOOP;
END
$$;
"""

TABLES = """
ALTER TABLE organizations
    ADD COLUMN deleted_at TIMESTAMPTZ,
    ADD COLUMN erase_at TIMESTAMPTZ,
    ADD COLUMN erased_at TIMESTAMPTZ;
CREATE INDEX organizations_erase_at_idx ON organizations (erase_at) WHERE erase_at IS NOT NULL;

ALTER TABLE ledger_heads ADD COLUMN closed_at TIMESTAMPTZ;

ALTER TABLE api_keys
    ADD COLUMN key_check BYTEA,
    ADD COLUMN generation INTEGER NOT NULL DEFAULT 1,
    ADD COLUMN previous_hash TEXT,
    ADD COLUMN previous_check BYTEA,
    ADD COLUMN previous_expires_at TIMESTAMPTZ,
    ADD COLUMN ip_allow_list CIDR[] NOT NULL DEFAULT '{}',
    ADD COLUMN namespace_ids UUID[] NOT NULL DEFAULT '{}',
    ADD COLUMN key_ids UUID[] NOT NULL DEFAULT '{}',
    ADD COLUMN created_by_kind TEXT NOT NULL DEFAULT 'system',
    ADD COLUMN created_by UUID;
CREATE INDEX api_keys_created_by_idx ON api_keys (created_by) WHERE created_by IS NOT NULL;

-- What one person did, for their export and their erasure. Signatures by API keys are not in it.
CREATE INDEX audit_logs_actor_idx ON audit_logs (actor_id, org_id, seq) WHERE actor_type = 'user';

CREATE TABLE identity_providers (
    id UUID CONSTRAINT identity_providers_pkey PRIMARY KEY,
    org_id UUID CONSTRAINT identity_providers_org_id_fkey REFERENCES organizations (id),
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    issuer TEXT NOT NULL,
    client_id TEXT NOT NULL,
    client_secret BYTEA,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    disconnected_at TIMESTAMPTZ
);
CREATE UNIQUE INDEX identity_providers_org_id_issuer_key ON identity_providers (org_id, kind, issuer)
    WHERE org_id IS NOT NULL;
CREATE UNIQUE INDEX identity_providers_issuer_key ON identity_providers (kind, issuer) WHERE org_id IS NULL;

CREATE TABLE users (
    id UUID CONSTRAINT users_pkey PRIMARY KEY,
    provider_id UUID NOT NULL CONSTRAINT users_provider_id_fkey REFERENCES identity_providers (id),
    subject TEXT NOT NULL,
    email TEXT NOT NULL,
    name TEXT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    last_login_at TIMESTAMPTZ,
    CONSTRAINT users_provider_id_subject_key UNIQUE (provider_id, subject)
);

CREATE TABLE org_members (
    org_id UUID CONSTRAINT org_members_org_id_fkey REFERENCES organizations (id),
    user_id UUID CONSTRAINT org_members_user_id_fkey REFERENCES users (id),
    role SMALLINT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    CONSTRAINT org_members_pkey PRIMARY KEY (org_id, user_id)
);
CREATE INDEX org_members_user_id_idx ON org_members (user_id);

CREATE TABLE invitations (
    id UUID CONSTRAINT invitations_pkey PRIMARY KEY,
    org_id UUID NOT NULL CONSTRAINT invitations_org_id_fkey REFERENCES organizations (id),
    email TEXT NOT NULL,
    role SMALLINT NOT NULL,
    token_hash BYTEA NOT NULL CONSTRAINT invitations_token_hash_key UNIQUE,
    created_by_kind TEXT NOT NULL,
    created_by UUID NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    expires_at TIMESTAMPTZ NOT NULL,
    accepted_at TIMESTAMPTZ,
    accepted_by UUID,
    revoked_at TIMESTAMPTZ
);
CREATE UNIQUE INDEX invitations_open_key ON invitations (org_id, email)
    WHERE accepted_at IS NULL AND revoked_at IS NULL;
CREATE INDEX invitations_email_idx ON invitations (email) WHERE accepted_at IS NULL AND revoked_at IS NULL;

CREATE TABLE sessions (
    id UUID CONSTRAINT sessions_pkey PRIMARY KEY,
    user_id UUID NOT NULL CONSTRAINT sessions_user_id_fkey REFERENCES users (id),
    origin TEXT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    expires_at TIMESTAMPTZ NOT NULL,
    last_used_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    ip_address INET,
    user_agent TEXT,
    ended_at TIMESTAMPTZ,
    end_reason TEXT
);
CREATE INDEX sessions_user_id_idx ON sessions (user_id);
CREATE INDEX sessions_expires_at_idx ON sessions (expires_at);

CREATE TABLE refresh_tokens (
    token_hash BYTEA CONSTRAINT refresh_tokens_pkey PRIMARY KEY,
    session_id UUID NOT NULL CONSTRAINT refresh_tokens_session_id_fkey REFERENCES sessions (id) ON DELETE CASCADE,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    used_at TIMESTAMPTZ
);
CREATE INDEX refresh_tokens_session_id_idx ON refresh_tokens (session_id);

CREATE TABLE used_logins (
    login_hash BYTEA CONSTRAINT used_logins_pkey PRIMARY KEY,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE INDEX used_logins_created_at_idx ON used_logins (created_at);

CREATE TABLE device_logins (
    device_hash BYTEA CONSTRAINT device_logins_pkey PRIMARY KEY,
    user_code TEXT NOT NULL CONSTRAINT device_logins_user_code_key UNIQUE,
    client_name TEXT NOT NULL,
    ip_address INET,
    user_agent TEXT,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    expires_at TIMESTAMPTZ NOT NULL,
    polled_at TIMESTAMPTZ,
    poll_interval SMALLINT NOT NULL DEFAULT 5,
    decided_at TIMESTAMPTZ,
    approved BOOLEAN,
    user_id UUID CONSTRAINT device_logins_user_id_fkey REFERENCES users (id),
    answered_at TIMESTAMPTZ
);
CREATE INDEX device_logins_expires_at_idx ON device_logins (expires_at);

CREATE TABLE token_keys (
    id UUID CONSTRAINT token_keys_pkey PRIMARY KEY,
    public_key BYTEA NOT NULL,
    private_key BYTEA NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    signs_from TIMESTAMPTZ NOT NULL,
    signs_until TIMESTAMPTZ NOT NULL
);

CREATE TABLE quota_notices (
    org_id UUID CONSTRAINT quota_notices_org_id_fkey REFERENCES organizations (id),
    metric TEXT,
    period_start DATE,
    level TEXT,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    CONSTRAINT quota_notices_pkey PRIMARY KEY (org_id, metric, period_start, level)
);
"""

# What each role may do. A table that is not named here is closed to it.
GRANTS = """
-- Not its plan, and not its quota: those are the operator's.
GRANT SELECT, INSERT, UPDATE (name, deleted_at, erase_at) ON organizations TO popsigner_tenant;
GRANT SELECT, INSERT, UPDATE (size, closed_at) ON ledger_heads TO popsigner_tenant;
-- A row lock of any kind needs UPDATE of some column; none is ever changed.
GRANT SELECT, INSERT, DELETE, UPDATE (name) ON namespaces TO popsigner_tenant;
GRANT SELECT, INSERT, UPDATE ON api_keys TO popsigner_tenant;
GRANT SELECT, INSERT, UPDATE, DELETE ON keys TO popsigner_tenant;
GRANT SELECT, INSERT, DELETE ON key_versions TO popsigner_tenant;
GRANT SELECT, INSERT ON audit_logs TO popsigner_tenant;
GRANT SELECT ON usage_metrics TO popsigner_tenant;
GRANT SELECT, INSERT ON quota_notices TO popsigner_tenant;
GRANT SELECT, INSERT, UPDATE, DELETE ON org_members TO popsigner_tenant;
GRANT SELECT, INSERT, UPDATE ON invitations TO popsigner_tenant;
GRANT SELECT, INSERT, UPDATE ON identity_providers TO popsigner_tenant;
GRANT SELECT (id, provider_id, email, name, created_at) ON users TO popsigner_tenant;

GRANT SELECT ON organizations, org_members, invitations, identity_providers TO popsigner_identity;
-- Who begins a session locks its provider's row against a disconnection; a row lock needs UPDATE of some column.
GRANT UPDATE (name) ON identity_providers TO popsigner_identity;
GRANT SELECT ON api_keys TO popsigner_identity;
GRANT UPDATE (key_check, previous_check) ON api_keys TO popsigner_identity;
GRANT SELECT, INSERT, UPDATE, DELETE ON users, sessions, refresh_tokens, used_logins, device_logins, token_keys
    TO popsigner_identity;

GRANT SELECT, INSERT, UPDATE, DELETE ON organizations, ledger_heads, namespaces, api_keys, keys, key_versions,
    audit_logs, usage_metrics, sign_requests, quota_notices, identity_providers, users, org_members, invitations,
    sessions, refresh_tokens, used_logins, device_logins, token_keys TO popsigner_jobs;

GRANT SELECT, UPDATE (size) ON ledger_heads TO popsigner_gate;
GRANT SELECT (id, org_id, revoked_at, expires_at, generation, previous_expires_at) ON api_keys TO popsigner_gate;
GRANT SELECT (id, org_id, state, min_version, current_version) ON keys TO popsigner_gate;
GRANT SELECT (id, user_id, ended_at, expires_at) ON sessions TO popsigner_gate;
GRANT SELECT (org_id, user_id, role) ON org_members TO popsigner_gate;
GRANT INSERT ON audit_logs TO popsigner_gate;
GRANT SELECT, INSERT, UPDATE ON usage_metrics, sign_requests TO popsigner_gate;
GRANT SELECT, INSERT ON quota_notices TO popsigner_gate;
"""

# The second lock: a tenant's query that forgets its organization still sees no other's rows. Unset, the setting matches
# nothing.
POLICIES = """
DO $$
DECLARE
    name TEXT;
    mine TEXT := $m$ nullif(current_setting('popsigner.org_id', true), '')::uuid $m$;
BEGIN
    FOREACH name IN ARRAY ARRAY[
        'namespaces', 'api_keys', 'keys', 'key_versions', 'ledger_heads', 'audit_logs', 'usage_metrics',
        'quota_notices', 'org_members', 'invitations', 'identity_providers', 'organizations', 'users', 'sessions',
        'refresh_tokens', 'used_logins', 'device_logins', 'token_keys', 'sign_requests'
    ] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY everything ON %I TO popsigner_identity, popsigner_jobs, popsigner_gate'
                       ' USING (true) WITH CHECK (true)', name);
    END LOOP;
    FOREACH name IN ARRAY ARRAY[
        'namespaces', 'api_keys', 'keys', 'key_versions', 'ledger_heads', 'audit_logs', 'usage_metrics',
        'quota_notices', 'org_members', 'invitations', 'identity_providers'
    ] LOOP
        EXECUTE format('CREATE POLICY organization ON %I TO popsigner_tenant'
                       ' USING (org_id = %s) WITH CHECK (org_id = %s)', name, mine, mine);
    END LOOP;
    -- A foreign key looks past the policies: a row that hangs on another's would keep the other from deleting it.
    EXECUTE format('ALTER POLICY organization ON keys WITH CHECK (org_id = %s AND EXISTS (SELECT FROM namespaces n'
                   ' WHERE n.id = namespace_id AND n.org_id = %s))', mine, mine);
    EXECUTE format('ALTER POLICY organization ON key_versions WITH CHECK (org_id = %s AND EXISTS (SELECT FROM keys k'
                   ' WHERE k.id = key_id AND k.org_id = %s))', mine, mine);
    EXECUTE format('CREATE POLICY organization ON organizations TO popsigner_tenant'
                   ' USING (id = %s) WITH CHECK (id = %s)', mine, mine);
    EXECUTE format('CREATE POLICY organization ON users TO popsigner_tenant USING (EXISTS (SELECT FROM org_members m'
                   ' WHERE m.user_id = users.id AND m.org_id = %s))', mine);
END
$$;
"""

# Making a partition takes the table's owner; the jobs' role may do just this.
PARTITIONS = """
ALTER FUNCTION popsigner_make_audit_partitions(INTEGER) SECURITY DEFINER SET search_path = public, pg_temp;
REVOKE ALL ON FUNCTION popsigner_make_audit_partitions(INTEGER) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION popsigner_make_audit_partitions(INTEGER) TO popsigner_jobs;
"""

NOTES = """
-- Write `quota.warning` at 80 % of a quota and `quota.exceeded` at the first refusal, each once a period, for the
-- organization whose head the caller has locked.
CREATE FUNCTION popsigner_note_quota(
    org UUID, metric_name TEXT, period DATE, used BIGINT, quota BIGINT, refused BOOLEAN)
RETURNS VOID LANGUAGE plpgsql AS $$
DECLARE
    which TEXT;
BEGIN
    FOREACH which IN ARRAY ARRAY['warning', 'exceeded'] LOOP
        CONTINUE WHEN which = 'warning' AND used * 100 < quota * 80;
        CONTINUE WHEN which = 'exceeded' AND NOT refused;
        CONTINUE WHEN EXISTS (SELECT FROM quota_notices q WHERE q.org_id = org AND q.metric = metric_name
                              AND q.period_start = period AND q.level = which);
        INSERT INTO quota_notices (org_id, metric, period_start, level) VALUES (org, metric_name, period, which);
        UPDATE ledger_heads SET size = size + 1 WHERE org_id = org;
        INSERT INTO audit_logs (org_id, seq, created_at, id, event, actor_type, resource_type, resource_id, metadata)
        SELECT org, h.size, now(), popsigner_uuidv7(), 'quota.' || which, 'system', 'organization', org,
               jsonb_build_object('metric', metric_name, 'used', used::text, 'quota', quota::text,
                                  'period', period::text)
        FROM ledger_heads h WHERE h.org_id = org;
    END LOOP;
END
$$;
"""

GATE = """
-- The release gate, second edition: callers may be people, and organizations may be closed; see popsigner_release_1 for
-- the rest. `caller_session` is null for an API key, whose `caller_generation` says which of its secrets was shown.
CREATE FUNCTION popsigner_release_2(
    caller_org UUID[], caller_actor UUID[], caller_session UUID[], caller_generation INTEGER[], caller_ip TEXT[],
    caller_agent TEXT[], sign_key UUID[], sign_version INTEGER[],
    item_caller INTEGER[], item_key INTEGER[], item_hash INTEGER[], digests BYTEA, modes TEXT[], requests TEXT[],
    wait BOOLEAN,
    OUT released INTEGER, OUT replayed INTEGER, OUT refused INTEGER[], OUT reasons TEXT[]
) LANGUAGE plpgsql AS $$
DECLARE
    heads UUID[];
    closed UUID[];
    limited BOOLEAN;
    caller_refusal TEXT[];
    key_org UUID[];
    key_refusal TEXT[];
    exhausted UUID[];
    month DATE := date_trunc('month', now() AT TIME ZONE 'UTC')::date;
BEGIN
    IF wait THEN
        SELECT array_agg(l.org_id), array_agg(l.org_id) FILTER (WHERE l.closed_at IS NOT NULL),
               bool_or(l.signature_quota IS NOT NULL)
        INTO heads, closed, limited
        FROM (SELECT * FROM ledger_heads h WHERE h.org_id = ANY (caller_org) ORDER BY h.org_id FOR UPDATE) l;
    ELSE
        SELECT array_agg(l.org_id), array_agg(l.org_id) FILTER (WHERE l.closed_at IS NOT NULL),
               bool_or(l.signature_quota IS NOT NULL)
        INTO heads, closed, limited
        FROM (SELECT * FROM ledger_heads h WHERE h.org_id = ANY (caller_org) ORDER BY h.org_id
              FOR UPDATE SKIP LOCKED) l;
    END IF;

    SELECT array_agg(CASE
            WHEN c.org = ANY (heads) IS NOT TRUE THEN 'HELD'
            WHEN c.org = ANY (closed) THEN 'ORGANIZATION_DELETED'
            WHEN c.session IS NOT NULL THEN NULL
            WHEN a.id IS NULL THEN 'CREDENTIALS_INVALID'
            WHEN a.revoked_at IS NOT NULL THEN 'API_KEY_REVOKED'
            WHEN a.expires_at <= clock_timestamp() THEN 'API_KEY_EXPIRED'
            WHEN c.generation <> a.generation AND (c.generation <> a.generation - 1
                 OR (a.previous_expires_at > clock_timestamp()) IS NOT TRUE) THEN 'API_KEY_REVOKED'
        END ORDER BY c.n)
    INTO caller_refusal
    FROM unnest(caller_org, caller_actor, caller_session, caller_generation)
         WITH ORDINALITY AS c (org, actor, session, generation, n)
    LEFT JOIN api_keys a ON a.id = c.actor AND a.org_id = c.org;

    -- A statement of their own: programs sign, people seldom do, and two more joins cost every batch 0.3 ms.
    IF array_remove(caller_session, NULL) <> '{}' THEN
        SELECT array_agg(CASE
                WHEN c.refusal IS NOT NULL OR c.session IS NULL THEN c.refusal
                WHEN s.id IS NULL OR s.user_id <> c.actor OR s.ended_at IS NOT NULL
                     OR s.expires_at <= clock_timestamp() THEN 'SESSION_ENDED'
                WHEN m.role IS NULL THEN 'MEMBERSHIP_MISSING'
                -- OPERATOR is the lowest role that signs.
                WHEN m.role < 2 THEN 'SCOPE_MISSING'
            END ORDER BY c.n)
        INTO caller_refusal
        FROM unnest(caller_org, caller_actor, caller_session, caller_refusal)
             WITH ORDINALITY AS c (org, actor, session, refusal, n)
        LEFT JOIN sessions s ON s.id = c.session
        LEFT JOIN org_members m ON m.org_id = c.org AND m.user_id = c.actor;
    END IF;

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
        SELECT a.org, a.seq, now(), popsigner_uuidv7(), 'key.signed',
               CASE WHEN caller_session[a.caller] IS NULL THEN 'api_key' ELSE 'user' END, caller_actor[a.caller], 'key',
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

    IF limited THEN
        exhausted := ARRAY(SELECT DISTINCT caller_org[item_caller[r.item]]
                           FROM unnest(refused, reasons) AS r (item, why) WHERE r.why = 'QUOTA_EXCEEDED');
        PERFORM popsigner_note_quota(h.org_id, 'signatures', month, coalesce(u.value, 0), h.signature_quota,
                                     h.org_id = ANY (exhausted) IS TRUE)
        FROM ledger_heads h
        LEFT JOIN usage_metrics u ON u.org_id = h.org_id AND u.metric = 'signatures' AND u.period_start = month
        WHERE h.org_id = ANY (heads) AND h.signature_quota IS NOT NULL;
    END IF;
END
$$;
"""


def upgrade() -> None:
    for statements in (ROLES, TABLES, GRANTS, POLICIES, PARTITIONS, NOTES, GATE):
        # The driver itself: these scripts hold several statements and `%`, and no parameters.
        op.get_bind().connection.cursor().execute(statements)
