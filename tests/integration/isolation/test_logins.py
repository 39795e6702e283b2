"""Which logins of PostgreSQL a POP can have: an ordinary one to whom the roles were granted, or one that makes them
itself; every other is told what to do, in one sentence."""

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

import psycopg
import pytest
from psycopg import sql

from popsigner_server.storage.migrate import migrate
from tests.support.postgres import PostgresServer

ROLES = ("popsigner_tenant", "popsigner_identity", "popsigner_jobs", "popsigner_gate")
_names = itertools.count(1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[PostgresServer]:
    """A cluster without a single role of ours: roles belong to the cluster, and the other tests need theirs."""
    with PostgresServer.started() as server:
        yield server


@pytest.fixture
def bare(cluster: PostgresServer) -> Iterator[PostgresServer]:
    """The cluster, without the roles before and after."""
    yield cluster
    with psycopg.connect(cluster.admin_url(), autocommit=True) as admin:
        for (database,) in admin.execute("SELECT datname FROM pg_database WHERE datname LIKE 'login%'").fetchall():
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(database)))
        for (role,) in admin.execute(
            "SELECT rolname FROM pg_roles WHERE rolname LIKE 'popsigner_%' OR rolname LIKE 'login%'"
        ).fetchall():
            admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def login(
    server: PostgresServer, *, attributes: str = "", roles: Sequence[str] = (), made_with: str = "NOLOGIN"
) -> str:
    """A new login, its database and the `roles` that it was granted; the libpq URL."""
    name = f"login{next(_names)}"
    with psycopg.connect(server.admin_url(), autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {name} LOGIN {attributes}")
        for role in roles:
            admin.execute(f"CREATE ROLE {role} {made_with}")
            admin.execute(f"GRANT {role} TO {name}")
        admin.execute(f"CREATE DATABASE {name} OWNER {name}")
    return server.cluster.url(name, role=name)


def owner_of(url: str) -> str:
    """The login of a URL, and its database's owner."""
    return url.split("://")[1].split("@")[0]


def command(url: str) -> subprocess.CompletedProcess[str]:
    """What an operator sees of `popsigner-server migrate`."""
    return subprocess.run(
        [sys.executable, "-m", "popsigner_server", "migrate"],
        env=os.environ | {"POPSIGNER_DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def assert_works_in_every_role(url: str) -> None:
    with psycopg.connect(url) as connection:
        for role in ROLES:
            connection.execute("SELECT set_config('role', %s, true)", [role])
            connection.execute("SELECT count(*) FROM ledger_heads" if role != "popsigner_identity" else "SELECT 1")
            connection.rollback()


def test_an_ordinary_login_with_the_roles_granted_migrates(bare: PostgresServer) -> None:
    url = login(bare, attributes="NOSUPERUSER NOCREATEROLE NOCREATEDB", roles=ROLES)

    assert command(url).returncode == 0
    assert_works_in_every_role(url)


def test_a_login_that_may_create_roles_makes_them_and_becomes_them(bare: PostgresServer) -> None:
    url = login(bare, attributes="NOSUPERUSER CREATEROLE")

    assert command(url).returncode == 0
    assert_works_in_every_role(url)
    # A second database of the same login finds them there.
    owner = owner_of(url)
    with psycopg.connect(bare.admin_url(), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {owner}_again OWNER {owner}")
    again = bare.cluster.url(f"{owner}_again", role=owner)
    migrate(again)
    assert_works_in_every_role(again)


def test_a_superuser_migrates(bare: PostgresServer) -> None:
    url = login(bare, attributes="SUPERUSER")

    migrate(url)
    assert_works_in_every_role(url)


def test_a_login_that_may_do_neither_is_told_what_to_do(bare: PostgresServer) -> None:
    url = login(bare)

    refused = command(url)

    assert refused.returncode == 1
    (sentence,) = refused.stderr.splitlines()
    assert sentence.startswith("popsigner-server: The database's login may not migrate it (permission denied")
    assert all(role in sentence for role in (*ROLES, "CREATEROLE"))
    # Migrations that were done before the refused one stand, and the next attempt goes on from there.
    with psycopg.connect(bare.admin_url(), autocommit=True) as admin:
        admin.execute(f"ALTER ROLE {owner_of(url)} CREATEROLE")
    assert command(url).returncode == 0
    assert_works_in_every_role(url)


def test_another_login_s_roles_are_not_taken(bare: PostgresServer) -> None:
    login(bare, roles=ROLES)

    with pytest.raises(PermissionError, match="grant them to it"):
        migrate(login(bare))


def test_a_login_that_does_not_own_the_database_is_told_so(bare: PostgresServer) -> None:
    url, stranger = login(bare), login(bare)

    with pytest.raises(PermissionError, match="make it the database's owner"):
        migrate(url.replace(owner_of(url), owner_of(stranger), 1))


@pytest.mark.parametrize("power", ["SUPERUSER", "BYPASSRLS", "CREATEROLE"])
def test_a_role_that_would_open_the_second_lock_is_refused(bare: PostgresServer, power: str) -> None:
    url = login(bare, roles=ROLES[:1], made_with=f"NOLOGIN {power}", attributes="CREATEROLE")

    with pytest.raises(PermissionError, match="popsigner_tenant must be an ordinary one"):
        migrate(url)


def test_a_grant_the_wrong_way_round_is_refused(bare: PostgresServer) -> None:
    """The tables' owner sees all rows, and so does who inherits from the owner."""
    url = login(bare, attributes="CREATEROLE")
    with psycopg.connect(bare.admin_url(), autocommit=True) as admin:
        admin.execute("CREATE ROLE popsigner_tenant NOLOGIN")
        admin.execute(f"GRANT {owner_of(url)} TO popsigner_tenant")

    with pytest.raises(PermissionError, match="a member of no other role"):
        migrate(url)
