"""Where the drill's copies lie while it runs: a folder for its owner alone, and a marker that names it.

Each copy is a keystore file under a passphrase that is only in this process's memory. So what a SIGKILL or a loss of
power leaves behind opens to nobody; the marker was written before, and the next drill clears what it names.
"""

import fcntl
import json
import os
import re
import stat
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from ..errors import PreconditionFailed
from ..keyfiles import files, keystore
from ..keyfiles.errors import FileUnusable
from ..keyfiles.secret import Secret, overwrite

_MARKER: Final = "exit-drill.json"
_LOCK: Final = "exit-drill.lock"
_PASSPHRASE: Final = 32
_RUN: Final = re.compile(r"[0-9a-f]{32}")
# The passphrase is 256 random bits: stretching it would protect nothing more.
_SCRYPT_N: Final = 2


def state_folder(environment: Mapping[str, str]) -> Path:
    """$XDG_STATE_HOME/popsigner; the XDG Base Directory Specification names ~/.local/state where it is unset, and has
    relative paths ignored."""
    home = environment.get("XDG_STATE_HOME", "")
    return (Path(home) if home.startswith("/") else Path.home() / ".local" / "state") / "popsigner"


class Place:
    """The folder of one drill. Threads may share it. Methods raise FileUnusable."""

    def __init__(self, folder: Path, run: str) -> None:
        self.folder = folder
        self.run = run
        self._passphrase = os.urandom(_PASSPHRASE)
        self._count = 0
        self._turn = threading.Lock()

    def keep(self, secret: Secret) -> Path:
        """Write a copy, and say where."""
        with self._turn:
            self._count += 1
            path = self.folder / f"{_prefix(self.run)}{self._count}.json"
        files.write_plain(path, bytearray(keystore.write(secret, self._passphrase, n=_SCRYPT_N)))
        return path

    def take(self, path: Path) -> Secret:
        """Read a copy again; the caller wipes it. Raises KeyFileError for one that is gone or was changed."""
        return keystore.read(files.read(path), self._passphrase)

    def forget(self) -> None:
        """Overwrite the passphrase: from here on no copy opens."""
        overwrite(self._passphrase)


@contextmanager
def prepared(folder: Path | None, state: Path) -> Iterator[Place]:
    """An empty folder for one drill: `folder`, or one below `state`, where marker and lock are. At the end, however it
    comes, the copies are overwritten and unlinked, and a folder that was made here is removed.

    Raises PreconditionFailed (another drill runs), FileUnusable.
    """
    _make(state)
    with _alone(state):
        _clear(state)
        run = os.urandom(16).hex()
        folder = Path(os.path.abspath(folder)) if folder is not None else state / f"{_prefix(run)}copies"
        made = _checked(folder)
        place = Place(folder, run)
        marker = json.dumps({"folder": str(folder), "made": made, "run": run}).encode()
        with files.locked(state):
            files.write_sealed(state / _MARKER, marker)
        try:
            if made:
                files.make_folder(folder)
            yield place
        finally:
            place.forget()
            _clear(state)


def _prefix(run: str) -> str:
    return f"exit-drill-{run}-"


def _make(state: Path) -> None:
    try:
        state.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise files.unusable(state.parent, error) from None
    files.make_folder(state)


@contextmanager
def _alone(state: Path) -> Iterator[None]:
    try:
        descriptor = os.open(state / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise files.unusable(state / _LOCK, error) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PreconditionFailed("another exit drill of yours is running; wait until it has ended") from None
        yield
    finally:
        os.close(descriptor)


def _checked(folder: Path) -> bool:
    """Whether the folder is still to be made; one that is there has to be empty, and its owner's alone."""
    try:
        found = folder.lstat()
        empty = not stat.S_ISDIR(found.st_mode) or not os.listdir(folder)
    except FileNotFoundError:
        return True
    except OSError as error:
        raise files.unusable(folder, error) from None
    if not stat.S_ISDIR(found.st_mode) or not empty:
        raise FileUnusable(f"{folder} is not an empty folder; name one that is, or one that is not there yet")
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise FileUnusable(f"the folder {folder} is not yours alone; make it so: chmod 700 {folder}")
    return False


def _clear(state: Path) -> None:
    """Destroy what the marker names, and the marker. Names that no drill writes are left alone."""
    marker = state / _MARKER
    if not os.path.lexists(marker):
        return
    folder, made, run = _read(marker)
    copy = re.compile(re.escape(_prefix(run)) + r"[0-9]+\.json")
    try:
        for name in os.listdir(folder):
            if copy.fullmatch(name):
                files.destroy(folder / name)
    except FileNotFoundError:
        pass  # It was never made, or its owner has removed it.
    except OSError as error:
        raise files.unusable(folder, error) from None
    if made:
        # What its owner has put there meanwhile stays.
        with suppress(OSError):
            folder.rmdir()
    files.destroy(marker)


def _read(marker: Path) -> tuple[Path, bool, str]:
    try:
        found: Any = json.loads(files.read(marker))
        folder, made, run = found["folder"], found["made"], found["run"]
    except (ValueError, TypeError, KeyError):
        folder, made, run = None, None, None
    if not isinstance(folder, str) or not isinstance(made, bool) or not (isinstance(run, str) and _RUN.fullmatch(run)):
        raise FileUnusable(f"{marker} names no folder of an earlier drill; look what it says, and remove it")
    return Path(folder), made, run
