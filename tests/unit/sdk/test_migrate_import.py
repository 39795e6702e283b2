"""popsigner migrate import: keys come to a POP that can be told to fail and to cheat."""

import os
from pathlib import Path
from typing import Any

import grpc
import pytest

from popsigner.keyfiles import Secret, armor, keystore
from popsigner_server.gen.popsigner.v1 import key_pb2, namespace_pb2

from .command import Popsigner
from .key_pop import KeyPop, addresses
from .migrating import MNEMONIC, PASSPHRASE, SECRET, outcomes, results, secret, wiped


def test_a_whole_keyring_is_imported_and_verified_and_the_second_time_found(
    popsigner: Popsigner, keys: KeyPop, home: Path
) -> None:
    command = ["migrate", "import", str(home), "--all"]
    first = results(popsigner, *command)

    assert keys.secrets == {
        f"production/{name}": [bytes([number]) * 32] for number, name in enumerate(("alpha", "beta", "gamma"), start=1)
    }
    assert set(outcomes(first).values()) == {("IMPORTED", True)}
    assert [(each["address"], each["eth_address"]) for each in first] == [addresses(bytes([n]) * 32) for n in (1, 2, 3)]
    again = results(popsigner, *command)
    assert set(outcomes(again).values()) == {("PRESENT", True)}
    assert len(keys.pop.called("KeyService/ImportKey")) == 3
    assert len(keys.pop.called("SignService/Sign")) == 6


def test_a_dry_run_sends_no_private_key_and_says_what_would_happen(
    popsigner: Popsigner, keys: KeyPop, home: Path
) -> None:
    keys.secrets = {"production/alpha": [b"\1" * 32], "production/beta": [SECRET], "production/other": [b"\3" * 32]}
    found = results(popsigner, "migrate", "import", str(home), "--all", "--dry-run", code=9)

    assert outcomes(found) == {
        "production/alpha": ("PRESENT", False),
        "production/beta": ("FAILED", False),
        "production/gamma": ("FAILED", False),
    }
    assert found[1]["error"]["reason"] == "KEY_NAME_TAKEN"
    assert found[2]["error"]["reason"] == "KEY_PRESENT"
    assert "production/other" in found[2]["error"]["message"]
    assert {seen.method.rpartition("/")[2] for seen in keys.pop.seen} == {"ListNamespaces", "GetKey", "ListKeys"}
    (one,) = results(popsigner, "migrate", "import", str(home), "--key", "beta", "--name", "new", "--dry-run")
    assert (one["key"], one["outcome"], one["address"]) == ("production/new", "PLANNED", addresses(b"\2" * 32)[0])


@pytest.mark.parametrize(
    ("form", "options", "content", "expected"),
    [
        ("hex", [], b"0x" + SECRET.hex().encode(), SECRET),
        ("cosmos-armor", ["--passphrase-stdin"], armor.write(secret(), PASSPHRASE), SECRET),
        ("keystore", ["--passphrase-stdin"], keystore.write(secret(), PASSPHRASE, n=2), SECRET),
        # Known from elsewhere: the first account of this mnemonic in wallets.
        ("mnemonic", [], MNEMONIC, "cosmos19rl4cm2hmr8afy4kldpxz3fka4jguq0auqdal4"),
        ("mnemonic", ["--coin", "ethereum"], MNEMONIC, "0x9858EfFD232B4033E47d90003D41EC34EcaEda94"),
        ("mnemonic", ["--hd-path", "m/44'/60'/0'/0/0"], MNEMONIC, "0x9858EfFD232B4033E47d90003D41EC34EcaEda94"),
    ],
    ids=["hex", "armor", "keystore", "mnemonic", "ethereum", "path"],
)
def test_every_format_is_read_from_a_file_and_from_stdin(
    popsigner: Popsigner,
    keys: KeyPop,
    tmp_path: Path,
    form: str,
    options: list[str],
    content: bytes,
    expected: bytes | str,
) -> None:
    namespaces = [namespace_pb2.Namespace(name="production", address_prefix="cosmos")]
    keys.pop.answer("NamespaceService/ListNamespaces", namespace_pb2.ListNamespacesResponse(namespaces=namespaces))
    keys.prefix = "cosmos"
    file = tmp_path / "source"
    file.write_bytes(content)
    passphrase = PASSPHRASE + b"\n" if "--passphrase-stdin" in options else b""
    (found,) = results(popsigner, "migrate", "import", str(file), "--name", "a", *options, stdin=passphrase)
    assert (found["outcome"], found["verified"]) == ("IMPORTED", True)
    command = ["migrate", "import", "-", "--format", form, "--name", "a", *options]
    (again,) = results(popsigner, *command, stdin=passphrase + content)
    assert again["outcome"] == "PRESENT"
    if isinstance(expected, bytes):
        assert keys.secrets["production/a"] == [expected]
    else:
        assert expected in (found["address"], found["eth_address"])


def test_a_mnemonics_own_passphrase_makes_another_key(popsigner: Popsigner, keys: KeyPop) -> None:
    command = ["migrate", "import", "-", "--format", "mnemonic", "--coin", "ethereum"]
    # The same from published vectors: TREZOR is the passphrase of all of BIP-39's.
    (bare,) = results(popsigner, *command, "--name", "a", stdin=MNEMONIC)
    (other,) = results(popsigner, *command, "--name", "b", "--passphrase-stdin", stdin=b"TREZOR\n" + MNEMONIC)
    assert bare["eth_address"] != other["eth_address"]
    assert other["eth_address"] == "0x9c32F71D4DB8Fb9e1A58B0a80dF79935e7256FA6"


def test_no_private_key_stays_when_the_command_ends(
    popsigner: Popsigner, keys: KeyPop, home: Path, made: list[Secret]
) -> None:
    made.clear()
    keys.forging = True
    results(popsigner, "migrate", "import", str(home), "--all", code=8)
    assert len(made) >= 6
    assert wiped(made)


def test_a_lost_answer_is_made_good_by_the_same_command(popsigner: Popsigner, keys: KeyPop, hex_file: Path) -> None:
    keys.losing = True
    command = ["migrate", "import", str(hex_file), "--name", "a"]
    (first,) = results(popsigner, *command, code=7)
    assert (first["outcome"], first["verified"]) == ("FAILED", False)
    keys.losing = False
    (second,) = results(popsigner, *command)
    assert (second["outcome"], second["verified"]) == ("PRESENT", True)
    assert keys.secrets == {"production/a": [SECRET]}


def test_an_import_that_somebody_else_finished_in_between_counts(
    popsigner: Popsigner, keys: KeyPop, hex_file: Path
) -> None:
    keys.secrets["production/a"] = [SECRET]
    keys.refuse("KeyService/GetKey", grpc.StatusCode.NOT_FOUND, "KEY_NOT_FOUND")
    (found,) = results(popsigner, "migrate", "import", str(hex_file), "--name", "a")
    assert (found["outcome"], found["verified"]) == ("PRESENT", True)


def test_an_older_version_of_a_rotated_key_counts_and_is_what_signs(
    popsigner: Popsigner, keys: KeyPop, hex_file: Path
) -> None:
    keys.secrets["production/a"] = [SECRET, os.urandom(32)]
    (found,) = results(popsigner, "migrate", "import", str(hex_file), "--name", "a")
    assert (found["outcome"], found["version"], found["verified"]) == ("PRESENT", 1, True)


@pytest.mark.parametrize(
    ("state", "reason"), [(key_pb2.Key.DELETED, "KEY_DELETED"), (key_pb2.Key.DISABLED, "KEY_DISABLED")]
)
def test_a_key_that_is_there_and_does_not_sign_is_told(
    popsigner: Popsigner, keys: KeyPop, hex_file: Path, state: Any, reason: str
) -> None:
    keys.secrets["production/a"], keys.states = [SECRET], {"production/a": state}
    (found,) = results(popsigner, "migrate", "import", str(hex_file), "--name", "a", code=5)
    assert (found["error"]["reason"], found["verified"]) == (reason, False)


def test_exportable_cannot_be_given_afterwards(popsigner: Popsigner, keys: KeyPop, hex_file: Path) -> None:
    results(popsigner, "migrate", "import", str(hex_file), "--name", "a")
    (found,) = results(popsigner, "migrate", "import", str(hex_file), "--name", "a", "--exportable", code=5)
    assert found["error"]["reason"] == "KEY_NOT_EXPORTABLE"


def test_a_signature_of_another_key_is_noticed(popsigner: Popsigner, keys: KeyPop, hex_file: Path) -> None:
    keys.forging = True
    (found,) = results(popsigner, "migrate", "import", str(hex_file), "--name", "a", code=8)
    assert (found["outcome"], found["verified"]) == ("IMPORTED", False)
    (unverified,) = results(popsigner, "migrate", "import", str(hex_file), "--name", "a", "--no-verify")
    assert unverified["outcome"] == "PRESENT"


def test_one_key_that_fails_does_not_keep_the_others(popsigner: Popsigner, keys: KeyPop, home: Path) -> None:
    token = home / "keyring-test" / "beta.info"
    token.write_bytes(token.read_bytes()[:-20] + b"AAAA")
    found = results(popsigner, "migrate", "import", str(home), "--all", code=9)
    assert outcomes(found) == {
        "production/alpha": ("IMPORTED", True),
        "production/beta": ("FAILED", False),
        "production/gamma": ("IMPORTED", True),
    }


@pytest.mark.parametrize(
    ("code", "reason", "exit_code"),
    [
        (grpc.StatusCode.UNAVAILABLE, "VAULT_UNAVAILABLE", 9),
        (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING", 9),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED", 9),
    ],
)
def test_what_befalls_all_keys_ends_the_run(
    popsigner: Popsigner, keys: KeyPop, home: Path, code: grpc.StatusCode, reason: str, exit_code: int
) -> None:
    results(popsigner, "migrate", "import", str(home), "--key", "alpha")
    keys.refuse("KeyService/ImportKey", code, reason)
    found = results(popsigner, "migrate", "import", str(home), "--all", code=exit_code)
    assert [each["outcome"] for each in found] == ["PRESENT", "FAILED", "NOT_TRIED"]
    keys.refuse("KeyService/ImportKey", code, reason)
    done = popsigner("migrate", "import", str(home), "--all")
    assert "2 of 3 keys are not done" in done.stderr
    assert reason in done.stderr


def test_a_wrong_passphrase_and_a_missing_entry(popsigner: Popsigner, keys: KeyPop, home: Path, tmp_path: Path) -> None:
    file = tmp_path / "keystore.json"
    file.write_bytes(keystore.write(secret(), PASSPHRASE, n=2))
    command = ["migrate", "import", str(file), "--name", "a", "--passphrase-stdin"]
    (found,) = results(popsigner, *command, stdin=b"wrong\n", code=1)
    assert "passphrase is wrong" in found["error"]["message"]
    (found,) = results(popsigner, "migrate", "import", str(home), "--key", "delta", code=4)
    assert "no entry of the name delta" in found["error"]["message"]
    assert keys.pop.called("KeyService/ImportKey") == []
    assert popsigner("migrate", "import", str(tmp_path / "none"), "--name", "a").exit_code == 4
    missing = popsigner("migrate", "import", str(home), "--all", "--namespace", "nowhere")
    assert (missing.exit_code, "popsigner namespaces list" in missing.stderr) == (4, True)


@pytest.mark.parametrize("name", ["with space", "-a", ".", "ä", "a/b", "a" * 101])
def test_a_name_that_a_key_cannot_have_is_refused_before_it_is_sent(
    popsigner: Popsigner, keys: KeyPop, hex_file: Path, name: str
) -> None:
    (found,) = results(popsigner, "migrate", "import", str(hex_file), f"--name={name}", "--dry-run", code=1)
    assert found["error"]["reason"] == "INVALID_FIELD"
    assert keys.pop.called("KeyService/GetKey") == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["-", "--name", "a"],
        ["-", "--format", "cosmos-test", "--all"],
        ["HOME"],
        ["HOME", "--all", "--key", "alpha"],
        ["HOME", "--all", "--name", "a"],
        ["HOME", "--key", "alpha", "--key", "beta", "--name", "a"],
        ["HOME", "--all", "--coin", "cosmos"],
        ["HEX"],
        ["HEX", "--name", "a", "--all"],
        ["HEX", "--name", "a", "--hd-path", "m/0"],
        ["HEX", "--name", "a", "--delete-source"],
        ["HEX", "--name", "a", "--delete-source", "--no-verify"],
        ["HEX", "--name", "a", "--delete-source", "--dry-run"],
        ["KEYSTORE", "--name", "a"],
    ],
)
def test_options_that_do_not_fit_together_are_a_matter_of_usage(
    popsigner: Popsigner, keys: KeyPop, home: Path, hex_file: Path, tmp_path: Path, arguments: list[str]
) -> None:
    file = tmp_path / "keystore.json"
    file.write_bytes(keystore.write(secret(), PASSPHRASE, n=2))
    places = {"HOME": str(home), "HEX": str(hex_file), "KEYSTORE": str(file)}
    done = popsigner("migrate", "import", *[places.get(each, each) for each in arguments])
    assert done.exit_code == 2, done.output
    assert keys.pop.called("KeyService/ImportKey") == []
    assert hex_file.exists()
