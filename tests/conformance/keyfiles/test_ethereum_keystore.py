"""Keystores: a hundred by eth-account are read, and a hundred that were written here open there, byte for byte."""

import json
import secrets
from typing import Any

import pytest
from eth_account import Account

from popsigner.keyfiles import Secret, keystore

PASSPHRASE = "correct horse battery staple ü"
# The smallest work that both sides take: the work is not what is compared.
SCRYPT_N, PBKDF2_ITERATIONS = 1 << 4, 10


def keys(count: int) -> list[bytes]:
    edges = [(1).to_bytes(32, "big"), bytes(8) + secrets.token_bytes(24)]
    return edges + [secrets.token_bytes(32) for _ in range(count - len(edges))]


@pytest.mark.parametrize(("kind", "work"), [("scrypt", SCRYPT_N), ("pbkdf2", PBKDF2_ITERATIONS)])
def test_keystores_of_eth_account_are_read(kind: Any, work: int) -> None:
    for key in keys(100):
        document = Account.encrypt(key, PASSPHRASE, kdf=kind, iterations=work)
        with keystore.read(json.dumps(document).encode(), PASSPHRASE.encode()) as secret:
            assert secret.scalar == key
        assert secret.facts.eth_address == Account.from_key(key).address


def test_eth_account_opens_what_was_written() -> None:
    for key in keys(100):
        with Secret(bytearray(key)) as secret:
            content = keystore.write(secret, PASSPHRASE.encode(), n=SCRYPT_N)
        document = json.loads(content)
        assert bytes(Account.decrypt(document, PASSPHRASE)) == key
        assert "0x" + document["address"] == Account.from_key(key).address.lower()


def test_a_keystore_of_the_usual_strength_opens_there_too() -> None:
    key = secrets.token_bytes(32)
    with Secret(bytearray(key)) as secret:
        content = keystore.write(secret, PASSPHRASE.encode())
    assert json.loads(content)["crypto"]["kdfparams"]["n"] == 262_144
    assert bytes(Account.decrypt(json.loads(content), PASSPHRASE)) == key
