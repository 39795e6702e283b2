"""popsigner migrate export: keys leave a POP that can be told to fail and to cheat."""

import os
from pathlib import Path

import pytest

from popsigner.keyfiles import armor, keystore
from popsigner_server.gen.popsigner.v1 import key_pb2

from .command import Popsigner, conversation
from .key_pop import KeyPop
from .migrating import PASSPHRASE, outcomes, results


@pytest.fixture
def held(keys: KeyPop) -> KeyPop:
    """Three exportable keys, one of which was rotated, and one that is not exportable."""
    keys.secrets = {
        "production/alpha": [b"\1" * 32],
        "production/beta": [b"\2" * 32, b"\4" * 32],
        "staging/alpha": [b"\3" * 32],
    }
    keys.exportable = set(keys.secrets)
    return keys


def read_back(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*.hex"))}


def test_keys_are_exported_and_verified_and_the_second_time_compared(
    popsigner: Popsigner, held: KeyPop, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ["migrate", "export", "--all", "--to", str(out), "--format", "hex"]
    first = results(popsigner, *command)
    assert set(outcomes(first).values()) == {("EXPORTED", True)}
    assert read_back(out) == {
        "production/alpha.hex": "01" * 32 + "\n",
        "production/beta.hex": "04" * 32 + "\n",
        "staging/alpha.hex": "03" * 32 + "\n",
    }
    assert {oct(path.stat().st_mode & 0o777) for path in out.rglob("*.hex")} == {"0o600"}
    assert {oct(path.stat().st_mode & 0o777) for path in (out, *out.glob("*"))} == {"0o700"}
    assert set(outcomes(results(popsigner, *command)).values()) == {("PRESENT", True)}
    assert len(held.pop.called("KeyService/ExportKey")) == 3


def test_all_versions_go_to_places_of_their_own(popsigner: Popsigner, held: KeyPop, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = popsigner("migrate", "export", "production/beta", "--to", str(out), "--format", "hex")
    assert "older versions of production/beta were left" in done.stderr
    results(popsigner, "migrate", "export", "production/beta", "--to", str(out), "--format", "hex", "--all-versions")
    assert read_back(out) == {"production/beta.hex": "04" * 32 + "\n", "production/beta.v1.hex": "02" * 32 + "\n"}


@pytest.mark.parametrize("form", ["cosmos-test", "cosmos-file", "cosmos-armor", "keystore"])
def test_what_is_exported_is_imported_again(
    popsigner: Popsigner, held: KeyPop, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keystore.write, "__kwdefaults__", {"n": 2})
    out = tmp_path / "out"
    encrypted = [] if form == "cosmos-test" else ["--passphrase-stdin"]
    stdin = PASSPHRASE + b"\n"
    command = ["migrate", "export", "production/alpha", "--to", str(out), "--format", form, *encrypted]
    (found,) = results(popsigner, *command, stdin=stdin)
    assert (found["outcome"], found["verified"]) == ("EXPORTED", True)
    (found,) = results(popsigner, *command, stdin=stdin)
    assert found["outcome"] == "PRESENT"
    assert bytes([1] * 32).hex() not in "".join(path.read_text() for path in out.rglob("*") if path.is_file())

    source = [str(out), "--all"] if form.startswith("cosmos-") and form != "cosmos-armor" else []
    source = source or [found["place"], "--name", "alpha"]
    (back,) = results(popsigner, "migrate", "import", *source, *encrypted, stdin=stdin)
    assert (back["key"], back["outcome"], back["verified"]) == ("production/alpha", "PRESENT", True)


def test_a_file_with_another_key_is_not_overwritten(popsigner: Popsigner, held: KeyPop, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "production").mkdir(parents=True)
    out.chmod(0o700)
    (out / "production").chmod(0o700)
    there = out / "production" / "alpha.hex"
    there.write_text("0f" * 32 + "\n")
    command = ["migrate", "export", "production/alpha", "--to", str(out), "--format", "hex"]
    (found,) = results(popsigner, *command, code=5)
    assert "holds another key" in found["error"]["message"]
    for content in ("something else", "01" * 33, "01" * 16 + "\n"):
        there.write_text(content)
        (found,) = results(popsigner, *command, code=5)
        assert "nothing is overwritten" in found["error"]["message"]
        assert there.read_text() == content


@pytest.mark.parametrize("length", [0, 1, 40, 64])
def test_a_file_that_a_killed_export_began_is_finished(
    popsigner: Popsigner, held: KeyPop, tmp_path: Path, length: int
) -> None:
    out = tmp_path / "out"
    (out / "production").mkdir(parents=True)
    out.chmod(0o700)
    (out / "production").chmod(0o700)
    there = out / "production" / "alpha.hex"
    there.write_text(("01" * 32 + "\n")[:length])
    command = ["migrate", "export", "production/alpha", "--to", str(out), "--format", "hex"]
    (found,) = results(popsigner, *command)
    assert (found["outcome"], found["verified"]) == ("PRESENT" if length == 64 else "EXPORTED", True)
    assert bytes.fromhex(there.read_text()) == b"\1" * 32


@pytest.mark.parametrize("form", ["hex", "cosmos-test"])
@pytest.mark.parametrize("mode", [0o755, 0o750, 0o704, 0o702])
def test_nothing_is_written_where_others_can_look(
    popsigner: Popsigner, held: KeyPop, tmp_path: Path, form: str, mode: int
) -> None:
    out = tmp_path / "out"
    folder = out / "keyring-test" if form == "cosmos-test" else out
    folder.mkdir(parents=True)
    folder.chmod(mode)
    done = popsigner("migrate", "export", "production/alpha", "--to", str(out), "--format", form)
    assert done.exit_code == 1
    assert f"chmod 700 {folder}" in done.stderr
    assert os.listdir(folder) == []
    assert held.pop.called("KeyService/ExportKey") == []


def test_two_keys_of_one_name_do_not_share_an_entry(popsigner: Popsigner, held: KeyPop, tmp_path: Path) -> None:
    done = popsigner("migrate", "export", "--all", "--to", str(tmp_path / "out"), "--format", "cosmos-test")
    assert done.exit_code == 5
    assert "production/alpha and staging/alpha both go to" in done.stderr
    assert held.pop.called("KeyService/ExportKey") == []


def test_what_is_not_exportable_is_told_and_the_others_leave(
    popsigner: Popsigner, held: KeyPop, tmp_path: Path
) -> None:
    held.exportable.remove("staging/alpha")
    held.states = {"production/beta": key_pb2.Key.DELETED}
    command = ["migrate", "export", "--all", "--to", str(tmp_path / "out"), "--format", "hex"]
    found = results(popsigner, *command, code=9)
    assert outcomes(found) == {"production/alpha": ("EXPORTED", True), "staging/alpha": ("FAILED", False)}


def test_an_export_of_another_key_is_not_written(popsigner: Popsigner, held: KeyPop, tmp_path: Path) -> None:
    held.swapped = os.urandom(32)
    out = tmp_path / "out"
    (found,) = results(popsigner, "migrate", "export", "production/alpha", "--to", str(out), "--format", "hex", code=1)
    assert "another private key" in found["error"]["message"]
    assert read_back(out) == {}


def test_a_file_whose_signature_the_pop_refuses_is_told(popsigner: Popsigner, held: KeyPop, tmp_path: Path) -> None:
    held.forging = True
    command = ["migrate", "export", "production/alpha", "--to", str(tmp_path / "out"), "--format", "hex"]
    (found,) = results(popsigner, *command, code=8)
    assert (found["outcome"], found["verified"]) == ("EXPORTED", False)


@pytest.mark.parametrize("passphrase", [b"", b"short12"])
def test_a_short_passphrase_protects_nothing(
    popsigner: Popsigner, held: KeyPop, tmp_path: Path, passphrase: bytes
) -> None:
    arguments = ["production/alpha", "--to", str(tmp_path / "out"), "--format", "keystore", "--passphrase-stdin"]
    done = popsigner("migrate", "export", *arguments, stdin=passphrase + b"\n")
    assert (done.exit_code, "fewer than 8 bytes" in done.stderr) == (1, True)
    assert held.pop.called("KeyService/ExportKey") == []


def test_a_new_passphrase_is_asked_for_twice(popsigner: Popsigner, held: KeyPop, tmp_path: Path) -> None:
    arguments = ["migrate", "export", "production/alpha", "--to", str(tmp_path / "out"), "--format", "cosmos-armor"]
    environment = popsigner.outer_environment()
    steps = [(b"Passphrase: ", b"correct horse\n"), (b"The same again: ", b"correct house\n")]
    code, shown = conversation(environment, steps, *arguments)
    assert (code, "two passphrases" in shown, "horse" in shown) == (2, True, False)
    steps[1] = (b"The same again: ", b"correct horse\n")
    code, shown = conversation(environment, steps, *arguments)
    assert code == 0, shown
    assert armor.read((tmp_path / "out/production/alpha.asc").read_bytes(), PASSPHRASE).scalar == b"\1" * 32


@pytest.mark.parametrize(
    "arguments",
    [
        ["--format", "hex"],
        ["production/alpha", "--all", "--format", "hex"],
        ["production/alpha", "--namespace", "staging", "--format", "hex"],
        ["production/alpha", "--format", "mnemonic"],
        ["production/alpha", "--format", "keystore"],
        ["production/alpha", "--format", "hex", "--passphrase-stdin"],
    ],
)
def test_options_of_an_export_that_do_not_fit_are_a_matter_of_usage(
    popsigner: Popsigner, held: KeyPop, tmp_path: Path, arguments: list[str]
) -> None:
    done = popsigner("migrate", "export", *arguments, "--to", str(tmp_path / "out"))
    assert done.exit_code == 2, done.output
    assert not (tmp_path / "out").exists()
