"""The data directory: what lies where, of which version, and that one node at a time uses it."""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from popsigner_node.errors import Exit, NodeError
from popsigner_node.postgres import SOCKET_PATH_LIMIT
from popsigner_node.secret_files import sync_folder

VERSION = "2"
FIRST_START_BYTES = 256 * 2**20
"""Free space that a first start asks for: 40 MiB of files, the same again of PostgreSQL's log, and room to work."""
RESTART_BYTES = 32 * 2**20

# What may lie in a directory that is not ours yet: a fresh volume's own folder, and the lock of a start that was
# interrupted before it wrote VERSION.
_HARMLESS = {"lost+found", "lock"}
_RESTORING = "restoring"
# OpenBao's and the engine's sockets carry random names of their own below the run folder.
_LONGEST_SOCKET_NAME = 46


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """An open data directory. Keep the object as long as its parts run: closing `lock` releases the lock.

    root: the data directory, absolute. run: the folder of the sockets, short enough for them; both of mode 0700. lock:
    None where another process has it, and runs the parts.
    """

    root: Path
    run: Path
    lock: int | None

    @property
    def postgres(self) -> Path:
        return self.root / "postgres"

    @property
    def openbao(self) -> Path:
        return self.root / "openbao"

    @property
    def envoy(self) -> Path:
        return self.root / "envoy"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def founded(self) -> Path:
        return self.root / "founded.json"

    @property
    def pids(self) -> Path:
        return self.root / "processes.json"

    @classmethod
    def opened(cls, root: Path) -> Self:
        """Make or check the data directory and lock it.

        Raises NodeError: NO_PERMISSION, OTHER_VERSION, IN_USE or DISK_FULL. A directory that is not ours is left as it
        is, to the last byte.
        """
        root = Path(os.path.abspath(root.expanduser()))
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh = _check_version(root)
            lock = _locked(root)
            _check_space(root, FIRST_START_BYTES if fresh else RESTART_BYTES)
            root.chmod(0o700)
            if fresh:
                _write_whole(root / "VERSION", VERSION + "\n")
            layout = cls(root=root, run=_run_folder(root), lock=lock)
            layout.logs.mkdir(mode=0o700, exist_ok=True)
        except FileExistsError:
            raise NodeError(f"{root} is no directory: choose another --data-dir.", code=Exit.NO_PERMISSION) from None
        except OSError as error:
            raise said_plainly(error, root) from None
        return layout

    @classmethod
    def found(cls, root: Path) -> Self:
        """A data directory that must be there already; not locked when its node runs.

        Raises NodeError: NO_PERMISSION, OTHER_VERSION or RESTORE_UNFINISHED.
        """
        root = Path(os.path.abspath(root.expanduser()))
        try:
            if not root.is_dir() or _check_version(root):
                raise NodeError(f"{root} is no data directory of POPSigner.", code=Exit.OTHER_VERSION)
            try:
                lock = _locked(root)
            except NodeError:
                lock = None
            layout = cls(root=root, run=_run_folder(root), lock=lock)
            layout.logs.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise said_plainly(error, root) from None
        return layout

    @classmethod
    def for_restore(cls, root: Path, *, end_leftovers: Callable[[Self], object]) -> Self:
        """Take an empty directory, or one that an unfinished restore left, and lock it; until `restored` no node starts
        on it. What an unfinished restore had made is removed, after its processes were ended.

        Raises NodeError as `opened`.
        """
        root = Path(os.path.abspath(root.expanduser()))
        require_empty(root)
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = _locked(root)
            # Again: another restore may have ended between the first look and the lock.
            require_empty(root)
            root.chmod(0o700)
            _write_whole(root / _RESTORING, "")
            layout = cls(root=root, run=_run_folder(root), lock=lock)
            end_leftovers(layout)
            for entry in root.iterdir():
                if entry.name not in {*_HARMLESS, _RESTORING, "run"}:
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            layout.logs.mkdir(mode=0o700)
        except OSError as error:
            raise said_plainly(error, root) from None
        return layout

    def restored(self) -> None:
        """The restore is complete: from now on this is a data directory like any other."""
        _write_whole(self.root / "VERSION", VERSION + "\n")
        (self.root / _RESTORING).unlink()
        sync_folder(self.root)

    def require_space(self, needed: int) -> None:
        """Raise NodeError (DISK_FULL) unless so many bytes are free."""
        _check_space(self.root, needed)

    def tidy(self) -> None:
        """Remove the run folder when it is not in the data directory: nobody would look for it in /tmp."""
        if not self.run.is_relative_to(self.root):
            shutil.rmtree(self.run, ignore_errors=True)


def require_empty(root: Path) -> None:
    """Raise NodeError unless `root` is missing, empty, or left by an unfinished restore. Changes nothing."""
    root = Path(os.path.abspath(root.expanduser()))
    try:
        if not root.exists() or (root / _RESTORING).exists():
            return
        strangers = sorted({entry.name for entry in root.iterdir()} - _HARMLESS)
    except OSError as error:
        raise said_plainly(error, root) from None
    if strangers:
        raise NodeError(
            f"{root} is not empty (it holds {strangers[0]}): a restore takes an empty --data-dir, so that nothing is"
            " lost.",
            code=Exit.OTHER_VERSION,
        )


def said_plainly(error: OSError, place: Path) -> NodeError:
    """The sentence for what the operating system refused below `place`."""
    if is_disk_full(str(error)):
        return disk_full(place)
    if isinstance(error, PermissionError):
        owner = place if place.exists() else next(above for above in place.parents if above.exists())
        return NodeError(
            f"No permission on {error.filename or place}: {owner} belongs to uid {owner.stat().st_uid} and this is"
            f" uid {os.geteuid()}; run as its owner or choose another --data-dir.",
            code=Exit.NO_PERMISSION,
        )
    return NodeError(f"{error.filename or place}: {error.strerror or error}.")


def is_disk_full(text: str) -> bool:
    """Whether a message or log line is the operating system's ENOSPC or EDQUOT."""
    return "no space left on device" in text.lower() or "disk quota exceeded" in text.lower()


def disk_full(place: Path, *, needed: int | None = None) -> NodeError:
    """The sentence for a full disk: names the disk, what is free and what is asked for (bytes)."""
    free = shutil.disk_usage(place).free
    wanted = f", {needed / 2**20:.0f} MiB are needed" if needed else ""
    return NodeError(
        f"The disk at {_mount_point(place)} that holds {place} is full: {free / 2**20:.0f} MiB are free{wanted};"
        " free some space and start again.",
        code=Exit.DISK_FULL,
    )


def _mount_point(place: Path) -> Path:
    while not place.is_mount():
        place = place.parent
    return place


def _check_space(root: Path, needed: int) -> None:
    if shutil.disk_usage(root).free < needed:
        raise disk_full(root, needed=needed)


def _check_version(root: Path) -> bool:
    """True for a directory that is still to become ours."""
    if (root / _RESTORING).exists():
        raise NodeError(
            f"A restore into {root} has not ended: run the same `popsigner restore` again, or empty the directory.",
            code=Exit.RESTORE_UNFINISHED,
        )
    try:
        found = (root / "VERSION").read_text().strip()
    except FileNotFoundError:
        strangers = sorted({entry.name for entry in root.iterdir()} - _HARMLESS)
        if strangers:
            raise NodeError(
                f"{root} is no data directory of POPSigner and not empty (it holds {strangers[0]}):"
                " choose another --data-dir.",
                code=Exit.OTHER_VERSION,
            ) from None
        return True
    if found == "1":
        raise NodeError(
            f"The data directory {root} was made before the release 0.1.0, and nothing can give its vault the policies"
            " of this one: use another --data-dir and make the keys anew there.",
            code=Exit.OTHER_VERSION,
        )
    if found != VERSION:
        raise NodeError(
            f"The data directory {root} has version {found[:20]!r} and this program knows version {VERSION}:"
            " start the POPSigner that made it, or choose another --data-dir.",
            code=Exit.OTHER_VERSION,
        )
    return False


def _locked(root: Path) -> int:
    # flock and not a pid file: the kernel releases it when the node dies, however it dies.
    lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 20, 0).decode(errors="replace").strip()
        os.close(lock)
        raise NodeError(
            f"The data directory {root} is in use by another popsigner (process {holder or 'unknown'}):"
            " stop that one first, or choose another --data-dir.",
            code=Exit.IN_USE,
        ) from None
    os.truncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def _run_folder(root: Path) -> Path:
    """`run` in the data directory, or a short folder of our own where that path is too long for a unix socket."""
    inside = root / "run"
    if len(os.fsencode(inside)) + _LONGEST_SOCKET_NAME <= SOCKET_PATH_LIMIT:
        inside.mkdir(mode=0o700, exist_ok=True)
        return inside
    name = f"popsigner-{os.geteuid()}-{hashlib.sha256(os.fsencode(root)).hexdigest()[:12]}"
    short = Path("/tmp") / name  # noqa: S108 - checked below to be a folder of ours that nobody else can enter
    short.mkdir(mode=0o700, exist_ok=True)
    found = short.lstat()
    if short.is_symlink() or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise NodeError(
            f"{short} is not a private folder of uid {os.geteuid()}: remove it, or choose a shorter --data-dir.",
            code=Exit.NO_PERMISSION,
        )
    return short


def _write_whole(path: Path, text: str) -> None:
    fresh = path.with_name(path.name + ".new")
    with fresh.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    sync_folder(path.parent)
