"""JSON through Envoy: the examples that the product documents print, with real values, and bodies that are refused."""

import base64
import hashlib
import json
import re
from datetime import datetime
from typing import Any
from uuid import uuid4

import ecdsa
import pytest
from ecdsa.util import sigdecode_string

from popsigner_server.gen.popsigner.v1 import key_pb2
from tests.integration.pop.wire import Json, Wire

pytestmark = pytest.mark.usefixtures("unharmed")

KEY_ID = re.compile(r"key_[0-9A-HJKMNP-TV-Z]{26}")
# The examples' own names, in a namespace that they have to themselves.
NAMESPACE = "examples"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def check(answer: dict[str, Any], message: bytes) -> None:
    verifier = ecdsa.VerifyingKey.from_string(bytes.fromhex(answer["public_key"]), curve=ecdsa.SECP256k1)
    signature = base64.b64decode(answer["signature"], validate=True)
    assert verifier.verify(signature, message, hashfunc=hashlib.sha256, sigdecode=sigdecode_string)


@pytest.fixture(scope="module")
async def validator(http: Json) -> dict[str, Any]:
    """The create example: a namespace, and the key in it."""
    assert (await http("POST", "/v1/namespaces", {"name": NAMESPACE})).status == 200
    answer = await http(
        "POST",
        "/v1/keys",
        {
            "name": "validator-mainnet",
            "namespace": NAMESPACE,
            "algorithm": "secp256k1",
            "exportable": False,
            "metadata": {"chain": "celestia", "network": "mainnet"},
        },
    )
    assert answer.status == 200, answer.text
    created: dict[str, Any] = answer.json
    return created


async def test_the_create_example(validator: dict[str, Any]) -> None:
    assert KEY_ID.fullmatch(validator["id"])
    assert (validator["name"], validator["algorithm"]) == ("validator-mainnet", "secp256k1")
    assert re.fullmatch("0[23][0-9a-f]{64}", validator["public_key"])
    assert validator["address"].startswith("celestia1")
    assert validator["metadata"] == {"chain": "celestia", "network": "mainnet"}
    assert validator["created_at"].endswith("Z")
    assert datetime.fromisoformat(validator["created_at"]).tzinfo is not None


async def test_the_sign_example(http: Json, validator: dict[str, Any]) -> None:
    body = {"data": b64(b"tx bytes"), "encoding": "base64", "prehashed": False}

    answer = await http("POST", f"/v1/keys/{validator['id']}/sign", body)

    assert answer.status == 200
    assert answer.json.keys() == {"signature", "public_key", "key_version"}
    assert (answer.json["public_key"], answer.json["key_version"]) == (validator["public_key"], 1)
    check(answer.json, b"tx bytes")


async def test_the_batch_examples(http: Json, validator: dict[str, Any]) -> None:
    names = [f"worker-{number}" for number in range(1, 5)]
    keys = [{"name": name, "namespace": NAMESPACE} for name in names]
    created = await http("POST", "/v1/keys/batch", {"keys": keys, "algorithm": "secp256k1", "exportable": False})
    assert created.status == 200, created.text
    workers = created.json["keys"]
    assert [worker["name"] for worker in workers] == names
    assert all(KEY_ID.fullmatch(worker["id"]) and worker["address"].startswith("celestia1") for worker in workers)

    requests = [{"key_id": each["id"], "data": b64(b"tx %d" % place)} for place, each in enumerate(workers)]
    signed = await http("POST", "/v1/sign/batch", {"requests": requests, "encoding": "base64", "prehashed": False})

    assert signed.status == 200
    for place, (worker, result) in enumerate(zip(workers, signed.json["signatures"], strict=True)):
        assert (result["key_id"], result["public_key"]) == (worker["id"], worker["public_key"])
        assert "error" not in result
        check(result, b"tx %d" % place)


async def test_the_audit_example(http: Json, validator: dict[str, Any]) -> None:
    body = {"data": b64(b"audited"), "sign_mode": "SIGN_MODE_DIRECT"}
    await http("POST", f"/v1/keys/{validator['id']}/sign", body, headers={"user-agent": "popsigner-sdk/1.0"})
    today = datetime.fromisoformat(validator["created_at"])
    query = (
        f"start_time={today:%Y-%m-%d}T00:00:00Z&end_time={today.year + 1}-12-31T23:59:59Z"
        f"&event_type=key.signed&key_id={validator['id']}&limit=100"
    )

    answer = await http("GET", f"/v1/audit/logs?{query}")

    assert answer.status == 200, answer.text
    assert answer.json.keys() == {"logs", "next_cursor"}
    row = answer.json["logs"][0]
    assert re.fullmatch("log_[0-9A-HJKMNP-TV-Z]{26}", row["id"])
    assert (row["event"], row["key_id"]) == ("key.signed", validator["id"])
    assert (row["actor"], row["ip_address"]) == ("ak_" + http.api_key.split("_")[2], "127.0.0.1")
    assert row["user_agent"] == "popsigner-sdk/1.0"
    assert datetime.fromisoformat(row["timestamp"]) >= today
    assert row["metadata"]["data_hash"] == "sha256:" + hashlib.sha256(b"audited").hexdigest()
    assert row["metadata"]["sign_mode"] == "SIGN_MODE_DIRECT"
    assert (await http("GET", f"/v1/audit/logs/{row['id']}")).json == row


async def test_limit_and_next_cursor_walk_through_the_audit_trail(http: Json, validator: dict[str, Any]) -> None:
    for number in range(5):
        await http("POST", f"/v1/keys/{validator['id']}/sign", {"data": b64(b"%d" % number)})
    path = f"/v1/audit/logs?key_id={validator['id']}"
    everything = (await http("GET", path)).json["logs"]

    walked: list[Any] = []
    cursor = ""
    while True:
        page = (await http("GET", f"{path}&limit=2&cursor={cursor}")).json
        assert 1 <= len(page["logs"]) <= 2
        walked += page["logs"]
        cursor = page["next_cursor"]
        if not cursor:
            break

    assert walked == everything
    assert len(walked) >= 6


async def test_the_list_endpoints_of_the_product_document(http: Json, validator: dict[str, Any]) -> None:
    keys = (await http("GET", f"/v1/keys?namespace={NAMESPACE}&limit=1")).json
    assert [key["id"] for key in keys["keys"]] == [validator["id"]]
    assert (await http("GET", f"/v1/keys/{validator['id']}")).json == validator
    namespaces = (await http("GET", "/v1/namespaces")).json["namespaces"]
    assert {"production", NAMESPACE} <= {namespace["name"] for namespace in namespaces}
    usage = (await http("GET", "/v1/billing/usage")).json
    assert {metric["metric"] for metric in usage["usage"]} == {"signatures", "keys", "namespaces", "members"}


async def test_either_header_carries_the_api_key(http: Json) -> None:
    bearer = {"x-api-key": "", "authorization": f"Bearer {http.api_key}"}

    assert (await http("GET", "/v1/keys?limit=1", headers=bearer)).status == 200
    answer = await http("GET", "/v1/keys?limit=1", headers={"x-api-key": "psk_live_wrong"})
    assert (answer.status, answer.reason) == (401, "CREDENTIALS_INVALID")


MALFORMED: dict[str, Any] = {
    "base64 with a stranger": {"data": "aGVsbG8!"},
    "base64 cut off": {"data": "aGVsb"},
    "base64 with a space": {"data": "aGVs bG8="},
    "hexadecimal cut off": {"data": "abc", "encoding": "hex"},
    "hexadecimal with a stranger": {"data": "zz", "encoding": "hex"},
    "unknown field": {"data": "eA==", "dta": "eA=="},
    "a field of batches": {"data": "eA==", "requests": []},
    "text for a truth": {"data": "eA==", "prehashed": "maybe"},
    "unknown hash": {"data": "eA==", "hash": "MD5"},
    "another key than the path's": {"data": "eA==", "key_id": "production/another"},
    "no object": ["eA=="],
    "half of it": '{"data": "eA==',
    "two of it": '{"data": "eA=="}{"data": "eA=="}',
    "one member twice": '{"data": "eA==", "data": "eQ=="}',
    "no text": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("case", MALFORMED)
async def test_a_body_that_is_not_its_messages_json_is_refused(
    owner: Wire, http: Json, key: key_pb2.Key, case: str
) -> None:
    answer = await http("POST", f"/v1/keys/{key.id}/sign", MALFORMED[case])

    assert (answer.status, answer.reason) == (400, "MALFORMED_REQUEST"), answer.text
    assert answer.json["message"]
    assert not await owner.rows(key_id=key.id, event_type="key.signed")


async def test_refusals_of_the_server_keep_their_reason_in_json(http: Json, key: key_pb2.Key) -> None:
    sign, big = f"/v1/keys/{key.id}/sign", b64(bytes((1 << 20) + 1))
    expected: list[tuple[str, str, Any, int, str]] = [
        ("POST", sign, {"data": big}, 400, "DATA_TOO_LARGE"),
        ("POST", sign, {"data": b64(bytes(31)), "prehashed": True}, 400, "DIGEST_LENGTH"),
        ("POST", sign, {"data": "eA==", "encoding": "base58"}, 400, "INVALID_FIELD"),
        ("POST", "/v1/sign/batch", {"requests": []}, 400, "BATCH_EMPTY"),
        ("POST", "/v1/sign/batch", {"requests": [{"key_id": key.id}] * 257}, 400, "BATCH_TOO_LARGE"),
        ("POST", "/v1/keys/production%2Fnobody/sign", {"data": "eA=="}, 404, "KEY_NOT_FOUND"),
        ("POST", "/v1/keys", {"name": key.name}, 409, "KEY_NAME_TAKEN"),
        ("POST", "/v1/keys", {"name": "no/slash"}, 400, "INVALID_FIELD"),
        ("GET", "/v1/keys?limit=1001", None, 400, "INVALID_FIELD"),
        ("GET", "/v1/keys?cursor=nonsense", None, 400, "INVALID_CURSOR"),
        ("GET", "/v1/keys?nonsense=1", None, 400, "MALFORMED_REQUEST"),
        ("GET", "/v1/billing/usage?month=May", None, 400, "INVALID_FIELD"),
        ("GET", "/v1/audit/logs?start_time=yesterday", None, 400, "MALFORMED_REQUEST"),
        ("GET", "/v1/nothing", None, 404, "METHOD_UNKNOWN"),
        ("POST", "/v1/keys", {"name": "x" * (5 << 20)}, 413, "REQUEST_TOO_LARGE"),
    ]

    for method, path, body, status, reason in expected:
        answer = await http(method, path, body)
        assert (answer.status, answer.reason) == (status, reason), (path, answer.text[:300])
        assert answer.headers["content-type"] == "application/json"


async def test_an_error_names_code_message_and_fields(http: Json) -> None:
    error = (await http("POST", "/v1/keys", {"name": "no/slash"})).json

    assert error.keys() == {"code", "message", "details"}
    assert error["code"] == 3
    (bad,) = (detail for detail in error["details"] if detail["@type"].endswith("/google.rpc.BadRequest"))
    assert [violation["field"] for violation in bad["field_violations"]] == ["name"]


async def test_hexadecimal_data_is_signed_as_its_bytes(http: Json, key: key_pb2.Key) -> None:
    message = hashlib.sha256(uuid4().bytes).digest()

    for written in (message.hex(), "0x" + message.hex().upper()):
        answer = await http("POST", f"/v1/keys/{key.id}/sign", json.dumps({"data": written, "encoding": "hex"}))
        check(answer.json, message)
