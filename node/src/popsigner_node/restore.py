"""`popsigner restore`: a data directory from an archive, checked before it may serve."""

import asyncio
import http.client
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psycopg

from popsigner_node import leftovers, pg_tools
from popsigner_node.age_keys import Identity
from popsigner_node.archive import Sink, unseal
from popsigner_node.backup import DUMP, OPENBAO_SECRETS, SNAPSHOT
from popsigner_node.errors import Exit, NodeError
from popsigner_node.layout import Layout, require_empty, said_plainly
from popsigner_node.manifest import Manifest
from popsigner_node.openbao_restore import restore_vault
from popsigner_node.policies import SERVER_ROLE
from popsigner_node.progress import Progress
from popsigner_node.secret_files import sync_folder
from popsigner_node.staging import staging
from popsigner_node.stores import Stores, both, start_database, start_vault
from popsigner_node.threads import in_thread
from popsigner_node.verify import verify

_SECRET = re.compile(r"secrets/\w[\w.-]*")
_MEMBERS = {SNAPSHOT, DUMP, *(f"openbao/{name}" for name in OPENBAO_SECRETS)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """A data directory that may serve."""

    manifest: Manifest
    data_dir: Path
    seconds: Mapping[str, float]

    def facts(self) -> dict[str, object]:
        """What is told of it; nothing secret."""
        made = self.manifest
        return {
            "data_dir": str(self.data_dir),
            "created_at": made.created_at,
            "organizations": made.organizations,
            "keys": dict(made.keys),
            "versions": made.versions,
            "ledger_rows": sum(head.rows for head in made.ledger.values()),
            "seconds": {step: round(seconds, 3) for step, seconds in self.seconds.items()},
        }


async def restore(archive: Path, data_dir: Path, *, identities: Sequence[Identity], progress: Progress) -> Restored:
    """Make the data directory. Raises NodeError; what it says of the archive it says before anything is changed."""
    require_empty(data_dir)
    work = _Restore(archive, identities, progress)
    try:
        manifest = await work.checked()
        layout = Layout.for_restore(
            data_dir, end_leftovers=lambda found: leftovers.end(found.pids, postgres=found.postgres)
        )
        try:
            await work.made(layout, manifest)
        finally:
            layout.tidy()
    except OSError as error:
        raise said_plainly(error, archive if error.filename == str(archive) else data_dir) from error
    except psycopg.Error as error:
        first = str(error).strip().splitlines()[0]
        raise NodeError(f"The restored database does not answer as it should: {first[:300]}") from error
    return Restored(manifest=manifest, data_dir=layout.root, seconds=work.seconds)


class _Restore:
    """One run."""

    def __init__(self, archive: Path, identities: Sequence[Identity], progress: Progress) -> None:
        self._archive = archive
        self._identities = identities
        self._progress = progress
        self.seconds: dict[str, float] = {}

    async def checked(self) -> Manifest:
        """Read all of the archive once and keep nothing, so that a mistake in it is known before anything is made."""
        with self._step("archive checked"):
            manifest = await in_thread(lambda stop: self._unsealed(lambda name: None, stop))
        names = manifest.members.keys()
        if _MEMBERS - names or not all(name in _MEMBERS or _SECRET.fullmatch(name) for name in names):
            raise NodeError(
                f"{self._archive} is no backup of a POP; nothing was changed.", code=Exit.ARCHIVE_UNREADABLE
            )
        return manifest

    async def made(self, layout: Layout, manifest: Manifest) -> None:
        """Everything, from an empty directory to one that may serve."""
        needed = 2 * sum(member.size for member in manifest.members.values())
        layout.require_space(needed)
        async with Stores(layout, self._progress) as stores:
            with staging(layout.root) as folder:
                with self._step("archive unpacked"):
                    places = _Places(layout, folder)
                    if await in_thread(lambda stop: self._unsealed(places.open, stop)) != manifest:
                        raise NodeError(f"{self._archive} was changed while it was read: run the restore again.")
                    places.sync()
                await both(self._vault(stores, folder / SNAPSHOT), self._database(stores, folder / DUMP))
            with self._step("vault and database compared"):
                stores.vault.prepare()
                await start_vault(stores.vault, stores.start, log=stores.log("openbao"))
                await asyncio.to_thread(self._compare, stores, manifest)
        layout.restored()

    async def _vault(self, stores: Stores, snapshot: Path) -> None:
        with self._step("vault"):
            await restore_vault(stores, snapshot)

    async def _database(self, stores: Stores, dumped: Path) -> None:
        with self._step("database"):
            await start_database(stores.cluster, stores.start)
            await pg_tools.load(stores.cluster.superuser_url(), dumped=dumped)

    def _unsealed(self, sink: Sink, stop: threading.Event) -> Manifest:
        return unseal(self._archive, self._identities, sink=sink, stop=stop)

    def _compare(self, stores: Stores, manifest: Manifest) -> None:
        try:
            with (
                psycopg.connect(stores.cluster.superuser_url()) as connection,
                stores.vault.session(SERVER_ROLE) as session,
            ):
                verify(connection, session, manifest)
                connection.commit()
                connection.autocommit = True
                # A dump has no statistics, and the first queries should not wait for somebody to gather them.
                connection.execute("ANALYZE")
        except http.client.HTTPException as error:
            raise NodeError(
                "OpenBao went away while it was compared with the database: run the restore again."
            ) from error

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        with self._progress.step(name):
            yield
        self.seconds[name] = time.monotonic() - began


class _Places:
    """Where the archive's members go."""

    def __init__(self, layout: Layout, folder: Path) -> None:
        self._layout = layout
        self._folder = folder
        for part in (layout.openbao, layout.secrets):
            part.mkdir(mode=0o700)

    def open(self, name: str) -> IO[bytes]:
        place = self._folder / name if name in (SNAPSHOT, DUMP) else self._layout.root / name
        return place.open("xb")

    def sync(self) -> None:
        for part in (self._layout.openbao, self._layout.secrets):
            sync_folder(part)
