"""The POP's own secrets, each a file of mode 0600: what seals other secrets in the database, and what the gateway's web
application proves itself with to the server."""

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

NEW = ".new"
"""The suffix of a file that is being written."""

_BYTES = 32
_OWN = {"POPSIGNER_SEALING_KEY_FILE": "sealing.key", "POPSIGNER_GATEWAY_SECRET_FILE": "gateway.secret"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretFiles:
    """The secrets below `folder`. Nodes that share a database share them: an operator who names a file in the
    environment has it used instead."""

    folder: Path

    def prepare(self) -> None:
        """Make what is missing. A file that is there is never written again: what it sealed would be lost."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        for name in _OWN.values():
            place = self.folder / name
            if not place.exists():
                write_secret(place, secrets.token_hex(_BYTES).encode())

    def settings(self) -> dict[str, str]:
        """The settings that name them."""
        return {setting: os.environ.get(setting, str(self.folder / name)) for setting, name in _OWN.items()}


def write_secret(path: Path, content: bytes) -> None:
    """Write a file of mode 0600 that is whole on the disk before anything relies on it."""
    fresh = path.with_name(path.name + NEW)
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have a folder's entries on the disk: what was renamed, linked or removed in it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
