"""Where an archive goes: a file that is there whole or not at all, or standard output."""

import contextlib
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from popsigner_node.errors import NodeError
from popsigner_node.secret_files import sync_folder

STDOUT = Path("-")


def require_new(path: Path) -> None:
    """Raise NodeError when something is there already, or no folder for it."""
    if path == STDOUT:
        if sys.stdout.isatty():
            raise NodeError("The archive is not for a terminal: name a file, or send standard output to one.")
        return
    if os.path.lexists(path):
        raise _exists(path)
    if not path.parent.is_dir():
        raise NodeError(f"The folder of {path} does not exist: make it first.")


@contextmanager
def output(path: Path) -> Iterator[IO[bytes]]:
    """What to write to. At the end the file is complete, on the disk, of mode 0600, and under its name; after a failure
    there is none. A killed process leaves its ciphertext under another name, `.NAME.….partial`.

    Raises NodeError when somebody else has made a file of the name, OSError.
    """
    if path == STDOUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        try:
            # A link and not a rename: it refuses to replace what somebody else has put there meanwhile.
            os.link(partial, path)
        except FileExistsError:
            raise _exists(path) from None
        except OSError as error:
            raise NodeError(
                f"The file system of {path} cannot give a finished file its name ({error.strerror}): write to another"
                " one, or use --to - and send standard output to the file."
            ) from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()
    sync_folder(path.parent)


def _exists(path: Path) -> NodeError:
    return NodeError(f"{path} exists, and a backup never replaces a file: choose another name.")
