"""JSON through a real Envoy: the PRD's examples, paths, and what is refused before the server sees it."""

import asyncio
import base64
import json
import time
from typing import Any

import pytest
from google.api import annotations_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from popsigner_server.gen.popsigner.v1 import (
    api_key_pb2,
    audit_pb2,
    auth_pb2,
    billing_pb2,
    key_pb2,
    namespace_pb2,
    organization_pb2,
    recovery_pb2,
    sign_pb2,
)
from tests.gateway.proxy import Proxy
from tests.gateway.upstream import API_KEY, ARCHIVE, PUBLIC_KEY, SEALED, Upstream, signature

MODULES = (
    api_key_pb2,
    audit_pb2,
    auth_pb2,
    billing_pb2,
    key_pb2,
    namespace_pb2,
    organization_pb2,
    recovery_pb2,
    sign_pb2,
)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def test_the_create_key_example_works_as_printed(envoy: Proxy, server: Upstream) -> None:
    answer = await envoy.ask(
        "POST",
        "/v1/keys",
        {
            "name": "validator-mainnet",
            "namespace": "production",
            "algorithm": "secp256k1",
            "exportable": False,
            "metadata": {"chain": "celestia", "network": "mainnet"},
        },
    )
    assert answer.status == 200
    key = answer.json
    assert set(key) >= {"id", "name", "public_key", "address", "algorithm", "created_at"}
    assert (key["name"], key["algorithm"], key["created_at"]) == (
        "validator-mainnet",
        "secp256k1",
        "2026-01-10T12:00:00Z",
    )
    assert key["id"].startswith("key_")
    assert server.last().metadata == {"chain": "celestia", "network": "mainnet"}


async def test_the_batch_examples_work_as_printed(envoy: Proxy, server: Upstream) -> None:
    names = [f"worker-{number}" for number in range(1, 5)]
    answer = await envoy.ask(
        "POST",
        "/v1/keys/batch",
        {
            "keys": [{"name": name, "namespace": "production"} for name in names],
            "algorithm": "secp256k1",
            "exportable": False,
        },
    )
    assert answer.status == 200
    keys = answer.json["keys"]
    assert [key["name"] for key in keys] == names
    assert all(key["address"].startswith("celestia1") for key in keys)

    messages = [b"tx %d" % number for number in range(4)]
    requests = [{"key_id": key["id"], "data": b64(data)} for key, data in zip(keys, messages, strict=True)]
    answer = await envoy.ask("POST", "/v1/sign/batch", {"requests": requests, "encoding": "base64", "prehashed": False})
    assert answer.status == 200
    for key, data, result in zip(keys, messages, answer.json["signatures"], strict=True):
        assert result["key_id"] == key["id"]
        assert result["public_key"] == key["public_key"]
        assert base64.b64decode(result["signature"], validate=True) == signature(server.keys[key["id"]], data)
        assert "error" not in result


async def test_the_sign_example_works_as_printed(envoy: Proxy, server: Upstream, key_id: str) -> None:
    body = {"data": b64(b"a transaction"), "encoding": "base64", "prehashed": False}
    answer = await envoy.ask("POST", f"/v1/keys/{key_id}/sign", body)
    assert answer.status == 200
    assert answer.json == {
        "signature": b64(signature(server.keys[key_id], b"a transaction")),
        "public_key": server.keys[key_id].public_key,
        "key_version": 1,
    }


async def test_the_audit_log_example_works_as_printed(envoy: Proxy, server: Upstream) -> None:
    answer = await envoy.ask(
        "GET",
        "/v1/audit/logs?start_time=2025-01-01T00:00:00Z&end_time=2025-01-31T23:59:59Z&event_type=key.signed"
        "&key_id=key_01HXYZ&limit=100",
    )
    assert answer.json == {"logs": [], "next_cursor": "cursor"}
    asked = server.last()
    assert (asked.page_size, asked.event_type, asked.key_id) == (100, "key.signed", "key_01HXYZ")
    assert asked.end_time.ToJsonString() == "2025-01-31T23:59:59Z"


async def test_a_key_is_named_by_namespace_and_name_with_an_escaped_slash(envoy: Proxy, key_id: str) -> None:
    answer = await envoy.ask("GET", "/v1/keys/production%2Fworker-0")
    assert answer.json["id"] == key_id
    answer = await envoy.ask("POST", "/v1/keys/production%2fworker-0/sign", {"data": b64(b"x")})
    assert answer.status == 200


async def test_defaults_are_printed_and_enums_are_names(envoy: Proxy, key_id: str) -> None:
    key = (await envoy.ask("GET", f"/v1/keys/{key_id}")).json
    assert key["exportable"] is False
    assert key["metadata"] == {}
    assert key["state"] == "ENABLED"
    assert "deleted_at" not in key


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/keys", {"name": "bare"}),
        ("GET", "/v1/keys/production%2Fworker-0", None),
        ("PATCH", "/v1/keys/production%2Fworker-0", {"metadata": {"a": "b"}}),
        ("DELETE", "/v1/keys/production%2Fbare", None),
        ("POST", "/v1/keys/production%2Fworker-0/undelete", {}),
        ("POST", "/v1/keys/production%2Fworker-0/disable", {}),
        ("POST", "/v1/keys/production%2Fworker-0/enable", {}),
        ("POST", "/v1/namespaces", {"name": "staging"}),
        ("DELETE", "/v1/api-keys/ak_1", None),
        ("GET", "/v1/audit/logs/log_1", None),
        ("GET", "/v1/organization", None),
        ("PATCH", "/v1/organization", {"name": "Acme"}),
        ("DELETE", "/v1/organization?name=Acme", None),
        ("POST", "/v1/organization/restore", {}),
        ("POST", "/v1/organizations", {"name": "Acme"}),
        ("PATCH", "/v1/members/user_1", {"role": "ADMIN"}),
        ("POST", "/v1/identity-providers", {"issuer": "https://idp.example", "client_id": "pop"}),
    ],
)
async def test_an_answer_is_the_resource_itself_where_the_contract_says_so(
    envoy: Proxy, key_id: str, method: str, path: str, body: object
) -> None:
    answer = await envoy.ask(method, path, body)
    assert answer.status == 200
    assert {"id", "user_id"} & set(answer.json)
    assert int(answer.headers["content-length"]) == len(answer.text.encode())


async def test_recovery_is_the_resource_itself_and_its_copies_are_a_list(envoy: Proxy, key_id: str) -> None:
    recipient = "age1" + "q" * 58
    assert (await envoy.ask("GET", "/v1/recovery")).json["keys"] >= 1
    assert (await envoy.ask("POST", "/v1/recovery", {"recipient": recipient})).json["recipient"] == recipient
    assert (await envoy.ask("POST", "/v1/recovery/cancel", {})).json["recipient"] == ""
    listed = await envoy.ask("GET", "/v1/recovery/copies?limit=7&cursor=x")
    (copy,), following = listed.json["copies"], listed.json["next_cursor"]
    assert (base64.b64decode(copy["label"], validate=True), following) == (SEALED, "x")
    assert copy["versions"] == [{"public_key": PUBLIC_KEY, "ciphertext": b64(SEALED)}]


async def test_an_account_comes_as_one_array_of_pieces(envoy: Proxy) -> None:
    """A stream over JSON; the pieces in order are the ZIP file."""
    answer = await envoy.ask("GET", "/v1/me/export")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    pieces = [base64.b64decode(piece["chunk"], validate=True) for piece in answer.json]
    assert [len(piece) for piece in pieces] == [65536] * 40
    assert b"".join(pieces) == ARCHIVE


def resource_rules() -> list[tuple[str, str]]:
    """Each verb and path of the contract with a response_body."""
    found = []
    for module in MODULES:
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                rule = method.GetOptions().Extensions[annotations_pb2.http]
                if rule.response_body:
                    assert len(method.output_type.fields) == 1, "the gateway cuts out the only member"
                    verb = rule.WhichOneof("pattern")
                    found.append((verb.upper(), getattr(rule, verb)))
    return sorted(found)


def test_the_list_of_such_answers_is_the_contracts() -> None:
    assert resource_rules() == [
        ("DELETE", "/v1/api-keys/{api_key_id}"),
        ("DELETE", "/v1/keys/{key_id}"),
        ("DELETE", "/v1/organization"),
        ("GET", "/v1/audit/logs/{log_id}"),
        ("GET", "/v1/keys/{key_id}"),
        ("GET", "/v1/organization"),
        ("GET", "/v1/recovery"),
        ("PATCH", "/v1/keys/{key_id}"),
        ("PATCH", "/v1/members/{user_id}"),
        ("PATCH", "/v1/organization"),
        ("POST", "/v1/identity-providers"),
        ("POST", "/v1/keys"),
        ("POST", "/v1/keys/import"),
        ("POST", "/v1/keys/{key_id}/disable"),
        ("POST", "/v1/keys/{key_id}/enable"),
        ("POST", "/v1/keys/{key_id}/undelete"),
        ("POST", "/v1/namespaces"),
        ("POST", "/v1/organization/restore"),
        ("POST", "/v1/organizations"),
        ("POST", "/v1/recovery"),
        ("POST", "/v1/recovery/cancel"),
    ]


def bodies() -> list[tuple[str, str, tuple[str, ...], Descriptor]]:
    """Each verb, path, path fields and request message of the contract with a body."""
    found = []
    for module in MODULES:
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                rule = method.GetOptions().Extensions[annotations_pb2.http]
                for binding in (rule, *rule.additional_bindings):
                    verb = binding.WhichOneof("pattern")
                    if binding.body:
                        path = getattr(binding, verb)
                        fields = tuple(part[1:-1] for part in path.split("/") if part.startswith("{"))
                        for name in fields:
                            path = path.replace(f"{{{name}}}", "production%2Fworker-0")
                        found.append((verb.upper(), path, fields, method.input_type))
    return found


def nested(message: Descriptor, prefix: Any = ()) -> list[tuple[tuple[str, ...], FieldDescriptor]]:
    """Every field of a request, also those of its items, as the names that lead there."""
    found: list[tuple[tuple[str, ...], FieldDescriptor]] = []
    for field in message.fields:
        found.append(((*prefix, field.name), field))
        part = field.message_type
        if part is not None and not part.GetOptions().map_entry and part.file.package == message.file.package:
            found += nested(part, (*prefix, field.name))
    return found


@pytest.mark.parametrize(("method", "path", "path_fields", "message"), bodies())
async def test_each_known_member_is_taken_and_an_unknown_one_refused(
    envoy: Proxy, key_id: str, method: str, path: str, path_fields: tuple[str, ...], message: Descriptor
) -> None:
    for names, field in nested(message):
        if names[0] in path_fields:
            continue
        for name in {field.name, field.json_name}:
            members: Any = {name: None}
            if len(names) == 2:
                members = {names[0]: [members]}
            answer = await envoy.ask(method, path, members)
            assert "unknown member" not in answer.text, f"json.lua does not know {'.'.join(names)} of {message.name}"
    wrong: list[Any] = [{"nonsense": 1}, {"Name": "x"}]
    if any(len(names) == 2 for names, _ in nested(message)):
        (outer,) = {names[0] for names, _ in nested(message) if len(names) == 2}
        wrong.append({outer: [{"nonsense": 1}]})
    for body in wrong:
        answer = await envoy.ask(method, path, body)
        assert (answer.status, answer.reason) == (400, "MALFORMED_REQUEST"), body
        assert "unknown member" in answer.json["message"]


async def test_a_body_cannot_contradict_its_path(envoy: Proxy, server: Upstream, key_id: str) -> None:
    for method, path in (("POST", f"/v1/keys/{key_id}/sign"), ("PATCH", f"/v1/keys/{key_id}")):
        answer = await envoy.ask(method, path, {"key_id": "production/another"})
        assert (answer.status, answer.reason) == (400, "MALFORMED_REQUEST")


@pytest.mark.parametrize(
    "body",
    [
        '{"name":',
        '{"name":"a"',
        '{"name":"a",}',
        "{'name':'a'}",
        '{name:"a"}',
        '{"name":"a"} {}',
        '{"name":"a"}x',
        '{"name" "a"}',
        '{"name":"a" "namespace":"b"}',
        '{"name":"a\nb"}',
        '{"name":"\\x"}',
        '{"name":"\\u12"}',
        '{"name":01}',
        '{"name":1.}',
        '{"name":+1}',
        '{"name":nul}',
        '{"name":"a","name":"b"}',
        '{"n\\u0061me":"a","name":"b"}',
        "[]",
        '"name"',
        "[" * 100_000,
        b'{"name":"\xff\xfe"}',
        '{"name":5}',
        '{"exportable":"maybe"}',
        '{"metadata":[]}',
        b"\xef\xbb\xbf{}",
        b"\x00",
    ],
)
async def test_a_malformed_body_is_refused_with_a_reason(envoy: Proxy, body: str | bytes) -> None:
    answer = await envoy.ask("POST", "/v1/keys", body)
    assert (answer.status, answer.reason) == (400, "MALFORMED_REQUEST")


@pytest.mark.parametrize("text", ["aGVsbG8=", "aGVsbG8", "-_-_", "+/+/", ""])
async def test_base64_of_both_alphabets_with_and_without_padding_is_taken(
    envoy: Proxy, server: Upstream, key_id: str, text: str
) -> None:
    answer = await envoy.ask("POST", f"/v1/keys/{key_id}/sign", {"data": text})
    assert answer.status == 200
    assert server.last().data == base64.urlsafe_b64decode(
        text.replace("+", "-").replace("/", "_") + "=" * (-len(text) % 4)
    )


@pytest.mark.parametrize(
    "text",
    [
        "aGVsbG8=!",
        "!",
        "a",
        "aGVs bG8=",
        "aGVsbG8=\n",
        "aGVsbG9",
        "aGVsbG8==",
        "aGVsbG8=aGVsbG8=",
        "=",
        "YR==",
        "AAAA=",
    ],
)
async def test_anything_else_as_base64_is_refused_with_a_reason(envoy: Proxy, key_id: str, text: str) -> None:
    """Left over bits (aGVsbG9, YR==), spaces and a tail would be dropped in silence, and something else signed."""
    for path, body in (
        (f"/v1/keys/{key_id}/sign", {"data": text}),
        (f"/v1/keys/{key_id}/verify", {"signature": text}),
        ("/v1/sign/batch", {"requests": [{"key_id": key_id, "data": text}]}),
    ):
        answer = await envoy.ask("POST", path, body)
        assert (answer.status, answer.reason) == (400, "MALFORMED_REQUEST"), path


@pytest.mark.parametrize("query", ["nope=1", "limit=many", "state=NOPE", "start=1", "limit=-1", "limit=99999999999"])
async def test_an_unknown_or_malformed_query_parameter_is_refused(envoy: Proxy, query: str) -> None:
    answer = await envoy.ask("GET", f"/v1/keys?{query}")
    assert (answer.status, answer.reason) == (400, "MALFORMED_REQUEST")


@pytest.mark.parametrize("name", ["limit", "page_size"])
async def test_a_page_size_has_two_names(envoy: Proxy, server: Upstream, name: str) -> None:
    answer = await envoy.ask("GET", f"/v1/keys?{name}=7&labels=a%3D1&labels=b%3D2&state=DISABLED")
    assert answer.status == 200
    assert (server.last().page_size, list(server.last().labels)) == (7, ["a=1", "b=2"])
    assert server.last().state == key_pb2.Key.DISABLED


async def test_a_megabyte_of_data_passes_and_the_servers_limit_has_its_reason(envoy: Proxy, key_id: str) -> None:
    answer = await envoy.ask("POST", f"/v1/keys/{key_id}/sign", {"data": b64(bytes(1 << 20))})
    assert answer.status == 200
    answer = await envoy.ask("POST", f"/v1/keys/{key_id}/sign", json.dumps({"data": b64(bytes((1 << 20) + 1))}))
    assert (answer.status, answer.reason) == (400, "DATA_TOO_LARGE")


async def test_headers_that_grpc_cannot_carry_do_no_harm(envoy: Proxy, server: Upstream, key_id: str) -> None:
    odd = {"p*": "1", "x|y": "2", "x-caf\u00e9": "3", "x-name": "caf\u00e9", "x-a-bin": "no base64!", "x-tab": "a\tb"}
    known = f"GET /v1/keys/{key_id} HTTP/1.1\r\nhost: x\r\nx-api-key: {API_KEY}\r\nconnection: close\r\n"
    for name, value in odd.items():
        reader, writer = await asyncio.open_connection("127.0.0.1", envoy.port)
        writer.write(f"{known}{name}: {value}\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        # A name that is no token (RFC 9110) is malformed HTTP already.
        status = b"400" if name == "x-caf\u00e9" else b"200"
        assert answer.split()[1] == status, (name, answer)
        if status == b"200":
            assert name not in server.metadata[-1]


@pytest.mark.parametrize(
    "body",
    [
        '{"requests":[' + ",".join(["{}"] * 1_300_000) + "]}",
        '{"requests":[' + ",".join(["1"] * 2_000_000) + "]}",
        '{"requests":[{"data":"' + "\\u0041" * 600_000 + '"}]}',
        '{"encoding":"hex","requests":[{"data":"' + "41" * 1_900_000 + '"},{"data":"1"}]}',
    ],
    ids=["objects", "numbers", "escapes", "hex"],
)
async def test_a_costly_body_of_a_stranger_holds_nobody_up_for_long(envoy: Proxy, body: str) -> None:
    """It is examined before anyone asks for credentials; without bounds the first two held Envoy up for over 10 s."""
    began = time.monotonic()
    answer = await envoy.send("POST", "/v1/sign/batch", body, {})
    assert (answer.status, answer.reason) == (400, "MALFORMED_REQUEST")
    assert time.monotonic() - began < 8


async def test_the_bounds_are_wide_enough_for_the_largest_batch(envoy: Proxy, key_id: str) -> None:
    item = {
        "key_id": key_id, "data": "AAAA", "prehashed": False, "hash": "SHA256", "format": "COMPACT", "sign_mode": "x",
        "request_id": "y", "key_version": 1,
    }  # fmt: skip
    answer = await envoy.ask("POST", "/v1/sign/batch", {"requests": [item] * 257})
    assert (answer.status, len(answer.json["signatures"])) == (200, 257)
    slashes = json.dumps({"data": "ab/+" * 60_000}).replace("/", "\\/")
    answer = await envoy.ask("POST", f"/v1/keys/{key_id}/sign", slashes)
    assert answer.status == 200, answer.text
