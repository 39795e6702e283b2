"""A hundred keys through the Cosmos formats, both ways, against implementations of other people."""

import base64
import hashlib
import secrets
from pathlib import Path

import pytest
from coincurve import PrivateKey

from popsigner.keyfiles import CosmosKeyring, Secret, armor, jwe
from popsigner.keyfiles.keyring import Backend
from tests.conformance.keyfiles import foreign

PASSPHRASE = "correct horse battery staple"
KEYS = [secrets.token_bytes(32) for _ in range(98)] + [(1).to_bytes(32, "big"), bytes(16) + secrets.token_bytes(16)]


def public(key: bytes) -> bytes:
    return PrivateKey(key).public_key.format()


def account(key: bytes) -> str:
    with Secret(bytearray(key)) as secret:
        return secret.facts.account.hex()


# With a keyhash each entry costs a bcrypt hash, so the backend `file` gets fewer.
@pytest.mark.parametrize(("backend", "passphrase", "keys"), [("test", "test", KEYS), ("file", PASSPHRASE, KEYS[-20:])])
def test_what_a_keyring_writes_is_read_by_others(
    tmp_path: Path, backend: Backend, passphrase: str, keys: list[bytes]
) -> None:
    keyring = CosmosKeyring(tmp_path, backend, PASSPHRASE.encode())
    for number, key in enumerate(keys):
        with Secret(bytearray(key)) as secret:
            keyring.write(f"key {number}", secret, iterations=jwe.ITERATIONS)
    assert len(keyring.names()) == len(keys)
    for number, key in enumerate(keys):
        name = f"key {number}.info"
        title, data = foreign.item((keyring.folder / name).read_text(), passphrase)
        assert title == name
        assert data == foreign.record(name.removesuffix(".info"), key, public(key))
        address = f"{account(key)}.address"
        assert foreign.item((keyring.folder / address).read_text(), passphrase) == (address, name.encode())


@pytest.mark.parametrize(
    "package",
    [
        "cosmos.crypto.secp256k1",
        "ethermint.crypto.v1.ethsecp256k1",
        "cosmos.evm.crypto.v1.ethsecp256k1",
        "injective.crypto.v1beta1.ethsecp256k1",
    ],
)
def test_what_others_write_is_read_by_a_keyring(tmp_path: Path, package: str) -> None:
    folder = tmp_path / "keyring-test"
    folder.mkdir()
    for number, key in enumerate(KEYS):
        name = f"key/{number}"
        data = foreign.record(name, key, public(key), package=package)
        (folder / f"key%2F{number}.info").write_text(foreign.token(f"{name}.info", data, "test"))
    keyring = CosmosKeyring(tmp_path, "test")
    for number, key in enumerate(KEYS):
        with keyring.read(f"key/{number}") as secret:
            assert secret.scalar == key


def test_an_entry_of_an_ethereum_like_chain_goes_with_its_address(tmp_path: Path) -> None:
    folder = tmp_path / "keyring-test"
    folder.mkdir()
    with Secret(bytearray(KEYS[0])) as secret:
        facts = secret.facts
    data = foreign.record("eve", KEYS[0], facts.public_key, package="ethermint.crypto.v1.ethsecp256k1")
    address = f"{facts.eth_account.hex()}.address"
    (folder / "eve.info").write_text(foreign.token("eve.info", data, "test"))
    (folder / address).write_text(foreign.token(address, b"eve.info", "test"))
    CosmosKeyring(tmp_path, "test").delete("eve", facts.public_key)
    assert list(folder.iterdir()) == []


def test_exports_with_bcrypt_are_what_others_make_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    # 2^12 rounds for each of a hundred keys take minutes; the real ones are in test_cosmos_sdk.
    monkeypatch.setattr(armor, "_BCRYPT_ROUNDS", 4)
    for key in KEYS:
        with Secret(bytearray(key)) as secret:
            content = armor.write(secret, PASSPHRASE.encode())
        lines = content.decode().splitlines()
        salt = bytes.fromhex(lines[2].removeprefix("salt: "))
        body = base64.b64decode("".join(lines[5:-2]))
        hashed = hashlib.sha256(foreign.bcrypt_hashed(PASSPHRASE.encode(), salt, 4)).digest()
        assert foreign.bcrypt_opened(body, hashed) == bytes.fromhex("e1b0f79b20") + key
        with armor.read(content, PASSPHRASE.encode()) as again:
            assert again.scalar == key


def test_exports_with_argon2_of_others_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    # As above: the real memory is in test_cosmos_sdk.
    monkeypatch.setattr(armor, "_ARGON2_KIB", 64)
    for key in KEYS:
        salt = secrets.token_bytes(16)
        text = foreign.argon2_text(foreign.argon2_export(key, PASSPHRASE.encode(), salt, 64), salt)
        with armor.read(text, PASSPHRASE.encode()) as secret:
            assert secret.scalar == key
