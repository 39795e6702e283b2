"""`popsigner backup`: database, vault and secrets of one data directory in one archive, while its POP serves or not."""

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO

import psycopg

from popsigner_node import archive, catalogue, pg_tools
from popsigner_node.age_keys import Recipient
from popsigner_node.cut import Cut, cut
from popsigner_node.errors import Exit, NodeError
from popsigner_node.layout import VERSION, Layout, said_plainly
from popsigner_node.manifest import FORMAT, Manifest
from popsigner_node.output import output, require_new
from popsigner_node.progress import Progress
from popsigner_node.secret_files import NEW
from popsigner_node.staging import staging
from popsigner_node.stores import Stores
from popsigner_node.threads import in_thread

SNAPSHOT = "vault.snapshot"
DUMP = "database.dump"
OPENBAO_SECRETS = ("unseal.key", "server-secret-id", "node-secret-id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A finished archive. sha256: of the file as it is, so that a forged one can be told from it."""

    manifest: Manifest
    bytes: int
    sha256: str
    attempts: int
    seconds: Mapping[str, float]

    def facts(self) -> dict[str, object]:
        """What is told of it; nothing secret."""
        made = self.manifest
        return {
            "bytes": self.bytes,
            "sha256": self.sha256,
            "created_at": made.created_at,
            "organizations": made.organizations,
            "keys": dict(made.keys),
            "versions": made.versions,
            "ledger_rows": sum(head.rows for head in made.ledger.values()),
            "attempts": self.attempts,
            "seconds": {step: round(seconds, 3) for step, seconds in self.seconds.items()},
        }


async def backup(data_dir: Path, to: Path, *, recipients: Sequence[Recipient], progress: Progress) -> Written:
    """Make the archive. Raises NodeError; then there is no file, and nothing else has changed."""
    require_new(to)
    layout = Layout.found(data_dir)
    try:
        async with _running(layout, progress) as stores:
            with staging(layout.root) as folder:
                return await _Backup(stores, folder, progress).made(to, recipients)
    except OSError as error:
        raise said_plainly(error, layout.root if to.parent == Path() else to.parent) from error
    except psycopg.Error as error:
        first = str(error).strip().splitlines()[0]
        raise NodeError(f"The database does not answer as it should: {first[:300]}") from error
    finally:
        if layout.lock is not None:
            layout.tidy()


@asynccontextmanager
async def _running(layout: Layout, progress: Progress) -> AsyncIterator[Stores]:
    """The two parts: those of the POP that runs, or else our own for as long as this takes."""
    async with Stores(layout, progress) as stores:
        if layout.lock is None:
            _require_both(layout)
        else:
            _require_own(stores)
            with progress.step("PostgreSQL and OpenBao"):
                await stores.start_both()
        yield stores


def _require_both(layout: Layout) -> None:
    try:
        parts = json.loads(layout.pids.read_text())["processes"].keys()
    except (FileNotFoundError, ValueError, KeyError):
        parts = set()
    if not parts:
        raise NodeError(f"The POP on {layout.root} is starting or stopping: make the backup again in a moment.")
    if not {"postgres", "openbao"} <= parts:
        raise _elsewhere(layout)


def _require_own(stores: Stores) -> None:
    if not stores.cluster.initialised() or not stores.vault.initialised():
        raise _elsewhere(stores.layout)


def _elsewhere(layout: Layout) -> NodeError:
    return NodeError(
        f"The POP on {layout.root} has its database or its OpenBao elsewhere (--database-url, --bao-addr), or was never"
        " started: back those services up with their own tools, both of one moment.",
        code=Exit.FAILED,
    )


class _Backup:
    """One run, on parts that answer."""

    def __init__(self, stores: Stores, folder: Path, progress: Progress) -> None:
        self._stores = stores
        self._snapshot = folder / SNAPSHOT
        self._dump = folder / DUMP
        self._progress = progress
        self._seconds: dict[str, float] = {}

    async def made(self, to: Path, recipients: Sequence[Recipient]) -> Written:
        secrets = _secrets(self._stores)
        database = self._stores.cluster.superuser_url()
        with ExitStack() as stack:
            with self._step("vault"):
                taken = await in_thread(
                    lambda stop: stack.enter_context(cut(database, self._stores.vault, into=self._snapshot))
                )
            with self._step("database"):
                await pg_tools.dump(database, snapshot=taken.snapshot, into=self._dump)
                files: dict[str, Path | bytes] = {SNAPSHOT: self._snapshot, DUMP: self._dump, **secrets}
                manifest = await in_thread(lambda stop: _manifest(taken, files))
        with self._step("archive"):
            counted = await in_thread(lambda stop: self._sealed(to, manifest, files, recipients, stop))
        return Written(
            manifest=manifest,
            bytes=counted.bytes,
            sha256=counted.digest.hexdigest(),
            attempts=taken.attempts,
            seconds=self._seconds,
        )

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        with self._progress.step(name):
            yield
        self._seconds[name] = time.monotonic() - began

    def _sealed(
        self,
        to: Path,
        manifest: Manifest,
        files: Mapping[str, Path | bytes],
        recipients: Sequence[Recipient],
        stop: threading.Event,
    ) -> "_Counted":
        with output(to) as file:
            counted = _Counted(file)
            archive.seal(manifest, files, recipients=recipients, to=counted, stop=stop)
        return counted


class _Counted:
    """A file that is written to, with the number and the digest of its bytes."""

    def __init__(self, file: IO[bytes]) -> None:
        self.bytes = 0
        self.digest = hashlib.sha256()
        self._file = file

    def write(self, data: memoryview) -> int:
        written = self._file.write(data)
        self.bytes += written
        self.digest.update(data[:written])
        return written

    def flush(self) -> None:
        self._file.flush()


def _secrets(stores: Stores) -> dict[str, bytes]:
    """By their path in the data directory. Raises NodeError when the unseal key is not there."""
    stores.vault.check_unseal_key()
    root = stores.layout.root
    places = [stores.layout.openbao / name for name in OPENBAO_SECRETS]
    places += sorted(place for place in stores.layout.secrets.iterdir() if place.suffix != NEW)
    return {str(place.relative_to(root)): place.read_bytes() for place in places}


def _manifest(taken: Cut, files: Mapping[str, Path | bytes]) -> Manifest:
    connection = taken.connection
    states: Counter[str] = Counter()
    versions, digest = 0, catalogue.Digest()
    for key in catalogue.keys(connection):
        states[key.state.name] += 1
        versions += len(key.public_keys)
        digest.add(key)
    found = catalogue.ledgers(connection)
    if found.broken:
        raise NodeError(
            f"The ledger of the organization {found.broken[0]} has a gap or does not end at its head: no backup is made"
            " of a database that was damaged; keep the data directory as it is."
        )
    facts = "SELECT now(), (SELECT version_num FROM alembic_version), (SELECT count(*) FROM organizations)"
    row = connection.execute(facts).fetchone()
    assert row is not None  # noqa: S101 - a query without FROM has one row
    return Manifest(
        format=FORMAT,
        popsigner=version("popsigner-node"),
        layout=VERSION,
        schema=row[1],
        created_at=row[0].isoformat(),
        organizations=row[2],
        keys=dict(states),
        versions=versions,
        catalogue=digest.hexdigest(),
        ledger=found.heads,
        made_meanwhile=taken.made_meanwhile,
        members={name: archive.described(content) for name, content in files.items()},
    )
