"""What commands do with a key after its creation."""

import json
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from popsigner_server.gen.popsigner.v1 import key_pb2

from .command import Popsigner, on_a_terminal
from .scripted_pop import API_KEY, Context, ScriptedPop, refuse

ID = "key_01J00000000000000000000001"
NAMED = "production/sequencer"


def key(version: int, **fields: Any) -> key_pb2.Key:
    fields |= {"address": f"celestia1v{version}", "eth_address": f"0xV{version}"}
    return key_pb2.Key(id=ID, name="sequencer", namespace="production", version=version, min_version=1, **fields)


def version(number: int, *, signs: bool = True) -> key_pb2.KeyVersion:
    return key_pb2.KeyVersion(
        version=number,
        address=f"celestia1v{number}",
        eth_address=f"0xV{number}",
        public_key="02" + "ab" * 32,
        signs=signs,
    )


@pytest.fixture
def popsigner(pop: ScriptedPop, tmp_path: Path) -> Popsigner:
    key_file = tmp_path / "api.key"
    key_file.write_text(API_KEY + "\n")
    pop.answer("KeyService/GetKey", key_pb2.GetKeyResponse(key=key(1)))
    pop.answer("KeyService/RotateKey", key_pb2.RotateKeyResponse(key=key(2), previous=version(1)))
    pop.answer("KeyService/UpdateKey", key_pb2.UpdateKeyResponse(key=key(2)))
    return Popsigner(pop, key_file)


@pytest.mark.parametrize(("command", "rpc"), [("enable", "Enable"), ("disable", "Disable"), ("restore", "Undelete")])
def test_a_key_is_enabled_disabled_and_restored(popsigner: Popsigner, command: str, rpc: str) -> None:
    changed = key(1, state=key_pb2.Key.DISABLED)
    popsigner.pop.answer(f"KeyService/{rpc}Key", getattr(key_pb2, f"{rpc}KeyResponse")(key=changed))

    shown = popsigner("keys", command, NAMED)
    document = popsigner.json("keys", command, NAMED)

    assert (shown.exit_code, shown.stderr) == (0, "")
    assert "state: DISABLED\n" in shown.stdout
    assert (document["id"], document["state"], document["min_version"]) == (ID, "DISABLED", 1)
    assert [seen.request.key_id for seen in popsigner.pop.called(f"KeyService/{rpc}Key")] == [NAMED, NAMED]


def test_a_disabled_key_that_should_sign_says_how_it_is_enabled(popsigner: Popsigner) -> None:
    async def behaviour(_request: Any, context: Context) -> Message:
        return await refuse(context, grpc.StatusCode.FAILED_PRECONDITION, "KEY_DISABLED", "The key is disabled.")

    popsigner.pop.on("SignService/Sign", behaviour)

    result = popsigner("sign", NAMED, "hello")

    assert result.exit_code == 5
    assert "popsigner keys enable" in result.stderr


def test_a_key_is_updated(popsigner: Popsigner) -> None:
    changes = ["--name", "other", "--metadata", "chain=celestia", "--metadata", "old=", "--min-version", "2"]

    assert popsigner.json("keys", "update", NAMED, *changes)["min_version"] == 1

    assert popsigner.sent("KeyService/UpdateKey") == key_pb2.UpdateKeyRequest(
        key_id=NAMED, name="other", metadata={"chain": "celestia", "old": ""}, min_version=2
    )


def test_what_is_not_named_is_not_updated(popsigner: Popsigner) -> None:
    assert popsigner("keys", "update", NAMED, "--min-version", "2").exit_code == 0

    assert popsigner.sent("KeyService/UpdateKey") == key_pb2.UpdateKeyRequest(key_id=NAMED, min_version=2)


@pytest.mark.parametrize("wrong", [[], ["--min-version", "0"], ["--metadata", "chain"]])
def test_an_update_of_nothing_is_a_mistake_in_usage(popsigner: Popsigner, wrong: list[str]) -> None:
    assert popsigner("keys", "update", NAMED, *wrong).exit_code == 2
    assert not popsigner.pop.seen


def test_versions_are_listed_newest_first(popsigner: Popsigner) -> None:
    answer = key_pb2.ListKeyVersionsResponse(versions=[version(2), version(1, signs=False)])
    popsigner.pop.answer("KeyService/ListKeyVersions", answer)

    assert popsigner("keys", "versions", NAMED).stdout.splitlines() == [
        "version\tsigns\taddress\teth_address\tcreated_at",
        "2\tyes\tcelestia1v2\t0xV2\t-",
        "1\tno\tcelestia1v1\t0xV1\t-",
    ]
    found = popsigner.json("keys", "versions", NAMED)["versions"]
    assert [(each["version"], each["signs"], each["address"]) for each in found] == [
        (2, True, "celestia1v2"),
        (1, False, "celestia1v1"),
    ]


def test_a_rotation_shows_both_addresses_and_what_the_new_one_lacks(popsigner: Popsigner) -> None:
    result = popsigner("keys", "rotate", NAMED, "--yes")

    assert result.exit_code == 0, result.output
    assert "address: celestia1v2\n" in result.stdout
    assert "previous_version: 1\nprevious_address: celestia1v1\nprevious_eth_address: 0xV1\n" in result.stdout
    assert "celestia1v2 is a new address, without funds and without grants" in result.stderr
    # The key that was read is the key that is rotated, whatever its name means by then.
    assert popsigner.sent("KeyService/RotateKey") == key_pb2.RotateKeyRequest(key_id=ID, expected_version=1)


def test_a_rotation_is_json_with_the_key_and_the_version_before(popsigner: Popsigner) -> None:
    rotated = popsigner.json("keys", "rotate", NAMED, "--yes")

    assert set(rotated) == {"key", "previous"}
    assert (rotated["key"]["version"], rotated["key"]["address"]) == (2, "celestia1v2")
    assert (rotated["previous"]["version"], rotated["previous"]["address"]) == (1, "celestia1v1")


def test_a_version_that_signs_no_more_is_not_said_to_sign(popsigner: Popsigner) -> None:
    old = version(1, signs=False)
    popsigner.pop.answer("KeyService/RotateKey", key_pb2.RotateKeyResponse(key=key(2), previous=old))

    assert "still signs" not in popsigner("keys", "rotate", NAMED, "--yes").stderr


def test_rotating_without_a_terminal_needs_yes(popsigner: Popsigner) -> None:
    refused = popsigner("keys", "rotate", NAMED)

    assert refused.exit_code == 2
    assert "--yes" in refused.stderr
    assert popsigner.pop.called("KeyService/RotateKey") == []


@pytest.mark.parametrize(("typed", "code", "rotated"), [(b"y\n", 0, 1), (b"n\n", 1, 0), (b"\n", 1, 0)])
def test_rotating_asks_at_a_terminal(popsigner: Popsigner, typed: bytes, code: int, rotated: int) -> None:
    ended, shown = on_a_terminal(popsigner, typed, "keys", "rotate", NAMED)

    asked = " ".join(shown.split())
    assert "Version 2 is a new address, without funds and without grants, and signs instead of celestia1v1." in asked
    assert ended == code
    assert len(popsigner.pop.called("KeyService/RotateKey")) == rotated


def test_a_command_tries_again_with_the_version_that_it_read(popsigner: Popsigner) -> None:
    lost = iter(range(1))

    async def behaviour(_request: Any, context: Context) -> Message:
        # As if the version was made and the answer lost: by now the key has two.
        popsigner.pop.answer("KeyService/GetKey", key_pb2.GetKeyResponse(key=key(2)))
        if next(lost, None) is not None:
            return await refuse(context, grpc.StatusCode.UNAVAILABLE, "DRAINING")
        return key_pb2.RotateKeyResponse(key=key(2), previous=version(1))

    popsigner.pop.on("KeyService/RotateKey", behaviour)

    assert popsigner.json("keys", "rotate", NAMED, "--yes")["key"]["version"] == 2
    assert [seen.request.expected_version for seen in popsigner.pop.called("KeyService/RotateKey")] == [1, 1]


@pytest.mark.parametrize(
    ("code", "reason", "ends_with"),
    [
        (grpc.StatusCode.UNAVAILABLE, "VAULT_UNAVAILABLE", 7),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_PASSED", 7),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED", 6),
        (grpc.StatusCode.INTERNAL, "INTERNAL_FAULT", 1),
        (grpc.StatusCode.CANCELLED, "CALL_CANCELLED", 1),
    ],
)
def test_a_command_without_an_answer_says_how_it_is_repeated(
    popsigner: Popsigner, code: grpc.StatusCode, reason: str, ends_with: int
) -> None:
    async def behaviour(_request: Any, context: Context) -> Message:
        return await refuse(context, code, reason, "No answer.")

    popsigner.pop.on("KeyService/RotateKey", behaviour)
    rotate = ["keys", "rotate", NAMED, "--yes", "--timeout", "1"]

    shown = popsigner(*rotate)
    machine = popsigner(*rotate, "--json")

    assert (shown.exit_code, machine.exit_code) == (ends_with, ends_with)
    assert shown.stderr == f"popsigner: No answer; repeat it with --expected-version 1 [{reason}]\n"
    assert "--expected-version 1" in json.loads(machine.stderr)["error"]["message"]


def test_a_repeated_command_makes_no_second_version_and_does_not_ask(popsigner: Popsigner) -> None:
    popsigner.pop.answer("KeyService/GetKey", key_pb2.GetKeyResponse(key=key(2)))

    repeated = popsigner.json("keys", "rotate", NAMED, "--expected-version", "1")

    assert (repeated["key"]["version"], repeated["previous"]["version"]) == (2, 1)
    assert popsigner.sent("KeyService/RotateKey").expected_version == 1


@pytest.mark.parametrize("expected", ["1", "5"])
def test_an_expected_version_still_needs_yes_where_it_makes_one(popsigner: Popsigner, expected: str) -> None:
    assert popsigner("keys", "rotate", NAMED, "--expected-version", expected).exit_code == 2
    assert popsigner.pop.called("KeyService/RotateKey") == []


def test_a_key_that_has_moved_on_is_a_conflict(popsigner: Popsigner) -> None:
    async def behaviour(_request: Any, context: Context) -> Message:
        return await refuse(context, grpc.StatusCode.FAILED_PRECONDITION, "KEY_VERSION_CHANGED", "Another version.")

    popsigner.pop.on("KeyService/RotateKey", behaviour)

    result = popsigner("keys", "rotate", NAMED, "--expected-version", "1", "--yes")

    assert result.exit_code == 5
    assert result.stderr == "popsigner: Another version; `popsigner keys versions` shows them [KEY_VERSION_CHANGED]\n"


def test_a_deleted_key_says_until_when_it_can_be_restored(popsigner: Popsigner) -> None:
    deleted = key(1, state=key_pb2.Key.DELETED)
    deleted.destroy_at.FromJsonString("2026-01-17T12:00:00Z")
    popsigner.pop.answer("KeyService/DeleteKey", key_pb2.DeleteKeyResponse(key=deleted))

    shown = popsigner("keys", "delete", NAMED, "--yes")
    machine = popsigner("keys", "delete", NAMED, "--yes", "--json")

    assert shown.stderr == f"It can be restored until 2026-01-17T12:00:00Z, by `popsigner keys restore {ID}`.\n"
    assert (json.loads(machine.stdout)["destroy_at"], machine.stderr) == ("2026-01-17T12:00:00Z", "")


def test_a_destroyed_key_is_not_said_to_come_back(popsigner: Popsigner) -> None:
    destroyed = key(1, state=key_pb2.Key.DESTROYED)
    destroyed.destroy_at.FromJsonString("2026-01-10T12:00:00Z")
    popsigner.pop.answer("KeyService/DeleteKey", key_pb2.DeleteKeyResponse(key=destroyed))

    assert popsigner("keys", "delete", NAMED, "--force", "--yes").stderr == ""
