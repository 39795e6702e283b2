"""What a running node does by the clock: keeps logs short, and knows the engine's process."""

import os
import shutil
from pathlib import Path

_COPY_SUFFIX = ".1"


def shorten(log: Path, *, limit: int) -> None:
    """Keep one older copy of a log that grew beyond `limit` bytes and empty it.

    Copied and emptied, not renamed: the child goes on writing to the file that it has open (in append mode, so the next
    line goes to the beginning). A line written between copy and emptying is lost; these are logs, not the audit trail.
    On a full disk the older copy is given up for the room that emptying makes.
    """
    if log.stat().st_size > limit:
        copy = log.with_name(log.name + _COPY_SUFFIX)
        try:
            shutil.copyfile(log, copy)
        except OSError:
            copy.unlink(missing_ok=True)
        os.truncate(log, 0)


def only_child(pid: int) -> int | None:
    """The process that `pid` started last and that still runs: of OpenBao, the engine."""
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children += [int(word) for word in task.read_text().split()]
        except OSError:
            continue
    return max(children, default=None)
