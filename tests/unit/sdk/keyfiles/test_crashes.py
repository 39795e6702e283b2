"""A writer of a keyring that dies before each of its calls to the system, one after the other: what is left is usable,
and the same call again finishes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from popsigner.keyfiles import CosmosKeyring, EntryMissing, Secret, keyring
from popsigner.keyfiles.keyring import Backend

KEY, OTHER = bytes(range(1, 33)), bytes(range(2, 34))
PASSPHRASE = b"correct horse"
# One child for each step, until one comes to its end. Step N dies before call N to the system.
PROGRAM = """
import os, sys
from pathlib import Path
from popsigner.keyfiles import CosmosKeyring, Secret, keyring

keyring._BCRYPT_ROUNDS = 4
folder, what, backend = Path(sys.argv[1]), sys.argv[2], sys.argv[3]

def secret(start):
    return Secret(bytearray(range(start, start + 32)))

def fragile(name, left):
    real = getattr(os, name)
    def call(*arguments, **options):
        if left[0] == 0:
            os._exit(9)
        left[0] -= 1
        return real(*arguments, **options)
    setattr(os, name, call)

def act(step):
    home = folder / str(step)
    home.mkdir()
    ring = CosmosKeyring(home, backend, b"correct horse")
    alice, bob = secret(1), secret(2)
    if what == "delete":
        ring.write("alice", alice, iterations=10)
        ring.write("bob", bob, iterations=10)
    left = [step]
    for name in ("write", "fsync", "link", "unlink", "rename", "replace", "open", "mkdir", "fchmod", "ftruncate"):
        fragile(name, left)
    if what == "write":
        ring.write("alice", alice, iterations=10)
    else:
        ring.delete("alice", alice.facts.public_key)

step = 0
while True:
    child = os.fork()
    if child == 0:
        try:
            act(step)
        except BaseException as error:
            print(repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == 0:
        break
    if status != 9:
        sys.exit(f"step {step} ended with {status}")
    step += 1
"""


def secret(key: bytes) -> Secret:
    return Secret(bytearray(key))


def crashed(folder: Path, what: str, backend: Backend) -> list[Path]:
    """The home that each death left behind; the last one, which was not interrupted, is not among them."""
    program = [sys.executable, "-c", PROGRAM, str(folder), what, backend]
    done = subprocess.run(program, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return sorted(folder.iterdir(), key=lambda home: int(home.name))[:-1]


@pytest.mark.parametrize("backend", ["test", "file"])
def test_a_write_that_dies_at_any_step_is_finished_by_its_repetition(
    tmp_path: Path, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyring, "_BCRYPT_ROUNDS", 4)
    homes = crashed(tmp_path, "write", backend)
    assert len(homes) > 15
    for home in homes:
        ring = CosmosKeyring(home, backend, PASSPHRASE)
        try:
            found = ring.names()
        except EntryMissing:
            found = []
        if not found:
            ring.write("alice", secret(KEY), iterations=10)
        # The name is the last thing that is written: where it is, all is there.
        with ring.read("alice") as again:
            assert again.scalar == KEY
        ring.write("bob", secret(OTHER), iterations=10)
        assert ring.names() == ["alice", "bob"]
        assert len(set(os.listdir(ring.folder)) - {"keyhash"}) == 4


def test_a_deletion_that_dies_at_any_step_is_finished_by_its_repetition(tmp_path: Path) -> None:
    homes = crashed(tmp_path, "delete", "test")
    assert len(homes) > 8
    for home in homes:
        ring = CosmosKeyring(home, "test")
        if "alice" in ring.names():
            ring.delete("alice", secret(KEY).facts.public_key)
        left = ["bob.info", f"{secret(OTHER).facts.account.hex()}.address"]
        assert sorted(os.listdir(ring.folder)) == sorted(left)
        with ring.read("bob") as found:
            assert found.scalar == OTHER
