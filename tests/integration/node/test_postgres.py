"""The embedded PostgreSQL by itself."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from popsigner_node import leftovers
from popsigner_node.postgres import EmbeddedPostgres, PostgresError
from tests.support.postgres import PostgresServer


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer.started(fast=False) as server:
        yield server


def _setting(url: str, name: str) -> str:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
    assert row is not None
    return str(row[0])


def test_the_server_listens_on_no_network_and_loses_nothing(server: PostgresServer) -> None:
    url = server.fresh_database()
    assert _setting(url, "listen_addresses") == ""
    assert [_setting(url, name) for name in ("fsync", "synchronous_commit", "full_page_writes")] == ["on"] * 3
    assert _setting(url, "server_encoding") == "UTF8"
    assert _setting(url, "TimeZone") == "UTC"


def test_the_owner_of_the_database_is_no_superuser(server: PostgresServer) -> None:
    with psycopg.connect(server.fresh_database()) as connection:
        row = connection.execute("SELECT current_user, rolsuper FROM pg_roles WHERE rolname = current_user").fetchone()
        assert row == ("popsigner", False)
        connection.execute("CREATE TABLE mine (a int)")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("CREATE ROLE intruder")


def test_committed_rows_survive_a_kill(server: PostgresServer) -> None:
    url = server.fresh_database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept (a int)")
        connection.execute("INSERT INTO kept VALUES (1)")
    server.kill()
    server.start()
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT a FROM kept").fetchone() == (1,)


def test_an_interrupted_initialisation_is_done_anew(tmp_path: Path) -> None:
    half_made = tmp_path / "data.new"
    half_made.mkdir()
    (half_made / "PG_VERSION").write_text("18\n")
    cluster = EmbeddedPostgres(folder=tmp_path / "data", sockets=Path("/tmp") / tmp_path.name, durable=False)
    cluster.initialise()
    assert cluster.initialised()
    assert not half_made.exists()
    cluster.sockets.rmdir()


def test_a_socket_path_that_is_too_long_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    cluster = EmbeddedPostgres(folder=tmp_path / "data", sockets=tmp_path / ("s" * 100))
    with pytest.raises(PostgresError, match="too long"):
        cluster.initialise()
    assert list(tmp_path.iterdir()) == []


_PARENT = """
    import os, signal, sys
    from tests.support.postgres import PostgresServer
    with PostgresServer.started() as server:
        print(server.pid, server.cluster.folder, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_server_ends_with_a_parent_that_is_killed() -> None:
    parent = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_PARENT)], capture_output=True, text=True, check=False
    )
    assert parent.returncode == -signal.SIGKILL
    pid, folder = parent.stdout.split()
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{pid}").exists()
    subprocess.run(["rm", "-r", str(Path(folder).parent)], check=True)


def test_a_server_that_an_earlier_node_left_is_ended_and_its_stale_pid_file_goes() -> None:
    with PostgresServer.started() as server:
        folder = server.cluster.folder
        assert "postgres" in leftovers.end(folder.parent / "processes.json", postgres=folder)
        server.kill()  # collects it: ended it has been
        assert not (folder / "postmaster.pid").exists()
        # Its process id may belong to anybody by now, here to this test; PostgreSQL would refuse to start.
        (folder / "postmaster.pid").write_text(f"{os.getpid()}\n{folder}\n1\n5432\n{server.cluster.sockets}\n\n\n")
        assert leftovers.end(folder.parent / "processes.json", postgres=folder) == []
        server.start()


def test_a_recorded_process_id_that_belongs_to_somebody_else_by_now_is_left_alone(tmp_path: Path) -> None:
    bystander = subprocess.Popen(["sleep", "30"])
    try:
        record = tmp_path / "processes.json"
        leftovers.record(record, {"openbao": bystander.pid})
        record.write_text(record.read_text().replace('"born": ', '"born": 1'))
        assert leftovers.end(record, postgres=tmp_path / "postgres") == []
        assert bystander.poll() is None
        leftovers.record(record, {"openbao": bystander.pid})
        assert leftovers.end(record, postgres=tmp_path / "postgres") == ["openbao"]
        assert bystander.wait(timeout=5) == -signal.SIGTERM
    finally:
        bystander.kill()
        bystander.wait()
