"""Bech32 (BIP-173) and Bech32m (BIP-350): text with a human-readable prefix and a checksum."""

from enum import Enum
from functools import reduce
from operator import xor

_ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_VALUES = {character: value for value, character in enumerate(_ALPHABET)}
_GENERATORS = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
# The sum of the generators for each of the 32 values that the checksum's top can have.
_REDUCTIONS = tuple(
    reduce(xor, (generator for bit, generator in enumerate(_GENERATORS) if top >> bit & 1), 0) for top in range(32)
)
_CHECKSUM = 6
MAX_PREFIX = 83
# BIP-173's bound on the whole text, within which any four errors are detected.
MAX_TEXT = 90


class Variant(Enum):
    """Which checksum; the value is the constant that it ends in."""

    BECH32 = 1
    BECH32M = 0x2BC830A3


def _polymod(values: list[int]) -> int:
    checksum = 1
    for value in values:
        checksum = (checksum & 0x1FFFFFF) << 5 ^ value ^ _REDUCTIONS[checksum >> 25]
    return checksum


def _expand(prefix: str) -> list[int]:
    return [ord(character) >> 5 for character in prefix] + [0] + [ord(character) & 31 for character in prefix]


def _check_prefix(prefix: str) -> None:
    if not 1 <= len(prefix) <= MAX_PREFIX or not all("!" <= character <= "~" for character in prefix):
        raise ValueError(f"The prefix must be 1 to {MAX_PREFIX} printable ASCII characters without spaces.")


def encode(prefix: str, groups: list[int], variant: Variant) -> str:
    """Write 5-bit groups (each 0 to 31) behind a lower-case prefix. Raises ValueError.

    The text may grow beyond BIP-173's 90 characters: Cosmos chains take up to 1 023.
    """
    _check_prefix(prefix)
    if prefix != prefix.lower():
        raise ValueError("The prefix must be lower case.")
    if not all(0 <= group <= 31 for group in groups):
        raise ValueError("The groups must be numbers of five bits.")
    checksum = _polymod(_expand(prefix) + groups + [0] * _CHECKSUM) ^ variant.value
    tail = [checksum >> 5 * (_CHECKSUM - 1 - place) & 31 for place in range(_CHECKSUM)]
    return f"{prefix}1{''.join([_ALPHABET[group] for group in groups + tail])}"


def decode(text: str, *, limit: int = MAX_TEXT) -> tuple[str, list[int], Variant]:
    """The lower-case prefix, the 5-bit groups and the variant of a text. Raises ValueError, also beyond `limit`."""
    if len(text) > limit:
        raise ValueError(f"The text must have at most {limit} characters.")
    # Before any change of case: a letter beyond ASCII may turn into one of ASCII.
    if not text.isascii():
        raise ValueError("The text must be ASCII.")
    if text != text.lower() and text != text.upper():
        raise ValueError("The text must not mix upper and lower case.")
    prefix, separator, rest = text.lower().rpartition("1")
    if not separator or len(rest) < _CHECKSUM:
        raise ValueError(f"The text must be a prefix, the digit 1 and at least {_CHECKSUM} characters.")
    _check_prefix(prefix)
    if not all(character in _VALUES for character in rest):
        raise ValueError("The text has a character behind its prefix that is not in the bech32 alphabet.")
    groups = [_VALUES[character] for character in rest]
    constant = _polymod(_expand(prefix) + groups)
    if constant not in (Variant.BECH32.value, Variant.BECH32M.value):
        raise ValueError("The checksum is wrong.")
    return prefix, groups[:-_CHECKSUM], Variant(constant)


def to_groups(data: bytes) -> list[int]:
    """Bytes as 5-bit groups, most significant bit first; the last group is filled up with zero bits."""
    padding = -8 * len(data) % 5
    number = int.from_bytes(data, "big") << padding
    count = (8 * len(data) + padding) // 5
    return [number >> 5 * (count - 1 - place) & 31 for place in range(count)]


def from_groups(groups: list[int]) -> bytes:
    """The bytes that `to_groups` read. Raises ValueError for more than four bits of padding, or any that is set."""
    padding = 5 * len(groups) % 8
    number = 0
    for group in groups:
        number = number << 5 | group
    if padding > 4 or number & ((1 << padding) - 1):
        raise ValueError("The last group must be filled up with at most four zero bits.")
    return (number >> padding).to_bytes(5 * len(groups) // 8, "big")
