import pytest

from popsigner_server.domain.digests import HashAlgorithm, describe, digest_of, keccak256
from popsigner_server.gen.popsigner.v1 import sign_pb2
from tests.support.vectors import load

# FIPS 180-4's example "abc".
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_sha_256_is_that_of_fips_180() -> None:
    assert digest_of(b"abc", hash=HashAlgorithm.SHA256, prehashed=False).hex() == ABC


def test_keccak_256_is_ethereums_and_not_sha3_256() -> None:
    for vector in load("keccak256")["vectors"]:
        digest = digest_of(bytes.fromhex(vector["message"]), hash=HashAlgorithm.KECCAK256, prehashed=False)
        assert len(digest) == 32
        assert digest.hex().startswith(vector.get("digest", vector.get("digest_begins")))
        assert digest == keccak256(bytes.fromhex(vector["message"]))


@pytest.mark.parametrize("hash", HashAlgorithm)
def test_a_prehashed_digest_is_signed_as_it_is(hash: HashAlgorithm) -> None:
    digest = bytes(range(32))
    assert digest_of(digest, hash=hash, prehashed=True) == digest


@pytest.mark.parametrize("length", [0, 1, 20, 31, 33, 64])
def test_a_prehashed_digest_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="exactly 32 bytes"):
        digest_of(bytes(length), hash=HashAlgorithm.SHA256, prehashed=True)


def test_a_digest_tells_where_it_came_from() -> None:
    digest = bytes.fromhex(ABC)
    assert describe(HashAlgorithm.SHA256, digest) == f"sha256:{ABC}"
    assert describe(HashAlgorithm.KECCAK256, digest) == f"keccak256:{ABC}"
    assert describe(None, digest) == f"digest:{ABC}"


def test_the_values_are_the_contracts() -> None:
    for hash in HashAlgorithm:
        assert sign_pb2.HashAlgorithm.Value(hash.name) == hash.value
