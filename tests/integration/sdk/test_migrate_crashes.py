"""popsigner migrate, killed between any two of its steps: source and destination stay usable, and the same command
again finishes it."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest

from popsigner import Client, KeyNotFound, possession
from popsigner.keyfiles import CosmosKeyring, DamagedFile, EntryMissing, KeyFileError, NotThisFormat, Secret, rawhex
from tests.support.pop import Pop
from tests.unit.sdk.command import conversation

DYING = ("-m", "tests.integration.sdk.dying")
# What an import does, in this order. A deletion clears the folder, then overwrites, settles and unlinks each of the two
# files of the entry, and settles the folder each time.
IMPORT = [
    *[
        f"{name} {moment}"
        for name in ("ListNamespaces", "GetKey", "GetWrappingKey", "ImportKey", "Sign")
        for moment in ("unsent", "sent", "answered")
    ],
    *["unlink 1", "unlink 1 done", "fsync 1", "fsync 1 done"],
    *["write 1 half", "fsync 2", "fsync 2 done", "unlink 2", "unlink 2 done", "fsync 3", "fsync 3 done"],
    *["write 2 half", "fsync 4", "fsync 4 done", "unlink 3", "unlink 3 done", "fsync 5", "fsync 5 done"],
]
# At the others it is as at the one after them.
KILLED_IMPORTS = [
    *["GetWrappingKey answered", "ImportKey unsent", "ImportKey sent", "ImportKey answered", "Sign answered"],
    *["unlink 1", "write 1 half", "fsync 2 done", "unlink 2", "unlink 2 done", "fsync 3 done"],
    *["write 2 half", "fsync 4 done", "unlink 3", "unlink 3 done", "fsync 5 done"],
]
# The entry is gone, and cannot be named any more.
GONE = ("unlink 3 done", "fsync 5 done")
# Of a keyring the address is written first; both files are written beside, linked to their place, and unlinked beside.
KILLED_EXPORTS = [
    *[("cosmos-test", f"ExportKey {moment}") for moment in ("unsent", "sent", "answered")],
    *[("cosmos-test", f"write {number} half") for number in (1, 2)],
    *[("cosmos-test", f"link {number}{done}") for number in (1, 2) for done in ("", " done")],
    *[("cosmos-test", f"unlink {number}{done}") for number in (2, 4) for done in ("", " done")],
    *[("cosmos-test", f"Verify {moment}") for moment in ("unsent", "answered")],
    *[("hex", step) for step in ("ExportKey answered", "write 1 half", "fsync 3", "fsync 3 done", "Verify answered")],
]


@pytest.fixture
def environment(pop: Pop, tmp_path: Path) -> dict[str, str]:
    key_file = tmp_path / "owner.key"
    key_file.write_text(pop.api_key + "\n")
    names = {"POPSIGNER_ENDPOINT": pop.http, "POPSIGNER_API_KEY_FILE": str(key_file), "TERM": "xterm"}
    return {**os.environ, **names}


@pytest.fixture
def name() -> str:
    return f"dying-{uuid4().hex[:12]}"


@pytest.fixture
def home(tmp_path: Path, name: str) -> tuple[Path, bytes]:
    """A keyring with one entry, and its private key."""
    folder = tmp_path / "home"
    folder.mkdir()
    scalar = os.urandom(32)
    CosmosKeyring(folder, "test").write(name, Secret(bytearray(scalar)))
    return folder, scalar


def import_of(environment: dict[str, str], home: Path, name: str, step: str) -> tuple[int, str]:
    arguments = ["migrate", "import", str(home), "--key", name, "--delete-source"]
    return conversation(environment, [(b"delete it from", name.encode() + b"\n")], step, *arguments, program=DYING)


def in_source(home: Path, name: str) -> bytes | None:
    try:
        return bytes(CosmosKeyring(home, "test").read(name).scalar)
    except (EntryMissing, DamagedFile, NotThisFormat):
        return None


def in_pop(client: Client, name: str) -> str | None:
    try:
        return client.keys.get(f"production/{name}").public_key
    except KeyNotFound:
        return None


def test_the_steps_of_an_import_are_these(
    environment: dict[str, str], home: tuple[Path, bytes], name: str, tmp_path: Path
) -> None:
    notes = tmp_path / "steps"
    code, shown = import_of(environment | {"POPSIGNER_STEPS": str(notes)}, home[0], name, "none")
    assert code == 0, shown
    assert notes.read_text().splitlines() == IMPORT


@pytest.mark.parametrize("step", KILLED_IMPORTS)
def test_an_import_that_is_killed_is_finished_by_the_same_command(
    client: Client, environment: dict[str, str], home: tuple[Path, bytes], name: str, step: str
) -> None:
    folder, scalar = home
    public_key = Secret(bytearray(scalar)).facts.public_key

    code, shown = import_of(environment, folder, name, step)
    assert code == -signal.SIGKILL, shown
    # The private key is somewhere where it can be used, and nowhere a wrong one is.
    assert in_source(folder, name) in (scalar, None)
    assert in_pop(client, name) in (public_key.hex(), None)
    assert in_source(folder, name) or in_pop(client, name)

    code, shown = import_of(environment, folder, name, "none")
    assert code == (4 if step in GONE else 0), shown
    assert step not in GONE or f"production/{name} is in the POP, and was imported" in shown
    assert CosmosKeyring(folder, "test").names() == []
    assert os.listdir(folder / "keyring-test") == []
    message = possession.challenge()
    assert possession.verifies(public_key, message, client.sign(f"production/{name}", message).signature)


@pytest.mark.parametrize(("form", "step"), KILLED_EXPORTS)
def test_an_export_that_is_killed_is_finished_by_the_same_command(
    client: Client, environment: dict[str, str], name: str, tmp_path: Path, form: str, step: str
) -> None:
    scalar = os.urandom(32)
    client.keys.import_key(scalar, name=name, exportable=True)
    out = tmp_path / "out"
    arguments = ["migrate", "export", f"production/{name}", "--to", str(out), "--format", form]

    def run(step: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, *DYING, step, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def read() -> bytes:
        if form == "hex":
            return bytes(rawhex.read((out / "production" / f"{name}.hex").read_bytes()).scalar)
        return bytes(CosmosKeyring(out, "test").read(name).scalar)

    killed = run(step)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with suppress(KeyFileError, FileNotFoundError):
        assert read() == scalar
    done = run("none")
    assert done.returncode == 0, done.stderr
    assert read() == scalar
    assert not list(out.rglob("*.new"))
