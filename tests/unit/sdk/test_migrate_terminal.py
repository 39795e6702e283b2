"""popsigner migrate import at a terminal: what is typed is not shown, and confirms the deletion of a source."""

import os
from pathlib import Path

import pytest

from popsigner.keyfiles import CosmosKeyring, PublicKeyMismatch, keystore
from popsigner.migration.formats import ImportFormat
from popsigner.migration.sources import FileSource

from .command import Popsigner, conversation, on_a_terminal
from .key_pop import KeyPop, addresses, public_hex
from .migrating import MNEMONIC, PASSPHRASE, SECRET, secret


def test_a_passphrase_is_asked_for_and_not_shown(popsigner: Popsigner, keys: KeyPop, tmp_path: Path) -> None:
    file = tmp_path / "keystore.json"
    file.write_bytes(keystore.write(secret(), PASSPHRASE, n=2))
    code, shown = on_a_terminal(
        popsigner, PASSPHRASE + b"\n", "migrate", "import", str(file), "--name", "a", after=b"Passphrase: "
    )
    assert code == 0, shown
    assert PASSPHRASE.decode() not in shown
    assert keys.secrets == {"production/a": [SECRET]}


@pytest.mark.parametrize(
    ("form", "question", "typed"),
    [("mnemonic", b"Mnemonic: ", MNEMONIC), ("hex", b"(hex): ", SECRET.hex().encode())],
    ids=["mnemonic", "hex"],
)
def test_a_secret_that_is_typed_is_not_shown(
    popsigner: Popsigner, keys: KeyPop, form: str, question: bytes, typed: bytes
) -> None:
    arguments = ["migrate", "import", "-", "--format", form, "--name", "a"]
    code, shown = on_a_terminal(popsigner, typed + b"\n", *arguments, after=question)
    assert code == 0, shown
    assert typed.decode() not in shown
    assert "abandon" not in shown


def converse(popsigner: Popsigner, steps: list[tuple[bytes, bytes]], *arguments: str) -> tuple[int, str]:
    return conversation(popsigner.outer_environment(), steps, "migrate", "import", *arguments)


@pytest.mark.parametrize("typed", ["alpha", addresses(b"\1" * 32)[0], addresses(b"\1" * 32)[1]])
def test_a_source_is_deleted_when_its_name_or_address_is_typed(
    popsigner: Popsigner, keys: KeyPop, home: Path, typed: str
) -> None:
    steps = [(b"delete it from alpha", typed.encode() + b"\n")]
    code, shown = converse(popsigner, steps, str(home), "--key", "alpha", "--delete-source")
    assert code == 0, shown
    assert CosmosKeyring(home, "test").names() == ["beta", "gamma"]
    assert len(os.listdir(home / "keyring-test")) == 4
    assert keys.secrets == {"production/alpha": [b"\1" * 32]}


@pytest.mark.parametrize("typed", [b"y\n", b"beta\n"])
def test_a_source_stays_when_something_else_is_typed(
    popsigner: Popsigner, keys: KeyPop, home: Path, typed: bytes
) -> None:
    steps = [(b"delete it from alpha", typed)]
    code, shown = converse(popsigner, steps, str(home), "--key", "alpha", "--delete-source")
    assert (code, "the source was left alone" in shown) == (1, True)
    assert CosmosKeyring(home, "test").names() == ["alpha", "beta", "gamma"]


def test_a_source_stays_when_the_verification_fails(popsigner: Popsigner, keys: KeyPop, home: Path) -> None:
    keys.forging = True
    code, shown = converse(popsigner, [], str(home), "--key", "alpha", "--delete-source")
    assert (code, "Type its name" in shown) == (8, False)
    assert CosmosKeyring(home, "test").names() == ["alpha", "beta", "gamma"]


def test_a_file_that_became_another_key_meanwhile_stays(popsigner: Popsigner, keys: KeyPop, hex_file: Path) -> None:
    source = FileSource("a", ImportFormat.HEX, path=hex_file)
    with pytest.raises(PublicKeyMismatch):
        source.delete("a", bytes.fromhex(public_hex(b"\2" * 32)))
    assert hex_file.exists()


def test_a_mnemonic_is_never_deleted(popsigner: Popsigner, keys: KeyPop, tmp_path: Path) -> None:
    file = tmp_path / "words"
    file.write_bytes(MNEMONIC)
    code, shown = converse(popsigner, [], str(file), "--name", "a", "--delete-source")
    assert (code, "more keys than this one" in shown) == (2, True)
    assert file.read_bytes() == MNEMONIC


@pytest.mark.parametrize("known", [True, False])
def test_an_interrupted_deletion_is_finished_where_the_pop_has_the_key(
    popsigner: Popsigner, keys: KeyPop, hex_file: Path, known: bool
) -> None:
    hex_file.write_bytes(bytes(30) + hex_file.read_bytes()[30:])
    if known:
        keys.secrets["production/a"] = [SECRET]
    code, shown = converse(popsigner, [], str(hex_file), "--name", "a", "--delete-source")
    assert (code, hex_file.exists()) == ((0, False) if known else (1, True)), shown
