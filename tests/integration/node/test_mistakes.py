"""What an operator can get wrong: each is one sentence with its exit code, and the data directory stays as it was."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from popsigner_node.errors import Exit
from popsigner_node.lifeline import Identity, tied
from tests.support.pop import Pop


def _up(*options: str, before: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    command = [*before, sys.executable, "-m", "popsigner_node", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL)


def _says(done: subprocess.CompletedProcess[str], code: Exit, *words: str) -> None:
    """One line on stderr with all `words`, and the code."""
    assert done.returncode == code, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr


def _content(folder: Path) -> dict[str, str]:
    """Every file's digest, but the logs' and the lock's (which names the process that tried)."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.parent.name != "logs" and path.name != "lock"
    }


@pytest.fixture(scope="module")
def stopped() -> Iterator[Pop]:
    """A POP that has served once and was stopped: a data directory with a vault in it."""
    with Pop.started() as pop:
        assert pop.stop() == 0
        yield pop


def test_a_taken_port_is_named_with_the_option_that_chooses_another(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = _up("--port", port, "--data-dir", str(tmp_path / "d"))
        _says(done, Exit.PORT_TAKEN, port, "already taken", "--port")
        done = _up("--port", "0", "--grpc-port", port, "--data-dir", str(tmp_path / "d"))
        _says(done, Exit.PORT_TAKEN, port, "already taken", "--grpc-port")


def test_a_data_directory_of_another_version_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "VERSION").write_text("99\n")
    (tmp_path / "something").write_text("precious")
    before = _content(tmp_path)
    _says(_up("--port", "0", "--data-dir", str(tmp_path)), Exit.OTHER_VERSION, str(tmp_path), "'99'", "--data-dir")
    assert _content(tmp_path) == before
    assert not (tmp_path / "lock").exists()


def test_a_data_directory_of_before_the_first_release_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "VERSION").write_text("1\n")
    before = _content(tmp_path)
    done = _up("--port", "0", "--data-dir", str(tmp_path))
    _says(done, Exit.OTHER_VERSION, str(tmp_path), "before the release 0.1.0", "use another --data-dir")
    assert _content(tmp_path) == before


def test_a_folder_with_somebody_elses_files_does_not_become_a_data_directory(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    mode = tmp_path.stat().st_mode
    _says(_up("--port", "0", "--data-dir", str(tmp_path)), Exit.OTHER_VERSION, "thesis.tex", "not empty")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    assert tmp_path.stat().st_mode == mode


def test_a_file_in_the_place_of_the_data_directory_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("precious")
    _says(_up("--port", "0", "--data-dir", str(file)), Exit.NO_PERMISSION, str(file), "no directory", "--data-dir")
    assert file.read_text() == "precious"


def test_no_permission_names_the_place_and_whose_it_is(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o500)
    # Root may write anywhere; root of a user namespace with another uid may not.
    identity = Identity.NAMESPACE if os.geteuid() == 0 else Identity.SELF
    done = _up(
        "--port",
        "0",
        "--data-dir",
        str(closed / "d"),
        before=tied(["env"], death_signal=signal.SIGKILL, identity=identity),
    )
    _says(done, Exit.NO_PERMISSION, str(closed), "No permission", "--data-dir")


def test_a_disk_without_room_is_named_before_anything_is_made(tmp_path: Path) -> None:
    script = 'mount -t tmpfs -o size=8m none "$0" && "$@"; code=$?; ls -A "$0" | grep -vx lock; exit $code'
    done = _up("--port", "0", "--data-dir", str(tmp_path), before=["unshare", "-rm", "sh", "-c", script, str(tmp_path)])
    _says(done, Exit.DISK_FULL, f"disk at {tmp_path}", "is full", "MiB are needed")
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tls-cert", "pop.crt"], "--tls-cert and --tls-key go together"),
        (["--bao-addr", "https://bao.example:8200"], "--bao-addr and --bao-secret-id-file go together"),
        (["--database-url", "postgresql://popsigner:hunter2@db/popsigner"], "--database-password-file"),
        (["--port", "70000"], "65535"),
        (["--bind", "localhost"], "no IP address"),
    ],
)
def test_options_that_do_not_fit_are_refused_without_touching_the_disk(
    tmp_path: Path, options: list[str], words: str
) -> None:
    done = _up("--data-dir", str(tmp_path / "d"), *options, before=["env", "COLUMNS=400"])
    assert done.returncode == 2
    assert words in done.stderr
    assert "hunter2" not in done.stderr
    assert not (tmp_path / "d").exists()


def test_a_data_directory_in_use_is_refused_and_its_user_goes_on(stopped: Pop) -> None:
    stopped.start()
    assert stopped.process is not None
    done = _up("--port", "0", "--data-dir", str(stopped.data_dir))
    _says(done, Exit.IN_USE, str(stopped.data_dir), f"process {stopped.process.pid}")
    assert stopped.serving()
    assert stopped.stop() == 0


def test_a_missing_unseal_key_is_named_and_no_new_one_is_made(stopped: Pop) -> None:
    key = stopped.data_dir / "openbao" / "unseal.key"
    aside = key.rename(key.with_name("aside"))
    before = _content(stopped.data_dir)
    done = _up("--port", "0", "--data-dir", str(stopped.data_dir))
    _says(done, Exit.UNSEAL_KEY, str(key), "missing", "backup")
    assert _content(stopped.data_dir) == before
    aside.rename(key)


def test_a_truncated_unseal_key_is_named(stopped: Pop) -> None:
    key = stopped.data_dir / "openbao" / "unseal.key"
    right = key.read_bytes()
    key.write_bytes(right[:-1])
    done = _up("--port", "0", "--data-dir", str(stopped.data_dir))
    _says(done, Exit.UNSEAL_KEY, str(key), "31 bytes", "backup")
    key.write_bytes(right)


def test_a_wrong_unseal_key_is_named_and_the_right_one_still_opens_the_vault(stopped: Pop) -> None:
    key = stopped.data_dir / "openbao" / "unseal.key"
    right = key.read_bytes()
    key.write_bytes(os.urandom(32))
    done = _up("--port", "0", "--data-dir", str(stopped.data_dir))
    _says(done, Exit.UNSEAL_KEY, str(key), "not the one", "backup")
    key.write_bytes(right)
    stopped.start()
    stopped.wait_until_serving()
    assert stopped.stop() == 0


def test_the_ready_files_missing_folder_is_named(tmp_path: Path) -> None:
    done = _up("--port", "0", "--data-dir", str(tmp_path / "d"), "--ready-file", str(tmp_path / "no" / "ready.json"))
    _says(done, Exit.FAILED, str(tmp_path / "no" / "ready.json"), "does not exist")
