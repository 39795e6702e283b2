"""The archive's file: what it is sealed to, what other programs make of it, and every way in which it can be wrong."""

import io
import os
import tarfile
import threading
from dataclasses import replace
from pathlib import Path

import pyrage  # type: ignore[import-untyped]  # it publishes no types
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from popsigner_node.archive import Interrupted, described, seal, unseal
from popsigner_node.errors import Exit, NodeError
from popsigner_node.founded import known_schemas
from popsigner_node.layout import VERSION
from popsigner_node.manifest import FORMAT, NAME, Head, Manifest
from tests.integration.node.backups import Keeper, sealed

FILES: dict[str, Path | bytes] = {"one": b"1" * 100_000, "secrets/two": b"", "three": os.urandom(70_000)}


@pytest.fixture
def keeper(tmp_path: Path) -> Keeper:
    return Keeper(tmp_path)


def manifest() -> Manifest:
    return Manifest(
        format=FORMAT,
        popsigner="0.1.0",
        layout=VERSION,
        schema=known_schemas()[-1],
        created_at="2026-11-21T00:00:00+00:00",
        organizations=1,
        keys={"ENABLED": 2},
        versions=3,
        catalogue="00",
        ledger={"an organization": Head(size=7, rows=5)},
        made_meanwhile=("a",),
        members={name: described(content) for name, content in FILES.items()},
    )


@pytest.fixture
def archive(tmp_path: Path, keeper: Keeper) -> Path:
    return sealed(manifest(), FILES, keeper=keeper, to=tmp_path / "pop.age")


def read(archive: Path, keeper: Keeper) -> Manifest:
    return unseal(archive, [keeper.identity], sink=lambda name: None, stop=threading.Event())


def refused(archive: Path, keeper: Keeper, words: str, code: Exit = Exit.ARCHIVE_UNREADABLE) -> None:
    with pytest.raises(NodeError, match=words) as failure:
        read(archive, keeper)
    assert failure.value.code is code
    assert len(str(failure.value).splitlines()) == 1


def test_what_was_sealed_comes_back(archive: Path, keeper: Keeper, tmp_path: Path) -> None:
    found: dict[str, Path] = {}

    def place(name: str) -> io.BufferedWriter:
        found[name] = tmp_path / name.replace("/", "-")
        return found[name].open("wb")

    assert unseal(archive, [keeper.identity], sink=place, stop=threading.Event()) == manifest()
    assert {name: path.read_bytes() for name, path in found.items()} == FILES


def test_age_and_tar_open_it_without_us(archive: Path, keeper: Keeper) -> None:
    plain = pyrage.decrypt(archive.read_bytes(), [keeper.identity])
    with tarfile.open(fileobj=io.BytesIO(plain), mode="r:") as tar:
        assert tar.getnames() == ["manifest.json", *FILES]
        assert {info.mode for info in tar} == {0o600}
        for name, content in FILES.items():
            member = tar.extractfile(name)
            assert member is not None
            assert member.read() == content


def test_another_identity_opens_nothing(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    refused(archive, Keeper(tmp_path / "other"), "sealed to other recipients")


@pytest.mark.parametrize("kept", [0, 10, 150, 300, 65_900, 131_500, -70_000, -16, -1])
def test_a_truncated_archive_is_refused(archive: Path, keeper: Keeper, kept: int) -> None:
    content = archive.read_bytes()
    archive.write_bytes(content[:kept])
    refused(archive, keeper, "cut short|only its beginning")


def test_every_flipped_byte_is_refused(archive: Path, keeper: Keeper) -> None:
    content = archive.read_bytes()
    places = [*range(0, 230, 3), *range(230, len(content), 9_973), len(content) - 1]
    for place in places:
        archive.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        refused(archive, keeper, "damaged|not an age file|other recipients")


def test_an_archive_that_is_somebody_elses_is_refused(keeper: Keeper, tmp_path: Path) -> None:
    other = tmp_path / "other.age"
    other.write_bytes(pyrage.encrypt(b"not a tar archive" * 10_000, [keeper.identity.to_public()]))
    refused(other, keeper, "is not a backup")


def test_a_member_that_is_not_what_the_manifest_says_is_refused(keeper: Keeper, tmp_path: Path) -> None:
    def lying(honest: Manifest) -> Manifest:
        return replace(honest, members=dict(honest.members) | {"one": described(b"2" * 100_000)})

    with pytest.raises(NodeError, match="other bytes"):
        sealed(manifest(), FILES, keeper=keeper, to=tmp_path / "pop.age", change=lying)


def test_members_that_are_not_the_manifests_are_refused(keeper: Keeper, tmp_path: Path) -> None:
    honest: dict[str, Path | bytes] = {NAME: manifest().encoded(), **FILES}
    wrong: list[dict[str, Path | bytes]] = [
        honest | {"one": b"2" * 100_000},
        honest | {"one": b"1" * 99_999},
        honest | {"../four": b"4"},
        {name: content for name, content in honest.items() if name != "three"},
        {name: content for name, content in honest.items() if name != NAME},
    ]
    for files in (honest, *wrong):
        plain = io.BytesIO()
        with tarfile.open(fileobj=plain, mode="w") as tar:
            for name, content in files.items():
                assert isinstance(content, bytes)
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        other = tmp_path / "other.age"
        other.write_bytes(pyrage.encrypt(plain.getvalue(), [keeper.identity.to_public()]))
        if files is honest:
            assert read(other, keeper) == manifest()
        else:
            refused(other, keeper, "is not a backup")


def test_an_archive_without_its_very_end_is_refused(keeper: Keeper, tmp_path: Path) -> None:
    """Its last piece holds half of tar's closing zeros, which tar does not ask for."""
    piece = 5 * 2**16
    for blocks in range(300, 700):
        files: dict[str, Path | bytes] = {"one": bytes(512 * blocks)}
        whole = replace(manifest(), members={"one": described(files["one"])})
        text = whole.encoded()
        if 512 + len(text) + -len(text) % 512 + 512 + 512 * blocks + 1024 == piece + 512:
            break
    archive = sealed(whole, files, keeper=keeper, to=tmp_path / "pop.age")
    assert read(archive, keeper) == whole
    content = archive.read_bytes()
    archive.write_bytes(content[: -512 - 16])
    refused(archive, keeper, "cut short")


@pytest.mark.parametrize(
    "newer", [{"format": FORMAT + 1}, {"layout": "99"}, {"schema": "9999"}], ids=["format", "layout", "schema"]
)
def test_what_a_newer_release_made_is_refused_by_its_version(
    keeper: Keeper, tmp_path: Path, newer: dict[str, str]
) -> None:
    archive = sealed(
        manifest(),
        FILES,
        keeper=keeper,
        to=tmp_path / "pop.age",
        change=lambda made: replace(made, popsigner="7.0.0", **newer),  # type: ignore[arg-type]  # one of three fields
    )
    refused(archive, keeper, r"made by POPSigner 7\.0\.0 .* restore it with that release", Exit.OTHER_VERSION)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=3_000))
def test_any_sealed_bytes_are_a_backup_or_refused(keeper: Keeper, tmp_path: Path, content: bytes) -> None:
    other = tmp_path / "other.age"
    other.write_bytes(pyrage.encrypt(content, [keeper.identity.to_public()]))
    refused(other, keeper, "is not a backup")


def test_who_stops_it_is_heard(keeper: Keeper, archive: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        seal(manifest(), FILES, recipients=[keeper.identity.to_public()], to=io.BytesIO(), stop=stop)
    with pytest.raises(Interrupted):
        unseal(archive, [keeper.identity], sink=lambda name: None, stop=stop)


def test_a_full_disk_is_said_as_it_is(keeper: Keeper) -> None:
    class Full:
        def write(self, data: memoryview, /) -> int:
            raise OSError(28, "No space left on device")

        def flush(self) -> None:
            raise AssertionError

    with pytest.raises(OSError, match="No space left"):
        seal(manifest(), FILES, recipients=[keeper.identity.to_public()], to=Full(), stop=threading.Event())
