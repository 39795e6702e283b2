"""A POP's backup while it signs, and what an operator can get wrong about it."""

import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from popsigner_node.errors import Exit
from tests.integration.node.backups import Keeper, backup, command, made, opened, run, says, stores
from tests.integration.node.test_life import call, sign
from tests.support.pop import Pop


@pytest.fixture(scope="module")
def keeper(tmp_path_factory: pytest.TempPathFactory) -> Keeper:
    return Keeper(tmp_path_factory.mktemp("keeper"))


@pytest.fixture(scope="module")
def pop() -> Iterator[Pop]:
    with Pop.started() as pop:
        yield pop


def left_over(pop: Pop) -> bool:
    return (pop.data_dir / "staging").exists()


def test_an_archive_is_its_owners_alone_and_holds_what_it_says(pop: Pop, keeper: Keeper, tmp_path: Path) -> None:
    key = call(pop, "/v1/keys", {"name": "first"})
    sign(pop, key["id"])
    done = made(backup(pop, tmp_path / "pop.age", keeper, "--json"))
    assert done["archive"] == str(tmp_path / "pop.age")
    assert stat.S_IMODE((tmp_path / "pop.age").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["pop.age"]
    assert not left_over(pop)
    manifest, files = opened(tmp_path / "pop.age", keeper, tmp_path / "opened")
    assert files.keys() == {
        "vault.snapshot",
        "database.dump",
        "openbao/unseal.key",
        "openbao/server-secret-id",
        "openbao/node-secret-id",
        "secrets/sealing.key",
        "secrets/gateway.secret",
    }
    for name, place in files.items():
        assert isinstance(place, Path)
        if "/" in name:
            assert place.read_bytes() == (pop.data_dir / name).read_bytes()
    with psycopg.connect(stores(pop).cluster.superuser_url()) as database:
        row = database.execute("SELECT size FROM ledger_heads").fetchone()
        assert row is not None
        assert [head.size for head in manifest.ledger.values()] == [row[0]]
        row = database.execute("SELECT count(*) FROM keys WHERE state = 1").fetchone()
        assert row is not None
        assert manifest.keys == {"ENABLED": row[0]}


def test_nothing_of_it_is_readable_without_an_identity(pop: Pop, keeper: Keeper, tmp_path: Path) -> None:
    assert backup(pop, tmp_path / "pop.age", keeper).returncode == 0
    content = (tmp_path / "pop.age").read_bytes()
    for name in ("openbao/unseal.key", "openbao/server-secret-id", "secrets/sealing.key"):
        assert (pop.data_dir / name).read_bytes() not in content
    assert b"manifest" not in content
    assert pop.organization.encode() not in content


def test_standard_output_carries_the_archive_and_nothing_else(pop: Pop, keeper: Keeper, tmp_path: Path) -> None:
    with (tmp_path / "pop.age").open("wb") as file:
        words = ["backup", "--data-dir", pop.data_dir, "--to", "-", "--recipient", keeper.recipient]
        done = subprocess.run(command(*words), stdout=file, stderr=subprocess.PIPE, check=True, timeout=60)
    assert b"sha256" in done.stderr
    opened(tmp_path / "pop.age", keeper, tmp_path / "opened")


def test_a_file_is_never_replaced(pop: Pop, keeper: Keeper, tmp_path: Path) -> None:
    there = tmp_path / "pop.age"
    there.write_text("yesterday's")
    says(backup(pop, there, keeper), Exit.FAILED, str(there), "never replaces")
    assert there.read_text() == "yesterday's"
    there.unlink()
    there.symlink_to(tmp_path / "elsewhere")
    says(backup(pop, there, keeper), Exit.FAILED, str(there), "never replaces")
    assert not (tmp_path / "elsewhere").exists()


def test_a_full_disk_leaves_nothing_half(pop: Pop, keeper: Keeper, tmp_path: Path) -> None:
    script = 'mount -t tmpfs -o size=64k none "$0" && "$@"; code=$?; ls -A "$0"; exit $code'
    before = ("unshare", "-rm", "sh", "-c", script, str(tmp_path))
    says(backup(pop, tmp_path / "pop.age", keeper, before=before), Exit.DISK_FULL, str(tmp_path), "is full")
    assert not left_over(pop)


def test_who_it_is_for_must_be_said_and_right(pop: Pop, keeper: Keeper, tmp_path: Path) -> None:
    words = ["backup", "--data-dir", pop.data_dir, "--to", tmp_path / "pop.age"]
    assert "--recipient" in run(*words).stderr
    mistyped = keeper.recipient[:-1] + ("q" if keeper.recipient[-1] != "q" else "p")
    for wrong in (mistyped, "ssh-ed25519 AAAA", "nonsense"):
        done = run(*words, "--recipient", wrong)
        assert (done.returncode, "age's X25519 kind" in done.stderr) == (2, True)
    secret = run(*words, "--recipient-file", keeper.file)
    assert secret.returncode == 2
    assert str(keeper.identity) not in secret.stderr
    assert list(tmp_path.iterdir()) == []


def test_several_keepers_can_open_it(pop: Pop, keeper: Keeper, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    second = Keeper(tmp_path / "second")
    recipients = tmp_path / "recipients.txt"
    recipients.write_text(f"# the second\n\n{second.recipient}\n")
    assert backup(pop, tmp_path / "pop.age", keeper, "--recipient-file", str(recipients)).returncode == 0
    for each in (keeper, second):
        opened(tmp_path / "pop.age", each, tmp_path / "opened")


def test_what_is_no_data_directory_is_named(keeper: Keeper, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        done = run("backup", "--data-dir", folder, "--to", tmp_path / "pop.age", "--recipient", keeper.recipient)
        says(done, Exit.OTHER_VERSION, str(folder), "no data directory")
    assert list(tmp_path.iterdir()) == []


def test_a_database_elsewhere_is_not_ours_to_back_up(keeper: Keeper, tmp_path: Path) -> None:
    (tmp_path / "VERSION").write_text("2\n")
    done = run("backup", "--data-dir", tmp_path, "--to", tmp_path / "pop.age", "--recipient", keeper.recipient)
    says(done, Exit.FAILED, "--database-url", "their own tools")


def test_a_missing_unseal_key_is_noticed_before_it_is_needed(pop: Pop, keeper: Keeper, tmp_path: Path) -> None:
    key = pop.data_dir / "openbao" / "unseal.key"
    aside = key.rename(key.with_name("aside"))
    try:
        says(backup(pop, tmp_path / "pop.age", keeper), Exit.UNSEAL_KEY, str(key), "missing")
    finally:
        aside.rename(key)
    assert list(tmp_path.iterdir()) == []


def interrupted(pop: Pop, to: Path, keeper: Keeper, number: signal.Signals) -> int:
    """End a backup in its middle: when its work is on the disk."""
    words = ["backup", "--data-dir", pop.data_dir, "--to", to, "--recipient", keeper.recipient]
    process = subprocess.Popen(command(*words), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not list((pop.data_dir / "staging").glob("*/vault.snapshot")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(number)
    return process.wait(timeout=30)


def test_a_backup_that_is_stopped_leaves_nothing(pop: Pop, keeper: Keeper, tmp_path: Path) -> None:
    assert interrupted(pop, tmp_path / "pop.age", keeper, signal.SIGTERM) == Exit.FAILED
    assert list(tmp_path.iterdir()) == []
    assert not left_over(pop)


def test_what_a_killed_backup_leaves_goes_with_the_next(pop: Pop, keeper: Keeper, tmp_path: Path) -> None:
    assert interrupted(pop, tmp_path / "pop.age", keeper, signal.SIGKILL) == -signal.SIGKILL
    assert left_over(pop)
    assert not (tmp_path / "pop.age").exists()
    folder = next((pop.data_dir / "staging").iterdir())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert backup(pop, tmp_path / "pop.age", keeper).returncode == 0
    assert not left_over(pop)


def test_what_a_killed_backup_leaves_goes_with_the_next_start(pop: Pop, keeper: Keeper, tmp_path: Path) -> None:
    interrupted(pop, tmp_path / "pop.age", keeper, signal.SIGKILL)
    assert left_over(pop)
    assert pop.stop() == 0
    pop.start()
    assert not left_over(pop)


def test_a_stopped_pop_is_backed_up_too_and_stays_stopped(pop: Pop, keeper: Keeper, tmp_path: Path) -> None:
    call(pop, "/v1/keys", {"name": "kept-by-a-stopped-pop"})
    running = made(backup(pop, tmp_path / "running.age", keeper, "--json"))
    assert pop.stop() == 0
    try:
        done = made(backup(pop, tmp_path / "pop.age", keeper, "--json"))
        assert (done["keys"], done["versions"]) == (running["keys"], running["versions"])
        assert not (pop.data_dir / "processes.json").exists()
        folders = {os.readlink(f"/proc/{pid}/cwd") for pid in _pids()}
        assert str(pop.data_dir / "postgres") not in folders
    finally:
        pop.start()


def _pids() -> Iterator[int]:
    for name in os.listdir("/proc"):
        if name.isdecimal() and os.path.lexists(f"/proc/{name}/exe"):
            try:
                os.readlink(f"/proc/{name}/cwd")
            except OSError:
                continue
            yield int(name)


def test_a_pop_that_cannot_be_asked_is_named(pop: Pop, keeper: Keeper, tmp_path: Path) -> None:
    """The lock is held and nothing is recorded: a start or a stop is under way."""
    deadline = time.monotonic() + 10
    # The last process that a start records; after that the record stays as it is.
    while "plugin" not in pop.processes:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    record = pop.data_dir / "processes.json"
    aside = record.rename(record.with_name("aside"))
    try:
        says(backup(pop, tmp_path / "pop.age", keeper), Exit.FAILED, "starting or stopping")
    finally:
        aside.rename(record)


def test_policies_of_an_older_release_are_replaced_at_the_next_start(pop: Pop) -> None:
    from popsigner_node.policies import NODE_ROLE, POLICIES, SERVER_ROLE

    path = f"sys/policies/acl/{SERVER_ROLE}"
    with stores(pop).vault.session(NODE_ROLE) as session:
        session.call("POST", path, {"policy": 'path "auth/token/revoke-self" { capabilities = ["update"] }'})
    pop.stop()
    shutil.rmtree(pop.data_dir / "logs")
    pop.start()
    with stores(pop).vault.session(NODE_ROLE) as session:
        assert session.call("GET", path)[1]["data"]["policy"] == POLICIES[SERVER_ROLE]
