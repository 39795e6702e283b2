"""Wrapping keys: the published vectors, one refusal for whatever does not open, and the day that an old one has."""

import asyncio
import os
import secrets
import threading
from functools import cache
from typing import Any

import pytest
from Crypto.Cipher import AES, PKCS1_OAEP
from Crypto.PublicKey import RSA
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap_with_padding, aes_key_wrap_with_padding
from cryptography.hazmat.primitives.serialization import load_der_private_key
from hypothesis import given, settings
from hypothesis import strategies as st

from popsigner_plugin import wrapping
from popsigner_plugin.errors import BadInput, Conflict
from popsigner_plugin.gen.popsigner.engine.v1.stored_pb2 import StoredWrappingKeys
from popsigner_plugin.wrapping import ACCEPTED_AFTER_MS, WrappingKey
from tests.unit.plugin import outside
from tests.unit.plugin.engines import (
    NOW,
    answered,
    asked,
    bring_in,
    encoded,
    engine_on,
    with_wrapping_key,
    wrapping_key,
)
from tests.unit.plugin.storage import MemoryStorage

SCALAR = bytes(range(1, 33))


@cache
def private() -> rsa.RSAPrivateKey:
    key = load_der_private_key(wrapping_key().private, None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


@cache
def others_key() -> RSA.RsaKey:
    return RSA.import_key(wrapping_key().private)


def pem() -> str:
    return str(wrapping_key().public_data()["public_key"])


# RFC 5649, section 6.
@pytest.mark.parametrize(
    ("secret", "sealed"),
    [
        (
            "c37b7e6492584340bed12207808941155068f738",
            "138bdeaa9b8fa7fc61f97742e72248ee5ae6ae5360d1ae6a5f54f373fa543b6a",
        ),
        ("466f7250617369", "afbeb0f07dfbf5419200f2ccb50bb24f"),
    ],
)
def test_the_vectors_of_rfc_5649_are_met(secret: str, sealed: str) -> None:
    key = bytes.fromhex("5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8")
    assert aes_key_wrap_with_padding(key, bytes.fromhex(secret)).hex() == sealed
    assert aes_key_unwrap_with_padding(key, bytes.fromhex(sealed)).hex() == secret
    assert outside.kwp(key, bytes.fromhex(secret)).hex() == sealed


@settings(deadline=None, max_examples=25)
@given(st.binary(min_size=1, max_size=80))
def test_what_others_wrap_is_unwrapped_and_the_other_way_round(secret: bytes) -> None:
    assert wrapping.unwrapped(outside.wrapped(secret, pem()), private()) == secret
    assert outside.unwrapped(wrapping.wrapped(secret, private().public_key()), others_key()) == secret


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 512 + 40 - 1), st.integers(1, 255))
def test_a_changed_byte_anywhere_does_not_open(place: int, change: int) -> None:
    ciphertext = bytearray(outside.wrapped(SCALAR, pem()))
    ciphertext[place] ^= change
    assert wrapping.unwrapped(bytes(ciphertext), private()) is None


def damaged() -> dict[str, bytes]:
    whole = outside.wrapped(SCALAR, pem())
    foreign = RSA.generate(2048).public_key().export_key().decode()
    oaep_sha1 = PKCS1_OAEP.new(RSA.import_key(pem())).encrypt(bytes(32))
    plain_wrap = AES.new(bytes(32), AES.MODE_KW).seal(SCALAR)
    return {
        "nothing": b"",
        "only the RSA part": whole[:512],
        "cut": whole[:-1],
        "longer": whole + bytes(8),
        "another wrapping key": outside.wrapped(SCALAR, foreign),
        "the parts the other way round": whole[512:] + whole[:512],
        "an AES-128 key": outside.wrapped(SCALAR, pem(), aes_bytes=16),
        "OAEP with SHA-1": oaep_sha1 + outside.kwp(bytes(32), SCALAR),
        "AES-KW without padding": outside.wrapped(SCALAR, pem())[:512] + plain_wrap,
        "RSA part of zeros": bytes(512) + whole[512:],
        "RSA part above the modulus": b"\xff" * 512 + whole[512:],
        "random": os.urandom(552),
        "far too long": whole + bytes(8 * 1024),
    }


async def test_whatever_does_not_open_gets_one_and_the_same_answer() -> None:
    engine = engine_on(with_wrapping_key())
    answers = set()
    for name, ciphertext in damaged().items():
        with pytest.raises(BadInput) as refused:
            await asked(engine, "keys/k/import", ciphertext=encoded(ciphertext))
        assert refused.value.code == "WRAPPED_KEY_INVALID", name
        answers.add(str(refused.value))
    assert len(answers) == 1


def test_an_rsa_part_that_does_not_open_costs_an_unwrapping_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = []

    def counted(key: bytes, sealed: bytes) -> bytes:
        keys.append(bytes(bytearray(key)))
        return aes_key_unwrap_with_padding(key, sealed)

    monkeypatch.setattr(wrapping, "aes_key_unwrap_with_padding", counted)
    tail = outside.kwp(bytes(32), SCALAR)
    for _ in range(2):
        assert wrapping.unwrapped(bytes(512) + tail, private()) is None
    assert len(set(keys)) == 2
    assert all(len(key) == 32 for key in keys)


def test_a_random_key_that_happens_to_open_the_second_part_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "token_bytes", lambda count: bytes(bytearray(count)))
    assert wrapping.unwrapped(bytes(512) + outside.kwp(bytes(32), SCALAR), private()) is None


async def test_the_wrapping_key_is_made_at_the_first_call_and_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = MemoryStorage()
    engine = engine_on(storage)
    made = await asyncio.gather(*(answered(engine, "read", "wrapping_key") for _ in range(5)))
    assert [place for _, place, _ in storage.writes] == ["wrapping/keys"]
    assert all(one == made[0] for one in made)
    assert await answered(engine_on(storage), "read", "wrapping_key") == made[0]
    assert RSA.import_key(made[0]["public_key"]).size_in_bits() == 4096
    assert made[0]["wrapping"] == "RSA-OAEP-SHA256+AES-KWP"
    assert len(bytes.fromhex(made[0]["id"])) == 32


class Factory:
    """Takes the place of a key's generation, which waits for `go`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.keys = [wrapping_key(), *(_small(number) for number in range(6))]
        monkeypatch.setattr(WrappingKey, "generated", lambda now_ms: self.keys.pop())


def _small(number: int) -> WrappingKey:
    key = RSA.generate(2048)
    return WrappingKey(
        private=key.export_key("DER", pkcs=8), public=key.public_key().export_key("DER"), created_at_ms=number
    )


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> int:
        return self.now


async def test_an_old_wrapping_key_is_accepted_for_a_day_and_then_erased(monkeypatch: pytest.MonkeyPatch) -> None:
    Factory(monkeypatch)
    storage, clock = with_wrapping_key(), Clock()
    engine = engine_on(storage, clock=clock)
    old = wrapping_key()
    new = await asked(engine, "wrapping_key/rotate")
    assert new["id"] != old.id
    assert (await answered(engine, "read", "wrapping_key"))["id"] == new["id"]
    clock.now += ACCEPTED_AFTER_MS - 1
    await engine.handle("rollback", "", {})
    await bring_in(engine, "unnamed", SCALAR)
    await bring_in(engine, "unnamed", SCALAR, wrapping_key=old.id)
    assert old.private in storage.blobs["wrapping/keys"]
    clock.now += 1
    with pytest.raises(BadInput, match="WRAPPED_KEY_INVALID"):
        await bring_in(engine, "late", b"\x05" * 32)
    with pytest.raises(Conflict, match="WRAPPING_KEY_UNKNOWN"):
        await bring_in(engine, "late", b"\x05" * 32, wrapping_key=old.id)
    storage.writes.clear()
    await engine.handle("rollback", "", {})
    assert [place for _, place, _ in storage.writes] == ["wrapping/keys"]
    assert old.private not in storage.blobs["wrapping/keys"]
    storage.writes.clear()
    await engine.handle("rollback", "", {})
    assert storage.writes == []
    assert (await answered(engine, "read", "wrapping_key"))["id"] == new["id"]


async def test_a_rotation_that_names_what_it_replaces_happens_once(monkeypatch: pytest.MonkeyPatch) -> None:
    Factory(monkeypatch)
    engine = engine_on(with_wrapping_key())
    first, *others = await asyncio.gather(
        *(asked(engine, "wrapping_key/rotate", replaces=wrapping_key().id) for _ in range(4))
    )
    assert all(other == first for other in others)
    assert first["id"] != wrapping_key().id


async def test_wrapping_keys_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    Factory(monkeypatch)
    storage, clock = with_wrapping_key(), Clock()
    engine = engine_on(storage, clock=clock)
    for _ in range(3):
        await asked(engine, "wrapping_key/rotate")
    with pytest.raises(Conflict, match="WRAPPING_KEYS_TOO_MANY"):
        await asked(engine, "wrapping_key/rotate")
    clock.now += ACCEPTED_AFTER_MS
    await asked(engine, "wrapping_key/rotate")
    stored = StoredWrappingKeys.FromString(storage.blobs["wrapping/keys"])
    assert len(stored.keys) == 2


async def test_signing_goes_on_while_a_wrapping_key_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    going, go = threading.Event(), threading.Event()

    def slow(now_ms: int) -> WrappingKey:
        going.set()
        assert go.wait(30)
        return wrapping_key()

    monkeypatch.setattr(WrappingKey, "generated", slow)
    engine = engine_on(MemoryStorage())
    await asked(engine, "keys/k")
    making = asyncio.create_task(answered(engine, "read", "wrapping_key"))
    assert await asyncio.to_thread(going.wait, 30)
    assert await asked(engine, "sign/k", input="")
    assert not making.done()
    go.set()
    assert (await making)["id"] == wrapping_key().id


def test_a_wrapping_key_does_not_show_its_private_part() -> None:
    assert "private" not in repr(wrapping_key())


async def test_wrapping_keys_of_a_later_engine_are_refused() -> None:
    storage = MemoryStorage({"wrapping/keys": StoredWrappingKeys(layout=2).SerializeToString()})
    with pytest.raises(ValueError, match="layout 2"):
        await answered(engine_on(storage), "read", "wrapping_key")


@pytest.mark.parametrize("field", [{}, {"ciphertext": 5}, {"ciphertext": "*"}])
async def test_a_ciphertext_is_base64(field: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="`ciphertext` is"):
        await asked(engine_on(with_wrapping_key()), "keys/k/import", **field)
