"""What is known of our own database without asking it: asking takes a process of the server, and a second each time."""

import hashlib
import importlib.util
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from popsigner_node.errors import NodeError

_MIGRATIONS = Path("storage/migrations/versions")


@dataclass(frozen=True, slots=True, kw_only=True)
class Founded:
    """organization: its id. schema: `schema_digest()` of the server that migrated the database last."""

    organization: str
    schema: str

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The note at `path`; None when there is none that can be read."""
        try:
            return cls(**json.loads(path.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def write(self, path: Path) -> None:
        fresh = path.with_name(path.name + ".new")
        fresh.write_text(json.dumps(asdict(self)))
        fresh.replace(path)


def schema_digest() -> str:
    """A digest of the installed server's migrations: with another one there is something to migrate."""
    digest = hashlib.sha256()
    for script in _migrations():
        digest.update(script.name.encode() + b"\0" + hashlib.sha256(script.read_bytes()).digest())
    return digest.hexdigest()


def known_schemas() -> list[str]:
    """The revisions that the installed server can bring a database on from, oldest first: 0001, 0002, …"""
    return [script.name.partition("_")[0] for script in _migrations()]


def _migrations() -> list[Path]:
    spec = importlib.util.find_spec("popsigner_server")
    if spec is None or spec.origin is None:
        raise NodeError("The package popsigner-server is not installed: install POPSigner anew.")
    return sorted((Path(spec.origin).parent / _MIGRATIONS).glob("*.py"))
