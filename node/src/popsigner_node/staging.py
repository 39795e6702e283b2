"""A folder inside the data directory for what a backup or a restore works on, gone when it ends.

It is inside because the data directory is where these bytes are anyway: nothing secret gets to another disk. What a
killed process left is removed by the next one that looks, and by the node's start.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FOLDER = "staging"


@contextmanager
def staging(root: Path) -> Iterator[Path]:
    """A fresh folder of mode 0700 below `root`; removed with all that is in it."""
    sweep(root)
    parent = root / _FOLDER
    while True:
        parent.mkdir(mode=0o700, exist_ok=True)
        try:
            folder = Path(tempfile.mkdtemp(dir=parent))
            lock = _locked(folder)
        except FileNotFoundError:
            # A sweep came between.
            continue
        if lock is not None:
            break
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
        with contextlib.suppress(OSError):
            parent.rmdir()


def sweep(root: Path) -> None:
    """Remove the folders of processes that are gone."""
    parent = root / _FOLDER
    for folder in parent.iterdir() if parent.is_dir() else ():
        with contextlib.suppress(FileNotFoundError):
            if (lock := _locked(folder)) is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)
    with contextlib.suppress(OSError):
        parent.rmdir()


def _locked(folder: Path) -> int | None:
    """The folder's lock, which ends with the process that has it; None where another has it, or it was removed."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    if not os.fstat(descriptor).st_nlink:
        os.close(descriptor)
        return None
    return descriptor
