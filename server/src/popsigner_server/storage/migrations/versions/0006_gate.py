"""The third release gate: what the second one decides and writes, for less CPU time (0.6 of it in large batches)."""

from alembic import op

revision = "0006"
down_revision = "0005"

GATE = """
-- The release gate, third edition: the same arguments, verdicts and rows as popsigner_release_2, for less. What is
-- looked up once for each caller and key is an array that the items point into; what only some batches need is a
-- statement of its own.
--
-- Under the lock: what is read from a head while it is locked stays true until the end of the transaction, and the
-- statements after it have their snapshots from after the lock, as in the editions before.
--
-- Every statement has one plan for all batches. A plan for each would cost a lone item more than its work does, and
-- PostgreSQL takes that for cheaper, since it knows how few there are. The look-ups are LATERAL with a LIMIT, so that
-- the one plan goes by an index whatever a table held when it was made: sign_requests is empty in a new POP.
CREATE OR REPLACE FUNCTION popsigner_release_3(
    caller_org UUID[], caller_actor UUID[], caller_session UUID[], caller_generation INTEGER[], caller_ip TEXT[],
    caller_agent TEXT[], sign_key UUID[], sign_version INTEGER[],
    item_caller INTEGER[], item_key INTEGER[], item_hash INTEGER[], digests BYTEA, modes TEXT[], requests TEXT[],
    wait BOOLEAN,
    OUT released INTEGER, OUT replayed INTEGER, OUT refused INTEGER[], OUT reasons TEXT[]
) LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    -- Of each locked head; `rooms` is what is left of its quota.
    heads UUID[];
    sizes BIGINT[];
    quotas BIGINT[];
    closings TIMESTAMPTZ[];
    rooms BIGINT[];
    limited BOOLEAN;
    -- Of each caller and key; `_head` is a place in `heads`, null where its head is not among them.
    caller_head INTEGER[];
    caller_inet INET[];
    caller_refusal TEXT[];
    key_head INTEGER[];
    key_refusal TEXT[];
    -- Of each item, from its request_id: REPLAYED, REQUEST_ID_REUSED or null.
    fates TEXT[];
    stale BOOLEAN;
    -- The accepted items.
    taken INTEGER[];
    uncounted BOOLEAN;
    exhausted UUID[];
    fresh TEXT;
    stem TEXT;
    start BIGINT;
    month DATE := date_trunc('month', now() AT TIME ZONE 'UTC')::date;
BEGIN
    IF wait THEN
        SELECT array_agg(l.org_id), array_agg(l.size), array_agg(l.closed_at), array_agg(l.signature_quota)
        INTO heads, sizes, closings, quotas
        FROM (SELECT * FROM ledger_heads h WHERE h.org_id = ANY (caller_org) ORDER BY h.org_id FOR UPDATE) l;
    ELSE
        SELECT array_agg(l.org_id), array_agg(l.size), array_agg(l.closed_at), array_agg(l.signature_quota)
        INTO heads, sizes, closings, quotas
        FROM (SELECT * FROM ledger_heads h WHERE h.org_id = ANY (caller_org) ORDER BY h.org_id
              FOR UPDATE SKIP LOCKED) l;
    END IF;

    -- One random number for the batch, counted on from there (RFC 9562, 6.2): one for each row was a quarter of a large
    -- batch's time. Each organization counts in a range of its own, so that no gap between its ids tells it how much
    -- the others signed.
    fresh := popsigner_uuidv7()::text;
    stem := left(fresh, 24);
    start := (('x' || right(fresh, 12))::bit(48)::bigint & x'3fffffffffff'::bigint) + x'400000000000'::bigint;
    limited := array_remove(quotas, NULL) <> '{}';

    SELECT array_agg(c.head), array_agg(c.ip), array_agg(CASE
            WHEN c.head IS NULL THEN 'HELD'
            WHEN closings[c.head] IS NOT NULL THEN 'ORGANIZATION_DELETED'
            WHEN c.session IS NOT NULL THEN NULL
            WHEN c.id IS NULL THEN 'CREDENTIALS_INVALID'
            WHEN c.revoked_at IS NOT NULL THEN 'API_KEY_REVOKED'
            WHEN c.expires_at <= clock_timestamp() THEN 'API_KEY_EXPIRED'
            WHEN c.shown <> c.generation AND (c.shown <> c.generation - 1
                 OR (c.previous_expires_at > clock_timestamp()) IS NOT TRUE) THEN 'API_KEY_REVOKED'
        END)
    INTO caller_head, caller_inet, caller_refusal
    FROM (
        SELECT array_position(heads, u.org) AS head, u.session, u.shown, u.ip::inet AS ip, a.*
        FROM unnest(caller_org, caller_actor, caller_session, caller_generation, caller_ip)
             WITH ORDINALITY AS u (org, actor, session, shown, ip, n)
        LEFT JOIN LATERAL (
            SELECT k.id, k.revoked_at, k.expires_at, k.generation, k.previous_expires_at
            FROM api_keys k WHERE k.id = u.actor AND k.org_id = u.org LIMIT 1
        ) a ON true
        ORDER BY u.n
    ) c;

    -- A statement of its own: programs sign, people seldom do.
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

    SELECT array_agg(w.head), array_agg(CASE
            WHEN w.state IS NULL OR w.state IN (0, 4, 5) THEN 'KEY_NOT_FOUND'
            WHEN w.state = 3 THEN 'KEY_DELETED'
            WHEN w.state <> 1 THEN 'KEY_DISABLED'
            WHEN w.version NOT BETWEEN w.min_version AND w.current_version THEN 'KEY_VERSION_UNAVAILABLE'
        END)
    INTO key_head, key_refusal
    FROM (
        SELECT array_position(heads, k.org_id) AS head, k.state, k.min_version, k.current_version, u.version
        FROM unnest(sign_key, sign_version) WITH ORDINALITY AS u (id, version, n)
        LEFT JOIN LATERAL (
            SELECT s.org_id, s.state, s.min_version, s.current_version FROM keys s WHERE s.id = u.id LIMIT 1
        ) k ON true
        ORDER BY u.n
    ) w;

    IF limited THEN
        SELECT array_agg(l.quota - coalesce(u.value, 0) ORDER BY l.n)
        INTO rooms
        FROM unnest(heads, quotas) WITH ORDINALITY AS l (org, quota, n)
        LEFT JOIN usage_metrics u ON u.org_id = l.org AND u.metric = 'signatures' AND u.period_start = month;
    END IF;

    -- `stale`: one of the rows is older than 24 hours, and not swept yet.
    IF requests IS NOT NULL THEN
        SELECT array_agg(CASE
                WHEN r.key_id IS NULL OR r.created_at <= now() - interval '24 hours' THEN NULL
                WHEN r.key_id = sign_key[i.key] AND r.key_version = sign_version[i.key]
                     AND r.digest = substring(digests FROM i.n::int * 32 - 31 FOR 32) THEN 'REPLAYED'
                ELSE 'REQUEST_ID_REUSED'
            END ORDER BY i.n), bool_or(r.created_at <= now() - interval '24 hours') IS TRUE
        INTO fates, stale
        FROM unnest(item_caller, item_key, requests) WITH ORDINALITY AS i (caller, key, request, n)
        LEFT JOIN LATERAL (
            SELECT * FROM sign_requests s WHERE s.org_id = caller_org[i.caller] AND s.request_id = i.request LIMIT 1
        ) r ON true;
    END IF;

    -- All but the quota is decided, and what is beyond a quota are the last items of its organization: so numbers are
    -- handed out first, and none of those that are taken is left out.
    WITH entitled AS (
        SELECT i.n::int AS n, i.caller, i.key, i.hash, caller_head[i.caller] AS head,
               row_number() OVER (PARTITION BY caller_head[i.caller] ORDER BY i.n) AS ordinal
        FROM unnest(item_caller, item_key, item_hash) WITH ORDINALITY AS i (caller, key, hash, n)
        WHERE caller_refusal[i.caller] IS NULL AND key_head[i.key] = caller_head[i.caller]
          AND key_refusal[i.key] IS NULL AND fates[i.n] IS NULL
    ), accepted AS (
        SELECT * FROM entitled e WHERE (e.ordinal > rooms[e.head]) IS NOT TRUE
    ), written AS (
        INSERT INTO audit_logs (org_id, seq, created_at, id, event, actor_type, actor_id, resource_type, resource_id,
                                key_version, digest, hash, sign_mode, request_id, ip_address, user_agent)
        SELECT heads[a.head], sizes[a.head] + a.ordinal, now(),
               (stem || to_hex(start + (a.head::bigint << 20) + a.ordinal))::uuid, 'key.signed',
               CASE WHEN caller_session[a.caller] IS NULL THEN 'api_key' ELSE 'user' END, caller_actor[a.caller], 'key',
               sign_key[a.key], sign_version[a.key], substring(digests FROM a.n * 32 - 31 FOR 32), a.hash,
               modes[a.n], requests[a.n], caller_inet[a.caller], caller_agent[a.caller]
        FROM accepted a
    ), grown AS (
        SELECT heads[a.head] AS org, count(*) AS n FROM accepted a GROUP BY a.head
    ), moved AS (
        UPDATE ledger_heads h SET size = h.size + g.n FROM grown g WHERE h.org_id = g.org
    ), counted AS (
        UPDATE usage_metrics u SET value = u.value + g.n FROM grown g
        WHERE u.org_id = g.org AND u.metric = 'signatures' AND u.period_start = month
        RETURNING u.org_id
    )
    SELECT count(*), array_agg(a.n), (SELECT count(*) FROM grown) > (SELECT count(*) FROM counted)
    INTO released, taken, uncounted FROM accepted a;
    replayed := 0;

    -- The first signatures of a month.
    IF uncounted THEN
        INSERT INTO usage_metrics (org_id, metric, period_start, period_end, value)
        SELECT caller_org[item_caller[t.n]], 'signatures', month, (month + interval '1 month')::date, count(*)
        FROM unnest(taken) AS t (n)
        WHERE NOT EXISTS (SELECT FROM usage_metrics u WHERE u.org_id = caller_org[item_caller[t.n]]
                          AND u.metric = 'signatures' AND u.period_start = month)
        GROUP BY 1;
    END IF;

    -- Nobody adds rows of an organization whose head is ours, so there is a conflict only with a stale one. ON CONFLICT
    -- writes each row twice: as one that may be taken back, then as one that stays.
    IF stale THEN
        INSERT INTO sign_requests AS r (org_id, request_id, key_id, key_version, digest, created_at)
        SELECT caller_org[item_caller[t.n]], requests[t.n], sign_key[item_key[t.n]], sign_version[item_key[t.n]],
               substring(digests FROM t.n * 32 - 31 FOR 32), now()
        FROM unnest(taken) AS t (n) WHERE requests[t.n] IS NOT NULL
        ON CONFLICT (org_id, request_id) DO UPDATE SET key_id = excluded.key_id, key_version = excluded.key_version,
            digest = excluded.digest, created_at = excluded.created_at;
    ELSIF requests IS NOT NULL THEN
        INSERT INTO sign_requests (org_id, request_id, key_id, key_version, digest, created_at)
        SELECT caller_org[item_caller[t.n]], requests[t.n], sign_key[item_key[t.n]], sign_version[item_key[t.n]],
               substring(digests FROM t.n * 32 - 31 FOR 32), now()
        FROM unnest(taken) AS t (n) WHERE requests[t.n] IS NOT NULL;
    END IF;

    IF released < cardinality(item_caller) THEN
        SELECT count(*) FILTER (WHERE r.why = 'REPLAYED'),
               array_agg(r.n ORDER BY r.n) FILTER (WHERE r.why <> 'REPLAYED'),
               array_agg(r.why ORDER BY r.n) FILTER (WHERE r.why <> 'REPLAYED')
        INTO replayed, refused, reasons
        FROM (SELECT i.n::int AS n, CASE
                  WHEN caller_refusal[i.caller] IS NOT NULL THEN caller_refusal[i.caller]
                  WHEN key_head[i.key] IS DISTINCT FROM caller_head[i.caller] THEN 'KEY_NOT_FOUND'
                  ELSE coalesce(key_refusal[i.key], fates[i.n], 'QUOTA_EXCEEDED') END AS why
              FROM unnest(item_caller, item_key) WITH ORDINALITY AS i (caller, key, n)
              LEFT JOIN unnest(taken) AS t (n) ON t.n = i.n
              WHERE t.n IS NULL) r;
    END IF;

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

-- No server calls it any more.
DROP FUNCTION IF EXISTS popsigner_release_1;
"""


def upgrade() -> None:
    # The driver itself: the script holds several statements, and no parameters.
    op.get_bind().connection.cursor().execute(GATE)
