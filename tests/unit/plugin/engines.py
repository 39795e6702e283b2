"""An engine on storage in memory, and what the tests ask of it."""

import base64
from collections.abc import Callable
from functools import cache
from typing import Any

import ecdsa
import pytest

from popsigner_plugin.engine import Engine
from popsigner_plugin.errors import EngineError
from popsigner_plugin.gen.popsigner.engine.v1.packed_pb2 import KeyVersion, PackedSignRequest, PackedSignResponse
from popsigner_plugin.gen.popsigner.engine.v1.stored_pb2 import StoredWrappingKey, StoredWrappingKeys
from popsigner_plugin.wrapping import WrappingKey
from tests.unit.plugin.outside import wrapped
from tests.unit.plugin.storage import MemoryStorage

NOW = 1_700_000_000_000
DIGEST = base64.b64encode(bytes(range(32))).decode()


@cache
def wrapping_key() -> WrappingKey:
    """Made once: each takes a second."""
    return WrappingKey.generated(NOW)


def with_wrapping_key(*, writes_left: int | None = None) -> MemoryStorage:
    """Storage in which the wrapping key was made before."""
    key = wrapping_key()
    entry = StoredWrappingKey(private_key=key.private, public_key=key.public, created_at_ms=NOW)
    stored = StoredWrappingKeys(layout=1, keys=[entry])
    return MemoryStorage({"wrapping/keys": stored.SerializeToString()}, writes_left=writes_left)


def engine_on(storage: MemoryStorage, *, clock: Callable[[], int] = lambda: NOW) -> Engine:
    return Engine(storage, clock=clock)


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def ciphertext(secret: bytes) -> str:
    return encoded(wrapped(secret, wrapping_key().public_data()["public_key"]))


async def answered(engine: Engine, operation: str, path: str, **data: Any) -> dict[str, Any]:
    answer = await engine.handle(operation, path, data)
    assert answer is not None
    return answer


async def asked(engine: Engine, path: str, **data: Any) -> dict[str, Any]:
    """A POST that has an answer."""
    return await answered(engine, "update", path, **data)


async def sign(engine: Engine, name: str, version: int = 0) -> dict[str, Any]:
    return await asked(engine, f"sign/{name}", input=DIGEST, prehashed=True, key_version=version)


async def bring_in(engine: Engine, name: str, scalar: bytes, **options: Any) -> dict[str, Any]:
    return await asked(engine, f"keys/{name}/import", ciphertext=ciphertext(scalar), **options)


async def batch(engine: Engine, *names: str, version: int = 0) -> PackedSignResponse:
    """One signature by each key."""
    request = PackedSignRequest(
        keys=[KeyVersion(name=name, version=version) for name in names],
        key_index=range(len(names)),
        digests=bytes(32 * len(names)),
    )
    answer = await answered(engine, "patch", "batch/sign", packed=encoded(request.SerializeToString()))
    return PackedSignResponse.FromString(base64.b64decode(answer["packed"]))


async def refused(engine: Engine, path: str, **data: Any) -> str:
    """The code of a POST that is refused."""
    with pytest.raises(EngineError) as error:
        await engine.handle("update", path, data)
    assert str(error.value).startswith(f"{error.value.code}: ")
    return error.value.code


def public_key(scalar: bytes) -> str:
    return str(ecdsa.SigningKey.from_string(scalar, ecdsa.SECP256k1).verifying_key.to_string("compressed").hex())
