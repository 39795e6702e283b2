"""A bare private key: 64 hexadecimal digits, with or without 0x, in a file of their own."""

import binascii
from typing import Final

from .errors import DamagedFile, NotThisFormat
from .secret import SCALAR_BYTES, Secret, overwrite

_DIGITS: Final = frozenset(b"0123456789abcdefABCDEF")


def looks_like(content: bytes | bytearray) -> bool:
    """Whether the content is hexadecimal digits and nothing else."""
    start, stop = _bounds(content)
    return stop > start and all(content[place] in _DIGITS for place in range(start, stop))


def read(content: bytes | bytearray) -> Secret:
    """The private key in the content of a file; white space around it is passed over.

    Raises NotThisFormat, DamagedFile (another number of digits), InvalidPrivateKey.
    """
    if not looks_like(content):
        raise NotThisFormat("this is not a private key in hexadecimal digits: there are other characters in it")
    start, stop = _bounds(content)
    if stop - start != 2 * SCALAR_BYTES:
        raise DamagedFile(f"a private key has {2 * SCALAR_BYTES} hexadecimal digits; this has {stop - start}")
    with memoryview(content) as view:
        scalar = binascii.unhexlify(view[start:stop])
    try:
        return Secret(bytearray(scalar))
    finally:
        overwrite(scalar)


def write(secret: Secret) -> bytearray:
    """64 lower-case digits and a line feed, without 0x: what most tools read. The caller overwrites it."""
    digits = binascii.hexlify(secret.scalar)
    try:
        content = bytearray(len(digits) + 1)
        content[:-1] = digits
        content[-1:] = b"\n"
        return content
    finally:
        overwrite(digits)


def _bounds(content: bytes | bytearray) -> tuple[int, int]:
    """Where the digits are, without white space and 0x, found without a copy of them."""
    start, stop = 0, len(content)
    while start < stop and content[start] in b" \t\r\n":
        start += 1
    while start < stop and content[stop - 1] in b" \t\r\n":
        stop -= 1
    if content[start : start + 2] in (b"0x", b"0X"):
        start += 2
    return start, stop
