"""The life of a key: the SDK, the command and a real POP."""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from popsigner import (
    AsyncClient,
    Client,
    InvalidField,
    Key,
    KeyDeleted,
    KeyDisabled,
    KeyNotFound,
    KeyState,
    KeyVersionChanged,
    KeyVersionUnavailable,
    Retry,
    ScopeMissing,
)
from tests.support.pop import Pop


@pytest.fixture
def key(client: Client) -> Iterator[Key]:
    """A key in a namespace that the test has to itself."""
    namespace = client.namespaces.create(name=f"life-{uuid4().hex[:12]}")
    key = client.keys.create(name="signer", namespace=namespace.name)
    yield key
    client.keys.delete(key, force=True)
    client.namespaces.delete(namespace)


def versions(client: Client, key: Key) -> list[tuple[int, bool]]:
    return [(each.version, each.signs) for each in client.keys.versions(key)]


def test_a_disabled_key_signs_again_when_it_is_enabled(client: Client, key: Key) -> None:
    assert client.keys.disable(key).state is KeyState.DISABLED
    with pytest.raises(KeyDisabled):
        client.sign(key, b"message")
    assert versions(client, key) == [(1, False)]
    # The second time changes nothing.
    assert client.keys.disable(key).state is KeyState.DISABLED

    assert client.keys.enable(f"{key.namespace}/{key.name}") == key
    client.sign(key, b"message")
    assert client.keys.enable(key) == key


@pytest.mark.parametrize("disabled", [False, True])
def test_a_deletion_is_taken_back_to_where_the_key_was(client: Client, key: Key, disabled: bool) -> None:
    before = client.keys.disable(key) if disabled else key
    deleted = client.keys.delete(key)

    assert deleted.state is KeyState.DELETED
    assert deleted.deleted_at is not None
    assert deleted.destroy_at == deleted.deleted_at + timedelta(days=7)
    for change in (client.keys.enable, client.keys.disable, client.keys.rotate):
        with pytest.raises(KeyDeleted):
            change(key)
    assert client.keys.undelete(key) == before
    assert client.keys.undelete(key) == before


def test_a_destroyed_key_does_not_come_back(client: Client, key: Key) -> None:
    other = client.keys.create(name="other", namespace=key.namespace)
    client.keys.delete(other, force=True)

    with pytest.raises((KeyDeleted, KeyNotFound)):
        client.keys.undelete(other)


def test_a_new_version_signs_and_the_old_one_where_it_is_named(client: Client, key: Key) -> None:
    rotated = client.keys.rotate(key, expected_version=1)

    assert (rotated.key.id, rotated.key.version, rotated.key.min_version) == (key.id, 2, 1)
    assert (rotated.previous.version, rotated.previous.signs) == (1, True)
    assert rotated.previous.address == key.address
    assert rotated.previous.eth_address == key.eth_address
    assert rotated.previous.public_key == key.public_key
    assert len({key.address, rotated.key.address}) == len({key.public_key, rotated.key.public_key}) == 2
    assert client.keys.get(key) == rotated.key

    new, old = client.sign(key, b"message"), client.sign(key, b"message", key_version=1)
    assert (new.key_version, new.public_key) == (2, rotated.key.public_key)
    assert (old.key_version, old.public_key) == (1, key.public_key)
    assert client.verify(bytes.fromhex(key.public_key), b"message", old)
    newest, oldest = client.keys.versions(key)
    assert (newest.version, newest.address, newest.signs) == (2, rotated.key.address, True)
    assert oldest == rotated.previous


def test_a_repeated_rotation_answers_the_same_and_a_late_one_is_refused(client: Client, key: Key) -> None:
    first = client.keys.rotate(key, expected_version=1)

    assert client.keys.rotate(key, expected_version=1) == first
    assert versions(client, key) == [(2, True), (1, True)]
    client.keys.rotate(key)
    with pytest.raises(KeyVersionChanged):
        client.keys.rotate(key, expected_version=1)
    with pytest.raises(KeyVersionChanged):
        client.keys.rotate(key, expected_version=9)
    assert [number for number, _signs in versions(client, key)] == [3, 2, 1]


def test_a_disabled_key_is_not_rotated(client: Client, key: Key) -> None:
    client.keys.disable(key)

    with pytest.raises(KeyDisabled):
        client.keys.rotate(key)


def test_versions_below_the_oldest_that_may_sign_stop_and_come_back(client: Client, key: Key) -> None:
    client.keys.rotate(key, expected_version=1)

    assert client.keys.update(key, min_version=2).min_version == 2
    with pytest.raises(KeyVersionUnavailable):
        client.sign(key, b"message", key_version=1)
    assert versions(client, key) == [(2, True), (1, False)]
    assert client.keys.update(key, metadata={"chain": "celestia"}).min_version == 2
    with pytest.raises(InvalidField):
        client.keys.update(key, min_version=3)

    assert client.keys.update(key, min_version=1).min_version == 1
    assert client.sign(key, b"message", key_version=1).key_version == 1


def test_an_api_key_that_may_not_write_changes_no_life(client: Client, pop: Pop, key: Key) -> None:
    created = client.api_keys.create(name="reader", scopes=["api:keys:read", "api:keys:sign"])

    with Client(api_key=created.key, endpoint=pop.http) as reader:
        for change in (reader.keys.enable, reader.keys.disable, reader.keys.undelete, reader.keys.rotate):
            with pytest.raises(ScopeMissing):
                change(key)
        assert versions(reader, key) == [(1, True)]
    client.api_keys.revoke(created.api_key)


def test_the_audit_trail_tells_the_life_of_a_key(client: Client, key: Key) -> None:
    client.keys.disable(key)
    client.keys.enable(key)
    client.keys.rotate(key, expected_version=1)
    client.keys.rotate(key, expected_version=1)
    client.keys.delete(key)
    client.keys.undelete(key)

    events = [row.event for row in client.audit.list(key=key)]

    assert events == [
        "key.restored",
        "key.deleted",
        "key.rotated",
        "key.enabled",
        "key.disabled",
        "key.created",
    ]


async def test_the_asynchronous_client_does_the_same(async_client: AsyncClient, key: Key) -> None:
    assert (await async_client.keys.disable(key)).state is KeyState.DISABLED
    assert await async_client.keys.enable(key) == key
    rotated = await async_client.keys.rotate(key, expected_version=1)
    assert [each.version for each in await async_client.keys.versions(key)] == [2, 1]
    assert (await async_client.keys.update(key, min_version=2)).min_version == 2
    await async_client.keys.delete(key)
    assert (await async_client.keys.undelete(key)).address == rotated.key.address


@pytest.mark.parametrize("part", ["server", "openbao"])
def test_a_rotation_over_the_death_of_a_part_makes_one_version(pop: Pop, client: Client, key: Key, part: str) -> None:
    patient = Retry(attempts=200, initial=0.1, ceiling=0.5)
    with (
        Client(api_key=pop.api_key, endpoint=pop.http, timeout=60, retry=patient) as patient_client,
        ThreadPoolExecutor() as pool,
    ):
        rotating = [pool.submit(patient_client.keys.rotate, key, expected_version=1) for _ in range(4)]
        pop.kill(part)
        answers = [each.result() for each in rotating]

        # Four at once, each perhaps repeated: one version, and all were told of it.
        assert [each.version for each in patient_client.keys.versions(key)] == [2, 1]
    assert {(each.key.version, each.key.address) for each in answers} == {(2, answers[0].key.address)}
    pop.wait_until_serving()


class Command:
    """The installed program, and whose API key it uses."""

    def __init__(self, pop: Pop, key_file: Path) -> None:
        key_file.write_text(pop.api_key + "\n")
        self.connection = ["--endpoint", pop.http, "--api-key-file", str(key_file)]

    def __call__(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(Path(sys.executable).with_name("popsigner")), *arguments, *self.connection],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def json(self, *arguments: str) -> Any:
        done = self(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def popsigner(pop: Pop, tmp_path: Path) -> Command:
    return Command(pop, tmp_path / "owner.key")


def test_commands_rotate_once_and_list_the_versions(popsigner: Command, key: Key) -> None:
    rotate = ["keys", "rotate", key.id, "--expected-version", "1"]

    assert popsigner(*rotate).returncode == 2
    first = popsigner.json(*rotate, "--yes")
    # Nothing is made, so nothing is asked.
    assert popsigner.json(*rotate) == first
    assert first["previous"]["address"] == key.address
    listed = popsigner.json("keys", "versions", key.id)["versions"]
    assert [(each["version"], each["address"]) for each in listed] == [
        (2, first["key"]["address"]),
        (1, key.address),
    ]
    popsigner.json("keys", "rotate", key.id, "--yes")
    assert popsigner(*rotate, "--yes").returncode == 5
    assert popsigner.json("keys", "update", key.id, "--min-version", "3")["min_version"] == 3


def test_commands_disable_enable_delete_and_restore(popsigner: Command, key: Key) -> None:
    assert popsigner.json("keys", "disable", key.id)["state"] == "DISABLED"
    assert "popsigner keys enable" in popsigner("sign", key.id, "hello").stderr
    assert popsigner.json("keys", "enable", key.id)["state"] == "ENABLED"
    deleted = popsigner("keys", "delete", key.id, "--yes")
    assert f"popsigner keys restore {key.id}" in deleted.stderr
    assert popsigner.json("keys", "restore", key.id)["state"] == "ENABLED"
    assert popsigner("sign", key.id, "hello").returncode == 0
