"""Keyrings and exports that the Cosmos SDK itself made: release 0.45 with Amino, 0.50 and 0.55 with protobuf.

cosmos_sdk/main.go made them. The other direction was shown with the same program, see docs/key-files.md.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from popsigner.keyfiles import (
    CosmosKeyring,
    EntryExists,
    Format,
    PublicKeyMismatch,
    Secret,
    UnsupportedKey,
    WrongPassphrase,
    armor,
    detect,
    jwe,
)
from popsigner.keyfiles.keyring import Backend
from tests.conformance.keyfiles import foreign

FOLDER = Path(__file__).with_name("cosmos_sdk")
RELEASES = ("v0.45.16", "v0.50.15", "v0.55.0")
BACKENDS: tuple[Backend, ...] = ("test", "file")


class Made:
    """What one release made, laid out in a folder."""

    def __init__(self, release: str, home: Path) -> None:
        found: dict[str, Any] = json.loads((FOLDER / f"{release}.json").read_text())
        self.home = home
        self.keys: dict[str, str] = found["keys"]
        self.others: list[str] = found["others"]
        self.armors: dict[str, str] = found["armors"]
        self.passphrase = found["passphrase"].encode()
        for name, content in found["files"].items():
            path = home / name
            path.parent.mkdir(mode=0o700, exist_ok=True)
            path.write_text(content)

    def keyring(self, backend: Backend) -> CosmosKeyring:
        return CosmosKeyring(self.home, backend, self.passphrase)


@pytest.fixture(params=RELEASES)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Made:
    return Made(request.param, tmp_path)


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_key_of_a_keyring_is_read(made: Made, backend: Backend) -> None:
    keyring = made.keyring(backend)
    assert detect(made.home) is detect(keyring.folder) is Format.COSMOS_KEYRING
    assert keyring.names() == sorted([*made.keys, *(made.others if backend == "test" else [])])
    for name, key in made.keys.items():
        with keyring.read(name) as secret:
            assert secret.scalar.hex() == key


def test_what_is_no_private_key_is_refused_by_its_kind(made: Made) -> None:
    sentences = {"offline": "public key alone", "multi": "multisig", "ledger": "Ledger"}
    for name in made.others:
        with pytest.raises(UnsupportedKey, match=sentences[name]):
            made.keyring("test").read(name)


def test_another_passphrase_opens_nothing(made: Made) -> None:
    keyring = CosmosKeyring(made.home, "file", b"correct horse battery stable")
    with pytest.raises(WrongPassphrase):
        keyring.read("one")
    (keyring.folder / "keyhash").unlink()
    with pytest.raises(WrongPassphrase):
        keyring.read("one")


def test_exports_are_read(made: Made) -> None:
    for name, text in made.armors.items():
        with armor.read(text.encode(), made.passphrase) as secret:
            assert secret.scalar.hex() == made.keys[name]
    with pytest.raises(WrongPassphrase):
        armor.read(made.armors["one"].encode(), made.passphrase + b"!")


def test_the_export_that_the_sdk_publishes_is_read() -> None:
    for export in json.loads((FOLDER / "published.json").read_text())["exports"]:
        with armor.read(export["armor"].encode(), export["passphrase"].encode()) as secret:
            assert secret.scalar.hex() == export["private_key"]


def test_an_export_of_the_usual_strength_is_read_again() -> None:
    key = bytes(range(1, 33))
    with Secret(bytearray(key)) as secret:
        content = armor.write(secret, b"12345678")
    with armor.read(content, b"12345678") as again:
        assert again.scalar == key


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_key_is_added_to_a_keyring_of_the_sdk_and_taken_out(made: Made, backend: Backend) -> None:
    keyring = made.keyring(backend)
    before = {path.name: path.read_bytes() for path in keyring.folder.iterdir()}
    with Secret(bytearray(b"\x07" * 32)) as secret:
        keyring.write("new", secret)
        with pytest.raises(EntryExists):
            keyring.write("one", secret)
        with pytest.raises(EntryExists, match="as new"):
            keyring.write("newer", secret)
    with keyring.read("new") as again:
        assert again.scalar == b"\x07" * 32
    after = {path.name: path.read_bytes() for path in keyring.folder.iterdir()}
    assert before.items() <= after.items()
    assert len(after) == len(before) + 2
    keyring.delete("new", secret.facts.public_key)
    assert {path.name: path.read_bytes() for path in keyring.folder.iterdir()} == before


def test_an_entry_of_the_sdk_is_deleted_with_its_address_and_nothing_else(made: Made) -> None:
    keyring = made.keyring("test")
    with keyring.read("one") as one, keyring.read("last") as last:
        with pytest.raises(PublicKeyMismatch):
            keyring.delete("one", last.facts.public_key)
        gone = {"one.info", f"{one.facts.account.hex()}.address"}
    before = {path.name for path in keyring.folder.iterdir()}
    keyring.delete("one", one.facts.public_key)
    assert before - {path.name for path in keyring.folder.iterdir()} == gone


def test_the_passphrase_of_the_first_entry_holds_where_a_keyhash_is_missing(made: Made) -> None:
    keyring = CosmosKeyring(made.home, "file", b"another passphrase")
    (keyring.folder / "keyhash").unlink()
    with Secret(bytearray(b"\x08" * 32)) as secret, pytest.raises(WrongPassphrase):
        keyring.write("new", secret, iterations=jwe.ITERATIONS)
    assert "keyhash" not in {path.name for path in keyring.folder.iterdir()}


def test_jwcrypto_opens_what_the_sdk_made(made: Made) -> None:
    name = "with a space.info"
    title, _ = foreign.item((made.home / "keyring-file" / name).read_text(), made.passphrase.decode())
    assert title == name
