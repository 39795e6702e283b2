"""Rows of a POP that has been used for a year: many organizations, keys and signatures, written in bulk.

Filling(organizations=100_000, keys=1_000_000, audit_rows=20_000_000).write(url, organization_id)

A tenth of the keys and of the audit rows belongs to the organization that is named, the rest evenly to new ones; each
has an API key, a namespace and a recovery recipient that all its keys are sealed to. The vault knows none of the keys.
Audit rows are spread evenly over the months up to this one, each month in its partition, in the order of their numbers.
Every table is an ordinary, logged one. Needs PostgreSQL 18 (`uuidv7`).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

import psycopg

MONTHS = 12
# The curve's generator (SEC 2, 2.4.1), compressed: every key has it.
PUBLIC_KEY = r"\x0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
# An age X25519 recipient whose identity nobody has.
RECIPIENT = "age1m9m3jsvhrav8nw6wkjy22gavrprl2uctvmj7f3l0ccerkcqwhecszfmaqt"

# Who has how much: (org, namespace, number of keys, number of audit rows, the newest sequence number so far).
_SHARES = """
CREATE TEMPORARY TABLE share AS
SELECT uuidv7() AS org, uuidv7() AS space, uuidv7() AS api_key, 0::bigint AS size,
       (%(keys)s * 0.9 / %(organizations)s)::int AS keys, (%(audit_rows)s * 0.9 / %(organizations)s)::int AS rows
FROM generate_series(1, %(organizations)s)
"""
_ORGANIZATIONS = """
INSERT INTO organizations (id, name, slug, plan) SELECT org, 'filled', org::text, 'self-hosted' FROM share;
INSERT INTO ledger_heads (org_id) SELECT org FROM share;
INSERT INTO namespaces (id, org_id, name, address_prefix) SELECT space, org, 'production', 'celestia' FROM share;
INSERT INTO api_keys (id, org_id, name, key_hash, scopes, role) SELECT api_key, org, 'filled', '-', '{}', 0 FROM share;
"""
_NAMED = """
INSERT INTO share
SELECT h.org_id, n.id, a.id, h.size, (%(keys)s * 0.1)::int, (%(audit_rows)s * 0.1)::int
FROM ledger_heads h
JOIN LATERAL (SELECT id FROM namespaces WHERE org_id = h.org_id ORDER BY id LIMIT 1) n ON true
JOIN LATERAL (SELECT id FROM api_keys WHERE org_id = h.org_id ORDER BY id LIMIT 1) a ON true
WHERE h.org_id = %(named)s
"""
_KEYS = f"""
CREATE TEMPORARY TABLE filled_key AS
SELECT s.org, s.space, n AS number, uuidv7() AS id FROM share s, generate_series(1, s.keys) n;
INSERT INTO keys (id, org_id, namespace_id, name, algorithm, state, public_key, exportable, recovery_recipient)
SELECT id, org, space, 'filled-' || number, 'secp256k1', 1, '{PUBLIC_KEY}', false, '{RECIPIENT}'
FROM filled_key;
INSERT INTO key_versions (key_id, version, org_id, public_key)
SELECT id, 1, org, '{PUBLIC_KEY}' FROM filled_key;
INSERT INTO recovery_recipients (org_id, recipient, since) SELECT org, '{RECIPIENT}', now() FROM share;
CREATE INDEX ON filled_key (org, number);
ANALYZE share, filled_key;
"""
_MONTH = """
INSERT INTO {table} (org_id, seq, created_at, id, event, actor_type, actor_id, resource_type, resource_id, key_version,
                     digest, hash, request_id, ip_address, user_agent)
SELECT s.org, s.size + n, m.first + m.span * (n - {start}) / ({end} - {start} + 1), uuidv7(m.first - now()),
       CASE WHEN n %% 50 = 0 THEN 'auth.api_key_used' ELSE 'key.signed' END, 'api_key', s.api_key, 'key', k.id, 1,
       sha256(uuid_send(k.id)), 0, 'filled-' || n, '192.0.2.1', 'tests.support.filling'
FROM (SELECT %(first)s::timestamptz AS first, least(now(), %(following)s::timestamptz) - %(first)s AS span) m, share s
CROSS JOIN LATERAL generate_series({start} + 1, {end}) n
JOIN filled_key k ON k.org = s.org AND k.number = 1 + n %% s.keys
"""
_REST = f"""
UPDATE ledger_heads h SET size = s.size + s.rows FROM share s WHERE h.org_id = s.org;
INSERT INTO usage_metrics (org_id, metric, period_start, period_end, value)
SELECT s.org, 'signatures', m, (m + interval '1 month')::date, greatest(s.rows / {MONTHS}, 1)
FROM share s, LATERAL (
    SELECT (date_trunc('month', now()) - make_interval(months => ago))::date AS m
    FROM generate_series(1, {MONTHS} - 1) ago
) months;
INSERT INTO sign_requests (org_id, request_id, key_id, key_version, digest, created_at)
SELECT s.org, 'filled-' || n, k.id, 1, sha256(uuid_send(k.id)), now() - interval '12 hours' * random()
FROM share s CROSS JOIN LATERAL generate_series(1, greatest(s.rows / 100, 1)) n
JOIN filled_key k ON k.org = s.org AND k.number = 1 + n % s.keys;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filling:
    """How much there is to be. At least 10 keys and 12 audit rows for each organization."""

    organizations: int
    keys: int
    audit_rows: int

    def write(self, url: str, named: UUID, *, told: Callable[[str], None] = lambda _: None) -> None:
        """Fill the database of `url` (its owner's), and let the planner know. `told` hears how long each part took."""
        numbers = {
            "keys": self.keys, "organizations": self.organizations, "audit_rows": self.audit_rows, "named": named
        }  # fmt: skip
        with psycopg.connect(url, autocommit=True, cursor_factory=psycopg.ClientCursor) as database:
            database.execute("SET timezone = 'UTC'")
            database.execute("SET work_mem = '256MB'")
            database.execute("SET maintenance_work_mem = '512MB'")
            for name, script in (("shares", _SHARES), ("organizations", _ORGANIZATIONS), ("named", _NAMED)):
                _timed(database, told, name, script, numbers)
            _timed(database, told, "keys", _KEYS)
            for ago in range(MONTHS - 1, -1, -1):
                _fill_month(database, told, ago)
            _timed(database, told, "the rest", _REST)
            _timed(database, told, "vacuum, analyze", "VACUUM (ANALYZE)")


def _fill_month(database: psycopg.Connection, told: Callable[[str], None], ago: int) -> None:
    """One month's rows. A past month becomes a partition when it is full: its indexes are then built at once."""
    row = database.execute(
        "SELECT to_char(m, 'YYYY_MM'), m::text, (m + interval '1 month')::text"
        " FROM (SELECT date_trunc('month', now()) - make_interval(months => %s) AS m)",
        (ago,),
    ).fetchone()
    assert row is not None
    name, first, following = row
    months, table = {"first": first, "following": following}, "audit_logs" if ago == 0 else f"audit_logs_{name}"
    start, end = (f"(s.rows * {MONTHS - past} / {MONTHS})" for past in (ago + 1, ago))
    if ago > 0:
        database.execute(f"CREATE TABLE {table} (LIKE audit_logs INCLUDING DEFAULTS INCLUDING CONSTRAINTS)")
    _timed(database, told, name, _MONTH.format(table=table, start=start, end=end), months)
    if ago > 0:
        attach = f"ALTER TABLE audit_logs ATTACH PARTITION {table} FOR VALUES FROM (%(first)s) TO (%(following)s)"
        _timed(database, told, f"{name}, indexes", attach, months)


def _timed(
    database: psycopg.Connection,
    told: Callable[[str], None],
    name: str,
    script: str,
    numbers: dict[str, object] | None = None,
) -> None:
    began = time.perf_counter()
    database.execute(script, numbers)
    told(f"{name}: {time.perf_counter() - began:.1f} s")
