import hashlib

import pytest
from coincurve import PrivateKey, PublicKey
from hypothesis import given
from hypothesis import strategies as st

from popsigner_server.domain.signatures import SignatureFormat, parse_public_key, to_der, verify
from popsigner_server.gen.popsigner.engine.v1 import packed_pb2
from tests.support import wycheproof
from tests.support.vectors import load

ORDER = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
KEY = PrivateKey(hashlib.sha256(b"a key").digest())
PUBLIC = KEY.public_key.format()
UNCOMPRESSED = KEY.public_key.format(compressed=False)
DIGEST = hashlib.sha256(b"a message").digest()
RECOVERABLE = KEY.sign_recoverable(DIGEST, hasher=None)
WRITTEN = {
    SignatureFormat.COMPACT: RECOVERABLE[:64],
    SignatureFormat.RECOVERABLE: RECOVERABLE,
    SignatureFormat.DER: KEY.sign(DIGEST, hasher=None),
}


def high_s(compact: bytes) -> bytes:
    return compact[:32] + (ORDER - int.from_bytes(compact[32:64], "big")).to_bytes(32, "big")


def test_every_case_of_wycheproofs_bitcoin_suite_is_judged_rightly() -> None:
    judged = {
        case.number: verify(case.public_key, hashlib.sha256(case.message).digest(), case.signature, SignatureFormat.DER)
        is case.valid
        for case in wycheproof.cases()
    }
    assert len(judged) == 463
    assert [number for number, right in judged.items() if not right] == []


def test_the_shared_rfc_6979_vectors_verify_in_every_format() -> None:
    for vector in load("rfc6979_secp256k1")["vectors"]:
        key = PrivateKey(bytes.fromhex(vector["private_key"]))
        digest = hashlib.sha256(vector["message"].encode()).digest()
        compact = bytes.fromhex(vector["compact"])
        public_key = key.public_key.format()
        assert verify(public_key, digest, compact, SignatureFormat.COMPACT)
        assert verify(public_key, digest, to_der(compact), SignatureFormat.DER)
        recovering = [verify(public_key, digest, compact + bytes((v,)), SignatureFormat.RECOVERABLE) for v in range(4)]
        assert sorted(recovering) == [False, False, False, True]


@pytest.mark.parametrize("format", SignatureFormat)
@pytest.mark.parametrize("public_key", [PUBLIC, UNCOMPRESSED])
def test_a_signature_holds_for_its_digest_and_key_in_either_form(format: SignatureFormat, public_key: bytes) -> None:
    assert verify(public_key, DIGEST, WRITTEN[format], format) is True


@pytest.mark.parametrize("format", SignatureFormat)
def test_a_signature_holds_for_nothing_else(format: SignatureFormat) -> None:
    other = PrivateKey(hashlib.sha256(b"another key").digest()).public_key.format()
    negated = bytes((PUBLIC[0] ^ 1,)) + PUBLIC[1:]
    signature = WRITTEN[format]
    assert verify(other, DIGEST, signature, format) is False
    assert verify(negated, DIGEST, signature, format) is False
    assert verify(PUBLIC, hashlib.sha256(b"another").digest(), signature, format) is False


def test_high_s_is_refused_in_every_format() -> None:
    high = high_s(RECOVERABLE)
    assert verify(PUBLIC, DIGEST, high, SignatureFormat.COMPACT) is False
    assert verify(PUBLIC, DIGEST, to_der(high), SignatureFormat.DER) is False
    # With v flipped it recovers the same key: only the size of s speaks against it.
    flipped = high + bytes((RECOVERABLE[64] ^ 1,))
    assert PublicKey.from_signature_and_message(flipped, DIGEST, hasher=None).format() == PUBLIC
    assert verify(PUBLIC, DIGEST, flipped, SignatureFormat.RECOVERABLE) is False


def test_a_wrong_recovery_id_is_refused() -> None:
    for v in (RECOVERABLE[64] ^ 1, 2, 3, 4, 27, 28, 255):
        assert verify(PUBLIC, DIGEST, RECOVERABLE[:64] + bytes((v,)), SignatureFormat.RECOVERABLE) is False


def test_a_recovery_id_above_one_is_refused_even_where_it_is_the_right_one() -> None:
    # The nonce's point has an x beyond the order, so that r is x - n and v is 2 (SEC 1, 4.1.6). By chance it never is.
    def crafted(r: int) -> tuple[bytes, bytes] | None:
        signature = r.to_bytes(32, "big") + (1).to_bytes(32, "big") + b"\x02"
        try:
            return signature, PublicKey.from_signature_and_message(signature, DIGEST, hasher=None).format()
        except ValueError:
            return None

    signature, public_key = next(found for r in range(1, 100) if (found := crafted(r)) is not None)
    assert verify(public_key, DIGEST, signature[:64], SignatureFormat.COMPACT) is True
    assert verify(public_key, DIGEST, signature, SignatureFormat.RECOVERABLE) is False


@pytest.mark.parametrize("format", SignatureFormat)
def test_another_length_is_refused(format: SignatureFormat) -> None:
    signature = WRITTEN[format]
    for wrong in (b"", signature[:-1], signature + b"\x00", signature * 2):
        assert verify(PUBLIC, DIGEST, wrong, format) is False
    for digest in (b"", DIGEST[:-1], DIGEST + b"\x00"):
        assert verify(PUBLIC, digest, signature, format) is False


@pytest.mark.parametrize("r", [0, 1, ORDER - 1, ORDER, ORDER + 1, 2**256 - 1])
@pytest.mark.parametrize("s", [0, 1, ORDER // 2, ORDER // 2 + 1, ORDER, 2**256 - 1])
def test_numbers_at_the_edges_are_refused_without_an_exception(r: int, s: int) -> None:
    compact = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    assert verify(PUBLIC, DIGEST, compact, SignatureFormat.COMPACT) is False
    assert verify(PUBLIC, DIGEST, to_der(compact), SignatureFormat.DER) is False
    assert verify(PUBLIC, DIGEST, compact + b"\x00", SignatureFormat.RECOVERABLE) is False


@given(st.binary(max_size=80), st.sampled_from(SignatureFormat))
def test_whatever_comes_is_judged_without_an_exception(noise: bytes, format: SignatureFormat) -> None:
    assert verify(PUBLIC, DIGEST, noise, format) is False
    assert verify(noise, DIGEST, WRITTEN[format], format) is False


@given(st.binary(min_size=32, max_size=32))
def test_der_is_written_as_libsecp256k1_writes_it(digest: bytes) -> None:
    assert to_der(KEY.sign_recoverable(digest, hasher=None)[:64]) == KEY.sign(digest, hasher=None)


def test_the_shortest_and_the_longest_der() -> None:
    one = bytes(31) + b"\x01"
    assert to_der(one + one).hex() == "3006020101020101"
    assert len(to_der(b"\xff" * 64)) == 72


@pytest.mark.parametrize("public_key", [PUBLIC, UNCOMPRESSED])
def test_a_public_key_is_read_from_hexadecimal_in_either_case(public_key: bytes) -> None:
    assert parse_public_key(public_key.hex()) == public_key
    assert parse_public_key(public_key.hex().upper()) == public_key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "zz",
        PUBLIC.hex()[:-1],
        PUBLIC.hex()[:-2],
        PUBLIC.hex() + "00",
        " " + PUBLIC.hex(),
        PUBLIC.hex() + "\n",
        "0x" + PUBLIC.hex(),
        PUBLIC[1:].hex(),
        UNCOMPRESSED[1:].hex(),
        "00",
        "00" + PUBLIC[1:].hex(),
        "04" + PUBLIC[1:].hex(),
        "02" + UNCOMPRESSED[1:].hex(),
        # No point has this x.
        "02" + (5).to_bytes(32, "big").hex(),
        # x = p, the field's size.
        "02" + (2**256 - 2**32 - 977).to_bytes(32, "big").hex(),
        # A point off the curve.
        UNCOMPRESSED[:-1].hex() + f"{UNCOMPRESSED[-1] ^ 1:02x}",
        "\u0660" * 66,
    ],
)
def test_what_is_no_public_key_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match="must be a point of secp256k1 as 66"):
        parse_public_key(text)


def test_hybrid_public_keys_are_refused() -> None:
    hybrid = bytes((6 | UNCOMPRESSED[-1] & 1,)) + UNCOMPRESSED[1:]
    # libsecp256k1 itself takes them.
    assert PublicKey(hybrid).format() == PUBLIC
    with pytest.raises(ValueError, match="must be a point"):
        parse_public_key(hybrid.hex())
    assert verify(hybrid, DIGEST, WRITTEN[SignatureFormat.COMPACT], SignatureFormat.COMPACT) is False


def test_the_values_are_the_engines() -> None:
    for format in SignatureFormat:
        assert packed_pb2.Format.Value(format.name) == format.value


def test_every_format_counts_as_true() -> None:
    # `given or default` must never replace a format that was given.
    assert all(SignatureFormat)
