"""Bech32 (BIP-173), writing only: whole bytes behind a prefix, as Cosmos writes its addresses."""

from typing import Final

_ALPHABET: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATORS: Final = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_CHECKSUM: Final = 6
_MAX_PREFIX: Final = 83


def bech32(prefix: str, payload: bytes) -> str:
    """Prefix (1 to 83 printable ASCII characters in lower case), the digit 1, the payload, a checksum of 6 characters.

    Raises ValueError for another prefix. Unlike BIP-173, which ends at 90 characters, Cosmos takes longer texts.
    """
    if (
        not 1 <= len(prefix) <= _MAX_PREFIX
        or prefix != prefix.lower()
        or not all("!" <= each <= "~" for each in prefix)
    ):
        raise ValueError(f"a bech32 prefix is 1 to {_MAX_PREFIX} printable ASCII characters in lower case")
    # Five bits a character, most significant first; zeros fill the last one up.
    filled = -8 * len(payload) % 5
    number, count = int.from_bytes(payload, "big") << filled, (8 * len(payload) + filled) // 5
    groups = [number >> 5 * place & 31 for place in reversed(range(count))]
    expanded = [ord(each) >> 5 for each in prefix] + [0] + [ord(each) & 31 for each in prefix]
    remainder = _remainder(expanded + groups + [0] * _CHECKSUM) ^ 1
    groups += [remainder >> 5 * place & 31 for place in reversed(range(_CHECKSUM))]
    return f"{prefix}1" + "".join([_ALPHABET[group] for group in groups])


def _remainder(groups: list[int]) -> int:
    remainder = 1
    for group in groups:
        top = remainder >> 25
        remainder = (remainder & 0x1FFFFFF) << 5 ^ group
        for place, generator in enumerate(_GENERATORS):
            if top >> place & 1:
                remainder ^= generator
    return remainder
