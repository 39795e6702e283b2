"""Keyrings: names, refusals, exchanges of files. What others wrote is in tests/conformance/keyfiles, and what
crashes leave behind in test_crashes."""

import json
import os
import shutil
from pathlib import Path

import pytest

from popsigner.keyfiles import (
    CosmosKeyring,
    DamagedFile,
    EntryExists,
    EntryMissing,
    FileUnusable,
    KeyFileError,
    PublicKeyMismatch,
    Secret,
    UnsuitablePassphrase,
    UnsupportedKey,
    UnsupportedParameters,
    WrongPassphrase,
    files,
    jwe,
    record,
)
from tests.conformance.keyfiles import foreign

KEY, OTHER = bytes(range(1, 33)), bytes(range(2, 34))
PASSPHRASE = b"correct horse"


def secret(key: bytes = KEY) -> Secret:
    return Secret(bytearray(key))


@pytest.fixture
def keyring(tmp_path: Path) -> CosmosKeyring:
    keyring = CosmosKeyring(tmp_path, "test")
    keyring.write("alice", secret())
    return keyring


def test_an_entry_has_two_files_of_their_owner_alone(keyring: CosmosKeyring) -> None:
    address = f"{secret().facts.account.hex()}.address"
    assert sorted(os.listdir(keyring.folder)) == sorted(["alice.info", address])
    assert {path.stat().st_mode & 0o777 for path in keyring.folder.iterdir()} == {0o600}
    assert keyring.folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["a/b", "../../etc/passwd", "%2F", "é", "with a space", "a" * 128, "."])
def test_names_are_any_text_and_stay_in_the_folder(keyring: CosmosKeyring, name: str) -> None:
    keyring.write(name, secret(OTHER))
    assert keyring.names() == sorted(["alice", name])
    with keyring.read(name) as found:
        assert found.scalar == OTHER
    assert len(os.listdir(keyring.folder)) == 4
    assert os.listdir(keyring.folder.parent) == ["keyring-test"]
    keyring.delete(name, secret(OTHER).facts.public_key)
    assert keyring.names() == ["alice"]


@pytest.mark.parametrize("name", ["", " ", "a\nb", "a\0b", "x.info", "x.address", "a" * 129, "\x1b[2J"])
def test_names_that_other_programs_stumble_over_are_refused(keyring: CosmosKeyring, name: str) -> None:
    with pytest.raises(FileUnusable, match="an entry's name"):
        keyring.write(name, secret(OTHER))
    assert keyring.names() == ["alice"]


@pytest.mark.parametrize("name", ["bob", "", "a" * 300, "a\0b", "../alice"])
def test_an_entry_that_is_not_there(keyring: CosmosKeyring, name: str) -> None:
    with pytest.raises((EntryMissing, FileUnusable)):
        keyring.read(name)


def test_a_keyring_that_is_not_there(tmp_path: Path) -> None:
    keyring = CosmosKeyring(tmp_path / "nowhere", "test")
    with pytest.raises(EntryMissing):
        keyring.names()
    with pytest.raises(EntryMissing):
        keyring.read("alice")
    with pytest.raises(FileUnusable):
        keyring.write("alice", secret())


def test_nothing_is_overwritten(keyring: CosmosKeyring) -> None:
    before = (keyring.folder / "alice.info").read_bytes()
    with pytest.raises(EntryExists, match="alice"):
        keyring.write("alice", secret(OTHER))
    with pytest.raises(EntryExists, match="as alice"):
        keyring.write("again", secret())
    assert (keyring.folder / "alice.info").read_bytes() == before
    assert len(os.listdir(keyring.folder)) == 2


@pytest.mark.parametrize("passphrase", [b"", b"1234567", b"a" * 73])
def test_a_passphrase_that_cosmos_programs_do_not_take_is_refused(tmp_path: Path, passphrase: bytes) -> None:
    keyring = CosmosKeyring(tmp_path, "file", passphrase)
    with pytest.raises(UnsuitablePassphrase):
        keyring.write("alice", secret())
    assert os.listdir(keyring.folder) == []


def test_a_keyring_of_the_backend_file_has_one_passphrase(tmp_path: Path) -> None:
    keyring = CosmosKeyring(tmp_path, "file", PASSPHRASE)
    keyring.write("alice", secret())
    wrong = CosmosKeyring(tmp_path, "file", PASSPHRASE + b"x")
    for attempt in (lambda: wrong.read("alice"), lambda: wrong.write("bob", secret(OTHER)), wrong.check_passphrase):
        with pytest.raises(WrongPassphrase):
            attempt()
    assert keyring.names() == ["alice"]
    with keyring.read("alice") as found:
        assert found.scalar == KEY


@pytest.mark.parametrize("content", [b"", b"$2a$31$" + b"a" * 53, b"$2a$10$short", b"\xff" * 60, b"$1$10$" + b"a" * 53])
def test_a_keyhash_that_is_none_or_would_take_hours_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "keyring-file"
    folder.mkdir(0o700)
    (folder / "keyhash").write_bytes(content)
    with pytest.raises(DamagedFile, match="is not a bcrypt hash"):
        CosmosKeyring(tmp_path, "file", PASSPHRASE).check_passphrase()


def test_files_that_were_exchanged_are_noticed(keyring: CosmosKeyring) -> None:
    keyring.write("bob", secret(OTHER))
    shutil.copy(keyring.folder / "bob.info", keyring.folder / "alice.info")
    with pytest.raises(DamagedFile, match="files were exchanged"):
        keyring.read("alice")


def test_an_entry_that_holds_another_name_is_noticed(keyring: CosmosKeyring) -> None:
    data = foreign.record("mallory", OTHER, secret(OTHER).facts.public_key)
    (keyring.folder / "alice.info").write_text(foreign.token("alice.info", data, "test"))
    with pytest.raises(DamagedFile, match="says that it has another name"):
        keyring.read("alice")


def test_a_public_key_of_another_private_key_is_noticed(keyring: CosmosKeyring) -> None:
    data = foreign.record("alice", KEY, secret(OTHER).facts.public_key)
    (keyring.folder / "alice.info").write_text(foreign.token("alice.info", data, "test"))
    with pytest.raises(PublicKeyMismatch):
        keyring.read("alice")


@pytest.mark.parametrize("package", ["cosmos.crypto.ed25519", "cosmos.crypto.secp256r1", ""])
def test_a_key_of_another_curve_is_refused(keyring: CosmosKeyring, package: str) -> None:
    data = foreign.record("alice", KEY, secret().facts.public_key, package=package)
    (keyring.folder / "alice.info").write_text(foreign.token("alice.info", data, "test"))
    with pytest.raises(UnsupportedKey, match="ed25519"):
        keyring.read("alice")


def test_a_deletion_asks_which_key_it_is(keyring: CosmosKeyring) -> None:
    with pytest.raises(PublicKeyMismatch, match="left alone"):
        keyring.delete("alice", secret(OTHER).facts.public_key)
    assert len(os.listdir(keyring.folder)) == 2
    with pytest.raises(EntryMissing):
        keyring.delete("bob", secret().facts.public_key)


def test_a_deletion_leaves_an_address_alone_that_leads_elsewhere(keyring: CosmosKeyring) -> None:
    address = f"{secret().facts.account.hex()}.address"
    (keyring.folder / address).write_text(foreign.token(address, b"other.info", "test"))
    keyring.delete("alice", secret().facts.public_key)
    assert os.listdir(keyring.folder) == [address]


def test_a_symbolic_link_in_the_place_of_an_entry_is_not_destroyed(keyring: CosmosKeyring, tmp_path: Path) -> None:
    info = keyring.folder / "alice.info"
    elsewhere = tmp_path / "elsewhere"
    info.rename(elsewhere)
    info.symlink_to(elsewhere)
    before = elsewhere.read_bytes()
    with pytest.raises(FileUnusable):
        keyring.delete("alice", secret().facts.public_key)
    assert elsewhere.read_bytes() == before


def test_a_folder_that_others_can_write_to_is_not_written_to(keyring: CosmosKeyring) -> None:
    keyring.folder.chmod(0o777)
    with pytest.raises(FileUnusable, match="chmod 700"):
        keyring.write("bob", secret(OTHER))
    with pytest.raises(FileUnusable, match="chmod 700"):
        keyring.delete("alice", secret().facts.public_key)
    with keyring.read("alice") as found:
        assert found.scalar == KEY


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"p2c": 0}, UnsupportedParameters),
        ({"p2c": jwe.MAX_ITERATIONS + 1}, UnsupportedParameters),
        ({"p2c": 1 << 70}, UnsupportedParameters),
        ({"p2c": True}, DamagedFile),
        ({"p2c": "8192"}, DamagedFile),
        ({"p2s": ""}, UnsupportedParameters),
        ({"p2s": "\u00e9"}, DamagedFile),
        ({"alg": "dir"}, UnsupportedParameters),
        ({"alg": "none"}, UnsupportedParameters),
        ({"enc": "A128GCM"}, UnsupportedParameters),
        ({"zip": "DEF"}, UnsupportedParameters),
        ({"crit": ["exp"]}, UnsupportedParameters),
        ({"created": "then"}, WrongPassphrase),
    ],
)
def test_headers_that_were_changed(change: dict[str, object], kind: type[Exception]) -> None:
    token = jwe.encrypt(b"something", b"test", iterations=10)
    header, rest = token.split(b".", 1)
    document = json.loads(jwe._unbase64(header)) | change
    changed = jwe._base64(json.dumps(document).encode()) + b"." + rest
    with pytest.raises(kind):
        jwe.decrypt(changed, b"test")


def test_each_part_of_a_token_is_guarded() -> None:
    token = jwe.encrypt(b"something", b"test", iterations=10)
    assert jwe.decrypt(token, b"test") == b"something"
    for place in range(len(token)):
        changed = bytearray(token)
        changed[place] = ord("A") if changed[place] != ord("A") else ord("B")
        try:
            opened = jwe.decrypt(changed, b"test")
        except KeyFileError:
            continue
        # The unused bits of a part's last character are no part of it.
        assert opened == b"something"
        assert token[place + 1 : place + 2] in (b".", b"")


def test_what_is_handed_out_and_what_was_inside_is_overwritten(
    keyring: CosmosKeyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[bytes | bytearray] = []
    real_record, real_decrypt = record.read, jwe.decrypt

    def reading(data: bytes) -> record.Record:
        held.append(data)
        return real_record(data)

    def decrypting(token: bytearray, passphrase: bytes) -> bytearray:
        held.append(real_decrypt(token, passphrase))
        assert isinstance(held[-1], bytearray)
        return held[-1]

    monkeypatch.setattr(record, "read", reading)
    monkeypatch.setattr(jwe, "decrypt", decrypting)
    with keyring.read("alice") as found:
        pass
    assert len(held) == 2
    for each in (*held, found.scalar):
        assert each == bytes(len(each))
        assert len(each) >= 32


def test_the_address_comes_first_and_leads_nowhere_until_the_key_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyring = CosmosKeyring(tmp_path, "test")
    order: list[str] = []
    real = files.write_sealed

    def writing(path: Path, content: bytes, *, replace: bool = False) -> None:
        order.append(path.suffix)
        real(path, content, replace=replace)

    monkeypatch.setattr(files, "write_sealed", writing)
    keyring.write("alice", secret())
    assert order == [".address", ".info"]
