"""What several of these tests ask of the engine."""

import base64
import secrets
from collections.abc import Sequence

from popsigner_plugin.gen.popsigner.engine.v1.packed_pb2 import KeyVersion, PackedSignRequest, PackedSignResponse
from tests.support.openbao import Vault


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def fresh_name() -> str:
    return secrets.token_hex(16)


async def create(vault: Vault, name: str | None = None, **fields: bool | str) -> tuple[str, bytes]:
    """Create a key; its name and its public key (33 bytes)."""
    name = name or fresh_name()
    status, body = await vault.call("POST", f"keys/{name}", fields)
    assert status == 200, body
    return name, bytes.fromhex(body["data"]["public_key"])


async def packed(
    vault: Vault, request: PackedSignRequest, *, method: str = "PATCH"
) -> tuple[int, PackedSignResponse | str]:
    """Send a batch; the status, and the answer or the error's text."""
    status, body = await vault.call(method, "batch/sign", {"packed": encoded(request.SerializeToString())})
    if status != 200:
        return status, str(body)
    return status, PackedSignResponse.FromString(base64.b64decode(body["data"]["packed"]))


async def sign_batch(
    vault: Vault, names: Sequence[str], key_index: Sequence[int], digests: bytes, formats: Sequence[int] = ()
) -> PackedSignResponse:
    """Sign a batch with the latest versions."""
    request = PackedSignRequest(keys=[KeyVersion(name=name) for name in names], key_index=key_index, digests=digests)
    request.formats.extend(formats)  # type: ignore[arg-type]  # plain numbers are what the wire has
    status, answer = await packed(vault, request)
    assert isinstance(answer, PackedSignResponse), (status, answer)
    return answer
