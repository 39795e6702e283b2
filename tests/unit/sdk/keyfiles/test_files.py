"""Files with keys: their modes, that nothing is written over, what a crash leaves, and their destruction."""

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from popsigner.keyfiles import EntryExists, EntryMissing, FileUnusable, files


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_files_are_their_owners_alone(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        files.make_folder(tmp_path / "folder") if umask != 0o777 else (tmp_path / "folder").mkdir(0o700)
        (tmp_path / "folder").chmod(0o700)
        files.write_sealed(tmp_path / "folder" / "sealed", b"sealed")
        files.write_plain(tmp_path / "folder" / "plain", bytearray(b"plain"))
    finally:
        os.umask(before)
    assert mode(tmp_path / "folder" / "sealed") == mode(tmp_path / "folder" / "plain") == 0o600
    assert sorted(os.listdir(tmp_path / "folder")) == ["plain", "sealed"]


def test_a_new_folder_is_its_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        files.make_folder(tmp_path / "folder")
    finally:
        os.umask(before)
    assert mode(tmp_path / "folder") == 0o700
    files.make_folder(tmp_path / "folder")


@pytest.mark.parametrize("kind", ["file", "symlink", "dangling", "folder"])
def test_nothing_is_written_over(tmp_path: Path, kind: str) -> None:
    target, path = tmp_path / "target", tmp_path / "key"
    if kind == "folder":
        path.mkdir()
    elif kind == "file":
        path.write_bytes(b"before")
    else:
        if kind == "symlink":
            target.write_bytes(b"before")
        path.symlink_to(target)
    before = target.exists()
    with pytest.raises(EntryExists):
        files.write_sealed(path, b"after")
    with pytest.raises(EntryExists):
        files.write_plain(path, bytearray(b"after"))
    assert target.exists() is before
    for each in (target, path):
        if each.is_file():
            assert each.read_bytes() == b"before"
    assert ".popsigner.new" not in os.listdir(tmp_path)


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, content: memoryview) -> int:
        if len(content) > 3:
            return real(descriptor, content[:3])
        raise OSError(errno.ENOSPC, "No space left on device")

    real = os.write
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(FileUnusable, match="No space left"):
        files.write_sealed(tmp_path / "sealed", b"0123456")
    with pytest.raises(FileUnusable, match="No space left"):
        files.write_plain(tmp_path / "plain", bytearray(b"0123456"))
    assert os.listdir(tmp_path) == []


def test_what_is_read_is_a_regular_file_of_a_reasonable_size(tmp_path: Path) -> None:
    with pytest.raises(EntryMissing):
        files.read(tmp_path / "missing")
    with pytest.raises(FileUnusable, match="not a regular file"):
        files.read(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(FileUnusable, match="not a regular file"):
        files.read(tmp_path / "fifo")
    with pytest.raises(FileUnusable, match="not a regular file"):
        files.read(Path("/dev/zero"))
    (tmp_path / "large").write_bytes(bytes(files.MAX_BYTES + 1))
    with pytest.raises(FileUnusable, match="larger than any key file"):
        files.read(tmp_path / "large")
    (tmp_path / "most").write_bytes(bytes(files.MAX_BYTES))
    assert len(files.read(tmp_path / "most")) == files.MAX_BYTES
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(FileUnusable):
        files.read(tmp_path / "loop")


def test_a_destroyed_file_is_zeros_before_it_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"a private key")
    with path.open("rb") as watching:
        files.destroy(path)
        assert watching.read() == bytes(13)
    assert not path.exists()
    files.destroy(path)


@pytest.mark.parametrize("kind", ["symlink", "second name", "folder", "fifo"])
def test_what_is_not_the_entrys_own_file_is_not_destroyed(tmp_path: Path, kind: str) -> None:
    target, path = tmp_path / "target", tmp_path / "key"
    target.write_bytes(b"of somebody else")
    if kind == "symlink":
        path.symlink_to(target)
    elif kind == "second name":
        path.hardlink_to(target)
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(FileUnusable):
        files.destroy(path)
    assert target.read_bytes() == b"of somebody else"
    assert os.path.lexists(path)


def test_a_private_folder_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(0o770)
    with pytest.raises(FileUnusable, match="chmod 700"), files.locked(folder, private=True):
        pass
    with files.locked(folder):
        pass
    with pytest.raises(EntryMissing), files.locked(tmp_path / "missing"):
        pass


def test_writers_of_one_folder_take_turns(tmp_path: Path) -> None:
    second = threading.Event()

    def wait() -> None:
        with files.locked(tmp_path):
            second.set()

    thread = threading.Thread(target=wait)
    with files.locked(tmp_path):
        thread.start()
        assert not second.wait(0.2)
    thread.join(20)
    assert second.is_set()
