"""The memory of a program that reads and writes key files: the private key is in its one buffer, and then nowhere."""

import secrets
import subprocess
import sys
from pathlib import Path

import pyrage  # type: ignore[import-untyped]  # publishes no types
import pytest

from popsigner.keyfiles import CosmosKeyring, Secret, armor, keystore, rawhex
from tests.conformance.keyfiles import foreign
from tests.support.memory_search import search_memory

PASSPHRASE = b"12345678"
PROGRAM = """
import sys
from pathlib import Path
from popsigner.keyfiles import CosmosKeyring, Secret, age, armor, files, keystore, overwrite, rawhex

def digits():
    content = files.read(home / "hex")
    try:
        return rawhex.read(content)
    finally:
        overwrite(content)

def opened():
    found = age.open_age(files.read(home / "identity"), files.read(home / "age"))
    try:
        return rawhex.read(found)
    finally:
        overwrite(found)

def kept(write):
    secret = digits()
    write(secret)
    return secret

home, passphrase = Path(sys.argv[2]), b"12345678"
secret = {
    "hex": digits,
    "age": opened,
    "keystore": lambda: keystore.read(files.read(home / "keystore"), passphrase),
    "armor": lambda: armor.read(files.read(home / "armor"), passphrase),
    "argon2": lambda: armor.read(files.read(home / "argon2"), passphrase),
    "keyring": lambda: CosmosKeyring(home, "test").read("alice"),
    "write keyring": lambda: kept(lambda secret: CosmosKeyring(home / "new", "test").write("alice", secret)),
    "write armor": lambda: kept(lambda secret: armor.write(secret, passphrase)),
    "write keystore": lambda: kept(lambda secret: keystore.write(secret, passphrase, n=1024)),
    "write hex": lambda: kept(lambda secret: overwrite(rawhex.write(secret))),
}[sys.argv[1]]()
print("held", flush=True)
sys.stdin.readline()
secret.wipe()
print("wiped", flush=True)
sys.stdin.readline()
"""
READERS = ("hex", "age", "keystore", "armor", "argon2", "keyring")
WRITERS = ("write keyring", "write armor", "write keystore", "write hex")


@pytest.fixture(scope="module")
def key() -> bytes:
    return secrets.token_bytes(32)


@pytest.fixture(scope="module")
def home(key: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    (home / "new").mkdir()
    identity, salt = pyrage.x25519.Identity.generate(), secrets.token_bytes(16)
    with Secret(bytearray(key)) as secret:
        (home / "hex").write_bytes(rawhex.write(secret))
        (home / "keystore").write_bytes(keystore.write(secret, PASSPHRASE, n=1024))
        (home / "armor").write_bytes(armor.write(secret, PASSPHRASE))
        CosmosKeyring(home, "test").write("alice", secret)
    (home / "argon2").write_bytes(foreign.argon2_text(foreign.argon2_export(key, PASSPHRASE, salt, 64 * 1024), salt))
    (home / "identity").write_text(str(identity))
    (home / "age").write_bytes(pyrage.encrypt(key.hex().encode(), [identity.to_public()]))
    return home


@pytest.mark.parametrize("way", [*READERS, *WRITERS])
def test_a_private_key_is_in_one_buffer_and_after_that_nowhere(way: str, key: bytes, home: Path) -> None:
    program = [sys.executable, "-c", PROGRAM, way, str(home)]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        try:
            assert running.stdout.readline() == "held\n"
            held = search_memory([running.pid], key)
            running.stdin.write("\n")
            running.stdin.flush()
            assert running.stdout.readline() == "wiped\n"
            left = search_memory([running.pid], key)
        finally:
            running.kill()
    assert [hit.spelling for hit in held if hit.spelling != "int"] == ["raw"]
    # The number that Python makes of it cannot be overwritten; it is freed, and its place is used again or not.
    assert [hit.spelling for hit in left if hit.spelling != "int"] == []
