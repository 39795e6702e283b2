"""Private keys in memory: in the engine the one copy that signs, in OpenBao none after its garbage collection."""

import asyncio
import base64
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import ecdsa
import pytest
from Crypto.PublicKey import RSA
from cryptography.hazmat.primitives.serialization import load_der_private_key

from popsigner_plugin.gen.popsigner.engine.v1.stored_pb2 import StoredKey, StoredWrappingKeys
from tests.integration.engine.calls import create, encoded, fresh_name, sign_batch
from tests.support.memory_search import search_files, search_memory
from tests.support.openbao import OpenBaoServer, Vault
from tests.unit.plugin.outside import AgeIdentity, wrapped

ORDER = ecdsa.SECP256k1.order
COLLECTED_WITHIN = 60.0

Ask = Callable[..., Awaitable[Mapping[str, Any]]]


@pytest.fixture
def ask(vault: Vault) -> Ask:
    """A request that must succeed; its data."""

    async def asked(method: str, path: str, **data: Any) -> Mapping[str, Any]:
        status, body = await vault.call(method, path, data or None)
        assert status < 300, body
        return body["data"] if body else {}

    return asked


async def raw(vault: Vault, place: str) -> bytes:
    """An entry of the engine's storage, through the door that only this test's OpenBao opens."""
    _, mounts = await vault.call("GET", "/sys/mounts/secp256k1")
    path = f"/sys/raw/logical/{mounts['data']['uuid']}/{place}?encoding=base64"
    status, body = await vault.call("GET", path)
    assert status == 200, body
    return base64.b64decode(body["data"]["value"])


async def in_engine(openbao: OpenBaoServer, secret: bytes, *, expected: int, seconds: float = 10.0) -> Counter[str]:
    """How often the engine's process holds the secret, by spelling; asked again while it is not `expected` in all.

    What a request left behind goes with its last object, which may be a moment after its answer.
    """
    (engine,) = openbao.engines()
    deadline = time.monotonic() + seconds
    while True:
        hits = await asyncio.to_thread(search_memory, [engine.pid], secret)
        if len(hits) == expected or time.monotonic() > deadline:
            return Counter(hit.spelling for hit in hits)
        await asyncio.sleep(0.1)


async def in_openbao(openbao: OpenBaoServer, vault: Vault, secret: bytes) -> Counter[str]:
    """The same of OpenBao's process, after other keys' requests, and once its garbage collector has run.

    By itself it runs within two minutes. Each connection keeps its last message until a longer one comes over it; the
    longest here are the wrapping keys, some 10 kB when other tests have rotated them.
    """
    deadline = time.monotonic() + COLLECTED_WITHIN
    while True:
        name, _ = await create(vault, deletion_allowed=True, recovery_recipient=AgeIdentity.made().recipient)
        for _ in range(32):
            await vault.call("POST", f"keys/{name}/rotate", {})
        await sign_batch(vault, [name], [0], bytes(32))
        await vault.call("DELETE", f"keys/{name}")
        # What is in a pool goes at the second run.
        for _ in range(3):
            await collect(vault)
        hits = await asyncio.to_thread(search_memory, [openbao.pid], secret)
        if not hits or time.monotonic() > deadline:
            return Counter(hit.spelling for hit in hits)


async def collect(vault: Vault) -> None:
    headers = {"X-Vault-Token": vault.token}
    async with vault._session.get("http://openbao/v1/sys/pprof/heap?gc=1", headers=headers) as answer:
        assert answer.status == 200
        await answer.read()


async def test_a_private_key_that_came_in_is_in_memory_once_while_it_signs_and_never_else(
    openbao: OpenBaoServer, vault: Vault, ask: Ask
) -> None:
    scalar, name, identity = b"\x0f" + os.urandom(31), fresh_name(), AgeIdentity.made()
    pem = (await ask("GET", "wrapping_key"))["public_key"]
    rsa = RSA.generate(3072).public_key().export_key().decode()
    options = {"exportable": True, "deletion_allowed": True, "recovery_recipient": identity.recipient}

    async def signs() -> None:
        await ask("POST", f"sign/{name}", input=encoded(os.urandom(40)), key_version=1)
        await ask("GET", f"keys/{name}")
        await sign_batch(vault, [name], [0] * 300, os.urandom(32 * 300))
        held = await in_engine(openbao, scalar, expected=1)
        assert held == {"raw": 1}

    await ask("POST", f"keys/{name}/import", ciphertext=encoded(wrapped(scalar, pem)), **options)
    assert await in_engine(openbao, scalar, expected=0) == {}
    await signs()
    signature = (await ask("POST", f"sign/{name}", input=encoded(b"x")))["signature"]
    assert (await ask("POST", f"verify/{name}", input=encoded(b"x"), signature=signature))["valid"]
    for recipient in (rsa, identity.recipient):
        await ask("POST", f"export/{name}", recipient=recipient)
    await ask("GET", f"recovery/{name}")
    # The one copy is the cache's still.
    assert await in_engine(openbao, scalar, expected=1) == {"raw": 1}
    for path, data in (
        (f"recovery/{name}", {"recipient": AgeIdentity.made().recipient}),
        (f"keys/{name}/rotate", {}),
        (f"keys/{name}/config", {"enabled": True}),
        (f"keys/{name}/import", {"ciphertext": encoded(wrapped(scalar, pem))}),
    ):
        await ask("POST", path, **data)
        if not path.endswith("import"):
            # A change drops the key from the cache.
            assert await in_engine(openbao, scalar, expected=0) == {}, path
        await signs()
    await ask("DELETE", f"keys/{name}")
    assert await in_engine(openbao, scalar, expected=0) == {}
    assert await in_openbao(openbao, vault, scalar) == {}
    assert search_files([openbao.home], scalar) == []


async def test_a_private_key_that_was_made_here_is_in_memory_once_while_it_signs_and_never_else(
    openbao: OpenBaoServer, vault: Vault, ask: Ask
) -> None:
    identity = AgeIdentity.made()
    name, _ = await create(vault, deletion_allowed=True, recovery_recipient=identity.recipient)
    await ask("POST", f"keys/{name}/rotate")
    scalars = [version.scalar for version in StoredKey.FromString(await raw(vault, f"keys/{name}")).versions]
    assert len(scalars) == 2
    for scalar in scalars:
        assert await in_engine(openbao, scalar, expected=0) == {}
    await sign_batch(vault, [name], [0], os.urandom(32))
    for scalar in scalars:
        assert await in_engine(openbao, scalar, expected=1) == {"raw": 1}
    await ask("DELETE", f"keys/{name}")
    for scalar in scalars:
        assert await in_engine(openbao, scalar, expected=0) == {}
        assert await in_openbao(openbao, vault, scalar) == {}
        assert search_files([openbao.home], scalar) == []


async def test_openbao_keeps_nothing_of_a_key_that_goes_on_signing(
    openbao: OpenBaoServer, vault: Vault, ask: Ask
) -> None:
    scalar, name = b"\x0e" + os.urandom(31), fresh_name()
    pem = (await ask("GET", "wrapping_key"))["public_key"]
    await ask("POST", f"keys/{name}/import", ciphertext=encoded(wrapped(scalar, pem)), deletion_allowed=True)
    await sign_batch(vault, [name], [0], os.urandom(32))
    assert await in_openbao(openbao, vault, scalar) == {}
    assert await in_engine(openbao, scalar, expected=1) == {"raw": 1}
    await ask("DELETE", f"keys/{name}")


async def test_an_import_that_is_refused_leaves_nothing_in_memory(
    openbao: OpenBaoServer, vault: Vault, ask: Ask
) -> None:
    scalar, beyond, name = b"\x0d" + os.urandom(31), b"\xff" * 16 + os.urandom(16), fresh_name()
    pem = (await ask("GET", "wrapping_key"))["public_key"]
    await ask("POST", f"keys/{name}/import", ciphertext=encoded(wrapped(scalar, pem)), deletion_allowed=True)
    for secret in (scalar, scalar + b"x", beyond):
        body = {"ciphertext": encoded(wrapped(secret, pem)), "recovery_recipient": AgeIdentity.made().recipient}
        assert (await vault.call("POST", f"keys/{fresh_name()}/import", body))[0] in (400, 409)
    for secret in (scalar, beyond):
        assert await in_engine(openbao, secret, expected=0) == {}
    await ask("DELETE", f"keys/{name}")


async def test_a_signatures_nonce_stays_nowhere(openbao: OpenBaoServer, vault: Vault, ask: Ask) -> None:
    """Whoever has a nonce has the key."""
    scalar, name, digest = b"\x0c" + os.urandom(31), fresh_name(), os.urandom(32)
    pem = (await ask("GET", "wrapping_key"))["public_key"]
    await ask("POST", f"keys/{name}/import", ciphertext=encoded(wrapped(scalar, pem)), deletion_allowed=True)
    answer = await sign_batch(vault, [name], [0] * 200, digest * 200)
    r, s = (int.from_bytes(answer.signatures[0][half], "big") for half in (slice(32), slice(32, 64)))
    nonce = pow(s, -1, ORDER) * (int.from_bytes(digest, "big") + r * int.from_bytes(scalar, "big")) % ORDER
    # S may have been negated to be low, and the nonce with it.
    nonces = (nonce, ORDER - nonce)
    own = ecdsa.SigningKey.from_string(scalar, ecdsa.SECP256k1)
    assert {int.from_bytes(own.sign_digest(digest, k=k)[:32], "big") for k in nonces} == {r}
    for value in nonces:
        assert await in_engine(openbao, value.to_bytes(32, "big"), expected=0) == {}
    await ask("DELETE", f"keys/{name}")


async def test_the_wrapping_key_is_in_memory_only_while_an_import_is_opened(
    openbao: OpenBaoServer, vault: Vault, ask: Ask
) -> None:
    name = fresh_name()
    pem = (await ask("GET", "wrapping_key"))["public_key"]
    ciphertext = encoded(wrapped(b"\x0b" + os.urandom(31), pem))
    await ask("POST", f"keys/{name}/import", ciphertext=ciphertext, deletion_allowed=True)
    stored = StoredWrappingKeys.FromString(await raw(vault, "wrapping/keys"))
    private: Any = load_der_private_key(stored.keys[-1].private_key, None)
    numbers = private.private_numbers()
    for number in (numbers.p, numbers.q, numbers.d, numbers.dmp1):
        secret = number.to_bytes(-(-number.bit_length() // 8), "big")
        assert await in_engine(openbao, secret, expected=0) == {}
        assert await in_openbao(openbao, vault, secret) == {}
    await ask("DELETE", f"keys/{name}")
