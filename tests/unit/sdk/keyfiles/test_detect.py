"""Which format a path is, and what a room full of bad files does."""

import base64
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pyrage  # type: ignore[import-untyped]  # publishes no types
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from popsigner.keyfiles import (
    CosmosKeyring,
    EntryMissing,
    FileUnusable,
    Format,
    KeyFileError,
    NotThisFormat,
    Secret,
    age,
    amino,
    armor,
    detect,
    jwe,
    keystore,
    mnemonic,
    rawhex,
    record,
    wire,
)

KEY = bytes(range(1, 33))


def secret() -> Secret:
    return Secret(bytearray(KEY))


def samples() -> dict[Format, bytes]:
    recipient = pyrage.x25519.Identity.generate().to_public()
    return {
        Format.HEX: bytes(rawhex.write(secret())),
        Format.ETHEREUM_KEYSTORE: keystore.write(secret(), b"pw", n=16),
        Format.COSMOS_ARMOR: armor.write(secret(), b"12345678"),
        Format.MNEMONIC: b"abandon " * 11 + b"about\n",
        Format.AGE: pyrage.encrypt(b"x", [recipient]),
    }


SAMPLES = samples()


@pytest.mark.parametrize("kind", list(SAMPLES))
def test_each_format_is_told_from_the_others(tmp_path: Path, kind: Format) -> None:
    path = tmp_path / "key"
    path.write_bytes(SAMPLES[kind])
    assert detect(path) is kind
    for module, other in ((rawhex, Format.HEX), (keystore, Format.ETHEREUM_KEYSTORE), (armor, Format.COSMOS_ARMOR)):
        assert module.looks_like(SAMPLES[kind]) is (kind is other)


def test_a_keyring_is_a_folder_and_its_entry_is_not_asked_for_alone(tmp_path: Path) -> None:
    keyring = CosmosKeyring(tmp_path, "test")
    keyring.write("alice", secret(), iterations=10)
    assert detect(tmp_path) is detect(keyring.folder) is Format.COSMOS_KEYRING
    with pytest.raises(NotThisFormat, match="one entry of a keyring"):
        detect(keyring.folder / "alice.info")


def test_what_is_none_of_them_has_its_sentence(tmp_path: Path) -> None:
    with pytest.raises(NotThisFormat, match="neither keyring-test nor keyring-file"):
        detect(tmp_path)
    with pytest.raises(EntryMissing):
        detect(tmp_path / "missing")
    (tmp_path / "words").write_text("these are some words and no mnemonic at all")
    with pytest.raises(NotThisFormat, match="no key file"):
        detect(tmp_path / "words")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(FileUnusable):
        detect(tmp_path / "fifo")


def broken() -> st.SearchStrategy[bytes]:
    """Noise, and real files that were cut, changed and spliced."""

    def changed(original: bytes, start: int, stop: int, noise: bytes) -> bytes:
        start, stop = sorted((start % (len(original) + 1), stop % (len(original) + 1)))
        return original[:start] + noise + original[stop:]

    places = st.integers(0, 5000)
    token = jwe.encrypt(b'{"Key":"a.info","Data":""}', b"test", iterations=10)
    originals = st.sampled_from([*SAMPLES.values(), token, bytes(record.write("alice", secret()))])
    return st.binary(max_size=600) | st.builds(changed, originals, places, places, st.binary(max_size=20))


@settings(max_examples=300, deadline=None)
@given(broken())
@example(b"")
@example(b'{"crypto": {}, "version": 3}')
@example(b"....")
@example(b'{"crypto":{"cipher":"aes-128-ctr","ciphertext":"\xc2\xb2"},"version":3}')
def test_no_content_leads_to_another_error_than_the_rooms(content: bytes) -> None:
    identity = str(pyrage.x25519.Identity.generate()).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(armor, "_BCRYPT_ROUNDS", 4)
        patch.setattr(armor, "_ARGON2_KIB", 64)
        for read in (
            lambda: rawhex.read(content).wipe(),
            lambda: keystore.read(content, b"pw").wipe(),
            lambda: armor.read(content, b"12345678").wipe(),
            lambda: mnemonic.read(content).wipe(),
            lambda: jwe.decrypt(content, b"test"),
            lambda: record.read(content).secret.wipe(),
            lambda: amino.private_key(memoryview(content)),
            lambda: list(wire.fields(memoryview(content))),
            lambda: age.open_age(identity, content),
            lambda: age.open_age(content, SAMPLES[Format.AGE]),
        ):
            with suppress(KeyFileError):
                read()


@settings(max_examples=150, deadline=None)
@given(broken())
def test_detection_answers_or_says_so(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("detect") / "file"
    path.write_bytes(content)
    try:
        assert isinstance(detect(path), Format)
    except NotThisFormat:
        pass
    finally:
        path.unlink()


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(["Key", "Data", "x"]), st.none() | st.integers() | st.text()) | st.text())
def test_whatever_is_inside_an_entry_is_an_answer_of_the_room(
    tmp_path_factory: pytest.TempPathFactory, document: object
) -> None:
    folder = tmp_path_factory.mktemp("ring") / "keyring-test"
    folder.mkdir()
    (folder / "a.info").write_bytes(jwe.encrypt(json.dumps(document).encode(), b"test", iterations=1))
    with pytest.raises(KeyFileError):
        CosmosKeyring(folder.parent, "test").read("a")


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300))
def test_whatever_data_an_entry_has_is_an_answer_of_the_room(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    folder = tmp_path_factory.mktemp("ring") / "keyring-test"
    folder.mkdir()
    item = b'{"Key":"a.info","Data":"%s"}' % base64.b64encode(data)
    (folder / "a.info").write_bytes(jwe.encrypt(item, b"test", iterations=1))
    with pytest.raises(KeyFileError):
        CosmosKeyring(folder.parent, "test").read("a")


def test_without_the_extra_the_sentence_says_what_to_install() -> None:
    program = "import sys; sys.modules['bcrypt'] = None; import popsigner.keyfiles"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "pip install 'popsigner[keyfiles]'" in done.stderr


def test_the_command_line_starts_without_this_room() -> None:
    program = (
        "import sys, popsigner.cli.app; print([name for name in sys.modules if name.startswith('popsigner.keyf')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
