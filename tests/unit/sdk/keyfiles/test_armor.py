"""Exports of Cosmos programs: what is refused. Those of others are in tests/conformance/keyfiles."""

import base64

import pytest

from popsigner.keyfiles import (
    DamagedFile,
    KeyFileError,
    NotThisFormat,
    Secret,
    UnsuitablePassphrase,
    UnsupportedKey,
    UnsupportedParameters,
    WrongPassphrase,
    armor,
)
from tests.conformance.keyfiles import foreign

KEY = bytes(range(1, 33))
SALT = bytes(range(16))
PASSPHRASE = b"correct horse"


@pytest.fixture(autouse=True)
def little_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(armor, "_BCRYPT_ROUNDS", 4)
    monkeypatch.setattr(armor, "_ARGON2_KIB", 64)


def written() -> str:
    with Secret(bytearray(KEY)) as secret:
        return armor.write(secret, PASSPHRASE).decode()


def export(body: bytes, *, kdf: str = "argon2", salt: str = SALT.hex()) -> bytes:
    text = base64.b64encode(body).decode()
    return (
        f"-----BEGIN TENDERMINT PRIVATE KEY-----\nsalt: {salt}\nkdf: {kdf}\n\n{text}\n"
        "-----END TENDERMINT PRIVATE KEY-----\n"
    ).encode()


def test_the_form_is_the_one_that_every_release_reads() -> None:
    lines = written().splitlines()
    assert lines[0] == "-----BEGIN TENDERMINT PRIVATE KEY-----"
    assert lines[1] == "kdf: bcrypt"
    assert lines[2].startswith("salt: ")
    assert lines[3:5] == ["type: secp256k1", ""]
    assert all(len(line) <= 64 for line in lines[5:-2])
    assert lines[-2].startswith("=")
    assert lines[-1] == "-----END TENDERMINT PRIVATE KEY-----"


@pytest.mark.parametrize(
    "change", [lambda s: s.replace("\n", "\r\n"), lambda s: f"hello\n{s}\nbye", lambda s: f"  {s}"]
)
def test_what_mail_does_to_an_export_does_no_harm(change: object) -> None:
    assert callable(change)
    with armor.read(change(written()).encode(), PASSPHRASE) as secret:
        assert secret.scalar == KEY


@pytest.mark.parametrize("passphrase", [b"", b"1234567", b"a" * 73])
def test_a_passphrase_that_is_too_short_or_would_be_cut_is_refused(passphrase: bytes) -> None:
    with Secret(bytearray(KEY)) as secret, pytest.raises(UnsuitablePassphrase):
        armor.write(secret, passphrase)


def test_of_a_long_passphrase_bcrypt_reads_72_bytes_as_in_go() -> None:
    with Secret(bytearray(KEY)) as secret:
        content = armor.write(secret, b"a" * 72)
    with armor.read(content, b"a" * 100) as again:
        assert again.scalar == KEY


@pytest.mark.parametrize("kdf", ["bcrypt", "argon2"])
def test_a_wrong_passphrase_and_a_changed_body(kdf: str) -> None:
    argon2 = export(foreign.argon2_export(KEY, PASSPHRASE, SALT, 64))
    content = written().encode() if kdf == "bcrypt" else argon2
    armor.read(content, PASSPHRASE).wipe()
    with pytest.raises(WrongPassphrase):
        armor.read(content, PASSPHRASE + b"!")
    body = bytearray(foreign.argon2_export(KEY, PASSPHRASE, SALT, 64))
    body[3] ^= 1
    with pytest.raises(WrongPassphrase):
        armor.read(export(bytes(body), kdf=kdf), PASSPHRASE)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (("BEGIN TENDERMINT PRIVATE", "BEGIN PGP PRIVATE"), NotThisFormat),
        (("-----END", "-----"), DamagedFile),
        (("kdf: bcrypt", "kdf: scrypt"), UnsupportedParameters),
        (("kdf: bcrypt\n", ""), UnsupportedParameters),
        (("salt: ", "salt: 0"), DamagedFile),
        (("salt: ", "salt: ü"), DamagedFile),
        (("salt: ", "tlas: "), DamagedFile),
        (("\n\n", "\n\n$"), DamagedFile),
        (("\n\n", "\n\nAAAA"), DamagedFile),
    ],
)
def test_damage_has_its_sentence(change: tuple[str, str], kind: type[KeyFileError]) -> None:
    with pytest.raises(kind):
        armor.read(written().replace(*change, 1).encode(), PASSPHRASE)


@pytest.mark.parametrize("kdf", ["bcrypt", "argon2"])
@pytest.mark.parametrize("length", [0, 16, 40])
def test_a_body_that_is_cut_off(kdf: str, length: int) -> None:
    with pytest.raises((DamagedFile, WrongPassphrase)):
        armor.read(export(bytes(length), kdf=kdf), PASSPHRASE)


@pytest.mark.parametrize(
    ("encoded", "kind"),
    [
        # tendermint/PrivKeyEd25519
        (bytes.fromhex("a328891040") + bytes(64), UnsupportedKey),
        (bytes.fromhex("e1b0f79b20") + bytes(31), DamagedFile),
        (bytes.fromhex("e1b0f79b21") + bytes(32), DamagedFile),
        (bytes.fromhex("e1b0f79b20") + bytes(32), KeyFileError),
        (b"", KeyFileError),
    ],
)
def test_what_is_inside_is_a_secp256k1_private_key_or_refused(encoded: bytes, kind: type[KeyFileError]) -> None:
    body = foreign.argon2_export(b"", PASSPHRASE, SALT, 64, head=encoded)
    with pytest.raises(kind):
        armor.read(export(body), PASSPHRASE)


def test_an_export_of_an_ethereum_like_chain_is_read() -> None:
    # ethermint/PrivKeyEthSecp256k1
    body = foreign.argon2_export(KEY, PASSPHRASE, SALT, 64, head=bytes.fromhex("fcd2efcc20"))
    with armor.read(export(body), PASSPHRASE) as secret:
        assert secret.scalar == KEY
