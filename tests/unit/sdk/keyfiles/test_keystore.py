"""Keystores: what is refused, and in which order. The formats of others are in tests/conformance/keyfiles."""

import json
import time
from typing import Any

import pytest

from popsigner.keyfiles import (
    DamagedFile,
    InvalidPrivateKey,
    KeyFileError,
    NotThisFormat,
    PublicKeyMismatch,
    Secret,
    UnsupportedParameters,
    WrongPassphrase,
    keystore,
)

KEY = bytes(range(1, 33))


def written() -> dict[str, Any]:
    with Secret(bytearray(KEY)) as secret:
        document: dict[str, Any] = json.loads(keystore.write(secret, b"pw", n=16))
    return document


def read(document: Any) -> Secret:
    return keystore.read(json.dumps(document).encode(), b"pw")


# From the Web3 Secret Storage Definition; both files hold the same private key.
DEFINITION = {
    "ciphertext": {
        "pbkdf2": "5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46",
        "scrypt": "d172bf743a674da9cdad04534d56926ef8358534d458fffccd4e6ad2fbde479c",
    },
}


def test_the_vectors_of_the_definition() -> None:
    salts = {
        "pbkdf2": "ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd",
        "scrypt": "ab0c7876052600dd703518d6fc3fe8984592145b591fc8fb5c6d43190334ba19",
    }
    macs = {
        "pbkdf2": "517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2",
        "scrypt": "2103ac29920d71da29f15d75b4a16dbe95cfd7ff8faea1056c33131d846e3097",
    }
    counters = {"pbkdf2": "6087dab2f9fdbbfaddc31a909735c1e6", "scrypt": "83dbcc02d8ccb40e466191a123791e0e"}
    parameters: dict[str, dict[str, Any]] = {
        "pbkdf2": {"c": 262144, "dklen": 32, "prf": "hmac-sha256"},
        "scrypt": {"dklen": 32, "n": 262144, "r": 1, "p": 8},
    }
    for kind, chosen in parameters.items():
        crypto = {
            "cipher": "aes-128-ctr",
            "cipherparams": {"iv": counters[kind]},
            "ciphertext": DEFINITION["ciphertext"][kind],
            "kdf": kind,
            "kdfparams": {**chosen, "salt": salts[kind]},
            "mac": macs[kind],
        }
        for spelling in ("crypto", "Crypto"):
            content = json.dumps({spelling: crypto, "id": "3198bc9c-6672-5ab3-d995-4942343ae5b6", "version": 3})
            with keystore.read(content.encode(), b"testpassword") as secret:
                assert secret.scalar.hex() == "7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d"


def test_the_address_may_be_missing_or_have_a_prefix() -> None:
    document = written()
    address = document.pop("address")
    for value in (None, "", address, "0x" + address.upper(), "0x" + address):
        with read({**document, "address": value}) as secret:
            assert secret.scalar == KEY


def test_another_address_is_noticed() -> None:
    with pytest.raises(PublicKeyMismatch):
        read({**written(), "address": "00" * 20})


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"n": 1 << 20, "r": 8, "p": 1}, UnsupportedParameters),
        ({"n": 2, "r": 1 << 22, "p": 1}, UnsupportedParameters),
        ({"n": 2, "r": 1, "p": 1 << 24}, UnsupportedParameters),
        ({"n": 1 << 200, "r": 8, "p": 1}, UnsupportedParameters),
        ({"n": 3, "r": 8, "p": 1}, UnsupportedParameters),
        ({"n": 1, "r": 8, "p": 1}, UnsupportedParameters),
        ({"dklen": 64}, UnsupportedParameters),
        ({"n": 0}, DamagedFile),
        ({"n": -16}, DamagedFile),
        ({"n": True}, DamagedFile),
        ({"n": 16.0}, DamagedFile),
        ({"n": "16"}, DamagedFile),
        ({"salt": "zz"}, DamagedFile),
        ({"salt": "00" * 2000}, DamagedFile),
        ({"salt": None}, DamagedFile),
    ],
)
def test_parameters_that_cost_too_much_or_are_none_are_refused_at_once(
    change: dict[str, Any], kind: type[KeyFileError]
) -> None:
    document = written()
    document["crypto"]["kdfparams"].update(change)
    began = time.monotonic()
    with pytest.raises(kind):
        read(document)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"cipher": "aes-128-cbc"}, UnsupportedParameters),
        ({"kdf": "argon2"}, UnsupportedParameters),
        ({"kdf": "pbkdf2", "kdfparams": {"dklen": 32, "c": 10**9, "salt": "00"}}, UnsupportedParameters),
        (
            {"kdf": "pbkdf2", "kdfparams": {"dklen": 32, "c": 10**9, "salt": "00", "prf": "hmac-sha256"}},
            UnsupportedParameters,
        ),
        ({"kdfparams": []}, DamagedFile),
        ({"cipherparams": {"iv": "00"}}, DamagedFile),
        ({"ciphertext": "00" * 31}, DamagedFile),
        ({"ciphertext": 7}, DamagedFile),
        ({"mac": "00" * 32}, WrongPassphrase),
        ({"ciphertext": "00" * 32}, WrongPassphrase),
    ],
)
def test_other_parts_that_are_wrong(change: dict[str, Any], kind: type[KeyFileError]) -> None:
    document = written()
    document["crypto"].update(change)
    with pytest.raises(kind):
        read(document)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"crypto": 1}', b"\xff", b"[" * 60_000, b'{"crypto"', b"NaN"])
def test_what_is_no_keystore(content: bytes) -> None:
    with pytest.raises(NotThisFormat):
        keystore.read(content, b"pw")


@pytest.mark.parametrize("version", [1, 4, "3", None])
def test_another_version_is_refused(version: Any) -> None:
    with pytest.raises(UnsupportedParameters, match="version 3"):
        read({**written(), "version": version})


def test_zero_in_a_keystore_is_no_private_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with Secret(bytearray(KEY)) as secret:
        # What a broken writer would do; the holder is bent after its own check.
        secret.scalar[:] = bytes(32)
        content = keystore.write(secret, b"pw", n=16)
    with pytest.raises(InvalidPrivateKey):
        keystore.read(content, b"pw")


def test_no_sentence_holds_a_secret() -> None:
    document = written()
    with pytest.raises(WrongPassphrase) as caught:
        keystore.read(json.dumps(document).encode(), b"hunter2")
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
