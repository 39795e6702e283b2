"""pg_dump and pg_restore of the embedded PostgreSQL, as children that end with this process."""

import asyncio
import signal
from pathlib import Path

from popsigner_node.errors import NodeError
from popsigner_node.layout import disk_full, is_disk_full
from popsigner_node.lifeline import tied
from popsigner_node.postgres import binaries, child_environment


async def dump(url: str, *, snapshot: str, into: Path) -> None:
    """Write the database as the transaction that exported `snapshot` sees it (custom format). Raises NodeError."""
    options = ["--format=custom", f"--snapshot={snapshot}", f"--file={into}", f"--dbname={url}"]
    await _run("pg_dump", options, place=into.parent)


async def load(url: str, *, dumped: Path) -> None:
    """Fill an empty database from a dump, all or nothing. Raises NodeError."""
    options = ["--single-transaction", "--exit-on-error", f"--dbname={url}", str(dumped)]
    await _run("pg_restore", options, place=dumped.parent)


async def _run(name: str, options: list[str], *, place: Path) -> None:
    command = tied([str(binaries() / name), "--no-password", *options], death_signal=signal.SIGKILL)
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=dict(child_environment()),
        start_new_session=True,
    )
    try:
        _, err = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    if process.returncode != 0:
        words = err.decode(errors="replace").strip()
        if is_disk_full(words):
            raise disk_full(place)
        raise NodeError(f"PostgreSQL's {name} failed: {(words.splitlines() or ['it wrote nothing'])[0][:300]}")
