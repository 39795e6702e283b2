"""Bech32 (BIP-173), reading only: the form of age recipients."""

from typing import Final

_VALUES: Final = {character: value for value, character in enumerate("qpzry9x8gf2tvdw0s3jn54khce6mua7l")}
_GENERATORS: Final = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_CHECKSUM: Final = 6
_MAX_CHARACTERS: Final = 90


def payload(prefix: str, text: str) -> bytes:
    """The bytes behind the prefix (lower case) and the digit 1.

    Raises ValueError for another prefix, more than 90 characters, characters outside the alphabet, upper and lower case
    in one text, a checksum that does not fit (Bech32m's does not), and bits at the end that are no whole byte and not
    zero.
    """
    if len(text) > _MAX_CHARACTERS:
        raise ValueError(f"Bech32 has at most {_MAX_CHARACTERS} characters")
    # Outside ASCII there are characters whose lower case is a letter of the alphabet.
    if not text.isascii() or text not in (text.lower(), text.upper()):
        raise ValueError("the text mixes upper and lower case, or is not ASCII")
    head, _, rest = text.lower().rpartition("1")
    groups = [_VALUES.get(character, -1) for character in rest]
    if head != prefix or len(groups) < _CHECKSUM or -1 in groups:
        raise ValueError("the prefix is another one, or a character is none of Bech32's")
    spread = [ord(each) >> 5 for each in prefix] + [0] + [ord(each) & 31 for each in prefix]
    if _remainder(spread + groups) != 1:
        raise ValueError("the checksum does not fit")
    return _bytes(groups[:-_CHECKSUM])


def _remainder(groups: list[int]) -> int:
    remainder = 1
    for group in groups:
        top, remainder = remainder >> 25, (remainder & 0x1FFFFFF) << 5 ^ group
        for place, generator in enumerate(_GENERATORS):
            remainder ^= generator if top >> place & 1 else 0
    return remainder


def _bytes(groups: list[int]) -> bytes:
    number = 0
    for group in groups:
        number = number << 5 | group
    count, spare = divmod(5 * len(groups), 8)
    if spare > 4 or number & (1 << spare) - 1:
        raise ValueError("the text does not end with a whole byte")
    return (number >> spare).to_bytes(count, "big")
