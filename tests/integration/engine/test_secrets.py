"""Private scalars stay behind OpenBao's barrier: in no log, no audit trail, no answer, no file."""

import asyncio
import base64
import os
from pathlib import Path

from popsigner_plugin.gen.popsigner.engine.v1.stored_pb2 import StoredKey
from tests.integration.engine.calls import create, encoded, fresh_name, sign_batch
from tests.support.memory_search import search_files, spellings
from tests.support.openbao import OpenBaoServer, Vault
from tests.unit.plugin.outside import AgeIdentity, wrapped


async def stored(vault: Vault, name: str) -> StoredKey | None:
    """The key as storage has it, through the door that only this test's OpenBao opens."""
    _, mounts = await vault.call("GET", "/sys/mounts/secp256k1")
    path = f"/sys/raw/logical/{mounts['data']['uuid']}/keys/{name}?encoding=base64"
    status, body = await vault.call("GET", path)
    return StoredKey.FromString(base64.b64decode(body["data"]["value"])) if status == 200 else None


def shows(said: object, secret: bytes) -> bool:
    """Whether the secret stands in what was answered, in any form."""
    return any(needle in repr(said).encode() for needle in spellings(secret).values())


async def test_a_scalar_shows_nowhere_and_is_gone_after_the_delete(openbao: OpenBaoServer, vault: Vault) -> None:
    name, _ = await create(vault, deletion_allowed=True, exportable=True)
    kept = await stored(vault, name)
    assert kept is not None
    scalar = kept.versions[0].scalar
    assert len(scalar) == 32
    said = [
        await vault.call("GET", f"keys/{name}"),
        await vault.call("POST", f"sign/{name}", {"input": encoded(b"x")}),
        await vault.call("POST", f"keys/{name}/config", {"enabled": True}),
        await vault.call("POST", f"keys/{name}", {}),
        await vault.call("POST", f"keys/{name}/config", {"exportable": "?"}),
        await vault.call("POST", f"export/{name}", {"recipient": AgeIdentity.made().recipient}),
        await vault.call("POST", f"recovery/{name}", {"recipient": AgeIdentity.made().recipient}),
        await vault.call("GET", f"recovery/{name}"),
        await vault.call("POST", f"keys/{name}/rotate", {}),
    ]
    await sign_batch(vault, [name], [0] * 100, os.urandom(3200))
    assert not shows(said, scalar)
    await asyncio.sleep(0.1)
    assert openbao.bao.audit_log.stat().st_size > 0
    assert b"secp256k1/batch/sign" in openbao.bao.audit_log.read_bytes()
    # Found by this search when it is there: the name is in the audit trail and in the log.
    assert openbao.bao.audit_log in {hit.path for hit in search_files([openbao.home], name.encode())}
    assert search_files([openbao.home], scalar) == []
    await vault.call("DELETE", f"keys/{name}")
    assert await stored(vault, name) is None


async def test_a_private_key_that_came_in_shows_nowhere_outside_the_engine(
    openbao: OpenBaoServer, vault: Vault
) -> None:
    name, scalar, identity = fresh_name(), os.urandom(31) + b"\x01", AgeIdentity.made()
    _, wrapping = await vault.call("GET", "wrapping_key")
    pem = wrapping["data"]["public_key"]
    ciphertext = encoded(wrapped(scalar, pem))
    options = {"exportable": True, "deletion_allowed": True, "recovery_recipient": identity.recipient}
    said = [
        await vault.call("POST", f"keys/{name}/import", {"ciphertext": ciphertext, **options}),
        await vault.call("POST", f"keys/{name}/import", {"ciphertext": ciphertext}),
        await vault.call("POST", f"keys/{fresh_name()}/import", {"ciphertext": ciphertext}),
        await vault.call("POST", f"keys/{name}/import", {"ciphertext": encoded(wrapped(scalar + b"x", pem))}),
        await vault.call("POST", f"export/{name}", {"recipient": identity.recipient}),
        await vault.call("POST", f"export/{name}", {"recipient": pem}),
        await vault.call("GET", f"recovery/{name}"),
    ]
    assert [status for status, _ in said] == [200, 200, 409, 400, 200, 200, 200]
    await sign_batch(vault, [name], [0] * 100, os.urandom(3200))
    assert not shows(said, scalar)
    await asyncio.sleep(0.1)
    assert openbao.bao.audit_log in {hit.path for hit in search_files([openbao.home], name.encode())}
    assert search_files([openbao.home], scalar) == []
    # Neither the ciphertext, which the wrapping key would open, nor what left for somebody stands in the trail.
    trail = openbao.bao.audit_log.read_bytes()
    left = [version["ciphertext"] for _, body in said[4:] for version in body["data"]["versions"].values()]
    for sealed in (ciphertext, *left):
        assert sealed.encode() not in trail


async def test_messages_and_signatures_are_in_the_audit_trail_as_digests_alone(
    openbao: OpenBaoServer, vault: Vault
) -> None:
    name, _ = await create(vault)
    message = os.urandom(48)
    status, body = await vault.call("POST", f"sign/{name}", {"input": encoded(message)})
    assert status == 200
    await asyncio.sleep(0.1)
    trail = openbao.bao.audit_log.read_bytes()
    assert encoded(message).encode() not in trail
    assert body["data"]["signature"].encode() not in trail


async def test_the_plugin_says_nothing_about_a_request_that_breaks_it(openbao: OpenBaoServer, vault: Vault) -> None:
    name, _ = await create(vault)
    _, mounts = await vault.call("GET", "/sys/mounts/secp256k1")
    path = f"/sys/raw/logical/{mounts['data']['uuid']}/keys/{name}"
    broken = await stored(vault, name)
    assert broken is not None
    scalar, broken.layout = broken.versions[0].scalar, 9
    value = encoded(broken.SerializeToString())
    assert (await vault.call("PUT", path, {"value": value, "encoding": "base64"}))[0] == 204
    status, body = await vault.call("GET", f"keys/{name}")
    assert status == 500
    assert "under error id" in str(body)
    error_id = str(body).split("error id ")[1][:12]
    await asyncio.sleep(0.1)
    log = openbao.log.read_bytes()
    assert error_id.encode() in log
    assert b"unexpected ValueError" in log
    assert not any(needle in log for needle in spellings(scalar).values())


def test_the_plugin_dumps_no_core(openbao: OpenBaoServer) -> None:
    (engine,) = openbao.engines()
    lines = Path(f"/proc/{engine.pid}/limits").read_text().splitlines()
    assert next(line for line in lines if line.startswith("Max core file size")).split()[4:6] == ["0", "0"]
