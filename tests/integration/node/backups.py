"""Backups and restores of a POP as an operator makes them: the command, its words, its files."""

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import pyrage  # type: ignore[import-untyped]  # it publishes no types

from popsigner_node.archive import described, seal, unseal
from popsigner_node.layout import Layout
from popsigner_node.manifest import Manifest
from popsigner_node.progress import Progress
from popsigner_node.stores import Stores
from tests.support.pop import Pop

TIMEOUT = 90
Done = subprocess.CompletedProcess[str]


class Keeper:
    """Somebody with an age identity."""

    def __init__(self, home: Path) -> None:
        self.identity = pyrage.x25519.Identity.generate()
        self.recipient = str(self.identity.to_public())
        self.file = home / "identity.txt"
        self.file.write_text(f"# created: today\n# public key: {self.recipient}\n{self.identity}\n")


def command(*arguments: object) -> list[str]:
    return [str(Path(sys.executable).with_name("popsigner")), *map(str, arguments)]


def run(*arguments: object, before: tuple[str, ...] = ()) -> Done:
    return subprocess.run(
        [*before, *command(*arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
        stdin=subprocess.DEVNULL,
    )


def backup(pop: Pop, to: Path, keeper: Keeper, *options: str, before: tuple[str, ...] = ()) -> Done:
    return run(
        "backup", "--data-dir", pop.data_dir, "--to", to, "--recipient", keeper.recipient, *options, before=before
    )


def restore(archive: Path, data_dir: Path, keeper: Keeper, *options: str) -> Done:
    return run("restore", archive, "--data-dir", data_dir, "--identity", keeper.file, *options)


def made(done: Done) -> dict[str, Any]:
    """What a run with --json says that it did."""
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def says(done: Done, code: int, *words: str) -> None:
    """The last line on stderr is one sentence with all `words`, with the code; nothing is on stdout."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("popsigner: ")
    for word in words:
        assert word in last, last


def stores(pop: Pop) -> Stores:
    """The parts of a POP that runs."""
    return Stores(Layout.found(pop.data_dir), Progress(stderr=True))


def opened(archive: Path, keeper: Keeper, folder: Path) -> tuple[Manifest, dict[str, Path | bytes]]:
    """An archive's manifest and files, put below `folder`."""
    folder.mkdir(exist_ok=True)
    places: dict[str, Path | bytes] = {}

    def place(name: str) -> IO[bytes]:
        path = folder / hashlib.sha256(name.encode()).hexdigest()
        places[name] = path
        return path.open("wb")

    return unseal(archive, [keeper.identity], sink=place, stop=threading.Event()), places


def sealed(
    manifest: Manifest,
    files: Mapping[str, Path | bytes],
    *,
    keeper: Keeper,
    to: Path,
    change: Callable[[Manifest], Manifest] = lambda manifest: manifest,
) -> Path:
    """An archive of these files whose manifest was changed."""
    members = {name: described(content) for name, content in files.items()}
    with to.open("wb") as file:
        seal(
            change(replace(manifest, members=members)),
            files,
            recipients=[keeper.identity.to_public()],
            to=file,
            stop=threading.Event(),
        )
    return to
