"""The command line: what it sends, what it prints, how it ends."""

import base64
import json
import stat
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from popsigner_server.gen.popsigner.v1 import (
    api_key_pb2,
    audit_pb2,
    billing_pb2,
    key_pb2,
    namespace_pb2,
    sign_pb2,
)

from .command import Popsigner, on_a_terminal
from .scripted_pop import API_KEY, Context, ScriptedPop, refuse

PUBLIC_KEY = "02" + "ab" * 32
KEY = key_pb2.Key(
    id="key_01J00000000000000000000001",
    name="sequencer",
    namespace="production",
    algorithm="secp256k1",
    public_key=PUBLIC_KEY,
    address="celestia1xyz",
    state=key_pb2.Key.ENABLED,
    version=1,
    min_version=1,
    metadata={"chain": "celestia"},
)
KEY.created_at.FromJsonString("2026-01-10T12:00:00Z")


@pytest.fixture
def popsigner(pop: ScriptedPop, tmp_path: Path) -> Popsigner:
    key_file = tmp_path / "api.key"
    key_file.write_text(API_KEY + "\n")
    pop.answer("SignService/Sign", sign_pb2.SignResponse(signature=b"\xab" * 64, public_key=PUBLIC_KEY, key_version=1))
    pop.answer("SignService/Verify", sign_pb2.VerifyResponse(valid=True))
    pop.answer("KeyService/GetKey", key_pb2.GetKeyResponse(key=KEY))
    pop.answer("KeyService/CreateKey", key_pb2.CreateKeyResponse(key=KEY))
    pop.answer("KeyService/BatchCreateKeys", key_pb2.BatchCreateKeysResponse(keys=[KEY, KEY]))
    pop.answer("KeyService/ListKeys", key_pb2.ListKeysResponse(keys=[KEY, KEY]))
    pop.answer("KeyService/DeleteKey", key_pb2.DeleteKeyResponse(key=KEY))
    return Popsigner(pop, key_file)


def test_a_key_is_shown_with_the_contracts_names(popsigner: Popsigner) -> None:
    shown = popsigner.json("keys", "show", "production/sequencer")

    assert shown == {
        "id": "key_01J00000000000000000000001",
        "name": "sequencer",
        "namespace": "production",
        "algorithm": "secp256k1",
        "public_key": PUBLIC_KEY,
        "address": "celestia1xyz",
        "eth_address": "",
        "version": 1,
        "state": "ENABLED",
        "exportable": False,
        "metadata": {"chain": "celestia"},
        "created_at": "2026-01-10T12:00:00Z",
        "deleted_at": None,
        "destroy_at": None,
        "min_version": 1,
        "imported": False,
    }


def test_a_key_is_shown_line_by_line(popsigner: Popsigner) -> None:
    result = popsigner("keys", "show", "production/sequencer")

    assert "address: celestia1xyz\n" in result.stdout
    assert "metadata: chain=celestia\n" in result.stdout
    assert "deleted_at" not in result.stdout


def test_a_key_is_created(popsigner: Popsigner) -> None:
    created = popsigner.json("keys", "create", "sequencer", "--exportable", "--metadata", "chain=celestia=a")

    assert created["name"] == "sequencer"
    assert popsigner.sent("KeyService/CreateKey") == key_pb2.CreateKeyRequest(
        name="sequencer", namespace="production", exportable=True, metadata={"chain": "celestia=a"}
    )


def test_several_keys_are_created_at_once(popsigner: Popsigner) -> None:
    created = popsigner.json("keys", "create", "blob-worker", "--count", "2", "--namespace", "staging")

    assert len(created["keys"]) == 2
    sent = popsigner.sent("KeyService/BatchCreateKeys")
    assert (sent.prefix, sent.count, sent.namespace) == ("blob-worker", 2, "staging")


@pytest.mark.parametrize("wrong", [["--metadata", "chain"], ["--metadata", "a=1", "--metadata", "a=2"]])
def test_a_note_without_name_and_value_is_a_mistake_in_usage(popsigner: Popsigner, wrong: list[str]) -> None:
    result = popsigner("keys", "create", "sequencer", *wrong)

    assert result.exit_code == 2
    assert "name=value" in result.stderr
    assert not popsigner.pop.seen


def test_a_list_outside_of_a_terminal_has_one_line_a_key(popsigner: Popsigner) -> None:
    result = popsigner("keys", "list", "--state", "deleted", "--label", "chain=celestia", "--limit", "1")

    header, line = result.stdout.splitlines()
    assert header.split("\t")[:3] == ["id", "namespace", "name"]
    assert line.split("\t")[:4] == ["key_01J00000000000000000000001", "production", "sequencer", "ENABLED"]
    sent = popsigner.sent("KeyService/ListKeys")
    assert (sent.state, list(sent.labels)) == (key_pb2.Key.DELETED, ["chain=celestia"])


def test_an_empty_list_is_json_as_well(popsigner: Popsigner) -> None:
    popsigner.pop.answer("KeyService/ListKeys", key_pb2.ListKeysResponse())

    assert popsigner.json("keys", "list") == {"keys": []}


def test_deleting_without_a_terminal_needs_yes(popsigner: Popsigner) -> None:
    refused = popsigner("keys", "delete", "production/sequencer")
    assert refused.exit_code == 2
    assert "--yes" in refused.stderr
    assert not popsigner.pop.seen

    deleted = popsigner("keys", "delete", "production/sequencer", "--force", "--yes")
    assert deleted.exit_code == 0
    assert popsigner.sent("KeyService/DeleteKey").force


@pytest.mark.parametrize(("typed", "code", "deleted"), [(b"y\n", 0, 1), (b"n\n", 1, 0), (b"\n", 1, 0)])
def test_deleting_asks_at_a_terminal(popsigner: Popsigner, typed: bytes, code: int, deleted: int) -> None:
    ended, shown = on_a_terminal(popsigner, typed, "keys", "delete", "production/sequencer")

    assert "Delete production/sequencer" in shown
    assert ended == code
    assert len(popsigner.pop.called("KeyService/DeleteKey")) == deleted


def test_a_terminal_shows_a_table_and_takes_names_literally(popsigner: Popsigner) -> None:
    odd = key_pb2.Key(id="key_1", name="[red]alert[/red]", namespace="production")
    popsigner.pop.answer("KeyService/ListKeys", key_pb2.ListKeysResponse(keys=[odd]))

    ended, shown = on_a_terminal(popsigner, b"", "keys", "list")

    assert ended == 0
    assert "[red]" in shown
    assert "─" in shown


@pytest.mark.parametrize(
    ("arguments", "stdin", "data"),
    [
        (["hello"], None, b"hello"),
        (["0x00", "--text"], None, b"0x00"),
        (["--hex", "0x00ff"], None, b"\x00\xff"),
        (["--hex", "00 FF"], None, b"\x00\xff"),
        (["--base64", base64.b64encode(b"\x00\xff").decode()], None, b"\x00\xff"),
        ([], b"\x00raw\n", b"\x00raw\n"),
        (["--hex"], b"00ff\n", b"\x00\xff"),
        (["--file", "FILE"], None, b"from the file"),
        ([""], None, b""),
    ],
)
def test_what_is_signed_comes_from_argument_file_or_stdin(
    popsigner: Popsigner, tmp_path: Path, arguments: list[str], stdin: bytes | None, data: bytes
) -> None:
    (tmp_path / "data").write_bytes(b"from the file")
    arguments = [str(tmp_path / "data") if argument == "FILE" else argument for argument in arguments]

    result = popsigner("sign", "production/sequencer", *arguments, stdin=stdin)

    assert result.exit_code == 0, result.output
    assert popsigner.sent("SignService/Sign").data == data
    assert result.stdout == "ab" * 64 + "\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--hex", "xyz"], "not hexadecimal"),
        (["--hex", "abc"], "not hexadecimal"),
        (["--base64", "a"], "not base64"),
        (["0xabcd"], "--hex or --text"),
        (["--hex", "--text", "ab"], "choose one of"),
        (["data", "--file", "data"], "not both"),
        (["--file", "/nowhere/at/all"], "cannot be read"),
    ],
)
def test_input_that_cannot_be_meant_is_not_signed(popsigner: Popsigner, arguments: list[str], said: str) -> None:
    result = popsigner("sign", "production/sequencer", *arguments)

    assert result.exit_code == 2
    assert said in result.stderr
    assert not popsigner.pop.seen


def test_sign_passes_its_options_on(popsigner: Popsigner) -> None:
    popsigner.pop.answer(
        "SignService/Sign",
        sign_pb2.SignResponse(signature=b"\x01" * 65, public_key=PUBLIC_KEY, key_version=3, recovery_id=1),
    )

    digest = ["--hex", "11" * 32, "--prehashed"]
    how = ["--hash", "keccak256", "--format", "recoverable", "--output", "base64", "--key-version", "3"]
    signed = popsigner.json("sign", "production/bridge", *digest, *how, "--request-id", "mine", "--sign-mode", "EVM")

    assert signed == {
        "key_id": "production/bridge",
        "signature": base64.b64encode(b"\x01" * 65).decode(),
        "encoding": "base64",
        "format": "recoverable",
        "public_key": PUBLIC_KEY,
        "key_version": 3,
        "recovery_id": 1,
        "request_id": "mine",
    }
    assert popsigner.sent("SignService/Sign") == sign_pb2.SignRequest(
        key_id="production/bridge",
        data=b"\x11" * 32,
        prehashed=True,
        hash=sign_pb2.KECCAK256,
        format=sign_pb2.RECOVERABLE,
        sign_mode="EVM",
        request_id="mine",
        key_version=3,
    )


@pytest.mark.parametrize("signature", ["ab" * 64, "0x" + "ab" * 64, base64.b64encode(b"\xab" * 64).decode()])
def test_verify_takes_hexadecimal_and_base64(popsigner: Popsigner, signature: str) -> None:
    result = popsigner("verify", "production/sequencer", "hello", "--signature", signature)

    assert (result.exit_code, result.stdout) == (0, "valid\n")
    sent = popsigner.sent("SignService/Verify")
    assert (sent.key_id, sent.data, sent.signature) == ("production/sequencer", b"hello", b"\xab" * 64)


@pytest.mark.parametrize("public_key", [PUBLIC_KEY, "04" + "cd" * 64])
def test_verify_takes_a_bare_public_key(popsigner: Popsigner, public_key: str) -> None:
    assert popsigner.json("verify", public_key, "hello", "--signature", "ab" * 64) == {"valid": True}

    sent = popsigner.sent("SignService/Verify")
    assert (sent.key_id, sent.public_key) == ("", public_key)


def test_an_invalid_signature_ends_with_8(popsigner: Popsigner) -> None:
    popsigner.pop.answer("SignService/Verify", sign_pb2.VerifyResponse(valid=False))

    result = popsigner("verify", "production/sequencer", "hello", "--signature", "ab" * 64)

    assert (result.exit_code, result.stdout) == (8, "invalid\n")


@pytest.mark.parametrize("signature", ["", "xyz!"])
def test_verify_without_a_signature_is_a_mistake_in_usage(popsigner: Popsigner, signature: str) -> None:
    result = popsigner("verify", "production/sequencer", "hello", "--signature", signature)

    assert result.exit_code == 2
    assert not popsigner.pop.seen


@pytest.mark.parametrize(
    ("code", "reason", "ends_with"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "DIGEST_LENGTH", 1),
        (grpc.StatusCode.INTERNAL, "INTERNAL_FAULT", 1),
        (grpc.StatusCode.UNAUTHENTICATED, "API_KEY_REVOKED", 3),
        (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING", 3),
        (grpc.StatusCode.NOT_FOUND, "KEY_NOT_FOUND", 4),
        (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED", 5),
        (grpc.StatusCode.FAILED_PRECONDITION, "KEY_DELETED", 5),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED", 6),
        (grpc.StatusCode.UNAVAILABLE, "VAULT_UNAVAILABLE", 7),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_PASSED", 7),
    ],
)
def test_a_refusal_is_one_sentence_and_an_exit_code(
    popsigner: Popsigner, code: grpc.StatusCode, reason: str, ends_with: int
) -> None:
    async def behaviour(_request: Any, context: Context) -> Message:
        return await refuse(context, code, reason, "this is what is wrong.")

    popsigner.pop.on("SignService/Sign", behaviour)

    shown = popsigner("sign", "production/sequencer", "hello")
    assert (shown.exit_code, shown.stdout) == (ends_with, "")
    assert shown.stderr.startswith("popsigner: this is what is wrong")
    assert shown.stderr.endswith(f"[{reason}]\n")
    assert shown.stderr.count("\n") == 1

    machine = popsigner("sign", "production/sequencer", "hello", "--json")
    assert (machine.exit_code, machine.stdout) == (ends_with, "")
    assert json.loads(machine.stderr)["error"]["reason"] == reason


def test_a_pop_that_does_not_run_ends_with_7(popsigner: Popsigner) -> None:
    result = popsigner("usage", "--endpoint", "127.0.0.1:1", "--timeout", "0.5")

    assert result.exit_code == 7
    assert "127.0.0.1:1 cannot be reached" in result.stderr


def test_plaintext_to_another_machine_is_refused(popsigner: Popsigner) -> None:
    result = popsigner("usage", "--endpoint", "http://pop.example.com:8080")

    assert result.exit_code == 2
    assert "TLS" in result.stderr
    assert API_KEY not in result.output


def test_an_api_key_is_created_and_shown_once(popsigner: Popsigner, tmp_path: Path) -> None:
    new = "psk_test_01J00000000000000000000009_" + "77" * 32
    popsigner.pop.answer(
        "ApiKeyService/CreateApiKey",
        api_key_pb2.CreateApiKeyResponse(api_key=api_key_pb2.ApiKey(id="ak_9", name="prover"), key=new),
    )
    out = tmp_path / "prover.key"

    shown = popsigner.json("api-keys", "create", "prover", "--scope", "api:keys:sign", "--expires-in", "30d")
    written = popsigner("api-keys", "create", "prover", "--role", "viewer", "--key-out", str(out), "--json")

    assert (shown["api_key"]["id"], shown["key"]) == ("ak_9", new)
    assert new not in written.output
    assert out.read_text() == new + "\n"
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    first, second = (seen.request for seen in popsigner.pop.called("ApiKeyService/CreateApiKey"))
    assert list(first.scopes) == ["api:keys:sign"]
    life = first.expires_at.seconds - time.time()
    assert 29 * 86400 < life < 31 * 86400
    assert (second.role, second.HasField("expires_at")) == (api_key_pb2.VIEWER, False)


def test_an_api_key_never_overwrites_a_file(popsigner: Popsigner) -> None:
    result = popsigner("api-keys", "create", "prover", "--role", "viewer", "--key-out", str(popsigner.key_file))

    assert result.exit_code == 2
    assert popsigner.key_file.read_text() == API_KEY + "\n"
    assert not popsigner.pop.seen


def test_an_api_key_that_cannot_be_kept_is_revoked(popsigner: Popsigner, tmp_path: Path) -> None:
    made = api_key_pb2.ApiKey(id="ak_9")
    popsigner.pop.answer("ApiKeyService/CreateApiKey", api_key_pb2.CreateApiKeyResponse(api_key=made, key=API_KEY))
    popsigner.pop.answer("ApiKeyService/RevokeApiKey", api_key_pb2.RevokeApiKeyResponse(api_key=made))

    result = popsigner("api-keys", "create", "prover", "--role", "viewer", "--key-out", str(tmp_path / "no" / "key"))

    assert result.exit_code == 1
    assert popsigner.sent("ApiKeyService/RevokeApiKey").api_key_id == "ak_9"


@pytest.mark.parametrize("wrong", ["30", "0d", "1y", "-1d"])
def test_a_life_that_is_none_is_a_mistake_in_usage(popsigner: Popsigner, wrong: str) -> None:
    assert popsigner("api-keys", "create", "prover", "--role", "viewer", "--expires-in", wrong).exit_code == 2
    assert not popsigner.pop.seen


def test_api_keys_are_listed_and_revoked(popsigner: Popsigner) -> None:
    made = api_key_pb2.ApiKey(id="ak_9", name="prover", scopes=["api:keys:sign", "api:keys:read"])
    popsigner.pop.answer("ApiKeyService/ListApiKeys", api_key_pb2.ListApiKeysResponse(api_keys=[made]))
    popsigner.pop.answer("ApiKeyService/RevokeApiKey", api_key_pb2.RevokeApiKeyResponse(api_key=made))

    assert popsigner("api-keys", "list").stdout.splitlines()[1].split("\t")[:4] == [
        "ak_9",
        "prover",
        "-",
        "api:keys:sign, api:keys:read",
    ]
    assert popsigner("api-keys", "revoke", "ak_9").exit_code == 2
    assert popsigner("api-keys", "revoke", "ak_9", "--yes").exit_code == 0


def test_namespaces_are_created_listed_and_deleted(popsigner: Popsigner) -> None:
    made = namespace_pb2.Namespace(id="ns_1", name="osmosis", address_prefix="osmo")
    popsigner.pop.answer("NamespaceService/CreateNamespace", namespace_pb2.CreateNamespaceResponse(namespace=made))
    popsigner.pop.answer("NamespaceService/ListNamespaces", namespace_pb2.ListNamespacesResponse(namespaces=[made]))
    popsigner.pop.answer("NamespaceService/DeleteNamespace", namespace_pb2.DeleteNamespaceResponse())

    created = popsigner.json("namespaces", "create", "osmosis", "--address-prefix", "osmo")
    listed = popsigner.json("namespaces", "list")
    deleted = popsigner.json("namespaces", "delete", "osmosis", "--yes")

    assert created["address_prefix"] == "osmo"
    assert [each["id"] for each in listed["namespaces"]] == ["ns_1"]
    assert deleted == {"deleted": "osmosis"}


def test_the_audit_trail_is_listed_up_to_its_limit(popsigner: Popsigner) -> None:
    rows = [audit_pb2.AuditLog(id=f"log_{number}", event="key.signed", sequence=number) for number in (3, 2, 1)]
    popsigner.pop.answer("AuditService/ListLogs", audit_pb2.ListLogsResponse(logs=rows, next_cursor="more"))

    when = ["--since", "2026-01-01", "--until", "2026-01-02T12:00:00+01:00"]
    found = popsigner.json("audit", "list", "--event", "key.signed", "--key", "production/a", *when, "--limit", "2")

    assert [(log["id"], log["sequence"]) for log in found["logs"]] == [("log_3", 3), ("log_2", 2)]
    sent = popsigner.sent("AuditService/ListLogs")
    assert (sent.event_type, sent.key_id, sent.page_size) == ("key.signed", "production/a", 2)
    assert sent.start_time.ToJsonString() == "2026-01-01T00:00:00Z"
    assert sent.end_time.ToJsonString() == "2026-01-02T11:00:00Z"


def test_a_time_that_is_none_is_a_mistake_in_usage(popsigner: Popsigner) -> None:
    assert popsigner("audit", "list", "--since", "yesterday").exit_code == 2


def test_usage_shows_what_has_no_limit_too(popsigner: Popsigner) -> None:
    used = [billing_pb2.Usage(metric="signatures", value=7), billing_pb2.Usage(metric="keys", value=2, quota=5)]
    popsigner.pop.answer("BillingService/GetUsage", billing_pb2.GetUsageResponse(usage=used))

    assert popsigner("usage").stdout == "metric\tvalue\tquota\nsignatures\t7\t-\nkeys\t2\t5\n"
    assert popsigner.json("usage", "--month", "2026-01")["usage"] == [
        {"metric": "signatures", "value": 7, "quota": None},
        {"metric": "keys", "value": 2, "quota": 5},
    ]
