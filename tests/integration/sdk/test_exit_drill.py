"""The exit drill against a real POP: green, red, killed and repeated; nothing that it had out stays."""

import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from popsigner import Client, InternalError, KeyState, Namespace
from popsigner.drill import Drill, Report
from popsigner.drill.place import prepared
from popsigner.drill.report import canonical
from popsigner.keyfiles import WrongPassphrase, keystore
from tests.unit.sdk.sealed import Identity

from .recovery_pop import PROGRAM, Leaver, leaver

# The 20 keys, and what of them was rotated.
_KEYS, _VERSIONS = 20, 24


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Leaver]:
    with leaver(tmp_path_factory.mktemp("drill")) as found:
        yield found


def remains(left: Leaver) -> list[Path]:
    """What a drill has left in its folders, but for the lock."""
    return [path for path in (left.home / "state").rglob("*") if path.is_file() and path.suffix != ".lock"]


def drilled(left: Leaver, client: Client, *, identity: bytes | None = None) -> Report:
    with prepared(None, left.home / "state" / "popsigner") as place:
        return Drill(client, place, identity=identity or left.identity.file).run()


def test_every_key_comes_out_and_signs_outside(left: Leaver) -> None:
    path = left.home / "green.json"
    done = left.run("exit-drill", "--identity", str(left.identity_file), "--report", str(path))

    assert done.returncode == 0, done.stderr
    report = json.loads(path.read_text())
    assert report["passed"] is True
    assert report["totals"] == {
        "deleted": 1,
        "exported": _KEYS // 2,
        "failed": 0,
        "keys": _KEYS + 1,
        "recovered": _KEYS // 2,
        "versions": _VERSIONS,
    }
    assert report["recipient"] == left.identity.recipient
    told = {f"{key['namespace']}/{key['name']}": key for key in report["keys"]}
    for name, key in left.keys.items():
        assert told[name]["way"] == ("export" if key.exportable else "recovery")
        assert told[name]["state"] == key.state.name
        assert told[name]["versions"][-1]["address"] == key.address
    assert told["production/thrown-away"]["result"] == "deleted"
    assert "20 of 20" in done.stderr
    assert not remains(left)


def test_the_audit_trail_holds_the_report_and_every_export(left: Leaver) -> None:
    report = json.loads((left.home / "green.json").read_text())
    attestation = report.pop("attestation")
    digest = hashlib.sha256(canonical(report)).hexdigest()

    rows = [
        row for row in left.client.audit.list(event_type="key.signed") if row.metadata.get("sign_mode") == "EXIT_DRILL"
    ]

    (row,) = rows
    assert row.metadata["data_hash"] == f"digest:{digest}"
    assert (row.key_id, row.metadata["request_id"]) == (attestation["key_id"], attestation["request_id"])
    exported = [row.key_id for row in left.client.audit.list(event_type="key.exported")]
    assert sorted(exported) == sorted(key.id for key in left.keys.values() if key.exportable)


def test_an_auditor_checks_the_report_without_the_pop(left: Leaver) -> None:
    path = left.home / "green.json"
    report = json.loads(path.read_text())

    done = left.run("exit-drill", "verify", str(path), "--json", offline=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["attestation"] == report["attestation"]
    signer = report["keys"][0]["versions"][-1]
    assert signer["address"] in left.run("exit-drill", "verify", str(path), offline=True).stdout

    report["keys"][3]["versions"][0]["address"] = signer["address"]
    changed = left.home / "changed.json"
    changed.write_text(json.dumps(report))
    done = left.run("exit-drill", "verify", str(changed), offline=True)
    assert done.returncode == 8
    assert "was changed" in done.stderr


def test_what_is_exportable_comes_out_without_an_identity_and_the_rest_does_not(left: Leaver) -> None:
    path = left.home / "half.json"
    done = left.run("exit-drill", "--report", str(path), "--json")

    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert report == json.loads(path.read_text())
    assert (report["passed"], report["totals"]["failed"]) == (False, _KEYS // 2)
    assert "production/kept-1: it is not exportable: give the identity" in done.stderr
    # It is signed all the same: that it failed is what the auditor should know.
    checked = left.run("exit-drill", "verify", str(path))
    assert checked.returncode == 8
    assert f"failed for {_KEYS // 2} of {_KEYS + 1} keys" in checked.stderr


class _Copies:
    """The copies of a real POP, changed on the way."""

    def __init__(self, recovery: Any, change: Any) -> None:
        self._recovery = recovery
        self._change = change
        self.get = recovery.get

    def copies(self) -> Iterator[Any]:
        for page in self._recovery.copies():
            self._change(page.copies)
            yield page


def problems(report: Report) -> dict[str, str]:
    assert {key.result for key in report.keys if key.problems} <= {"failed"}
    return {f"{key.namespace}/{key.name}": key.problems[-1] for key in report.keys if key.problems}


@pytest.fixture
def client(left: Leaver) -> Iterator[Client]:
    with Client(api_key=left.pop.api_key, endpoint=left.pop.http) as client:
        yield client


def changed(client: Client, change: Any) -> Client:
    client.recovery = _Copies(client.recovery, change)  # type: ignore[assignment]
    return client


def test_a_missing_copy_fails_its_key_alone(left: Leaver, client: Client) -> None:
    gone = left.keys["osmosis/kept-4"]

    def drop(copies: list[Any]) -> None:
        for copy in copies:
            if copy.versions[0].public_key == gone.public_key:
                copy.versions[0].public_key = "02" + "00" * 32

    assert set(problems(drilled(left, changed(client, drop)))) == {"osmosis/kept-4"}


def test_a_damaged_copy_fails_its_key_alone(left: Leaver, client: Client) -> None:
    hurt = left.keys["osmosis/kept-4"]

    def damage(copies: list[Any]) -> None:
        for copy in copies:
            for version in copy.versions:
                if version.public_key == hurt.public_key:
                    version.ciphertext = version.ciphertext[:-1] + bytes([version.ciphertext[-1] ^ 1])

    found = problems(drilled(left, changed(client, damage)))
    assert set(found) == {"osmosis/kept-4"}
    assert "changed" in found["osmosis/kept-4"]


def test_a_missing_version_fails_its_key(left: Leaver, client: Client) -> None:
    def shorten(copies: list[Any]) -> None:
        for copy in copies:
            del copy.versions[2:]

    found = problems(drilled(left, changed(client, shorten)))
    assert found == {"production/kept-1": "its recovery copies do not hold every version"}


def test_exchanged_copies_are_seen(left: Leaver, client: Client) -> None:
    def exchange(copies: list[Any]) -> None:
        single = [copy for copy in copies if len(copy.versions) == 1]
        first, second = single[-2:]
        first.versions[0].ciphertext, second.versions[0].ciphertext = (
            second.versions[0].ciphertext,
            first.versions[0].ciphertext,
        )

    assert len(problems(drilled(left, changed(client, exchange)))) >= 1


def test_another_address_than_the_pop_names_is_seen(left: Leaver, client: Client) -> None:
    class Namespaces:
        def list(self) -> list[Namespace]:
            return [
                Namespace(name="production", address_prefix="celestia"),
                Namespace(name="osmosis", address_prefix="o"),
            ]

    client.namespaces = Namespaces()  # type: ignore[assignment]

    found = problems(drilled(left, client))

    assert set(found) == {name for name in left.keys if name.startswith("osmosis/")}
    assert "another public key or address" in found["osmosis/kept-1"]


def test_a_key_whose_versions_are_not_told_fails(left: Leaver, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its newest version alone would come out, and look like all of it."""

    def fail(_key: object) -> None:
        raise InternalError("no versions")

    monkeypatch.setattr(client.keys, "versions", fail, raising=False)

    rotated = {"production/kept-1", "production/exportable-1", "osmosis/kept-2"}
    assert problems(drilled(left, client)) == dict.fromkeys(rotated, "no versions")


def test_a_signature_that_the_pop_does_not_take_fails(
    left: Leaver, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("popsigner.drill.run.sign", lambda _secret, _data: b"\x01" * 64)

    assert len(problems(drilled(left, client))) == _KEYS


def test_another_identity_is_refused_before_anything_leaves(left: Leaver, client: Client) -> None:
    before = len(list(client.audit.list(event_type="key.exported")))
    with pytest.raises(WrongPassphrase, match=left.identity.recipient):
        drilled(left, client, identity=Identity().file)
    assert len(list(client.audit.list(event_type="key.exported"))) == before


@pytest.mark.parametrize(
    ("role", "scopes", "sentence"),
    [
        ("operator", ["api:keys:read", "api:keys:sign", "api:keys:export"], "needs the role ADMIN or OWNER"),
        ("admin", ["api:keys:read", "api:keys:sign"], "api:keys:export"),
        ("admin", ["api:keys:export", "api:keys:sign"], "api:keys:read"),
    ],
)
def test_who_may_not_is_told_what_is_missing(left: Leaver, role: str, scopes: list[str], sentence: str) -> None:
    file = left.home / f"{role}-{len(scopes)}-{scopes[0][-4:]}.key"
    options = [option for scope in scopes for option in ("--scope", scope)]
    made = left.run("api-keys", "create", file.stem, "--role", role, *options, "--key-out", str(file))
    assert made.returncode == 0, made.stderr

    done = left.run("exit-drill", "--api-key-file", str(file), "--report", "never.json")

    assert done.returncode == 3
    assert sentence in done.stderr
    assert not (left.home / "never.json").exists()


def begun(left: Leaver, *arguments: str) -> "tuple[subprocess.Popen[str], list[Path]]":
    """A drill that has some copies in its folder, and those."""
    process = subprocess.Popen(
        [str(PROGRAM), "exit-drill", "--identity", str(left.identity_file), *arguments],
        env=left.environment,
        cwd=left.home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while len(found := list((left.home / "state").rglob("exit-drill-*-*.json"))) < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return process, found


def test_a_killed_drill_leaves_nothing_that_opens_and_the_next_one_clears_it(left: Leaver) -> None:
    process, _ = begun(left, "--report", "killed.json")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    copies = list((left.home / "state").rglob("exit-drill-*-*.json"))
    whole = [path.read_bytes() for path in copies if path.stat().st_size]
    assert whole
    for content in whole:
        with pytest.raises(WrongPassphrase):
            keystore.read(content, b"\x00" * 32)

    done = left.run("exit-drill", "--identity", str(left.identity_file), "--report", "after.json")

    assert done.returncode == 0, done.stderr
    assert not remains(left)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_drill_clears_its_folder_itself(left: Leaver, number: signal.Signals) -> None:
    process, _ = begun(left, "--report", f"{number.name}.json")
    process.send_signal(number)
    process.communicate(timeout=60)

    assert process.returncode != 0
    assert not remains(left)
    assert not (left.home / f"{number.name}.json").exists()


def test_a_folder_that_was_named_is_used_and_left_empty(left: Leaver) -> None:
    folder = left.home / "named"
    folder.mkdir(mode=0o700)

    done = left.run("exit-drill", "--identity", str(left.identity_file), "--to", "named", "--report", "named.json")

    assert done.returncode == 0, done.stderr
    assert os.listdir(folder) == []
    # Neither a private key nor a passphrase is in anything that was written.
    assert "ciphertext" not in (left.home / "named.json").read_text()


def test_a_report_is_never_written_over(left: Leaver) -> None:
    (left.home / "taken.json").write_text("mine")

    assert left.run("exit-drill", "--report", "taken.json").returncode == 2
    assert (left.home / "taken.json").read_text() == "mine"


def test_without_a_recipient_the_drill_says_what_to_do(left: Leaver) -> None:
    """The last but one: it removes the recipient for good."""
    left.client.recovery.set(None)
    deadline = time.monotonic() + 90
    while left.client.recovery.get().recipient:
        assert time.monotonic() < deadline
        time.sleep(0.2)

    done = left.run("exit-drill", "--identity", str(left.identity_file), "--report", "red.json")

    assert done.returncode == 1
    assert "popsigner recovery set" in done.stderr
    assert json.loads((left.home / "red.json").read_text())["totals"]["failed"] == _KEYS // 2


def test_an_organization_without_keys_has_nothing_to_leave_with(left: Leaver) -> None:
    """The last: it destroys them all."""
    for key in left.client.keys.list():
        left.client.keys.delete(key, force=True)
    assert not [key for key in left.client.keys.list() if key.state is not KeyState.DESTROYED]

    done = left.run("exit-drill", "--report", "empty.json")

    assert done.returncode == 0, done.stderr
    assert "no keys" in done.stderr
    assert json.loads((left.home / "empty.json").read_text())["keys"] == []
