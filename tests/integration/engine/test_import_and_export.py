"""Private keys come in wrapped, sign as their owner's did, and leave sealed: against code that is not OpenSSL's."""

import asyncio
import base64
import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from typing import Any

import ecdsa
import pytest
import pytest_asyncio
from Crypto.PublicKey import RSA
from ecdsa.curves import SECP256k1
from ecdsa.util import sigencode_string_canonize

from tests.integration.engine.calls import create, encoded, fresh_name, sign_batch
from tests.support import vectors
from tests.support.openbao import Vault
from tests.unit.plugin.outside import AgeIdentity, unwrapped, wrapped

N = SECP256k1.order


def owner_of(scalar: bytes) -> ecdsa.SigningKey:
    return ecdsa.SigningKey.from_string(scalar, SECP256k1, hashfunc=hashlib.sha256)


def public_key(scalar: bytes) -> bytes:
    return bytes(owner_of(scalar).verifying_key.to_string("compressed"))


def as_the_owner_signs(scalar: bytes, digest: bytes) -> bytes:
    return bytes(owner_of(scalar).sign_digest_deterministic(digest, hashlib.sha256, sigencode_string_canonize))


def any_scalar() -> bytes:
    return (secrets.randbelow(N - 1) + 1).to_bytes(32, "big")


def code(body: Mapping[str, Any]) -> str:
    """The refusal's code, as a program reads it: OpenBao puts its own words around each text."""
    (text,) = body["errors"]
    return str(text).split("* ")[-1].split(":")[0]


@pytest_asyncio.fixture(scope="module")
async def pem(vault: Vault) -> str:
    status, body = await vault.call("GET", "wrapping_key")
    assert status == 200
    return str(body["data"]["public_key"])


async def bring_in(vault: Vault, pem: str, scalar: bytes, name: str = "", **options: Any) -> tuple[int, Any]:
    ciphertext = encoded(wrapped(scalar, pem))
    return await vault.call("POST", f"keys/{name or fresh_name()}/import", {"ciphertext": ciphertext, **options})


async def brought_in(vault: Vault, pem: str, scalar: bytes, **options: Any) -> str:
    status, body = await bring_in(vault, pem, scalar, **options)
    assert status == 200, body
    assert body["data"]["public_key"] == public_key(scalar).hex()
    return str(body["data"]["name"])


async def test_the_wrapping_key_says_what_it_is(vault: Vault, pem: str) -> None:
    status, body = await vault.call("GET", "wrapping_key")
    key = RSA.import_key(pem)
    assert (status, body["data"]["public_key"]) == (200, pem)
    assert (key.size_in_bits(), key.e) == (4096, 65537)
    assert body["data"]["id"] == hashlib.sha256(key.export_key("DER")).hexdigest()


async def test_published_vectors_are_met_by_keys_that_were_brought_in(vault: Vault, pem: str) -> None:
    names: dict[bytes, str] = {}
    for vector in vectors.load("rfc6979_secp256k1")["vectors"]:
        scalar = bytes.fromhex(vector["private_key"])
        if scalar not in names:
            names[scalar] = await brought_in(vault, pem, scalar, deletion_allowed=True)
        digest = hashlib.sha256(vector["message"].encode()).digest()
        answer = await sign_batch(vault, [names[scalar]], [0], digest)
        assert answer.signatures[0].hex() == vector["compact"]
    for name in names.values():
        assert (await vault.call("DELETE", f"keys/{name}"))[0] == 204


async def test_a_hundred_keys_come_in_sign_as_their_owners_and_leave_unchanged(vault: Vault, pem: str) -> None:
    scalars = [any_scalar() for _ in range(100)]
    key, identity = RSA.generate(3072), AgeIdentity.made()
    rsa = key.public_key().export_key().decode()

    async def round_trip(scalar: bytes, recipient: str) -> bytes:
        name = await brought_in(vault, pem, scalar, exportable=True)
        digest = os.urandom(32)
        answer = await sign_batch(vault, [name], [0], digest)
        assert answer.signatures[0] == as_the_owner_signs(scalar, digest)
        status, body = await vault.call("POST", f"export/{name}", {"recipient": recipient})
        assert status == 200, body
        assert body["data"]["versions"]["1"]["public_key"] == public_key(scalar).hex()
        return base64.b64decode(body["data"]["versions"]["1"]["ciphertext"])

    for start in range(0, 100, 10):
        tens = scalars[start : start + 10]
        files = await asyncio.gather(
            *(round_trip(scalar, rsa if place % 2 else identity.recipient) for place, scalar in enumerate(tens))
        )
        for place, (scalar, file) in enumerate(zip(tens, files, strict=True)):
            if place % 2:
                assert unwrapped(file, key) == scalar
            else:
                assert json.loads(identity.read(file))["private_key"] == scalar.hex()


async def test_an_export_to_the_engines_own_wrapping_key_can_be_imported_elsewhere(vault: Vault, pem: str) -> None:
    name, public = await create(vault, exportable=True, deletion_allowed=True)
    _, body = await vault.call("POST", f"export/{name}", {"recipient": pem})
    moved = {"ciphertext": body["data"]["versions"]["1"]["ciphertext"]}
    status, body = await vault.call("POST", f"keys/{fresh_name()}/import", moved)
    assert (status, code(body)) == (409, "KEY_PRESENT")
    await vault.call("DELETE", f"keys/{name}")
    status, body = await vault.call("POST", f"keys/{fresh_name()}/import", moved)
    assert (status, body["data"]["public_key"]) == (200, public.hex())


@pytest.mark.parametrize(
    ("scalar", "refusal"),
    [
        (bytes(32), "SCALAR_ZERO"),
        (N.to_bytes(32, "big"), "SCALAR_TOO_LARGE"),
        (b"\xff" * 32, "SCALAR_TOO_LARGE"),
        (b"\x01" * 31, "SCALAR_LENGTH"),
        (b"\x01" * 64, "SCALAR_LENGTH"),
    ],
)
async def test_what_is_no_private_key_is_refused(vault: Vault, pem: str, scalar: bytes, refusal: str) -> None:
    status, body = await bring_in(vault, pem, scalar)
    assert (status, code(body)) == (400, refusal)


async def test_what_does_not_open_is_refused_with_one_sentence(vault: Vault, pem: str) -> None:
    whole = wrapped(any_scalar(), pem)
    sentences = set()
    for broken in (b"", whole[:-8], whole[:512] + whole[520:] + bytes(8), os.urandom(552), bytes(512) + whole[512:]):
        status, body = await vault.call("POST", f"keys/{fresh_name()}/import", {"ciphertext": encoded(broken)})
        assert (status, code(body)) == (400, "WRAPPED_KEY_INVALID")
        sentences.add(str(body))
    assert len(sentences) == 1


async def test_an_import_is_repeatable_and_takes_neither_a_taken_name_nor_a_key_twice(vault: Vault, pem: str) -> None:
    scalar = any_scalar()
    name = await brought_in(vault, pem, scalar)
    status, body = await bring_in(vault, pem, scalar, name)
    assert (status, body["data"]["latest_version"]) == (200, 1)
    status, body = await bring_in(vault, pem, any_scalar(), name)
    assert (status, code(body)) == (409, "NAME_TAKEN")
    status, body = await bring_in(vault, pem, scalar)
    assert (status, code(body)) == (409, "KEY_PRESENT")


async def test_of_many_imports_of_one_key_at_once_exactly_one_wins(vault: Vault, pem: str) -> None:
    scalar = any_scalar()
    answers = await asyncio.gather(*(bring_in(vault, pem, scalar) for _ in range(8)))
    assert sorted(status for status, _ in answers) == [200] + [409] * 7
    assert {code(body) for status, body in answers if status == 409} == {"KEY_PRESENT"}


async def test_another_wrapping_key_takes_over_and_the_old_one_stays_for_a_day(vault: Vault, pem: str) -> None:
    _, before = await vault.call("GET", "wrapping_key")
    old = before["data"]["id"]
    status, rotated = await vault.call("POST", "wrapping_key/rotate", {"replaces": old})
    assert (status, rotated["data"]["id"] != old) == (200, True)
    assert (await vault.call("POST", "wrapping_key/rotate", {"replaces": old}))[1]["data"] == rotated["data"]
    assert (await vault.call("GET", "wrapping_key"))[1]["data"] == rotated["data"]
    await brought_in(vault, pem, any_scalar())
    await brought_in(vault, pem, any_scalar(), wrapping_key=old)
    await brought_in(vault, rotated["data"]["public_key"], any_scalar(), wrapping_key=rotated["data"]["id"])
    status, body = await bring_in(vault, pem, any_scalar(), wrapping_key="0" * 64)
    assert (status, code(body)) == (409, "WRAPPING_KEY_UNKNOWN")


async def test_only_an_exportable_key_leaves_and_only_to_a_sound_recipient(vault: Vault) -> None:
    name, _ = await create(vault)
    recipient = AgeIdentity.made().recipient
    status, body = await vault.call("POST", f"export/{name}", {"recipient": recipient})
    assert (status, code(body)) == (409, "NOT_EXPORTABLE")
    name, _ = await create(vault, exportable=True)
    for weak in ("", "age1", RSA.generate(2048).public_key().export_key().decode()):
        status, body = await vault.call("POST", f"export/{name}", {"recipient": weak})
        assert (status, code(body)) == (400, "RECIPIENT_INVALID")
    status, body = await vault.call("POST", f"export/{name}", {"recipient": recipient, "versions": [2]})
    assert (status, code(body)) == (400, "VERSION_UNAVAILABLE")


async def test_every_version_is_recovered_from_its_copy_also_of_a_key_that_is_not_exportable(vault: Vault) -> None:
    identity, other = AgeIdentity.made(), AgeIdentity.made()
    name, _ = await create(vault, recovery_recipient=identity.recipient)
    await vault.call("POST", f"keys/{name}/rotate", {"to_version": 2})
    digest = os.urandom(32)
    for reader in (identity, other):
        if reader is other:
            status, body = await vault.call("POST", f"recovery/{name}", {"recipient": other.recipient})
            assert (status, body["data"]["recovery_recipient"]) == (200, other.recipient)
        status, body = await vault.call("GET", f"recovery/{name}")
        assert (status, body["data"]["recipient"]) == (200, reader.recipient)
        for number in (1, 2):
            copy = json.loads(reader.read(base64.b64decode(body["data"]["versions"][str(number)]["ciphertext"])))
            ask = {"input": encoded(digest), "prehashed": True, "key_version": number}
            _, signed = await vault.call("POST", f"sign/{name}", ask)
            expected = as_the_owner_signs(bytes.fromhex(copy["private_key"]), digest)
            assert base64.b64decode(signed["data"]["signature"]) == expected
            assert (copy["version"], copy["public_key"]) == (number, signed["data"]["public_key"])
    assert await vault.call("DELETE", f"recovery/{name}") == (204, None)
    status, body = await vault.call("GET", f"recovery/{name}")
    assert (status, code(body)) == (404, "RECOVERY_COPY_UNKNOWN")


async def test_a_rotated_key_signs_with_each_version_down_to_its_minimum(vault: Vault) -> None:
    name, first = await create(vault)
    status, body = await vault.call("POST", f"keys/{name}/rotate", {"to_version": 2})
    assert (status, body["data"]["key_version"]) == (200, 2)
    assert (await vault.call("POST", f"keys/{name}/rotate", {"to_version": 2}))[1]["data"] == body["data"]
    status, body = await vault.call("POST", f"keys/{name}/rotate", {"to_version": 4})
    assert (status, code(body)) == (409, "VERSION_SKIPPED")
    ask = {"input": encoded(bytes(32)), "prehashed": True, "key_version": 1}
    status, signed = await vault.call("POST", f"sign/{name}", ask)
    assert (status, signed["data"]["public_key"]) == (200, first.hex())
    status, body = await vault.call("POST", f"keys/{name}/config", {"min_signing_version": 3})
    assert (status, code(body)) == (400, "BAD_INPUT")
    assert (await vault.call("POST", f"keys/{name}/config", {"min_signing_version": 2}))[0] == 200
    status, body = await vault.call("POST", f"sign/{name}", ask)
    assert (status, code(body)) == (400, "VERSION_UNAVAILABLE")
    verify = {**ask, "signature": signed["data"]["signature"]}
    status, body = await vault.call("POST", f"verify/{name}", verify)
    assert (status, body["data"]["valid"]) == (200, True)
