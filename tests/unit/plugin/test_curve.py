"""The curve: RFC 6979 vectors, an independent implementation, and the three ways to write a signature."""

import gc
import hashlib
from typing import Any

import ecdsa
import pytest
from coincurve._libsecp256k1 import ffi
from ecdsa.curves import SECP256k1
from ecdsa.util import sigdecode_der, sigdecode_string, sigencode_string_canonize
from hypothesis import given, settings
from hypothesis import strategies as st

from popsigner_plugin import curve
from popsigner_plugin.curve import Format, SigningKey, sign_columns, verify

N = SECP256k1.order
SCALARS = st.integers(1, N - 1).map(lambda value: value.to_bytes(32, "big"))
DIGESTS = st.binary(min_size=32, max_size=32)


# secp256k1 with SHA-256, as published with the first implementations of RFC 6979 for this curve (Trezor, Bitcoin Core).
@pytest.mark.parametrize(
    ("scalar", "message", "signature"),
    [
        (
            1,
            b"Satoshi Nakamoto",
            (
                "934b1ea10a4b3c1757e2b0c017d0b6143ce3c9a7e6a4a49860d7a6ab210ee3d8"
                "2442ce9d2b916064108014783e923ec36b49743e2ffa1c4496f01a512aafd9e5"
            ),
        ),
        (
            1,
            b"All those moments will be lost in time, like tears in rain. Time to die...",
            (
                "8600dbd41e348fe5c9465ab92d23e3db8b98b873beecd930736488696438cb6b"
                "547fe64427496db33bf66019dacbf0039c04199abb0122918601db38a72cfc21"
            ),
        ),
        (
            N - 1,
            b"Satoshi Nakamoto",
            (
                "fd567d121db66e382991534ada77a6bd3106f0a1098c231e47993447cd6af2d0"
                "6b39cd0eb1bc8603e159ef5c20a5c8ad685a45b06ce9bebed3f153d10d93bed5"
            ),
        ),
        (
            0xF8B8AF8CE3C7CCA5E300D33939540C10D45CE001B8F252BFBC57BA0342904181,
            b"Alan Turing",
            (
                "7063ae83e7f62bbb171798131b4a0564b956930092b33b07b395615d9ec7e15c"
                "58dfcc1e00a35e1572f366ffe34ba0fc47db1e7189759b9fb233c5b05ab388ea"
            ),
        ),
    ],
)
def test_published_rfc_6979_vectors_are_met(scalar: int, message: bytes, signature: str) -> None:
    key = SigningKey.of(scalar.to_bytes(32, "big"))
    assert key.sign(hashlib.sha256(message).digest(), Format.COMPACT).hex() == signature


@given(SCALARS, DIGESTS)
@settings(max_examples=40, deadline=None)
def test_an_independent_implementation_signs_and_verifies_the_same(scalar: bytes, digest: bytes) -> None:
    key = SigningKey.of(scalar)
    other = ecdsa.SigningKey.from_string(scalar, SECP256k1, hashfunc=hashlib.sha256)
    expected = other.sign_digest_deterministic(digest, hashlib.sha256, sigencode_string_canonize)
    compact = key.sign(digest, Format.COMPACT)
    assert compact == expected
    assert key.public_key == other.verifying_key.to_string("compressed")
    assert other.verifying_key.verify_digest(key.sign(digest, Format.DER), digest, sigdecode_der)


@given(SCALARS, DIGESTS)
@settings(max_examples=40, deadline=None)
def test_the_three_formats_are_one_signature(scalar: bytes, digest: bytes) -> None:
    key = SigningKey.of(scalar)
    compact, recoverable, der = (key.sign(digest, form) for form in Format)
    assert recoverable[:64] == compact
    assert recoverable[64] in (0, 1)
    assert sigdecode_der(der, N) == sigdecode_string(compact, N)
    assert int.from_bytes(compact[32:], "big") <= N // 2
    for form, signature in zip(Format, (compact, recoverable, der), strict=True):
        assert verify(key.public_key, digest, signature, form)


@given(SCALARS, DIGESTS, st.integers(0, 63), st.integers(1, 255))
@settings(max_examples=40, deadline=None)
def test_one_changed_byte_makes_a_signature_invalid(scalar: bytes, digest: bytes, where: int, change: int) -> None:
    key = SigningKey.of(scalar)
    signature = bytearray(key.sign(digest, Format.COMPACT))
    signature[where] ^= change
    assert not verify(key.public_key, digest, bytes(signature), Format.COMPACT)


def test_a_high_s_is_refused_in_every_format() -> None:
    key, digest = SigningKey.generated(), hashlib.sha256(b"x").digest()
    recoverable = key.sign(digest, Format.RECOVERABLE)
    r, s = recoverable[:32], N - int.from_bytes(recoverable[32:64], "big")
    high = r + s.to_bytes(32, "big")
    der = ecdsa.util.sigencode_der(int.from_bytes(r, "big"), s, N)
    # The mirrored S is a signature for the mirrored point, so the arithmetic alone would accept it.
    assert ecdsa.VerifyingKey.from_string(key.public_key, SECP256k1).verify_digest(high, digest)
    assert not verify(key.public_key, digest, high, Format.COMPACT)
    assert not verify(key.public_key, digest, high + bytes((recoverable[64] ^ 1,)), Format.RECOVERABLE)
    assert not verify(key.public_key, digest, der, Format.DER)


@pytest.mark.parametrize("v", [2, 3, 255])
def test_a_recoverable_signature_with_a_strange_v_is_refused(v: int) -> None:
    key, digest = SigningKey.generated(), bytes(range(32))
    signature = key.sign(digest, Format.RECOVERABLE)
    assert not verify(key.public_key, digest, signature[:64] + bytes((v,)), Format.RECOVERABLE)


def test_a_recoverable_signature_whose_v_names_another_key_is_refused() -> None:
    key, digest = SigningKey.generated(), bytes(range(32))
    signature = key.sign(digest, Format.RECOVERABLE)
    assert not verify(key.public_key, digest, signature[:64] + bytes((signature[64] ^ 1,)), Format.RECOVERABLE)


@pytest.mark.parametrize("scalar", [bytes(32), N.to_bytes(32, "big"), b"\xff" * 32, b"\x01" * 31, b"\x01" * 33, b""])
def test_a_scalar_outside_1_to_n_minus_1_is_refused(scalar: bytes) -> None:
    with pytest.raises(ValueError, match="1 to n-1"):
        SigningKey.of(scalar)


def test_the_first_and_the_last_scalar_are_accepted() -> None:
    for scalar in (1, N - 1):
        assert SigningKey.of(scalar.to_bytes(32, "big")).scalar() == scalar.to_bytes(32, "big")


def test_generated_keys_differ_and_sign() -> None:
    keys = [SigningKey.generated() for _ in range(20)]
    assert len({key.scalar() for key in keys}) == 20
    assert all(SigningKey.of(key.scalar()).public_key == key.public_key for key in keys)


def test_columns_are_signed_in_order_and_missing_keys_leave_gaps() -> None:
    first, second = SigningKey.generated(), SigningKey.generated()
    digests = [bytes((item,)) * 32 for item in range(6)]
    formats = [0, 1, 2, 0, 1, 2]
    signed = sign_columns([first, None, second], [0, 1, 2, 2, 1, 0], b"".join(digests), formats)
    assert signed[1] == signed[4] == b""
    for item, key in ((0, first), (2, second), (3, second), (5, first)):
        assert signed[item] == key.sign(digests[item], Format(formats[item]))


def test_a_private_key_is_overwritten_when_its_last_user_lets_go(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []

    def watched(cell: Any, overwrite: Any = curve._overwrite) -> None:
        seen.append(bytes(ffi.buffer(cell, 32)))
        overwrite(cell)
        seen.append(bytes(ffi.buffer(cell, 32)))

    monkeypatch.setattr(curve, "_overwrite", watched)
    scalar = b"\x07" * 32
    key = SigningKey.of(scalar)
    user = key
    del key
    gc.collect()
    assert seen == []
    del user
    assert seen == [scalar, bytes(32)]


def test_what_is_overwritten_holds_zeros() -> None:
    for secret in (bytes(bytearray(range(1, 33))), bytearray(range(1, 33))):
        curve.overwrite(secret)
        assert secret == bytes(32)


def test_the_interpreters_own_single_bytes_are_never_overwritten() -> None:
    for value in range(256):
        # What a library makes of one byte is the shared object.
        shared = bytes(bytearray((value,)))
        curve.overwrite(shared)
        assert shared[0] == value
    curve.overwrite(b"")
