"""A POP that is lost and comes back from its backup: what it knew, what it signs, and every way for that to fail."""

import asyncio
import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from popsigner_node.errors import Exit
from popsigner_node.manifest import Manifest
from popsigner_server.domain.ids import Prefix, parse
from popsigner_server.domain.principals import Role
from popsigner_server.gen.popsigner.v1 import key_pb2
from tests.integration.node.backups import Keeper, backup, command, made, opened, restore, run, says, sealed, stores
from tests.integration.node.test_life import call, sign
from tests.integration.promises.site import open_database
from tests.support.load import Client, Load, Wire
from tests.support.people import Session, begin_session, new_person
from tests.support.pop import Pop


@pytest.fixture(scope="module")
def keeper(tmp_path_factory: pytest.TempPathFactory) -> Keeper:
    return Keeper(tmp_path_factory.mktemp("keeper"))


@dataclass(frozen=True, kw_only=True)
class Lost:
    """A POP after its disaster and its restore. before: each key as it was shown. signatures: of a fixed message."""

    pop: Pop
    archive: Path
    manifest: Manifest
    load: Load
    before: dict[str, Any]
    signatures: dict[str, str]
    live: Session
    ended: Session


async def _changes(owner: Wire) -> None:
    """Keys that come, turn and go, for as long as it is let."""
    for number in range(10_000):
        request = key_pb2.CreateKeyRequest(name=f"change-{number}")
        key = (await owner.keys.CreateKey(request, metadata=owner.metadata, timeout=30)).key
        await owner.keys.RotateKey(key_pb2.RotateKeyRequest(key_id=key.id), metadata=owner.metadata, timeout=30)
        if number % 3:
            gone = key_pb2.DeleteKeyRequest(key_id=key.id, force=number % 3 == 1)
            await owner.keys.DeleteKey(gone, metadata=owner.metadata, timeout=30)


async def _while_changing(owner: Wire, work: Callable[[], Awaitable[None]]) -> None:
    changing = asyncio.create_task(_changes(owner))
    try:
        await work()
        assert not changing.done(), changing.exception()
    finally:
        changing.cancel()
        await asyncio.gather(changing, return_exceptions=True)


@pytest.fixture(scope="module")
async def lost(keeper: Keeper, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lost]:
    home = tmp_path_factory.mktemp("lost")
    with Pop.started() as pop:
        keys = [call(pop, "/v1/keys", {"name": f"key-{number}"})["id"] for number in range(5)]
        call(pop, f"/v1/keys/{keys[1]}/rotate", {})
        call(pop, f"/v1/keys/{keys[2]}/disable", {})
        engine = open_database(pop)
        organization = parse(Prefix.ORGANIZATION, pop.organization)
        sessions = [
            await begin_session(pop, await new_person(engine, memberships={organization: Role.ADMIN})) for _ in range(2)
        ]
        await engine.dispose()
        with psycopg.connect(stores(pop).cluster.superuser_url()) as database:
            database.execute("UPDATE sessions SET ended_at = now() WHERE id = %s", [sessions[1].uuid])

        async def several_backups() -> None:
            for number in range(4):
                done = await asyncio.to_thread(backup, pop, home / f"{number}.age", keeper)
                assert done.returncode == 0, done.stderr

        load = Load(seconds=90)
        async with Wire(pop.grpc_socket, pop.api_key) as wire, Wire(pop.grpc_socket, pop.api_key) as owner:
            load.start(*(Client(wire.sign_one, keys=keys[:2], messages=10**6) for _ in range(8)))
            await _while_changing(owner, several_backups)
            await load.stop()
        before = {key: _shown(pop, key) for key in keys}
        signatures = {key: sign(pop, key) for key in keys if key != keys[2]}
        pop.stop()
        shutil.rmtree(pop.data_dir)
        made(restore(home / "3.age", pop.data_dir, keeper, "--json"))
        manifest, _ = opened(home / "3.age", keeper, home / "opened")
        pop.start()
        pop.wait_until_serving()
        yield Lost(
            pop=pop,
            archive=home / "3.age",
            manifest=manifest,
            load=load,
            before=before,
            signatures=signatures,
            live=sessions[0],
            ended=sessions[1],
        )


def _shown(pop: Pop, key: str) -> Any:
    return _get(pop, f"/v1/keys/{key}", {"x-api-key": pop.api_key})


def _get(pop: Pop, path: str, headers: dict[str, str]) -> Any:
    request = urllib.request.Request(pop.http + path, headers=headers)  # noqa: S310 - the POP's own address
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - as above
        return json.load(answer)


def test_signing_went_on_while_backups_were_made(lost: Lost) -> None:
    assert lost.load.refused == []
    assert len(lost.load.answered) > 100


def test_the_same_keys_sign_with_the_same_addresses(lost: Lost) -> None:
    assert {key: _shown(lost.pop, key) for key in lost.before} == lost.before
    assert {key: sign(lost.pop, key) for key in lost.signatures} == lost.signatures


def test_every_key_of_the_backup_that_was_enabled_signs_with_all_its_versions(lost: Lost) -> None:
    with psycopg.connect(stores(lost.pop).cluster.superuser_url()) as database:
        rows = database.execute(
            "SELECT k.id, v.version FROM keys k JOIN key_versions v ON v.key_id = k.id WHERE k.state = 1"
        ).fetchall()
    assert len({key for key, _ in rows}) >= lost.manifest.keys["ENABLED"]
    items = [{"key_id": f"{_key_id(key)}", "data": "SGVsbG8=", "key_version": version} for key, version in rows]
    for start in range(0, len(items), 50):
        answer = call(lost.pop, "/v1/sign/batch", {"requests": items[start : start + 50]})
        assert all("signature" in each for each in answer["signatures"]), answer


def _key_id(key: Any) -> str:
    from popsigner_server.domain.ids import show

    return show(Prefix.KEY, key)


def test_the_ledger_goes_on_without_a_gap(lost: Lost) -> None:
    sign(lost.pop, next(iter(lost.signatures)))
    with psycopg.connect(stores(lost.pop).cluster.superuser_url()) as database:
        rows = database.execute(
            "SELECT h.org_id, h.size, count(a.seq), min(a.seq), max(a.seq)"
            " FROM ledger_heads h JOIN audit_logs a USING (org_id) GROUP BY 1, 2"
        ).fetchall()
    ((organization, size, count, first, last),) = rows
    assert (count, first, last) == (size, 1, size)
    assert size > lost.manifest.ledger[str(organization)].size


def test_what_was_answered_before_the_backup_is_in_its_ledger(lost: Lost) -> None:
    """All of it, up to the moment: the rows are those of the first signatures, none is missing in between."""
    with psycopg.connect(stores(lost.pop).cluster.superuser_url()) as database:
        (moment,) = lost.manifest.ledger.values()
        rows = database.execute(
            "SELECT digest FROM audit_logs WHERE event = 'key.signed' AND seq <= %s", [moment.size]
        ).fetchall()
    kept = {bytes(digest) for (digest,) in rows}
    for client in lost.load.clients:
        there = [hashlib.sha256(signed.item.data).digest() in kept for signed in client.answered]
        assert there == sorted(there, reverse=True)
    assert len(kept) > 100


def test_people_are_judged_as_before(lost: Lost) -> None:
    me = _get(lost.pop, "/v1/me", {"authorization": f"Bearer {lost.live.access_token}"})
    assert lost.live.user_id in json.dumps(me)
    with pytest.raises(urllib.error.HTTPError, match="401"):
        _get(lost.pop, "/v1/me", {"authorization": f"Bearer {lost.ended.access_token}"})


def test_a_restored_pop_can_be_backed_up_and_its_audit_trail_is_its_own(
    lost: Lost, keeper: Keeper, tmp_path: Path
) -> None:
    made(backup(lost.pop, tmp_path / "again.age", keeper, "--json"))
    assert (lost.pop.data_dir / "openbao" / "audit.log").stat().st_size > 0


@pytest.fixture
def archive(lost: Lost) -> Path:
    return lost.archive


def test_a_wrong_identity_changes_nothing(archive: Path, tmp_path: Path) -> None:
    done = restore(archive, tmp_path / "data", Keeper(tmp_path))
    says(done, Exit.ARCHIVE_UNREADABLE, str(archive), "other recipients", "nothing was changed")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_archive_changes_nothing(archive: Path, keeper: Keeper, tmp_path: Path, damage: str) -> None:
    content = bytearray(archive.read_bytes())
    if damage == "truncated":
        del content[-100:]
    else:
        content[len(content) // 2] ^= 1
    bad = tmp_path / "bad.age"
    bad.write_bytes(content)
    (tmp_path / "data").mkdir()
    says(restore(bad, tmp_path / "data", keeper), Exit.ARCHIVE_UNREADABLE, str(bad), "damaged or cut short")
    assert list((tmp_path / "data").iterdir()) == []


def test_an_archive_of_a_newer_release_changes_nothing(archive: Path, keeper: Keeper, tmp_path: Path) -> None:
    manifest, files = opened(archive, keeper, tmp_path / "opened")
    newer = sealed(
        manifest,
        files,
        keeper=keeper,
        to=tmp_path / "newer.age",
        change=lambda made: replace(made, format=2, popsigner="9.9.9"),
    )
    says(restore(newer, tmp_path / "data", keeper), Exit.OTHER_VERSION, "POPSigner 9.9.9")
    assert not (tmp_path / "data").exists()


def test_a_directory_that_is_not_empty_is_left_as_it_is(
    lost: Lost, archive: Path, keeper: Keeper, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.tex").write_text("precious")
    says(restore(archive, tmp_path / "data", keeper), Exit.OTHER_VERSION, "thesis.tex", "empty --data-dir")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["thesis.tex"]
    says(restore(archive, lost.pop.data_dir, keeper), Exit.OTHER_VERSION, "not empty")
    assert lost.pop.serving()


def test_a_missing_archive_is_named(keeper: Keeper, tmp_path: Path) -> None:
    says(restore(tmp_path / "nowhere.age", tmp_path / "data", keeper), Exit.FAILED, "nowhere.age", "No such file")


def test_a_file_that_is_no_identity_is_a_wrong_option(archive: Path, keeper: Keeper, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for text in ("AGE-SECRET-KEY-1NOTATALL", "", "\x00\xff"):
        other.write_text(text)
        done = run("restore", archive, "--data-dir", tmp_path / "data", "--identity", other)
        assert done.returncode == 2, text
        assert "NOTATALL" not in done.stderr


STEPS = {
    "unpacking": "staging/*/database.dump",
    "vault": "openbao/raft/vault.db",
    "database": "postgres/PG_VERSION",
    "comparing": "openbao/registered-engine",
}


def _killed_at(step: str, archive: Path, data_dir: Path, keeper: Keeper) -> None:
    words = ["restore", archive, "--data-dir", data_dir, "--identity", keeper.file]
    process = subprocess.Popen(command(*words), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(data_dir.glob(STEPS[step])):
        assert process.poll() is None, step
        assert time.monotonic() < deadline, step
        time.sleep(0.005)
    process.kill()
    process.wait()


def test_a_restore_that_is_killed_at_any_step_is_run_again(archive: Path, keeper: Keeper, short: Path) -> None:
    data_dir = short / "data"
    for step in STEPS:
        _killed_at(step, archive, data_dir, keeper)
        done = subprocess.run(
            command("up", "--port", "0", "--data-dir", data_dir),
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert done.returncode == Exit.RESTORE_UNFINISHED, (step, done.stderr)
        assert "run the same `popsigner restore` again" in done.stderr
    made(restore(archive, data_dir, keeper, "--json"))
    assert not (data_dir / "restoring").exists()
    assert not (data_dir / "staging").exists()
    assert (data_dir / "VERSION").read_text() == "2\n"


def test_two_restores_into_one_directory_do_not_meet(archive: Path, keeper: Keeper, short: Path) -> None:
    data_dir = short / "data"
    words = ["restore", archive, "--data-dir", data_dir, "--identity", keeper.file]
    first = subprocess.Popen(command(*words), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not list(data_dir.glob(STEPS["vault"])):
        assert first.poll() is None
        time.sleep(0.01)
    says(restore(archive, data_dir, keeper), Exit.IN_USE, str(data_dir), f"process {first.pid}")
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=60) == Exit.FAILED


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short path: sockets lie in it."""
    folder = Path(f"/tmp/r-{os.getpid()}")
    folder.mkdir(mode=0o700)
    yield folder
    shutil.rmtree(folder)


def test_what_does_not_fit_its_manifest_does_not_serve(
    archive: Path, keeper: Keeper, tmp_path: Path, short: Path
) -> None:
    manifest, files = opened(archive, keeper, tmp_path / "opened")
    other = sealed(
        manifest,
        files,
        keeper=keeper,
        to=tmp_path / "other.age",
        change=lambda made: replace(made, catalogue="00"),
    )
    says(restore(other, short / "data", keeper), Exit.FAILED, "keys in the database are not those")
    assert not (short / "data" / "VERSION").exists()


def test_a_snapshot_of_another_vault_is_refused(archive: Path, keeper: Keeper, tmp_path: Path, short: Path) -> None:
    manifest, files = opened(archive, keeper, tmp_path / "opened")
    files["openbao/unseal.key"] = os.urandom(32)
    other = sealed(manifest, files, keeper=keeper, to=tmp_path / "other.age")
    says(restore(other, short / "data", keeper), Exit.UNSEAL_KEY, "not sealed with the unseal key")
