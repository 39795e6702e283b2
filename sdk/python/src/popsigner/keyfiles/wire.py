"""Protocol Buffers' wire format (encoding guide), as far as a keyring's entries need it: varints and bytes.

Amino, which the Cosmos SDK used before, writes structures the same way, and puts four bytes before a concrete type.
Nothing is copied out of the buffer that is read: what is found are views of it, and its owner can overwrite it.
"""

from collections.abc import Iterator

from .errors import DamagedFile

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIDTHS = {_FIXED64: 8, _FIXED32: 4}


def fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(number, value) of each field that is a string, bytes or a message; numbers are passed over.

    Raises DamagedFile.
    """
    place = 0
    while place < len(message):
        key, place = varint(message, place)
        kind = key & 7
        if kind == _VARINT:
            _, place = varint(message, place)
            continue
        if kind == _BYTES:
            length, place = varint(message, place)
        elif kind in _WIDTHS:
            length = _WIDTHS[kind]
        else:
            raise _damaged()
        if key < 8 or length > len(message) - place:
            raise _damaged()
        if kind == _BYTES:
            yield key >> 3, message[place : place + length]
        place += length


def varint(message: memoryview, place: int) -> tuple[int, int]:
    """The number (at most 64 bits) that begins at `place`, and where it ends. Raises DamagedFile."""
    number = 0
    for shift in range(0, 70, 7):
        if place >= len(message):
            break
        byte = message[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            if number >> 64:
                break
            return number, place
    raise _damaged()


def text(value: memoryview) -> str:
    """A string field. Raises DamagedFile."""
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError:
        raise _damaged() from None


def head(number: int, length: int) -> bytes:
    """What stands before a value of `length` bytes in field `number` (1 to 15)."""
    return bytes([number << 3 | _BYTES]) + written_varint(length)


def written_varint(number: int) -> bytes:
    """Seven bits a byte, least significant first."""
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(groups) + bytes([number])


def _damaged() -> DamagedFile:
    return DamagedFile("the entry is cut off or malformed inside its encryption")
