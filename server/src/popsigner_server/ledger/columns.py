"""PostgreSQL's binary form of the release gate's columns: one-dimensional arrays, written in one step each.

An array is: dimensions (1), whether it holds nulls, the element's type, its length, its lower bound (1); then for each
element its length in bytes (-1 for a null) and its bytes. Integers are big-endian. (PostgreSQL: array_send.)
"""

import struct
from collections.abc import Sequence
from typing import Final
from uuid import UUID

_INT4: Final = 23
_TEXT: Final = 25
_UUID: Final = 2950
_HEADER: Final = struct.Struct(">iiiii")
_NULL: Final = b"\xff\xff\xff\xff"
_UUID_LENGTH: Final = b"\x00\x00\x00\x10"
_INT: Final = struct.Struct(">i")


def int4_column(values: Sequence[int], shift: int = 0) -> bytes:
    """int4[] of the values, each with `shift` added."""
    cells = [4] * (2 * len(values))
    cells[1::2] = [value + shift for value in values] if shift else values
    return struct.pack(f">iiiii{len(cells)}i", 1, 0, _INT4, len(values), 1, *cells)


def uuid_column(values: Sequence[UUID | None]) -> bytes:
    """uuid[]."""
    parts = [_NULL if value is None else _UUID_LENGTH + value.bytes for value in values]
    return _HEADER.pack(1, None in values, _UUID, len(values), 1) + b"".join(parts)


def text_column(values: Sequence[str | None]) -> bytes:
    """text[]."""
    parts = []
    for value in values:
        if value is None:
            parts.append(_NULL)
        else:
            text = value.encode()
            parts.append(_INT.pack(len(text)) + text)
    return _HEADER.pack(1, None in values, _TEXT, len(values), 1) + b"".join(parts)


def int4(cell: bytes) -> int:
    """One integer of an answer."""
    value: int = _INT.unpack(cell)[0]
    return value


def elements(cell: bytes | None) -> list[bytes]:
    """The elements of an array of an answer, which holds no nulls; none for a null and for an empty array."""
    if cell is None or int4(cell[:4]) == 0:
        return []
    (count,) = _INT.unpack_from(cell, 12)
    place, found = _HEADER.size, []
    for _ in range(count):
        (length,) = _INT.unpack_from(cell, place)
        place += 4
        found.append(cell[place : place + length])
        place += length
    return found
