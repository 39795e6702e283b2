"""A private key while it is in this process, and what everybody may know about it."""

import ctypes
import hashlib
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from Crypto.Hash import RIPEMD160, keccak
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from .bech32 import bech32
from .errors import InvalidPrivateKey

SCALAR_BYTES: Final = 32
# SEC 2, 2.4.1: the order of secp256k1.
ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_CURVE: Final = ec.SECP256K1()


def overwrite(*buffers: bytes | bytearray) -> None:
    """Fill them with zeros.

    Also bytes, which Python itself never changes: libraries hand secrets out in nothing else. Only for values that the
    caller alone holds and that nobody reads again. Of single bytes the interpreter keeps one object for all its users:
    those are left alone.
    """
    for buffer in buffers:
        if isinstance(buffer, bytearray):
            buffer[:] = bytes(len(buffer))
        elif len(buffer) > 1:
            ctypes.memset(ctypes.c_char_p(buffer), 0, len(buffer))


@dataclass(frozen=True, slots=True)
class PublicFacts:
    """What a private key makes public, to be compared with what the POP shows.

    public_key: 33 bytes, compressed (SEC 1, 2.3.3).
    """

    public_key: bytes

    @property
    def account(self) -> bytes:
        """The 20 bytes behind a Cosmos address (Cosmos SDK, ADR-028): RIPEMD-160 of SHA-256."""
        # Not hashlib's RIPEMD-160: OpenSSL 3 keeps it in its legacy provider, which many builds do not load.
        return RIPEMD160.new(hashlib.sha256(self.public_key).digest()).digest()

    @property
    def eth_account(self) -> bytes:
        """The 20 bytes of an Ethereum address: the end of the Keccak-256 of the point's 64 bytes."""
        point = ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, self.public_key)
        return keccak256(point.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:])[12:]

    @property
    def eth_address(self) -> str:
        """The Ethereum address: 0x and 40 digits, with the checksum of EIP-55 in the case of its letters."""
        text = self.eth_account.hex()
        marks = keccak256(text.encode()).hex()
        return "0x" + "".join(
            [digit.upper() if mark >= "8" else digit for digit, mark in zip(text, marks, strict=False)]
        )

    def address(self, prefix: str) -> str:
        """The Cosmos address with a bech32 prefix (1 to 83 lower-case characters), e.g. `celestia`."""
        return bech32(prefix, self.account)


class Secret:
    """One private key: `scalar` is the only buffer that this class holds it in, 32 bytes, big-endian, 1 to n-1.

        with keystore.read(content, passphrase) as secret:
            use(secret.scalar)

    The buffer is zero when the block ends. The buffer given in is taken over, not copied, and is overwritten at once
    where it is no private key. Raises InvalidPrivateKey.
    """

    __slots__ = ("facts", "scalar")

    def __init__(self, scalar: bytearray) -> None:
        self.scalar = scalar
        number = int.from_bytes(scalar, "big")
        if len(scalar) != SCALAR_BYTES or not 0 < number < ORDER:
            self.wipe()
            raise InvalidPrivateKey("the private key is not a number from 1 to n-1 in 32 bytes")
        # Python's numbers and OpenSSL's copy of this one cannot be overwritten; they are freed here.
        public = ec.derive_private_key(number, _CURVE).public_key()
        self.facts = PublicFacts(public.public_bytes(Encoding.X962, PublicFormat.CompressedPoint))

    def wipe(self) -> None:
        """Overwrite the private key. It can be called again."""
        overwrite(self.scalar)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wipe()

    def __repr__(self) -> str:
        return f"Secret(public_key={self.facts.public_key.hex()})"

    def __reduce__(self) -> str:
        # Neither pickle nor copy may make another one.
        raise TypeError("a Secret cannot be copied or written out")


def keccak256(data: bytes | bytearray) -> bytes:
    """The original Keccak-256 of Ethereum, 32 bytes; not SHA3-256."""
    digest: bytes = keccak.new(digest_bits=256, data=data).digest()
    return digest
