"""A throw-away PostgreSQL for tests: the wheel's own server, one for a test session, as many databases as wanted.

@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer.started() as server:
        yield server

url = postgres.fresh_database()     # postgresql://popsigner@/t_1?host=/tmp/...
"""

import itertools
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from popsigner_node.postgres import STOP_SIGNAL, EmbeddedPostgres


class PostgresServer:
    """A running server. Start it from the main thread: it ends with the thread that started it."""

    def __init__(self, *, cluster: EmbeddedPostgres, log: Path) -> None:
        self.cluster = cluster
        self._log = log
        self._names = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    @contextmanager
    def started(cls, *, fast: bool = True, max_connections: int = 100) -> Iterator[Self]:
        """Initialise, start, yield, stop, remove. fast: without fsync; False where a test kills or measures it."""
        home = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        cluster = EmbeddedPostgres(
            folder=home / "data", sockets=home / "s", durable=not fast, max_connections=max_connections
        )
        server = cls(cluster=cluster, log=home / "log")
        try:
            cluster.initialise()
            server.start()
            yield server
        finally:
            server.stop()
            shutil.rmtree(home, ignore_errors=True)

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def start(self, *, timeout: float = 20.0) -> None:
        """Start (again, after `stop` or `kill`) and wait until it answers. timeout: seconds."""
        deadline = time.monotonic() + timeout
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self.cluster.command(), env=dict(self.cluster.environment()), stdout=log, stderr=log
            )
        while not self.cluster.ready():
            assert self._process.poll() is None, f"PostgreSQL ended while it started:\n{self._log.read_text()}"
            assert time.monotonic() < deadline, f"PostgreSQL does not answer:\n{self._log.read_text()}"
            time.sleep(0.02)

    def stop(self) -> None:
        """Fast shutdown by pid; nothing happens when it does not run."""
        if self._process is not None:
            self._process.send_signal(STOP_SIGNAL)
            self._process.wait(timeout=20)
            self._process = None

    def kill(self) -> None:
        """SIGKILL to the postmaster, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=20)
            self._process = None

    def fresh_database(self) -> str:
        """Create an empty database owned by `popsigner` and return its libpq URL."""
        return self.cluster.create_database(f"t_{next(self._names)}")

    def admin_url(self, database: str = "postgres") -> str:
        """The libpq URL of a superuser session, for tests that look behind the owner's back."""
        return self.cluster.url(database, role="postgres")
