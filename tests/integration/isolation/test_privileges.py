"""What each role may do, exactly: a right that is added or widened shows here, and belongs into this table only with a
reason."""

from collections.abc import Mapping

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

ROLES = ("popsigner_tenant", "popsigner_identity", "popsigner_jobs", "popsigner_gate")
EVERYTHING = "SELECT INSERT UPDATE DELETE"
# Table to what its role may do with it: whole rows or, in brackets, these columns. A table that is not named is closed.
PRIVILEGES: Mapping[str, Mapping[str, str]] = {
    "popsigner_tenant": {
        "organizations": "SELECT INSERT UPDATE(deleted_at,erase_at,name)",
        "ledger_heads": "SELECT INSERT UPDATE(closed_at,size)",
        # The UPDATE is for row locks.
        "namespaces": "SELECT INSERT UPDATE(name) DELETE",
        "api_keys": "SELECT INSERT UPDATE",
        "keys": EVERYTHING,
        "key_versions": "SELECT INSERT DELETE",
        "recovery_recipients": "SELECT INSERT UPDATE",
        "audit_logs": "SELECT INSERT",
        "usage_metrics": "SELECT",
        "quota_notices": "SELECT INSERT",
        "org_members": EVERYTHING,
        "invitations": "SELECT INSERT UPDATE",
        "identity_providers": "SELECT INSERT UPDATE",
        "users": "SELECT(created_at,email,id,name,provider_id)",
    },
    "popsigner_identity": {
        "organizations": "SELECT",
        "org_members": "SELECT",
        "invitations": "SELECT",
        # The UPDATE is for row locks.
        "identity_providers": "SELECT UPDATE(name)",
        "api_keys": "SELECT UPDATE(key_check,previous_check)",
        # What waits is told to a person in all organizations that they own.
        "recovery_recipients": "SELECT",
        "users": EVERYTHING,
        "sessions": EVERYTHING,
        "refresh_tokens": EVERYTHING,
        "used_logins": EVERYTHING,
        "device_logins": EVERYTHING,
        "token_keys": EVERYTHING,
    },
    "popsigner_jobs": dict.fromkeys(
        [
            "organizations",
            "ledger_heads",
            "namespaces",
            "api_keys",
            "keys",
            "key_versions",
            "recovery_recipients",
            "audit_logs",
            "usage_metrics",
            "sign_requests",
            "quota_notices",
            "identity_providers",
            "users",
            "org_members",
            "invitations",
            "sessions",
            "refresh_tokens",
            "used_logins",
            "device_logins",
            "token_keys",
        ],
        EVERYTHING,
    ),
    # Nothing that proves who somebody is: no hash, no token, no key.
    "popsigner_gate": {
        "ledger_heads": "SELECT UPDATE(size)",
        "api_keys": "SELECT(expires_at,generation,id,org_id,previous_expires_at,revoked_at)",
        "keys": "SELECT(current_version,id,min_version,org_id,state)",
        "sessions": "SELECT(ended_at,expires_at,id,user_id)",
        "org_members": "SELECT(org_id,role,user_id)",
        "audit_logs": "INSERT",
        "usage_metrics": "SELECT INSERT UPDATE",
        "sign_requests": "SELECT INSERT UPDATE",
        "quota_notices": "SELECT INSERT",
    },
}
# Beside those that PostgreSQL brings. All but the first run as their caller.
FUNCTIONS: Mapping[str, set[str]] = {
    "popsigner_make_audit_partitions": {"popsigner_jobs"},
    "popsigner_note_quota": set(ROLES),
    "popsigner_release_2": set(ROLES),
    "popsigner_release_3": set(ROLES),
    "popsigner_uuidv7": set(ROLES),
}

GRANTED = text("""
    SELECT r.relname AS relation, p.privilege,
           has_table_privilege(:role, r.oid, p.privilege) AS whole,
           ARRAY(SELECT a.attname::text FROM pg_attribute a
                 WHERE a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
                   AND p.privilege IN ('SELECT', 'INSERT', 'UPDATE', 'REFERENCES')
                   AND has_column_privilege(:role, r.oid, a.attnum, p.privilege) ORDER BY a.attname) AS columns
    FROM pg_class r
    CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER'])
        WITH ORDINALITY AS p (privilege, n)
    WHERE r.relnamespace = 'public'::regnamespace AND r.relkind IN ('r', 'p', 'v', 'm', 'f')
    ORDER BY r.relname, p.n
""")


async def privileges_of(engine: AsyncEngine, role: str) -> dict[str, str]:
    """As in PRIVILEGES, with what is granted to PUBLIC."""
    found: dict[str, list[str]] = {}
    async with engine.connect() as connection:
        for row in await connection.execute(GRANTED, {"role": role}):
            if row.whole:
                found.setdefault(row.relation, []).append(row.privilege)
            elif row.columns:
                found.setdefault(row.relation, []).append(f"{row.privilege}({','.join(row.columns)})")
    return {relation: " ".join(privileges) for relation, privileges in found.items()}


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_may_just_this(role: str, engine: AsyncEngine) -> None:
    # The month's partitions are there: they have no grants of their own.
    async with engine.begin() as connection:
        await connection.execute(text("SELECT popsigner_make_audit_partitions(3)"))

    assert await privileges_of(engine, role) == PRIVILEGES[role]


@pytest.mark.parametrize(
    ("role", "secrets"),
    [
        ("popsigner_gate", ["api_keys.key_hash", "api_keys.previous_hash", "refresh_tokens.*", "token_keys.*"]),
        ("popsigner_tenant", ["sessions.*", "refresh_tokens.*", "token_keys.*", "users.subject", "device_logins.*"]),
        ("popsigner_identity", ["keys.*", "audit_logs.*", "sign_requests.*"]),
    ],
)
async def test_a_role_cannot_read_what_is_not_its_business(role: str, secrets: list[str], engine: AsyncEngine) -> None:
    for secret in secrets:
        relation, column = secret.split(".")
        async with engine.connect() as connection:
            await connection.execute(text(f"SET LOCAL ROLE {role}"))
            with pytest.raises(Exception, match="permission denied"):
                await connection.execute(text(f"SELECT {column} FROM {relation}"))


async def test_the_roles_are_ordinary_and_log_in_nowhere(engine: AsyncEngine) -> None:
    query = text(
        "SELECT rolname FROM pg_roles WHERE rolname = ANY (:roles) AND NOT (rolsuper OR rolbypassrls OR rolcreaterole"
        " OR rolcreatedb OR rolreplication OR rolcanlogin)"
    )
    async with engine.connect() as connection:
        assert set((await connection.execute(query, {"roles": list(ROLES)})).scalars()) == set(ROLES)


async def test_nobody_but_the_owner_can_become_another(engine: AsyncEngine) -> None:
    query = text(
        "SELECT a.name, b.rolname FROM unnest(cast(:roles AS text[])) a (name), pg_roles b"
        " WHERE a.name <> b.rolname AND pg_has_role(a.name, b.oid, 'MEMBER')"
    )
    async with engine.connect() as connection:
        found = (await connection.execute(query, {"roles": ["popsigner", *ROLES]})).all()
    # The last one is PostgreSQL's own name for whoever owns the database.
    assert {tuple(row) for row in found} == {("popsigner", role) for role in (*ROLES, "pg_database_owner")}


async def test_no_role_makes_anything_in_the_schema_or_owns_something(engine: AsyncEngine) -> None:
    owned = text("SELECT relname FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner WHERE r.rolname = ANY (:roles)")
    async with engine.connect() as connection:
        for role in ROLES:
            for right in (
                "has_schema_privilege(:role, 'public', 'CREATE')",
                "has_database_privilege(:role, current_database(), 'CREATE')",
            ):
                assert await connection.scalar(text(f"SELECT {right}"), {"role": role}) is False
        assert (await connection.execute(owned, {"roles": list(ROLES)})).all() == []


async def test_functions_run_as_their_caller_but_one_that_only_the_jobs_may_call(engine: AsyncEngine) -> None:
    query = text(
        "SELECT p.proname, p.prosecdef, p.proconfig, ARRAY(SELECT r::text FROM unnest(cast(:roles AS text[])) r"
        " WHERE has_function_privilege(r, p.oid, 'EXECUTE')) AS callers"
        " FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace"
    )
    async with engine.connect() as connection:
        found = (await connection.execute(query, {"roles": list(ROLES)})).all()

    assert {row.proname: set(row.callers) for row in found} == FUNCTIONS
    # With a fixed search_path, where temporary tables come last: nobody slips it a table of another kind.
    assert {row.proname: row.proconfig for row in found if row.prosecdef} == {
        "popsigner_make_audit_partitions": ["search_path=public, pg_temp"]
    }


async def test_the_function_that_runs_as_the_owner_takes_no_table_from_its_caller(engine: AsyncEngine) -> None:
    """A caller's temporary table and its search_path change nothing of what it does."""
    partitions = text("SELECT count(*) FROM pg_inherits WHERE inhparent = 'public.audit_logs'::regclass")
    async with engine.connect() as connection:
        await connection.execute(text("SELECT popsigner_make_audit_partitions(0)"))
        await connection.execute(text("SET LOCAL ROLE popsigner_jobs"))
        await connection.execute(text("CREATE TEMPORARY TABLE audit_logs (created_at timestamptz)"))
        await connection.execute(text("CREATE TEMPORARY TABLE audit_logs_default (created_at timestamptz)"))
        await connection.execute(
            text(
                "CREATE FUNCTION pg_temp.date_trunc(text, timestamp) RETURNS timestamp LANGUAGE sql"
                " AS $$ SELECT '1999-01-01'::timestamp $$"
            )
        )
        before = await connection.scalar(partitions)
        await connection.execute(text("SET LOCAL search_path = pg_temp, public"))
        made = await connection.scalar(text("SELECT popsigner_make_audit_partitions(13)"))
        assert made == await connection.scalar(partitions) - before > 0
        await connection.rollback()
    for role in ("popsigner_tenant", "popsigner_identity", "popsigner_gate"):
        async with engine.connect() as connection:
            await connection.execute(text(f"SET LOCAL ROLE {role}"))
            with pytest.raises(Exception, match="permission denied for function"):
                await connection.execute(text("SELECT popsigner_make_audit_partitions(0)"))
