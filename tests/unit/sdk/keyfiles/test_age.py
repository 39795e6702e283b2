"""Opening what was sealed to an age recipient."""

from typing import Any

import pyrage  # type: ignore[import-untyped]  # publishes no types
import pytest

from popsigner.keyfiles import DamagedFile, KeyFileError, NotThisFormat, UnsupportedKey, WrongPassphrase
from popsigner.keyfiles.age import open_age

TEXT = b'{"private_key":"00"}'


@pytest.fixture(scope="module")
def identity() -> Any:
    return pyrage.x25519.Identity.generate()


def keygen(identity: Any) -> bytes:
    """A file as age-keygen writes it."""
    return f"# created: 2026-01-02T03:04:05Z\n# public key: {identity.to_public()}\n{identity}\n".encode()


@pytest.mark.parametrize("armored", [False, True])
def test_a_sealed_file_opens_with_the_identity_file(identity: Any, armored: bool) -> None:
    sealed = pyrage.encrypt(TEXT, [identity.to_public()], armored=armored)
    opened = open_age(keygen(identity), sealed)
    assert isinstance(opened, bytearray)
    assert opened == TEXT


def test_one_of_several_identities_suffices(identity: Any) -> None:
    sealed = pyrage.encrypt(TEXT, [identity.to_public()])
    other = pyrage.x25519.Identity.generate()
    assert open_age(keygen(other) + b"\r\n" + keygen(identity), sealed) == TEXT


def test_what_is_sealed_to_others_does_not_open(identity: Any) -> None:
    sealed = pyrage.encrypt(TEXT, [pyrage.x25519.Identity.generate().to_public()])
    with pytest.raises(WrongPassphrase, match="another recipient"):
        open_age(keygen(identity), sealed)


def test_what_is_sealed_with_a_passphrase_does_not_open(identity: Any) -> None:
    with pytest.raises(KeyFileError):
        open_age(keygen(identity), pyrage.passphrase.encrypt(TEXT, "x"))


def test_each_byte_of_a_sealed_file_is_guarded(identity: Any) -> None:
    sealed = pyrage.encrypt(TEXT, [identity.to_public()])
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises(KeyFileError):
            open_age(keygen(identity), changed)
    for length in range(0, len(sealed), 7):
        with pytest.raises(KeyFileError):
            open_age(keygen(identity), sealed[:length])


@pytest.mark.parametrize(
    ("content", "kind", "sentence"),
    [
        (b"", NotThisFormat, "no identity"),
        (b"# only a comment\n", NotThisFormat, "no identity"),
        (b"AGE-SECRET-KEY-PQ-1ABC", UnsupportedKey, "post-quantum"),
        (b"AGE-PLUGIN-YUBIKEY-1ABC", UnsupportedKey, "plugin"),
        (b"-----BEGIN OPENSSH PRIVATE KEY-----", UnsupportedKey, "SSH"),
        (b"age-encryption.org/v1\n-> scrypt", UnsupportedKey, "encrypted itself"),
        (b"-----BEGIN AGE ENCRYPTED FILE-----", UnsupportedKey, "encrypted itself"),
        (b"age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq", UnsupportedKey, "recipient"),
        (b"# a comment\nAGE-SECRET-KEY-1HUNTER2\n", DamagedFile, "line 2"),
        (b"\xff\xfe", DamagedFile, "line 1"),
    ],
)
def test_an_identity_file_that_is_none_has_its_sentence(
    identity: Any, content: bytes, kind: type[KeyFileError], sentence: str
) -> None:
    sealed = pyrage.encrypt(TEXT, [identity.to_public()])
    with pytest.raises(kind, match=sentence) as caught:
        open_age(content, sealed)
    assert "HUNTER2" not in str(caught.value)


def test_another_file_is_not_of_age(identity: Any) -> None:
    with pytest.raises(NotThisFormat):
        open_age(keygen(identity), b"hello")
