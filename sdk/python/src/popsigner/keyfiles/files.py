"""Files with keys in them: read within bounds, written whole or not at all, never over another file, and destroyed."""

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from .errors import EntryExists, EntryMissing, FileUnusable

# The largest of these formats, an entry of a keyring with a multisig key, has some kilobytes.
MAX_BYTES: Final = 64 * 1024
_BESIDE: Final = ".popsigner.new"
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


def read(path: Path) -> bytearray:
    """The content of a regular file of at most 64 KiB; the caller overwrites it where it is secret.

    Raises EntryMissing, FileUnusable.
    """
    try:
        descriptor = os.open(path, _READ)
    except FileNotFoundError:
        raise EntryMissing(f"there is no file {path}") from None
    except OSError as error:
        raise unusable(path, error) from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise FileUnusable(f"{path} is not a regular file")
        if found.st_size > MAX_BYTES:
            raise FileUnusable(f"{path} is larger than any key file: {MAX_BYTES} bytes is the most")
        # One buffer of the right size: one that grows moves, and leaves what it held behind.
        content = bytearray(found.st_size)
        length = _fill(descriptor, content)
    except OSError as error:
        raise unusable(path, error) from None
    finally:
        os.close(descriptor)
    del content[length:]
    return content


def write_sealed(path: Path, content: bytes | bytearray, *, replace: bool = False) -> None:
    """Write ciphertext (or what is no secret) to a new file, mode 0600: after a crash it is there whole or not at all.

    Only for who holds the folder's lock. `replace` is for who has seen that the file there leads nowhere.
    Raises EntryExists, FileUnusable.
    """
    beside = path.with_name(_BESIDE)
    try:
        # A crash may have left one behind; whoever holds the folder's lock owns it.
        beside.unlink(missing_ok=True)
        _create(beside, content)
        try:
            if replace:
                beside.replace(path)
            else:
                # Unlike a rename, a link fails where the name is taken.
                os.link(beside, path, follow_symlinks=False)
        finally:
            beside.unlink(missing_ok=True)
        settle(path.parent)
    except FileExistsError:
        raise EntryExists(f"{path} exists already, and nothing is overwritten") from None
    except OSError as error:
        raise unusable(path, error) from None


def write_plain(path: Path, content: bytearray) -> None:
    """Write a private key as it is to a new file, mode 0600, under its final name alone: a crash leaves no other copy.

    Raises EntryExists, FileUnusable.
    """
    try:
        _create(path, content)
        settle(path.parent)
    except FileExistsError:
        raise EntryExists(f"{path} exists already, and nothing is overwritten") from None
    except OSError as error:
        raise unusable(path, error) from None


def destroy(path: Path) -> None:
    """Overwrite a regular file with zeros, then unlink it. One that is gone is gone.

    File systems that copy on write, and flash memory, may keep the old blocks all the same. Raises FileUnusable; never
    follows a symbolic link, and leaves a file alone that has a second name elsewhere.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return
    except OSError as error:
        raise unusable(path, error) from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise FileUnusable(f"{path} is not a regular file of one name, so it is not destroyed")
        _write(descriptor, bytes(found.st_size))
        os.fsync(descriptor)
        path.unlink()
        settle(path.parent)
    except OSError as error:
        raise unusable(path, error) from None
    finally:
        os.close(descriptor)


def erased(content: bytes | bytearray) -> bool:
    """Whether `destroy` had begun to overwrite the file that this is in: no key file begins with a zero byte."""
    return content[:1] == b"\0"


def clear(folder: Path) -> None:
    """Remove what `write_sealed` has left behind in a crash, which may be a second name of what it wrote.

    Only for who holds the folder's lock. Raises FileUnusable.
    """
    try:
        (folder / _BESIDE).unlink(missing_ok=True)
        settle(folder)
    except OSError as error:
        raise unusable(folder, error) from None


def make_folder(path: Path) -> None:
    """Make a folder for its owner alone (0700), below one that exists, or find it there. Raises FileUnusable."""
    try:
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
            settle(path.parent)
    except OSError as error:
        raise unusable(path, error) from None


@contextmanager
def locked(folder: Path, *, private: bool = False) -> Iterator[None]:
    """Keep every other writer of this room out of a folder meanwhile.

    `private` folders are refused where others can write to them: they could exchange what is read and written there.
    Raises EntryMissing, FileUnusable.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise EntryMissing(f"there is no folder {folder}") from None
    except OSError as error:
        raise unusable(folder, error) from None
    try:
        found = os.fstat(descriptor)
        if private and (found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o022):
            raise FileUnusable(f"others can write to the folder {folder}; make it yours alone: chmod 700 {folder}")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    except OSError as error:
        raise unusable(folder, error) from None
    finally:
        os.close(descriptor)


def settle(folder: Path) -> None:
    """Make the names of a folder outlive a loss of power. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unusable(path: Path, error: OSError) -> FileUnusable:
    """The sentence for what the system said."""
    return FileUnusable(f"{path} cannot be used: {error.strerror}")


def _create(path: Path, content: bytes | bytearray) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        # A umask may have taken the owner's own rights.
        os.fchmod(descriptor, 0o600)
        _write(descriptor, content)
        os.fsync(descriptor)
    except BaseException:
        # On a full disk, say: what is there is half a file, and this call made it.
        os.ftruncate(descriptor, 0)
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def _write(descriptor: int, content: bytes | bytearray) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _fill(descriptor: int, content: bytearray) -> int:
    length = 0
    with memoryview(content) as view:
        while length < len(content) and (count := os.readv(descriptor, [view[length:]])):
            length += count
    return length
