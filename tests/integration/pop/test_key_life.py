"""A key's whole life through a whole POP: the real engine, the real gate, gRPC and JSON. Every signature is verified by
a library that is not ours."""

import base64
import hashlib
from uuid import uuid4

import ecdsa
from ecdsa.util import sigdecode_string

from popsigner_server.gen.popsigner.v1 import key_pb2, sign_pb2
from tests.integration.pop.wire import Json, Wire

DATA = b"a key's whole life"


def assert_verifies(signature: bytes, public_key: str) -> None:
    key = ecdsa.VerifyingKey.from_string(bytes.fromhex(public_key), curve=ecdsa.SECP256k1)
    assert key.verify(signature, DATA, hashfunc=hashlib.sha256, sigdecode=sigdecode_string)


async def signed(owner: Wire, key_id: str, version: int = 0) -> sign_pb2.SignResponse:
    answer = await owner(sign_pb2.SignRequest(key_id=key_id, data=DATA, key_version=version))
    assert_verifies(answer.signature, answer.public_key)
    assert isinstance(answer, sign_pb2.SignResponse)
    return answer


async def refusal(owner: Wire, key_id: str, version: int = 0) -> str:
    return (await owner.refused(sign_pb2.SignRequest(key_id=key_id, data=DATA, key_version=version))).reason


async def test_a_key_lives_through_every_move(owner: Wire) -> None:
    name = f"life-{uuid4().hex}"
    first = (await owner(key_pb2.CreateKeyRequest(name=name))).key
    key_id, path = first.id, f"production/{name}"
    assert (first.version, first.min_version) == (1, 1)

    rotated = await owner(key_pb2.RotateKeyRequest(key_id=path, expected_version=1))
    assert await owner(key_pb2.RotateKeyRequest(key_id=path, expected_version=1)) == rotated
    second = rotated.key
    assert (second.version, rotated.previous.version) == (2, 1)
    assert (rotated.previous.address, rotated.previous.eth_address) == (first.address, first.eth_address)
    assert second.address != first.address
    assert (await signed(owner, key_id)).public_key == second.public_key
    assert (await signed(owner, key_id, 1)).public_key == first.public_key
    versions = (await owner(key_pb2.ListKeyVersionsRequest(key_id=path))).versions
    assert [(each.version, each.public_key, each.signs) for each in versions] == [
        (2, second.public_key, True),
        (1, first.public_key, True),
    ]

    raised = (await owner(key_pb2.UpdateKeyRequest(key_id=key_id, min_version=2))).key
    assert raised.min_version == 2
    assert await refusal(owner, key_id, 1) == "KEY_VERSION_UNAVAILABLE"
    await signed(owner, key_id)
    assert await refusal(owner, key_id, 3) == "KEY_VERSION_UNAVAILABLE"
    wrong = await owner.refused(key_pb2.UpdateKeyRequest(key_id=key_id, min_version=3))
    assert (wrong.reason, wrong.fields) == ("INVALID_FIELD", ("min_version",))

    assert (await owner(key_pb2.DisableKeyRequest(key_id=path))).key.state == key_pb2.Key.DISABLED
    assert await refusal(owner, key_id) == "KEY_DISABLED"
    assert (await owner.refused(key_pb2.RotateKeyRequest(key_id=key_id))).reason == "KEY_DISABLED"
    assert (await owner(key_pb2.EnableKeyRequest(key_id=path))).key.state == key_pb2.Key.ENABLED
    await signed(owner, key_id)

    await owner(key_pb2.DeleteKeyRequest(key_id=path))
    assert await refusal(owner, key_id) == "KEY_DELETED"
    restored = (await owner(key_pb2.UndeleteKeyRequest(key_id=path))).key
    assert (restored.state, restored.version, restored.address) == (key_pb2.Key.ENABLED, 2, second.address)
    assert (await signed(owner, key_id)).public_key == second.public_key
    await owner(key_pb2.UpdateKeyRequest(key_id=key_id, min_version=1))
    assert (await signed(owner, key_id, 1)).public_key == first.public_key

    gone = (await owner(key_pb2.DeleteKeyRequest(key_id=path, force=True))).key
    assert gone.state == key_pb2.Key.DESTROYED
    assert await refusal(owner, key_id) == "KEY_NOT_FOUND"
    assert (await owner.refused(key_pb2.UndeleteKeyRequest(key_id=key_id))).reason == "KEY_DELETED"
    again = (await owner(key_pb2.CreateKeyRequest(name=name))).key
    assert again.id != key_id
    assert again.public_key not in (first.public_key, second.public_key)

    told = [row.event for row in await owner.rows(key_id=key_id) if row.event != "key.signed"]
    assert told[::-1] == [
        "key.created",
        "key.rotated",
        "key.updated",
        "key.disabled",
        "key.enabled",
        "key.deleted",
        "key.restored",
        "key.updated",
        "key.deleted",
        "key.destroyed",
    ]


async def test_the_same_life_as_json(http: Json) -> None:
    first = (await http("POST", "/v1/keys", {"name": f"life-{uuid4().hex}"})).json
    path = f"/v1/keys/{first['id']}"

    rotated = await http("POST", f"{path}/rotate", {"expected_version": 1})
    assert rotated.status == 200
    assert rotated.json["key"]["version"] == 2
    assert rotated.json["previous"]["address"] == first["address"]
    versions = (await http("GET", f"{path}/versions")).json["versions"]
    assert [version["version"] for version in versions] == [2, 1]
    assert versions[1]["public_key"] == first["public_key"]
    changed = await http("POST", f"{path}/rotate", {"expected_version": 9})
    assert (changed.status, changed.reason) == (400, "KEY_VERSION_CHANGED")

    assert (await http("PATCH", path, {"min_version": 2})).json["min_version"] == 2
    body = {"data": base64.b64encode(DATA).decode(), "key_version": 1}
    assert (await http("POST", f"{path}/sign", body)).reason == "KEY_VERSION_UNAVAILABLE"
    assert (await http("POST", f"{path}/disable", {})).json["state"] == "DISABLED"
    assert (await http("POST", f"{path}/enable", {})).json["state"] == "ENABLED"
    assert (await http("DELETE", path)).json["state"] == "DELETED"
    restored = (await http("POST", f"{path}/undelete", {})).json
    assert restored["state"] == "ENABLED"
    answer = (await http("POST", f"{path}/sign", body | {"key_version": 2})).json
    assert_verifies(base64.b64decode(answer["signature"]), rotated.json["key"]["public_key"])
    assert (await http("POST", f"{path}/disable", {"state": 1})).status == 400
