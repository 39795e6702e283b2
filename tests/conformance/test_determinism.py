"""RFC 6979, against python-ecdsa's own implementation. The POP gives no private key away, so that the engine's signing
itself is compared here, with scalars that the test knows."""

import hashlib
import random

import ecdsa
import pytest
from ecdsa.util import sigencode_der_canonize, sigencode_string_canonize

from popsigner_plugin.curve import Format, SigningKey

ORDER = ecdsa.SECP256k1.order
RANDOM = random.Random("RFC 6979")
SCALARS = [1, 2, ORDER - 1, ORDER - 2, ORDER // 2, *(RANDOM.randrange(1, ORDER) for _ in range(40))]
MESSAGES = [b"", b"sample", b"test", *(RANDOM.randbytes(RANDOM.randrange(300)) for _ in range(3))]


@pytest.mark.parametrize("scalar", SCALARS)
def test_the_engine_signs_as_another_implementation_of_rfc_6979_does(scalar: int) -> None:
    other = ecdsa.SigningKey.from_secret_exponent(scalar, curve=ecdsa.SECP256k1)
    ours = SigningKey.of(scalar.to_bytes(32, "big"))
    assert ours.public_key == other.verifying_key.to_string("compressed")

    for message in MESSAGES:
        digest = hashlib.sha256(message).digest()
        compact, der = (
            other.sign_digest_deterministic(digest, hashfunc=hashlib.sha256, sigencode=encode)
            for encode in (sigencode_string_canonize, sigencode_der_canonize)
        )
        assert ours.sign(digest, Format.COMPACT) == compact
        assert ours.sign(digest, Format.DER) == der
        assert ours.sign(digest, Format.RECOVERABLE)[:64] == compact
