"""What the POP writes to its disk in clear: logs and OpenBao's audit trail hold no secret, no signature, no message."""

import asyncio
import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import pytest

from popsigner import AsyncClient
from popsigner_server.gen.popsigner.v1 import api_key_pb2, audit_pb2, key_pb2, sign_pb2
from tests.integration.pop.wire import Json, Wire
from tests.support.pop import Pop

MARKER = b"MARKER-4f1c8a-of-a-message-that-nobody-may-read"
# An API key with its secret, whoever's it is.
SECRET = re.compile(rb"psk_(?:live|test)_[0-9A-Z]{26}_[0-9a-f]{64}")


def logs(pop: Pop) -> Iterator[Path]:
    """Every log file of the POP: of its parts, and OpenBao's audit trail."""
    yield from (path for path in (pop.data_dir / "logs").iterdir() if path.is_file())
    yield from pop.data_dir.glob("openbao/audit*.log*")


def spellings(secret: bytes) -> dict[str, bytes]:
    """The ways in which bytes appear in a text. Base64 depends on what stands before, so its inner part is looked for
    in each of its three shapes."""
    found = {"raw": secret, "hexadecimal": secret.hex().encode(), "HEXADECIMAL": secret.hex().upper().encode()}
    for shift in range(3):
        encoded = base64.b64encode(bytes(shift) + secret)
        found[f"base64, shifted by {shift}"] = encoded[4 : len(encoded) - 4]
    found["escaped"] = repr(secret)[2:-1].encode()
    return found


@pytest.fixture
async def made(pop: Pop, owner: Wire, http: Json, key: key_pb2.Key) -> list[bytes]:
    """Signatures of the marker over every wire, and every kind of call that fails with the marker in it."""
    text, written = MARKER.decode(), base64.b64encode(MARKER).decode()
    signatures = [
        (await owner(sign_pb2.SignRequest(key_id=key.id, data=MARKER, format=form))).signature
        for form in (sign_pb2.COMPACT, sign_pb2.RECOVERABLE, sign_pb2.DER)
    ]
    item = sign_pb2.SignItem(key_id=key.id, data=MARKER, hash=sign_pb2.KECCAK256)
    batch = await owner(sign_pb2.BatchSignRequest(requests=[item]))
    signatures.append(batch.signatures[0].signature)
    stream = owner.stream()
    await stream.write(sign_pb2.SignStreamRequest(requests=[item]))
    signatures.append((await stream.read()).signatures[0].signature)
    stream.cancel()
    body = {"data": written, "sign_mode": "SIGN_MODE_DIRECT"}
    answer = await http("POST", f"/v1/keys/{key.id}/sign", body)
    signatures.append(base64.b64decode(answer.json["signature"]))
    async with AsyncClient(api_key=pop.api_key, endpoint=pop.http) as client:
        signatures.append((await client.sign(key.id, MARKER)).signature)
    await owner(sign_pb2.VerifyRequest(key_id=key.id, data=MARKER, signature=signatures[0]))

    wrong = (("authorization", f"Bearer psk_live_01J00000000000000000000000_{uuid4().hex * 2}"),)
    await owner.refused(sign_pb2.SignRequest(key_id=key.id, data=MARKER), metadata=wrong)
    await owner.refused(sign_pb2.SignRequest(key_id=key.id, data=MARKER, prehashed=True))
    await owner.refused(sign_pb2.SignRequest(key_id=key.id, data=MARKER), timeout=1e-6)
    await owner.refused(sign_pb2.SignRequest(key_id=f"production/{text}", data=MARKER))
    await owner.refused(audit_pb2.ListLogsRequest(cursor=text))
    for path, sent in (
        (f"/v1/keys/{key.id}/sign", '{"data": "' + written),
        (f"/v1/keys/{key.id}/sign", {"data": text}),
        (f"/v1/keys/{key.id}/sign", {"data": written, text: text}),
        (f"/v1/keys/{key.id}/verify", {"data": written, "signature": base64.b64encode(signatures[0]).decode()}),
    ):
        await http("POST", path, sent)
    await http("GET", "/v1/keys?limit=1", headers={"x-api-key": "", "authorization": f"Bearer {owner.api_key}"})
    garbage: Any = owner.channel.unary_unary("/popsigner.v1.SignService/Sign")
    with pytest.raises(grpc.aio.AioRpcError):
        await garbage(b"\xff" + MARKER, metadata=owner.metadata)
    return signatures


async def test_no_log_holds_a_secret_a_signature_or_a_message(
    pop: Pop, owner: Wire, key: key_pb2.Key, made: list[bytes]
) -> None:
    granted = (await owner(api_key_pb2.CreateApiKeyRequest(name="logged", scopes=["api:keys:sign"]))).key
    await Wire(owner.channel, granted)(sign_pb2.SignRequest(key_id=key.id, data=MARKER))
    # Envoy writes its access log every ten seconds.
    async with asyncio.timeout(20):
        while key.id not in (pop.data_dir / "logs" / "envoy.log").read_text():  # noqa: ASYNC110 - a file tells nobody
            await asyncio.sleep(0.2)

    written = {path.name: path.read_bytes() for path in logs(pop)}

    assert written.keys() >= {"server.log", "envoy.log", "openbao.log", "postgres.log", "audit.log"}
    # The calls did leave their traces: an empty log would hold no secret either.
    assert key.id.encode() in written["envoy.log"]
    assert b"batch/sign" in written["audit.log"]
    secrets = {"the owner's secret": owner.api_key.rpartition("_")[2], "a granted secret": granted.rpartition("_")[2]}
    for name, content in written.items():
        assert not SECRET.search(content), f"{name} holds an API key"
        for what, secret in secrets.items():
            assert secret.encode() not in content, f"{name} holds {what}"
        for how, spelling in spellings(MARKER).items():
            assert spelling not in content, f"{name} holds the message: {how}"
        for signature in made:
            # DER and compact share R and S, so that each is looked for by its halves, too.
            for part in (signature, signature[:32], signature[32:64]):
                for how, spelling in spellings(part).items():
                    assert spelling not in content, f"{name} holds a signature: {how}"


async def test_the_files_of_the_data_directory_are_nobody_elses(pop: Pop) -> None:
    assert pop.data_dir.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o077 == 0 or path.parent.stat().st_mode & 0o077 == 0 for path in logs(pop))
