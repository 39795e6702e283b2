"""The exit drill's folder and its report, without a POP."""

import json
import os
import signal
import stat
import subprocess
import sys
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from popsigner.drill import Report, check
from popsigner.drill.place import Place, prepared, state_folder
from popsigner.drill.report import (
    DELETED,
    FAILED,
    PASSED,
    Attestation,
    KeyReport,
    VersionReport,
    canonical,
    challenge,
)
from popsigner.drill.run import check_rights
from popsigner.errors import PreconditionFailed, RoleMissing, ScopeMissing
from popsigner.gen.popsigner.v1 import Role, WhoamiResponse
from popsigner.keyfiles import FileUnusable, NotThisFormat, Secret, UnsupportedParameters, WrongPassphrase, keystore
from popsigner.keyfiles.secret import ORDER
from popsigner.possession import sign

from .sealed import SealedKey

SCOPES = ["api:keys:read", "api:keys:sign", "api:keys:export"]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state" / "popsigner"


def secret() -> Secret:
    return Secret(bytearray(os.urandom(32)))


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.name != "exit-drill.lock"]


# -- the folder


def test_copies_are_encrypted_private_and_gone_afterwards(state: Path) -> None:
    with prepared(None, state) as place, secret() as kept:
        path = place.keep(kept)

        assert stat.S_IMODE(place.folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert bytes(kept.scalar).hex() not in path.read_text()
        with place.take(path) as taken:
            assert taken.scalar == kept.scalar
        folder = place.folder
    assert not folder.exists()
    assert not files_in(state)


@pytest.mark.parametrize("end", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_however_it_ends_nothing_stays(state: Path, tmp_path: Path, end: type[BaseException]) -> None:
    folder = tmp_path / "mine"
    folder.mkdir(mode=0o700)

    def drill() -> None:
        with prepared(folder, state) as place, secret() as kept:
            place.keep(kept)
            raise end

    with pytest.raises(end):
        drill()

    # The folder was there before, and is there still.
    assert os.listdir(folder) == []
    assert not files_in(state)


def test_the_content_is_overwritten_before_it_is_unlinked(state: Path) -> None:
    with prepared(None, state) as place, secret() as kept:
        file = place.keep(kept).open("rb")
    with file:
        content = file.read()
    assert content
    assert not any(content)


def test_no_copy_opens_after_the_end(state: Path, tmp_path: Path) -> None:
    with prepared(None, state) as place, secret() as kept:
        content = place.keep(kept).read_bytes()
    left = tmp_path / "left.json"
    left.write_bytes(content)

    with pytest.raises(WrongPassphrase):
        place.take(left)


_KILLED = """
import os, sys
from pathlib import Path
from popsigner.drill.place import prepared
from popsigner.keyfiles import Secret

with prepared(Path(sys.argv[2]) if sys.argv[2] else None, Path(sys.argv[1])) as place:
    for _ in range(3):
        with Secret(bytearray(os.urandom(32))) as kept:
            print(place.keep(kept), flush=True)
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def killed(state: Path, tmp_path: Path, request: pytest.FixtureRequest) -> list[Path]:
    """What a drill that was killed has left behind, in a folder of its own or in the one that was named."""
    folder = str(tmp_path / "named") if request.param else ""
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(state), folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    copies = [Path(process.stdout.readline().strip()) for _ in range(3)]
    assert process.stdout.readline().strip() == "ready"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return copies


@pytest.mark.parametrize("killed", [False, True], indirect=True)
def test_after_a_kill_nothing_opens_and_the_next_drill_clears_it(killed: list[Path], state: Path) -> None:
    for path in killed:
        for passphrase in (b"", b"\x00" * 32):
            with pytest.raises(WrongPassphrase):
                keystore.read(path.read_bytes(), passphrase)
    mine = killed[0].with_name("notes.txt")
    mine.write_text("mine")

    with prepared(None, state):
        assert not [path for path in killed if path.exists()]
    assert mine.read_text() == "mine"
    assert not [path for path in files_in(state) if path != mine]


@pytest.mark.parametrize("killed", [False], indirect=True)
def test_a_folder_that_a_kill_left_and_its_owner_removed_is_no_trouble(killed: list[Path], state: Path) -> None:
    for path in killed:
        path.unlink()
    killed[0].parent.rmdir()

    with prepared(None, state):
        pass
    assert not files_in(state)


def test_two_drills_do_not_run_at_once(state: Path) -> None:
    with prepared(None, state) as place, secret() as kept:
        path = place.keep(kept)
        with pytest.raises(PreconditionFailed, match="another exit drill"), prepared(None, state):
            pass
        assert path.exists()


def test_a_folder_that_will_not_do_is_refused(state: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir(mode=0o700)
    (full / "file").touch()
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o750)
    linked = tmp_path / "linked"
    linked.symlink_to(tmp_path / "nowhere")
    for folder in (full, shared, linked, full / "file", full / "no" / "folder"):
        with pytest.raises(FileUnusable), prepared(folder, state):
            pass
        assert not files_in(state), folder
    assert (full / "file").exists()


def test_a_marker_that_names_nothing_is_told_and_left(state: Path) -> None:
    state.mkdir(parents=True)
    (state / "exit-drill.json").write_text('{"folder": "/", "made": true, "run": "../.."}')

    with pytest.raises(FileUnusable, match="names no folder"), prepared(None, state):
        pass


def test_the_state_folder_is_where_the_specification_says() -> None:
    assert state_folder({"XDG_STATE_HOME": "/state"}) == Path("/state/popsigner")
    for ignored in ("", "relative"):
        assert state_folder({"XDG_STATE_HOME": ignored}) == Path.home() / ".local" / "state" / "popsigner"


# -- the report


def a_report() -> Report:
    """One exported key with two versions, a recovered one, a deleted one, signed by the first."""
    report = Report(
        organization_id="org_01J00000000000000000000001",
        organization_name="Celestia Labs é 天",
        pop="https://pop.example.com",
        tool="popsigner 0.1.0",
        recipient="age1",
        nonce="ab" * 16,
        started_at="2026-11-21T00:00:00Z",
        finished_at="2026-11-21T00:00:01Z",
    )
    made = [
        (SealedKey("sequencer", scalars=(os.urandom(32), os.urandom(32))), "export", PASSED),
        (SealedKey("bridge", "staging", "osmo"), "recovery", PASSED),
        (SealedKey("old"), "", DELETED),
    ]
    for key, way, result in made:
        told = KeyReport(
            id=key.id,
            namespace=key.namespace,
            name=key.name,
            state="ENABLED",
            exportable=way == "export",
            address_prefix=key.address_prefix,
            way=way,
            result=result,
        )
        for number, scalar in enumerate(key.scalars, start=1):
            private = Secret(bytearray(scalar))
            data = challenge(organization=report.organization_id, key_id=key.id, version=number, nonce=report.nonce)
            told.versions.append(
                VersionReport(
                    version=number,
                    public_key=private.facts.public_key.hex(),
                    address=private.facts.address(key.address_prefix),
                    eth_address=private.facts.eth_address,
                    signature=sign(private, data).hex() if result == PASSED else "",
                )
            )
        report.keys.append(told)
    return attested(report, made[0][0])


def attested(report: Report, key: SealedKey) -> Report:
    signature = sign(Secret(bytearray(key.scalars[-1])), canonical(report.body()))
    report.attestation = Attestation(
        key_id=key.id,
        key_version=len(key.scalars),
        public_key=key.public_keys[-1].hex(),
        signature=signature.hex(),
        request_id="exit-drill",
    )
    return report


def problems(document: Any) -> list[str]:
    return check(json.dumps(document, indent=2).encode())[1]


def test_a_whole_report_holds_whatever_its_spelling() -> None:
    report = a_report()
    document = report.document()

    assert report.totals == {"deleted": 1, "exported": 1, "failed": 0, "keys": 3, "recovered": 1, "versions": 3}
    assert problems(document) == []
    assert check(json.dumps(document, ensure_ascii=False, sort_keys=True).encode()) == (document, [])


def test_every_change_of_a_report_is_told() -> None:
    document = a_report().document()
    seen = 0

    def changed(value: Any) -> Any:
        match value:
            case bool():
                return not value
            case int():
                return value + 1
            case str():
                return value[:-1] + ("1" if value[-1:] == "0" else "0")
        return value

    def walk(node: Any) -> None:
        nonlocal seen
        places = node.items() if isinstance(node, dict) else enumerate(node)
        for name, value in list(places):
            if isinstance(value, dict | list):
                walk(value)
                continue
            # Of how it is signed, the request id is a hint where to look.
            if name in ("request_id",) or value is None:
                continue
            node[name] = changed(value)
            with suppress(NotThisFormat, UnsupportedParameters):
                assert problems(document), (name, value)
            node[name] = value
            seen += 1

    walk(document)
    assert problems(document) == []
    assert seen > 40


def test_lies_that_are_signed_are_told_too() -> None:
    """Whoever signs the report can make it say anything; the signatures of the keys they cannot make."""
    key = SealedKey("sequencer")

    def told(change: Any) -> list[str]:
        report = a_report()
        change(report)
        return problems(attested_by_first(report).document())

    def attested_by_first(report: Report) -> Report:
        report.keys.append(
            KeyReport(
                id=key.id, namespace="x", name="x", state="", exportable=True, address_prefix="x", result=DELETED,
                versions=[VersionReport(version=1, public_key=key.public_keys[0].hex(), address="", eth_address="")],
            )
        )  # fmt: skip
        return attested(report, key)

    def wrong_nonce(report: Report) -> None:
        report.nonce = "cd" * 16

    def wrong_address(report: Report) -> None:
        report.keys[0].versions[0].address = report.keys[0].versions[1].address

    def no_signature(report: Report) -> None:
        report.keys[1].versions[0].signature = ""

    def no_version(report: Report) -> None:
        report.keys[1].versions.clear()

    def high_s(report: Report) -> None:
        signature = report.keys[1].versions[0].signature
        report.keys[1].versions[0].signature = signature[:64] + f"{ORDER - int(signature[64:], 16):064x}"

    def failed(report: Report) -> None:
        report.keys[1].result = FAILED

    assert told(lambda _: None) == []
    assert "not one of this key" in told(wrong_nonce)[0]
    assert "addresses" in told(wrong_address)[0]
    assert "no signature" in told(no_signature)[0]
    assert "no result" in told(no_version)[0]
    assert "not one of this key" in told(high_s)[0]
    assert "failed for 1 of 4" in told(failed)[0]


def test_a_report_that_is_not_signed_by_its_keys_is_told() -> None:
    report = a_report()
    unsigned = report.document() | {"attestation": None}

    assert problems(unsigned) == ["the report is not signed"]
    assert problems(attested(report, SealedKey("stranger")).document()) == [
        "the key that signed the report is none of its keys"
    ]


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b"[" * 5000, b'{"format":"popsigner-exit-drill"}'])
def test_what_is_no_report_is_told(content: bytes) -> None:
    with pytest.raises((NotThisFormat, UnsupportedParameters)):
        check(content)


def test_a_part_that_is_missing_is_told() -> None:
    whole = a_report().document()
    for name in whole:
        document = deepcopy(whole)
        del document[name]
        with pytest.raises((NotThisFormat, UnsupportedParameters)):
            problems(document)


# -- rights


def test_who_may_not_export_everything_is_told_what_is_missing() -> None:
    check_rights(WhoamiResponse(role=Role.OWNER, scopes=SCOPES))
    check_rights(WhoamiResponse(role=Role.ADMIN, scopes=SCOPES))
    for role in (Role.ROLE_UNSPECIFIED, Role.VIEWER, Role.OPERATOR):
        with pytest.raises(RoleMissing, match="ADMIN"):
            check_rights(WhoamiResponse(role=role, scopes=SCOPES))
    for missing in SCOPES:
        with pytest.raises(ScopeMissing, match=missing):
            check_rights(WhoamiResponse(role=Role.ADMIN, scopes=[each for each in SCOPES if each != missing]))


def test_a_place_is_for_one_run_alone(tmp_path: Path) -> None:
    first, second = Place(tmp_path, "aa" * 16), Place(tmp_path, "bb" * 16)
    with secret() as kept:
        path = first.keep(kept)
        with pytest.raises(WrongPassphrase):
            second.take(path)
