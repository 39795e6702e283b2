"""One moment of the database, and a snapshot of the vault that fits it.

First the database's moment (a transaction whose snapshot pg_dump shares), then the vault's snapshot, so that the vault
is never behind the database: it makes everything before a row says that it is there. The one thing that it loses is a
key that is destroyed, and whoever destroys commits a mark before the vault is asked. So after the vault's snapshot the
database is asked again: if a key that lived in the first moment is marked by now, the vault may have lost it too early,
and both are taken again. No lock is held: changes and signatures wait for nothing. docs/backup.md has the argument.
"""

import hashlib
import http.client
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import psycopg
from psycopg import IsolationLevel

from popsigner_node.catalogue import living
from popsigner_node.errors import NodeError
from popsigner_node.openbao import OpenBao
from popsigner_node.policies import NODE_ROLE

ATTEMPTS = 10
WINDOW = 240.0
"""Seconds that both may be apart. A creation that failed is known to the database for five minutes before it is cleared
away without a trace; beyond that the vault's snapshot could hold a key that nobody can explain."""
_SUMS = "SHA256SUMS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """connection: a transaction that sees the moment, open as long as the cut is. snapshot: its name, for pg_dump.

    made_meanwhile: keys that the vault may have and the moment does not. attempts: how often it was taken.
    """

    connection: psycopg.Connection
    snapshot: str
    made_meanwhile: tuple[str, ...]
    attempts: int


@contextmanager
def cut(database: str, vault: OpenBao, *, into: Path) -> Iterator[Cut]:
    """Take both; the vault's snapshot goes into the file `into`. database: the superuser's URL.

    Raises NodeError, psycopg.Error, OSError.
    """
    for attempt in range(1, ATTEMPTS + 1):
        began = time.monotonic()
        with psycopg.connect(database) as connection:
            connection.isolation_level = IsolationLevel.REPEATABLE_READ
            connection.read_only = True
            row = connection.execute("SELECT pg_export_snapshot()").fetchone()
            before = living(connection)
            take_snapshot(vault, into)
            with psycopg.connect(database, autocommit=True) as fresh:
                after = living(fresh)
            if time.monotonic() - began > WINDOW:
                raise NodeError(
                    f"The vault's snapshot took longer than {WINDOW:.0f} seconds: look at OpenBao and its disk."
                )
            if all(after.get(key, False) for key, lives in before.items() if lives):
                yield Cut(
                    connection=connection,
                    snapshot=str(row[0] if row else ""),
                    made_meanwhile=tuple(sorted(key.hex for key in after.keys() - before.keys())),
                    attempts=attempt,
                )
                return
    raise NodeError(
        f"Keys were being destroyed during each of {ATTEMPTS} attempts, so no moment fits database and vault: make the"
        " backup when that has ended."
    )


def take_snapshot(vault: OpenBao, into: Path) -> None:
    """Write the running vault's snapshot to a file and make sure that it is whole. Raises NodeError, OSError."""
    try:
        with vault.session(NODE_ROLE) as session, into.open("wb") as file:
            status = session.download("sys/storage/raft/snapshot", file)
    except TimeoutError as error:
        raise NodeError(
            "OpenBao does not go on with its snapshot: look at its log, and make the backup again."
        ) from error
    except (ConnectionError, FileNotFoundError, http.client.HTTPException) as error:
        raise NodeError("OpenBao went away during its snapshot: make the backup again.") from error
    if status != HTTPStatus.OK:
        raise NodeError(f"OpenBao refuses its snapshot (status {status}).")
    if not _whole(into):
        raise NodeError("OpenBao's snapshot is not whole: make the backup again.")


def _whole(snapshot: Path) -> bool:
    """Whether the parts of a snapshot are those that its own list of digests names."""
    found, listed = {}, b""
    try:
        with tarfile.open(snapshot, "r|gz") as archive:
            for info in archive:
                content = archive.extractfile(info)
                if content is None:
                    return False
                if info.name == _SUMS:
                    listed = content.read()
                elif not info.name.startswith(_SUMS):
                    found[info.name] = hashlib.file_digest(content, "sha256").hexdigest()  # type: ignore[arg-type]
    except (tarfile.TarError, EOFError, OSError):
        return False
    lines = (line.partition("  ") for line in listed.decode(errors="replace").splitlines())
    named = {name: digest for digest, _, name in lines}
    return bool(found) and found == named
